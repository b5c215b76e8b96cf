"""Message groups: of the messages of one group at most one is *current*, that is ready, in flight, or delayed after a nack.

A message enters its group when it is due. Those that find another one current are *parked* until their turn comes, by sequence:
when the current one has finished in its channel, for whatever reason. What returns is still the current one. So a parked
message was never assigned under its sequence. A message that was sent with a delay is in no group before it is due.

Which of a record's messages are parked is a matter of ranges; what costs something per group is its current message, and a
key for each record with parked ones: next, enter and leave are O(log n) in these. Source: docs/PROTOCOL.md §3.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from zmqbroker.broker.ranges import Range, RangeMap, SortedKeys, TrackedRangeMap
from zmqbroker.broker.records import BatchRecord

__all__ = ["Groups", "joined"]


def joined(parts: list[Range[int]]) -> list[Range[int]]:
    """Ascending ranges with neighbours of equal values as one."""
    found: list[Range[int]] = []
    for part in parts:
        if found and found[-1].last == part.first - 1 and found[-1].value == part.value:
            part = Range(found.pop().first, part.last, part.value)
        found.append(part)
    return found


class Groups:
    """The groups of one channel that have a message which is due."""

    __slots__ = ("_batches", "_current", "_records", "parked")

    def __init__(self, batches: RangeMap[BatchRecord]) -> None:
        self.parked: TrackedRangeMap[int] = TrackedRangeMap()  # of all groups, with the deliveries so far
        self._batches = batches  # the channel's
        self._current: dict[str, int] = {}  # by group: its current message; where one is parked there is one
        self._records: dict[str, SortedKeys[int]] = {}  # by group: where its records with parked messages begin; none is empty

    def enter(self, batch: Range[BatchRecord], first: int, last: int, deliveries: int) -> bool:
        """Messages of a record with a group, live and nowhere, are due: whether `first` is current, and is to be ready.

        The others are parked.
        """
        current = self._current.setdefault(batch.value.group, first)
        assert not first < current <= last, "of a record's messages that are due the first one is current before the others"
        if current != first:
            self._park(batch, first, last, deliveries)
        elif first < last:
            self._park(batch, first + 1, last, deliveries)
        return current == first

    def leave(self, group: str, first: int, last: int) -> Range[int] | None:
        """Messages of a group have finished: the one that is current now, live and nowhere, if that has changed."""
        if not first <= self._current.get(group, 0) <= last:
            return None
        records = self._records.get(group)
        if records is None:
            del self._current[group]
            return None
        start = next(records.start_from(0))
        found = self.parked.next_from(start)
        assert found is not None, "a record is known here while it has parked messages"
        following = max(found.first, start)
        self._current[group] = following
        (part,) = self.take(following, following)
        return part

    def take(self, first: int, last: int) -> list[Range[int]]:
        """Take parked messages, which are live and nowhere then; with their delivery counts, ascending."""
        parts = self.parked.cut(first, last)
        for start, end, record in dict.fromkeys(
            batch for part in parts for batch in self._batches.overlapping(part.first, part.last)
        ):
            if not self.parked.overlaps(start, end):
                self._records[record.group].remove(start)
                if not self._records[record.group]:
                    del self._records[record.group]
        return parts

    def restore(self, current: Iterable[Range[Any]]) -> bool:
        """Derive what is not stored from `parked` and all that may be current: ready, in flight, or delayed after a nack.

        False when a group has two of these, or parked messages and none, or messages without a group are parked.
        """
        count = 0
        for part in current:
            for first, last, record in self._batches.overlapping(part.first, part.last):
                if record.group:
                    count += min(last, part.last) - max(first, part.first) + 1
                    self._current[record.group] = max(first, part.first)
        for parked in self.parked:
            for first, _, record in self._batches.overlapping(parked.first, parked.last):
                self._know(first, record.group)
        return count == len(self._current) and self._records.keys() <= self._current.keys()

    def _park(self, batch: Range[BatchRecord], first: int, last: int, deliveries: int) -> None:
        self._know(batch.first, batch.value.group)
        self.parked.add(first, last, deliveries)

    def _know(self, start: int, group: str) -> None:
        records = self._records.setdefault(group, SortedKeys())
        if records.floor(start) != start:
            records.add(start)
