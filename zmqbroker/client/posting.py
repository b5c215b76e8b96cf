"""Messages that are sent once and never answered, from the call until a socket takes them.

They wait for nothing but a connection with room in its pipe, and are then forgotten: no window, no retry, no deadline. Bounds:
`COUNT_MAX` of them and `BYTES_MAX` bytes wait at most.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from zmqbroker.errors import Busy
from zmqbroker.wire.batch import Buffer

__all__ = ["Posts"]

COUNT_MAX = 1000
#: One that is larger than this waits alone.
BYTES_MAX = 16 << 20


class Posts:
    """A line of messages."""

    def __init__(self) -> None:
        self._line: deque[tuple[Sequence[Buffer], int]] = deque()  # each with its bytes
        self._size = 0  # of all

    def __len__(self) -> int:
        return len(self._line)

    def add(self, frames: Sequence[Buffer]) -> None:
        """Let a message wait. Raises Busy when too many do."""
        size = sum(map(len, frames))
        if len(self._line) >= COUNT_MAX or (self._line and self._size + size > BYTES_MAX):
            raise Busy(f"{len(self._line)} messages of {self._size} bytes wait for a connection", retry_ms=100)
        self._line.append((frames, size))
        self._size += size

    def send(self, offer: Callable[[Sequence[Buffer]], bool]) -> None:
        """Offer them in order, until one is not taken."""
        while self._line and offer(self._line[0][0]):
            self._size -= self._line.popleft()[1]
