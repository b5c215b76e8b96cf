"""The messages of one channel: ready, delayed, parked, in flight or finished.

State is ranges of sequences, never single messages: `batches` says where the bodies are; `ready`, `delayed`, `groups.parked`
and `in_flight` divide the live sequences between them, and one below `next_sequence` that is in none is finished for good. A
returned message keeps its place. Nothing here decides when something is due, which commands a channel accepts or where a
message goes that leaves for another channel (`machine`, `settling`, `managing` do), and nobody looks at bodies.

Invariants: ready, delayed, parked and in_flight are disjoint; together they are the live sequences; every live sequence lies
in one batch and every batch has a live one; each assignment's `held` is its part of in_flight; no waiter could be served; of
each group at most one message is current (ready, in flight, or delayed as such), and one is when any is parked.
Source: docs/PROTOCOL.md §1 and §3, DESIGN §6.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, replace
from itertools import chain
from typing import Any

from zmqbroker.broker.assigning import pieces_of, take_fitting
from zmqbroker.broker.backlog import Backlog
from zmqbroker.broker.claims import Active, Assignment, Claims, Waiter
from zmqbroker.broker.dedup import Duplicates, SeenIds
from zmqbroker.broker.dirty import Dirty
from zmqbroker.broker.entries import LiveEntries
from zmqbroker.broker.limits import MachineLimits
from zmqbroker.broker.producers import Producers
from zmqbroker.broker.ranges import Range, RangeMap, cut_from_list
from zmqbroker.broker.records import BatchRecord, Moment, deadline_after, wait_end
from zmqbroker.broker.single import SingleActive
from zmqbroker.broker.timetable import Agenda, Span
from zmqbroker.broker.waiting import WaitingReceives
from zmqbroker.commands import (
    Acked,
    ChannelSettings,
    Delivery,
    Publish,
    QueueStats,
    Receipt,
    Receive,
    ReceiveKey,
)
from zmqbroker.errors import Busy, StaleReceipt

__all__ = ["Queue"]


class Queue(Backlog):
    """One channel. Commands go through the methods; `snapshot` reads and writes the attributes."""

    def __init__(
        self,
        number: int,
        name: str,
        incarnation: int,
        limits: MachineLimits,
        claims: Claims,
        entries: LiveEntries,
        agenda: Agenda,
    ) -> None:
        super().__init__(number, entries, agenda)
        self.name = name
        self.incarnation = incarnation  # index of the entry that created it
        self.settings = ChannelSettings()
        self.is_stored = self.is_deleted = False  # whether the store has its own key; whether that is to go
        self.in_flight: RangeMap[Assignment] = RangeMap()
        self.assignments: dict[int, Assignment] = {}  # by order number
        self.dirty_assignments: Dirty[int] = Dirty()
        self.waiting = WaitingReceives()
        self.single: SingleActive | None = None  # where only one consumer gets messages, once somebody receives
        self.dirty_active: Dirty[int] = Dirty()
        self.producers = Producers(limits)
        self.seen = SeenIds(limits)
        self._window_ends_unix_ns = 0  # when ids are forgotten next, as far as the timetable knows; 0: never
        self.limits = limits
        self._claims = claims  # the machine's; this channel's part of them is kept up here
        # A receive waits or holds messages; these are several assignments when a part of them was extended.
        self._by_key: dict[ReceiveKey, Waiter | list[Assignment]] = {}

    # --- commands ---------------------------------------------------------------------------------------------------

    def publish(self, records: Iterable[tuple[BatchRecord, int]], count: int) -> int:
        """Append a batch of `count` messages: its records, each with the instant at which it is ready, 0: at once.

        Messages that are in none of the records take their sequences and are finished. Returns the sequence of the first.
        """
        first, counters = self.next_sequence, self.counters
        for record, due_unix_ns in records:
            self.next_sequence = first + record.low
            counters.sent += record.live
            counters.sent_bytes += record.share_bytes
            self.append(record, due_unix_ns=due_unix_ns)
        self.next_sequence = first + count
        return first

    def note_ids(self, command: Publish, first: int, duplicates: Duplicates, moment: Moment) -> None:
        """A batch is stored: its ids are known from now on."""
        self.counters.deduplicated += len(duplicates)
        repeatable = command.header.producer > 0
        self.seen.note(first, moment.now_unix_ns, command.ids, duplicates, repeatable=repeatable)
        self.note_window()

    def receive(self, command: Receive, moment: Moment) -> Delivery | Busy | None:
        """Assign now, answer again what the same receive holds, refuse, or (None) wait."""
        claims = self._by_key.get(command.key)
        if isinstance(claims, list):
            return Delivery(command.key, self.name, pieces_of(self.batches, claims, prioritized=self._prioritized > 0))
        if claims is not None:
            return None
        available = self.available if not self.settings.single_active or self._may_take(command) else 0
        if available >= command.count_min or command.wait_ms <= 0:
            return self._assign(command, moment, available)
        if len(self.waiting) >= self.limits.waiting_max:
            text = f"channel {self.name!r} has {self.limits.waiting_max} waiting receives, the most it may have"
            return Busy(text, retry_ms=self.limits.retry_ms)
        deadline = wait_end(moment.now_unix_ns, command.wait_ms)
        self.add_waiter(Waiter(self._claims.take_order(), self.number, deadline, command))
        return None

    def ack(self, session: bytes, receipts: tuple[Receipt, ...]) -> Acked | StaleReceipt:
        """Finish the messages of every receipt that is held, or was finished before; name the others, and what moved away."""
        count = 0
        stale: list[list[int]] = []
        for receipt in receipts:
            if self.is_held(session, receipt) and not (self.moved.count and self.moved.overlaps(receipt.first, receipt.last)):
                self.counters.acked += self.finish(self.let_go(receipt.first, receipt.last))
                count += receipt.last - receipt.first + 1
            else:
                stale.append([receipt.assigning, receipt.first, receipt.last])
        return self.stale_receipts(stale, len(receipts), count) if stale else Acked(count)

    def stale_receipts(self, stale: list[list[int]], total: int, count: int) -> StaleReceipt:
        """The refusal of some of `total` receipts; with `count` messages of the others it was done."""
        text = f"{len(stale)} of {total} receipts on channel {self.name!r} are not held, the first is {stale[0]}"
        return StaleReceipt(text, stale=stale, count=count)

    def extend(self, assignment: Assignment, parts: list[Range[int]], deadline_unix_ns: int) -> None:
        """Hold messages that `let_go` has taken from an assignment until another deadline."""
        order = self._claims.take_order()
        self.add_assignment(replace(assignment, order=order, deadline_unix_ns=deadline_unix_ns, held=parts))

    # --- what commands and time bring about ---------------------------------------------------------------------------

    @property
    def available(self) -> int:
        """Messages that can be assigned now."""
        limit = self.settings.max_in_flight
        return min(self.ready.count, max(limit - self.in_flight.count, 0)) if limit else self.ready.count

    @property
    def depth(self) -> int:
        """Live messages."""
        return self.ready.count + self.in_flight.count + self.delayed.count + self.groups.parked.count

    def fall_due(self, now_unix_ns: int) -> None:
        """As `Backlog`; and forget the ids whose window is over."""
        super().fall_due(now_unix_ns)
        self.forget_ids(now_unix_ns)

    def change_settings(self, settings: ChannelSettings) -> None:
        """Treat messages otherwise from now on."""
        self.settings = settings

    def forget_ids(self, now_unix_ns: int) -> None:
        """Forget the ids whose window, which may be another one now, is over."""
        self.seen.forget(now_unix_ns, self.settings.dedup_window_ms)
        self.note_window()

    def note_window(self) -> None:
        """See that `fall_due` is called when the next ids are to be forgotten."""
        if not self.seen:
            self._window_ends_unix_ns = 0
        elif (ends_unix_ns := self.seen.ends_unix_ns(self.settings.dedup_window_ms)) != self._window_ends_unix_ns:
            self._window_ends_unix_ns = ends_unix_ns
            self.timetable.add(Span(ends_unix_ns, 0, 0), len(self.delayed) + self._expiring + 1)

    def serve(self, moment: Moment) -> list[Delivery]:
        """Assign to waiting receives, highest priority first, then oldest first, until none can be served."""
        deliveries: list[Delivery] = []
        if self.settings.single_active or self.single is not None:
            self._choose_active()
        waiting = self.waiting if self.single is None else self.single.lineup
        while waiting.by_order:
            available = self.available
            waiter = waiting.next_served(available)
            if waiter is None:
                break
            self.drop_waiter(waiter)
            deliveries.append(self._assign(waiter.command, moment, available))
        return deliveries

    def end_wait(self, waiter: Waiter, moment: Moment) -> list[Delivery]:
        """Answer a waiting receive with what is ready, and others with what that makes ready."""
        takes = self.single is None or self.single.is_active(waiter.key)
        self.drop_waiter(waiter)
        return [self._assign(waiter.command, moment, self.available if takes else 0), *self.serve(moment)]

    def drop_waiter(self, waiter: Waiter) -> None:
        """End a wait without an answer."""
        self.waiting.remove(waiter)
        self._claims.remove(waiter)
        del self._by_key[waiter.command.key]
        if self.single is not None:
            self.single.went(waiter)

    def _may_take(self, command: Receive) -> bool:
        """Whether a receive is one of the active consumer, which its consumer becomes if there is none."""
        self._choose_active()
        single = self.single
        assert single is not None
        if single.active is None:
            single.choose(command)
        elif not single.is_active(command.key):
            return False
        single.renew(command)
        return True

    def _choose_active(self) -> None:
        """See that one of those who wait is active, if only one consumer is to get messages, and else nobody."""
        if not self.settings.single_active:
            self.retire()
            self.single = None
            return
        if self.single is None:
            self.single = SingleActive(self.number, self._claims, self.dirty_active)
        if self.single.active is None and (waiter := self.waiting.first()) is not None:
            self.single.choose(waiter.command)

    def retire(self) -> None:
        """Whoever is active is so no more; others may take its place when they are served."""
        if self.single is not None:
            self.single.retire()

    def let_go(self, first: int, last: int) -> list[Range[int]]:
        """Take messages from whoever holds them; with their delivery counts, ascending. They are live and nowhere now."""
        parts: list[Range[int]] = []
        for part in self.in_flight.cut(first, last):
            assignment = part.value
            parts += cut_from_list(assignment.held, part.first, part.last)
            self._let_go(assignment)
        return parts

    def let_go_of(self, assignment: Assignment, first: int, last: int) -> list[Range[int]]:
        """The same of one of those who hold them."""
        parts = cut_from_list(assignment.held, first, last)
        for part in parts:
            self.in_flight.cut(part.first, part.last)
        self._let_go(assignment)
        return parts

    def _let_go(self, assignment: Assignment) -> None:
        """An assignment holds less than before."""
        if assignment.held:
            self.dirty_assignments.changed(assignment.order)
        else:
            self._drop_assignment(assignment)

    def clear(self) -> None:
        """Forget all messages and producers: the channel is deleted. Who waits still waits."""
        self.is_deleted = True
        self.retire()
        self.finish(self.let_go(1, self.next_sequence))
        self.finish(self.take_waiting(1, self.next_sequence))
        self.moved.cut(1, self.next_sequence)
        self.timetable.clear()
        self.producers.clear()
        self.seen.clear()

    def lose(self, is_lost: Callable[[int], bool]) -> int:
        """Finish the messages of all batches whose entries are lost; returns how many there were."""
        count = 0
        for batch in [batch for batch in self.batches if is_lost(batch.value.index)]:
            count += self.finish(self.let_go(batch.first, batch.last))
            if self.batches.get(batch.first):
                count += self.finish(self.take_waiting(batch.first, batch.last))
        self.counters.dropped += count
        return count

    def stats(self) -> QueueStats:
        """The counters of this channel."""
        oldest = next(iter(self.batches), None)
        active = self.single.active if self.single is not None else None
        return QueueStats(
            channel=self.name,
            incarnation=self.incarnation,
            depth=self.depth,
            ready=self.ready.count,
            in_flight=self.in_flight.count,
            waiting_receives=len(self.waiting),
            last_sequence=self.next_sequence - 1,
            size_bytes=self.size_bytes,
            delayed=self.delayed.count,
            oldest_unix_ns=oldest.value.time_unix_ns if oldest else 0,
            parked=self.groups.parked.count,
            consumers=len({(key.session, key.consumer) for key in self._by_key}),
            active=(active.session, active.consumer) if active is not None else None,
            **asdict(self.counters),
        )

    # --- parts, used here and to restore ------------------------------------------------------------------------------

    def add_waiter(self, waiter: Waiter) -> None:
        """Add a waiting receive, newer than all others."""
        self.waiting.add(waiter)
        self._claims.add(waiter)
        self._by_key[waiter.command.key] = waiter
        if self.single is not None:
            self.single.came(waiter)

    def add_assignment(self, assignment: Assignment) -> None:
        """Add an assignment, whose messages are live and nowhere yet."""
        for first, last, _ in assignment.held:
            self.in_flight.add(first, last, assignment)
        self.assignments[assignment.order] = assignment
        self.dirty_assignments.created(assignment.order)
        self._claims.add(assignment)
        claims = self._by_key.setdefault(assignment.key, [])
        assert isinstance(claims, list)
        claims.append(assignment)
        if self.single is not None:
            self.single.came(assignment)

    def add_active(self, active: Active) -> None:
        """Let a consumer be active whose claims are there already."""
        self.single = SingleActive(self.number, self._claims, self.dirty_active)
        self.single.restore(active)

    def restore_groups(self) -> bool:
        """Derive the state of groups, once all messages are there; False when no such state is possible."""
        if not (self.is_grouped or self.groups.parked.count):
            return True
        delayed = (part for part in self.delayed if part.value.is_current)
        return self.groups.restore(chain[Range[Any]](self.ready, self.in_flight, delayed))

    def is_held(self, session: bytes, receipt: Receipt) -> bool:
        """True when every message of the receipt is in flight under it, or finished."""
        first, last = receipt.first, receipt.last
        if not 1 <= first <= last < self.next_sequence or self.ready.overlaps(first, last):
            return False
        if self.delayed.count and self.delayed.overlaps(first, last):
            return False
        if self.groups.parked.count and self.groups.parked.overlaps(first, last):
            return False
        return all(
            part.value.assigning == receipt.assigning and part.value.key.session == session
            for part in self.in_flight.overlapping(first, last)
        )

    def _spans(self) -> Iterator[Span]:
        yield from super()._spans()
        if self.seen:
            yield Span(self._window_ends_unix_ns, 0, 0)  # of no message

    def _assign(self, command: Receive, moment: Moment, available: int) -> Delivery:
        held: list[Range[int]] = []
        counters = self.counters
        count = min(command.count_max, available)
        taken, share_bytes = take_fitting(self.ready, self.batches, count, command.size_max)
        for first, last, deliveries in taken:
            held.append(Range(first, last, deliveries + 1))
            counters.delivered += last - first + 1
            if deliveries:
                counters.redelivered += last - first + 1
        if not held:
            return Delivery(command.key, self.name, ())
        counters.delivered_bytes += share_bytes
        if command.auto_ack:
            return self._hand_out(command.key, moment, held)
        deadline = deadline_after(moment.now_unix_ns, command.visibility_ms)
        assignment = Assignment(self._claims.take_order(), self.number, deadline, command.key, moment.assigning, held)
        self.add_assignment(assignment)
        return Delivery(command.key, self.name, pieces_of(self.batches, [assignment], prioritized=self._prioritized > 0))

    def _hand_out(self, key: ReceiveKey, moment: Moment, parts: list[Range[int]]) -> Delivery:
        """Finish messages as they are delivered: nobody holds them."""
        nobody = Assignment(0, self.number, 0, key, moment.assigning, parts)
        delivery = Delivery(key, self.name, pieces_of(self.batches, [nobody], prioritized=self._prioritized > 0))
        self.counters.acked += self.finish(parts)
        return delivery

    def _drop_assignment(self, assignment: Assignment) -> None:
        del self.assignments[assignment.order]
        self.dirty_assignments.deleted(assignment.order)
        self._claims.remove(assignment)
        claims = self._by_key.pop(assignment.key)
        assert isinstance(claims, list)
        claims.remove(assignment)
        if claims:
            self._by_key[assignment.key] = claims
        if self.single is not None:
            self.single.went(assignment)
