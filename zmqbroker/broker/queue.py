"""The messages of one channel: ready, in flight or finished.

State is ranges of sequences, never single messages: `batches` says where the bodies are, `ready` and `in_flight` divide the
live sequences between them, and a sequence below `next_sequence` that is in neither is finished for good. A returned message
keeps its place. Nothing here decides when something is due or which commands a channel accepts (`machine` does), and nobody
looks at bodies.

Invariants: ready and in_flight are disjoint; together they are the live sequences; every live sequence lies in one batch and
every batch has a live one; each assignment's `held` is its part of in_flight; no waiter could be served.
Source: docs/PROTOCOL.md §1 and §3, DESIGN §6.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from zmqbroker.broker.claims import Assignment, Claim, Claims, Waiter
from zmqbroker.broker.dirty import Dirty
from zmqbroker.broker.entries import LiveEntries
from zmqbroker.broker.limits import MachineLimits
from zmqbroker.broker.producers import Producers
from zmqbroker.broker.ranges import Range, RangeMap, TrackedRangeMap, cut_from_list
from zmqbroker.broker.waiting import WaitingReceives
from zmqbroker.commands import (
    RECEIPT_ORDINAL_BITS,
    Acked,
    Delivery,
    Piece,
    Publish,
    QueueStats,
    Receipt,
    Receive,
    ReceiveKey,
)
from zmqbroker.errors import Busy, StaleReceipt

__all__ = ["BatchRecord", "Moment", "Queue", "deadline_after"]

#: Instants are u64 on the wire and in the store; a deadline beyond the last one is the last one.
INSTANT_MAX = 2**64 - 1


def deadline_after(now_unix_ns: int, delay_ms: int) -> int:
    """The instant `delay_ms` milliseconds after `now_unix_ns`, at most the last one that can be stored."""
    return min(now_unix_ns + max(delay_ms, 0) * 1_000_000, INSTANT_MAX)


class Moment(NamedTuple):
    """Where in the log something happens, and when."""

    assigning: int  # first part of the receipts of whatever is assigned now
    now_unix_ns: int  # the machine's time

    @property
    def entry_index(self) -> int:
        """Index of the entry."""
        return self.assigning >> RECEIPT_ORDINAL_BITS


@dataclass(slots=True, eq=False)
class BatchRecord:
    """One stored batch: bytes position .. position + size of entry `index`. Compared by identity."""

    index: int
    position: int
    size: int
    body_bytes: int
    body_size_max: int
    time_unix_ns: int
    live: int  # messages that are not finished; derived from the ranges and not stored

    def fitting(self, count: int, room: int) -> int:
        """How many of `count` messages surely have at most `room` bytes of bodies together; below 1 for none."""
        return count if self.size_at_most(count) <= room else room // max(self.body_size_max, 1)

    def size_at_most(self, count: int) -> int:
        """Bytes that the bodies of any `count` messages of this batch cannot exceed."""
        return min(count * self.body_size_max, self.body_bytes)


class Queue:
    """One channel. Commands go through the methods; `snapshot` reads and writes the attributes."""

    def __init__(
        self, number: int, name: str, incarnation: int, limits: MachineLimits, claims: Claims, entries: LiveEntries
    ) -> None:
        self.number = number  # of the channel, in the order of creation from 1; names the channel in the store
        self.name = name
        self.incarnation = incarnation  # index of the entry that created it
        self.next_sequence = 1
        self.acked = 0  # messages finished, ever
        self.redelivered = 0  # assignments of a message beyond its first, ever
        self.size_bytes = 0  # of the batches in `batches`
        self.batches: TrackedRangeMap[BatchRecord] = TrackedRangeMap()
        self.ready: TrackedRangeMap[int] = TrackedRangeMap()  # value: deliveries so far
        self.in_flight: RangeMap[Assignment] = RangeMap()
        self.assignments: dict[int, Assignment] = {}  # by order number
        self.dirty_assignments: Dirty[int] = Dirty()
        self.waiting = WaitingReceives()
        self.producers = Producers(limits)
        self._limits = limits
        self._claims = claims  # the machine's, as is _entries; this channel's part of them is kept up here
        self._entries = entries
        self._by_key: dict[ReceiveKey, Claim] = {}  # at most one claim per receive

    # --- commands ---------------------------------------------------------------------------------------------------

    def publish(self, command: Publish, moment: Moment) -> int:
        """Append a batch of at least one message; returns the sequence of its first."""
        header, first = command.header, self.next_sequence
        self.next_sequence = first + header.count
        record = BatchRecord(
            moment.entry_index,
            command.position,
            command.size,
            header.body_bytes,
            header.body_size_max,
            moment.now_unix_ns,
            header.count,
        )
        self.add_batch(first, self.next_sequence - 1, record)
        self._entries.add(moment.entry_index)
        self.ready.add(first, self.next_sequence - 1, 0)
        return first

    def receive(self, command: Receive, moment: Moment) -> Delivery | Busy | None:
        """Assign now, answer again what the same receive holds, refuse, or (None) wait."""
        claim = self._by_key.get(command.key)
        if isinstance(claim, Assignment):
            return Delivery(claim.key, self.name, self._pieces(claim))
        if claim is not None:
            return None
        if self.ready.count >= command.count_min or command.wait_ms <= 0:
            return self._assign(command, moment)
        if len(self.waiting) >= self._limits.waiting_max:
            text = f"channel {self.name!r} has {self._limits.waiting_max} waiting receives, the most it may have"
            return Busy(text, retry_ms=self._limits.retry_ms)
        deadline = deadline_after(moment.now_unix_ns, command.wait_ms)
        self.add_waiter(Waiter(self._claims.take_order(), self.number, deadline, command))
        return None

    def ack(self, session: bytes, receipts: tuple[Receipt, ...]) -> Acked | StaleReceipt:
        """Finish the messages of every receipt that is held, or was finished before; name the others."""
        count = 0
        stale: list[list[int]] = []
        for receipt in receipts:
            if self._is_held(session, receipt):
                self._finish(receipt.first, receipt.last)
                count += receipt.last - receipt.first + 1
            else:
                stale.append([receipt.assigning, receipt.first, receipt.last])
        if not stale:
            return Acked(count)
        text = f"{len(stale)} of {len(receipts)} receipts on channel {self.name!r} are not held, the first is {stale[0]}"
        return StaleReceipt(text, stale=stale, count=count)

    # --- what commands and time bring about ---------------------------------------------------------------------------

    def serve(self, moment: Moment) -> list[Delivery]:
        """Assign to waiting receives, oldest first, until none can be served."""
        deliveries: list[Delivery] = []
        while (waiter := self.waiting.next_served(self.ready.count)) is not None:
            deliveries.append(self.end_wait(waiter, moment))
        return deliveries

    def end_wait(self, waiter: Waiter, moment: Moment) -> Delivery:
        """Answer a waiting receive with what is ready."""
        self.drop_waiter(waiter)
        return self._assign(waiter.command, moment)

    def drop_waiter(self, waiter: Waiter) -> None:
        """End a wait without an answer."""
        self.waiting.remove(waiter)
        self._claims.remove(waiter)
        del self._by_key[waiter.key]

    def give_back(self, assignment: Assignment) -> int:
        """Make the messages of an assignment ready again, in their places; returns how many."""
        returned = 0
        for first, last, delivery_count in assignment.held:
            self.in_flight.cut(first, last)
            self.ready.add(first, last, delivery_count)
            returned += last - first + 1
        self._drop_assignment(assignment)
        return returned

    def lose(self, is_lost: Callable[[int], bool]) -> int:
        """Finish the messages of all batches whose entries are lost; returns how many there were."""
        count = 0
        for batch in [batch for batch in self.batches if is_lost(batch.value.index)]:
            count += batch.value.live
            self._finish(batch.first, batch.last)
            for part in self.ready.cut(batch.first, batch.last):
                self._finish_in_batch(batch, part.last - part.first + 1)
        return count

    def stats(self) -> QueueStats:
        """The counters of this channel."""
        return QueueStats(
            channel=self.name,
            incarnation=self.incarnation,
            depth=self.ready.count + self.in_flight.count,
            ready=self.ready.count,
            in_flight=self.in_flight.count,
            waiting_receives=len(self.waiting),
            last_sequence=self.next_sequence - 1,
            acked=self.acked,
            redelivered=self.redelivered,
            size_bytes=self.size_bytes,
        )

    # --- parts, used here and to restore ------------------------------------------------------------------------------

    def add_batch(self, first: int, last: int, record: BatchRecord) -> None:
        """Add a stored batch; its messages become live by being added to `ready` or an assignment."""
        self.batches.add(first, last, record)
        self.size_bytes += record.size

    def add_waiter(self, waiter: Waiter) -> None:
        """Add a waiting receive, newer than all others."""
        self.waiting.add(waiter)
        self._claims.add(waiter)
        self._by_key[waiter.key] = waiter

    def add_assignment(self, assignment: Assignment) -> None:
        """Add an assignment, whose messages are neither ready nor in flight yet."""
        for first, last, _ in assignment.held:
            self.in_flight.add(first, last, assignment)
        self.assignments[assignment.order] = assignment
        self.dirty_assignments.created(assignment.order)
        self._claims.add(assignment)
        self._by_key[assignment.key] = assignment

    def _assign(self, command: Receive, moment: Moment) -> Delivery:
        last = self._last_to_assign(command.count_max, command.size_max)
        if last == 0:
            return Delivery(command.key, self.name, ())
        deadline = deadline_after(moment.now_unix_ns, command.visibility_ms)
        held: list[Range[int]] = []
        for first, end, delivery_count in self.ready.cut(1, last):
            held.append(Range(first, end, delivery_count + 1))
            if delivery_count:
                self.redelivered += end - first + 1
        assignment = Assignment(self._claims.take_order(), self.number, deadline, command.key, moment.assigning, held)
        self.add_assignment(assignment)
        return Delivery(command.key, self.name, self._pieces(assignment))

    def _last_to_assign(self, count_max: int, size_max: int) -> int:
        """The sequence up to which ready messages fit the bounds, 0 when none does; the first fits whatever its size."""
        chosen, room = 0, size_max
        for part in self.ready if count_max > 0 else ():
            end = min(part.last, part.first + count_max - 1)
            for batch in self.batches.overlapping(part.first, end):
                first, last = max(batch.first, part.first), min(batch.last, end)
                count = max(batch.value.fitting(last - first + 1, room), 0 if chosen else 1)
                if count == 0:
                    return chosen
                chosen = first + count - 1
                if chosen < last:
                    return chosen
                count_max -= count
                room -= batch.value.size_at_most(count)
            if end < part.last:
                return chosen
        return chosen

    def _pieces(self, assignment: Assignment) -> tuple[Piece, ...]:
        return tuple(
            self._piece(assignment, held, batch)
            for held in assignment.held
            for batch in self.batches.overlapping(held.first, held.last)
        )

    def _piece(self, assignment: Assignment, held: Range[int], batch: Range[BatchRecord]) -> Piece:
        first, record = max(held.first, batch.first), batch.value
        return Piece(
            receipt=Receipt(assignment.assigning, first, min(held.last, batch.last)),
            delivery_count=held.value,
            time_unix_ns=record.time_unix_ns,
            index=record.index,
            position=record.position,
            size=record.size,
            low=first - batch.first,
        )

    def _is_held(self, session: bytes, receipt: Receipt) -> bool:
        """True when every message of the receipt is in flight under it, or finished."""
        if not 1 <= receipt.first <= receipt.last < self.next_sequence or self.ready.overlaps(receipt.first, receipt.last):
            return False
        return all(
            part.value.assigning == receipt.assigning and part.value.key.session == session
            for part in self.in_flight.overlapping(receipt.first, receipt.last)
        )

    def _finish(self, first: int, last: int) -> None:
        for part in self.in_flight.cut(first, last):
            assignment = part.value
            cut_from_list(assignment.held, part.first, part.last)
            if assignment.held:
                self.dirty_assignments.changed(assignment.order)
            else:
                self._drop_assignment(assignment)
            for batch in self.batches.overlapping(part.first, part.last):
                self._finish_in_batch(batch, min(part.last, batch.last) - max(part.first, batch.first) + 1)

    def _finish_in_batch(self, batch: Range[BatchRecord], count: int) -> None:
        self.acked += count
        batch.value.live -= count
        if batch.value.live == 0:
            self.batches.cut(batch.first, batch.last)
            self.size_bytes -= batch.value.size
            self._entries.remove(batch.value.index)

    def _drop_assignment(self, assignment: Assignment) -> None:
        del self.assignments[assignment.order]
        self.dirty_assignments.deleted(assignment.order)
        self._claims.remove(assignment)
        del self._by_key[assignment.key]
