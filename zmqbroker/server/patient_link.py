"""A link to another node that keeps what a full pipe refuses, up to a bound: bursts of events are longer than pipes are deep.

What waits is lost with the connection, since it would come late, and so is what comes when the bound is reached: who publishes
hears that it was not sent. Nothing here waits for anything.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from zmqbroker.server.sockets import PeerLink
from zmqbroker.wire.batch import Buffer

__all__ = ["PatientLink"]

#: Bytes that wait for one node: a tenth of a second at what loopback carries.
WAITING_BYTES_MAX = 32 << 20


class PatientLink:
    """One connection and what waits for it, in order."""

    def __init__(self, link: PeerLink) -> None:
        self._link = link
        self._stands = False  # whether anything was taken since the connection last broke, as far as it was looked at
        self._waiting: deque[tuple[Sequence[Buffer], int]] = deque()  # each with its bytes
        self._waiting_bytes = 0

    @property
    def address(self) -> str:
        """Where it leads, as ip:port."""
        return self._link.address

    @property
    def blocked(self) -> bool:
        """Whether anything waits for room."""
        return bool(self._waiting)

    def send(self, frames: Sequence[Buffer]) -> bool:
        """Send one message or keep it; False when there is no connection, or too much waits already."""
        if not self._waiting and self._link.send(frames):
            self._stands = True
            return True
        if self._broken():
            return False
        size = sum(map(len, frames))
        if self._waiting_bytes + size > WAITING_BYTES_MAX:
            return False
        self._waiting.append((frames, size))
        self._waiting_bytes += size
        return True

    def flush(self) -> None:
        """Try again what waits."""
        if self._waiting and not self._broken():
            while self._waiting and self._link.send(self._waiting[0][0]):
                self._waiting_bytes -= self._waiting.popleft()[1]

    def close(self) -> None:
        """Close the connection; what waits is lost."""
        self._link.close()

    def _broken(self) -> bool:
        """Whether there is no connection: none stood yet, or the one that did is gone, with all that waited for it."""
        if self._link.broke():
            self._stands = False
        if not self._stands:
            self._waiting.clear()
            self._waiting_bytes = 0
        return not self._stands
