"""What falls due in which channel: messages whose delay ends, and messages that expire. Any number of them.

A channel notes spans of sequences at an instant, and looks at its state when that comes: a span whose messages are gone, or
were given another instant, says nothing any more. So nothing has to be found and taken out when a message is received.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from heapq import heapify, heappop, heappush
from typing import NamedTuple

__all__ = ["Agenda", "Span", "Timetable"]

#: Spans without a message that are tolerated before the table is made anew; below it that costs more than it frees.
SLACK = 64


class Span(NamedTuple):
    """Messages first .. last of a channel, some of which may fall due at an instant."""

    instant_unix_ns: int
    first: int
    last: int


class Agenda:
    """The next instant of every channel that has one."""

    __slots__ = ("_heap", "_instants")

    def __init__(self) -> None:
        self._instants: dict[int, int] = {}  # by channel number; the truth
        self._heap: list[tuple[int, int]] = []  # (instant, number) of all of _instants, and dead ones

    def put(self, number: int, instant_unix_ns: int | None) -> None:
        """The next instant of a channel is another one; None: it has none."""
        if instant_unix_ns is None:
            self._instants.pop(number, None)
        elif self._instants.get(number) != instant_unix_ns:
            self._instants[number] = instant_unix_ns
            heappush(self._heap, (instant_unix_ns, number))
            if len(self._heap) > 2 * len(self._instants) + SLACK:
                self._heap = sorted((instant, number) for number, instant in self._instants.items())

    def earliest(self) -> int | None:
        """The next instant of any channel."""
        heap = self._heap
        while heap and self._instants.get(heap[0][1]) != heap[0][0]:
            heappop(heap)
        return heap[0][0] if heap else None

    def due(self, now_unix_ns: int) -> list[int]:
        """The channels whose instant is not after now, ascending; each puts its next one."""
        found: list[int] = []
        if not self._heap or self._heap[0][0] > now_unix_ns:  # as a rule
            return found
        while (instant := self.earliest()) is not None and instant <= now_unix_ns:
            number = heappop(self._heap)[1]
            del self._instants[number]
            found.append(number)
        return sorted(found)


class Timetable:
    """The spans of one channel."""

    __slots__ = ("_agenda", "_heap", "_number", "_spans")

    def __init__(self, number: int, agenda: Agenda, spans: Callable[[], Iterable[Span]]) -> None:
        self._number, self._agenda = number, agenda
        self._spans = spans  # all that there are in truth, to be asked when too many are dead
        self._heap: list[Span] = []

    def add(self, span: Span, live: int) -> None:
        """Note a span; `live` is about how many there are in truth."""
        heappush(self._heap, span)
        if len(self._heap) > 2 * live + SLACK:
            self._heap = list(self._spans())
            heapify(self._heap)
        self._tell()

    def take_due(self, now_unix_ns: int) -> list[Span]:
        """The spans whose instant is not after now."""
        found: list[Span] = []
        while self._heap and self._heap[0].instant_unix_ns <= now_unix_ns:
            found.append(heappop(self._heap))
        self._tell()
        return found

    def clear(self) -> None:
        """Forget all, for good: the channel is deleted, and its timetable keeps it alive no more."""
        self._heap.clear()
        self._spans = tuple
        self._tell()

    def _tell(self) -> None:
        self._agenda.put(self._number, self._heap[0].instant_unix_ns if self._heap else None)
