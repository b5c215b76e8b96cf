"""The messages of one channel that nobody holds: stored in batches, ready, delayed or parked, until they are taken or finished.

State is ranges of sequences, never single messages. Messages that were taken from here, or from their holder, are *live and
nowhere* until they are put back, held or finished. Who receives them is the business of `queue`, and where a message goes that
leaves for another channel that of `moving`.

Source: docs/PROTOCOL.md §1 and §3, DESIGN §6.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from zmqbroker.broker.counters import Counters
from zmqbroker.broker.entries import LiveEntries
from zmqbroker.broker.groups import Groups, joined
from zmqbroker.broker.ranges import Range, TrackedRangeMap
from zmqbroker.broker.ready import Ready
from zmqbroker.broker.records import BatchRecord
from zmqbroker.broker.timetable import Agenda, Span, Timetable

__all__ = ["Backlog", "Later"]


class Later(NamedTuple):
    """Messages that will be ready."""

    due_unix_ns: int
    deliveries: int  # so far
    is_current: bool = False  # they keep others of their groups from being ready meanwhile


class Backlog:
    """What a `Queue` is but for those who wait for its messages or hold them."""

    def __init__(self, number: int, entries: LiveEntries, agenda: Agenda) -> None:
        self.number = number  # of the channel, in the order of creation from 1; names the channel in the store
        self.next_sequence = 1
        self.counters = Counters()
        self.size_bytes = 0  # of the batches in `batches`
        self.batches: TrackedRangeMap[BatchRecord] = TrackedRangeMap()
        self.ready = Ready()
        self.delayed: TrackedRangeMap[Later] = TrackedRangeMap()
        self.groups = Groups(self.batches)
        self.moved: TrackedRangeMap[int] = TrackedRangeMap()  # left for another place: a late ack finds them gone; values 0
        self.timetable = Timetable(number, agenda, self._spans)
        self._entries = entries  # the machine's; this channel's part of them is kept up here
        self._grouped = 0  # records with a group
        self._prioritized = 0  # records with a priority
        self._expiring = 0  # records that expire

    def append(self, record: BatchRecord, deliveries: int = 0, due_unix_ns: int = 0) -> None:
        """Store the messages of a new record behind all others."""
        first, last = self.next_sequence, self.next_sequence + record.live - 1
        self.next_sequence = last + 1
        self.add_batch(first, last, record)
        self._entries.add(record.index)
        if due_unix_ns:
            self.delay(first, last, Later(due_unix_ns, deliveries))
        else:
            self.make_ready(first, last, deliveries)

    def take_waiting(self, first: int, last: int) -> list[Range[int]]:
        """Take messages that nobody holds, in whatever state; with their delivery counts. They are live and nowhere now."""
        delayed = (Range(part.first, part.last, part.value.deliveries) for part in self.delayed.cut(first, last))
        due = self.ready.cut(first, last)
        if self.groups.parked.count:
            due = joined(sorted([*due, *self.groups.take(first, last)]))
        return sorted([*due, *delayed])

    def take_oldest(self, count: int) -> list[Range[int]]:
        """The same of up to `count` neighbours of one record, the oldest ready or parked ones; none when there are none."""
        ready, parked = next(iter(self.ready), None), next(iter(self.groups.parked), None)
        oldest = min((part for part in (ready, parked) if part is not None), default=None)
        if oldest is None:
            return []
        first, last, _ = oldest
        end = min(self.batches.overlapping(first, first)[0].last, first + count - 1)
        while last < end and (more := self.ready.get(last + 1) or self.groups.parked.get(last + 1)) is not None:
            last = more.last
        return self.take_waiting(first, min(last, end))

    def put_back(self, parts: Iterable[Range[int]], due_unix_ns: int = 0) -> None:
        """Make messages that are live and nowhere ready in their places, or delay them."""
        for part in parts:
            if not due_unix_ns:
                self.make_ready(*part)
                continue
            for first, last, group in self._by_group(part.first, part.last):  # what returns is the current one of its group
                self.delay(first, last, Later(due_unix_ns, part.value, is_current=group != ""))

    def unexpired(self, parts: Iterable[Range[int]], now_unix_ns: int) -> Iterator[Range[int]]:
        """Of messages that are live and nowhere: those that have not expired; the others finish."""
        for part in parts:
            if not self._expiring:
                yield part
                continue
            for batch in self.batches.overlapping(part.first, part.last):
                piece = Range(max(part.first, batch.first), min(part.last, batch.last), part.value)
                if batch.value.is_over(now_unix_ns):
                    self.counters.expired += self.finish([piece])
                else:
                    yield piece

    def fall_due(self, now_unix_ns: int) -> None:
        """Make ready what was delayed until now, and finish what waits and has expired."""
        spans = self.timetable.take_due(now_unix_ns)
        due: list[Range[Later]] = []
        for _, first, last in spans:
            for part in self.delayed.overlapping(first, last):
                if part.value.due_unix_ns <= now_unix_ns:
                    due += self.delayed.cut(part.first, part.last)
        for part in sorted(due):  # into their groups by sequence, whatever spans the timetable has left
            self.make_ready(part.first, part.last, part.value.deliveries)
        for _, first, last in spans:
            for batch in self.batches.overlapping(first, last):
                if batch.value.is_over(now_unix_ns):
                    self.counters.expired += self.finish(self.take_waiting(batch.first, batch.last))

    def leave(self, part: Range[int], ranges_max: int) -> None:
        """Finish messages here that live elsewhere now; of so many ranges of them at most the channel knows it later."""
        self.finish([part])
        self.moved.add(part.first, part.last, 0)
        if len(self.moved) > ranges_max:
            oldest = next(iter(self.moved))
            self.moved.cut(oldest.first, oldest.last)

    def finish(self, parts: Iterable[Range[int]]) -> int:
        """Finish messages that are live and nowhere, for good; returns how many."""
        count = 0
        for part in parts:
            count += part.last - part.first + 1
            for batch in self.batches.overlapping(part.first, part.last):
                first, last = max(part.first, batch.first), min(part.last, batch.last)
                self._finish_in_batch(batch, last - first + 1)
                if batch.value.group and (following := self.groups.leave(batch.value.group, first, last)) is not None:
                    self.add_ready(*following)
        return count

    def add_batch(self, first: int, last: int, record: BatchRecord) -> None:
        """Add a stored record; its messages become live by being added to ready, delayed or parked ones, or an assignment."""
        self.batches.add(first, last, record)
        self.size_bytes += record.share_bytes
        if record.group:
            self._grouped += 1
        if record.priority:
            self._prioritized += 1
        if record.expires_unix_ns:
            self._expiring += 1
            self.timetable.add(Span(record.expires_unix_ns, first, last), len(self.delayed) + self._expiring)

    @property
    def is_grouped(self) -> bool:
        """True when a message has a group: one that finishes may make another one ready."""
        return self._grouped > 0

    def make_ready(self, first: int, last: int, deliveries: int) -> None:
        """Messages that are live and nowhere are due: they can be received, or are parked until others of their groups were."""
        if not self._grouped:
            self.add_ready(first, last, deliveries)
            return
        for batch in self.batches.overlapping(first, last):
            low, high = max(first, batch.first), min(last, batch.last)
            if not batch.value.group:
                self.add_ready(low, high, deliveries)
            elif self.groups.enter(batch, low, high, deliveries):
                self.add_ready(low, low, deliveries)

    def add_ready(self, first: int, last: int, deliveries: int) -> None:
        """Add messages that are live and nowhere, and the current ones of their groups, to those that can be received."""
        self.ready.add(first, last, deliveries)
        if not self._prioritized:
            return
        for batch in self.batches.overlapping(first, last):
            if batch.value.priority:
                self.ready.prioritize(max(first, batch.first), min(last, batch.last), batch.value.priority, deliveries)

    def delay(self, first: int, last: int, later: Later) -> None:
        """Keep messages that are live and nowhere until they are due."""
        self.delayed.add(first, last, later)
        self.timetable.add(Span(later.due_unix_ns, first, last), len(self.delayed) + self._expiring)

    def _by_group(self, first: int, last: int) -> Iterator[tuple[int, int, str]]:
        if not self._grouped:
            yield first, last, ""
            return
        for batch in self.batches.overlapping(first, last):
            yield max(first, batch.first), min(last, batch.last), batch.value.group

    def _spans(self) -> Iterator[Span]:
        yield from (Span(part.value.due_unix_ns, part.first, part.last) for part in self.delayed)
        for first, last, record in self.batches:
            if record.expires_unix_ns:
                yield Span(record.expires_unix_ns, first, last)

    def _finish_in_batch(self, batch: Range[BatchRecord], count: int) -> None:
        record = batch.value
        record.live -= count
        if record.live == 0:
            self.batches.cut(batch.first, batch.last)
            self.size_bytes -= record.share_bytes
            if record.group:
                self._grouped -= 1
            if record.priority:
                self._prioritized -= 1
            if record.expires_unix_ns:
                self._expiring -= 1
            self._entries.remove(record.index)
