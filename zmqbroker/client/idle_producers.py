"""Producers that are open and number nothing now, by what they are open on: used by one request at a time, and again later.

So a channel has no more of them than requests were under way at once. After an outcome that nobody knows a producer is not put
back, since nobody knows which number is next.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import NamedTuple

__all__ = ["IDLE_MAX", "IdleProducers", "Numbers"]

#: Producers that are remembered; those that were used longest ago give way.
IDLE_MAX = 1024


class Numbers(NamedTuple):
    """A producer that is open, and the number of its next message."""

    producer: int
    following: int


class IdleProducers:
    """The idle producers of one client."""

    def __init__(self) -> None:
        self._idle: OrderedDict[str, deque[Numbers]] = OrderedDict()  # used longest ago first; none is empty

    def __len__(self) -> int:
        return sum(map(len, self._idle.values()))

    def take(self, name: str) -> Numbers | None:
        """A producer that is open there, if one is idle."""
        idle = self._idle.get(name)
        if idle is None:
            return None
        numbers = idle.pop()
        if not idle:
            del self._idle[name]
        return numbers

    def put_back(self, name: str, numbers: Numbers) -> None:
        """A producer is idle again."""
        self._idle.setdefault(name, deque()).append(numbers)
        self._idle.move_to_end(name)
        while len(self) > IDLE_MAX:
            self.take(next(iter(self._idle)))
