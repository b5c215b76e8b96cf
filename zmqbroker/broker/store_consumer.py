"""A durable consumer of an events store: a channel whose messages are its store's, under the store's own sequences.

It takes records from its store when somebody receives and little is ready: a record points at the same bytes of the same entry,
which stays live until the last of its holders has finished with it. So what a consumer has taken is safe from the retention of
the store. Everything else is that of a queue: receive, ack, nack, extend, reject, single_active, delivery_limit, max_in_flight.
Nobody sends to it, and nothing is put behind all others: sequences are not its own.

It is exclusive, one reader's alone, or shared. Where it is shared, events of one key are received one at a time.

Invariants: all live sequences are below `next_sequence`, the cursor; what is live here was live in the store when it was taken.
Source: docs/PROTOCOL.md §3.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

from zmqbroker.broker.claims import Waiter
from zmqbroker.broker.dirty import Dirty
from zmqbroker.broker.queue import Queue
from zmqbroker.broker.ranges import RangeMap
from zmqbroker.broker.records import Moment
from zmqbroker.broker.store import EventsStore
from zmqbroker.commands import Delivery, QueueStats, Receive, ReceiveKey
from zmqbroker.errors import Busy

__all__ = ["PLACE_ID", "SHARED", "Owner", "StoreConsumer"]

#: The part of the key under which a consumer's place is stored: there is one.
PLACE_ID = 0

#: More records than a receive can need: it needs 65,535 events at most, and `parked_max` is far below the rest.
COUNT_MAX = 1 << 17


class Owner(NamedTuple):
    """The reader of an exclusive consumer."""

    session: bytes  # b"": everyone
    consumer: int

    def is_of(self, key: ReceiveKey) -> bool:
        """Whether this is a receive of that reader."""
        return key.session == self.session and key.consumer == self.consumer


#: Of a consumer that is not exclusive.
SHARED = Owner(b"", 0)


class StoreConsumer(Queue):
    """One consumer; `next_sequence` is the first sequence of its store that it has not come to."""

    def __init__(self, store: EventsStore, *parts: Any) -> None:
        super().__init__(*parts)
        self.store = store
        self.owner = SHARED
        self.missed = 0  # sequences that the store did not keep until it came to them
        self.dirty_place: Dirty[int] = Dirty()
        self.dirty_place.created(PLACE_ID)
        store.consumers[self.number] = self

    # --- its place ----------------------------------------------------------------------------------------------------

    @property
    def position(self) -> int:
        """The lowest sequence that it has not finished."""
        kinds: tuple[RangeMap[Any], ...] = (self.ready, self.delayed, self.groups.parked, self.in_flight)
        return min((next(iter(kind)).first for kind in kinds if kind.count), default=self.next_sequence)

    def is_open_to(self, session: bytes, consumer: int | None = None) -> bool:
        """Whether a reader may receive here, or with None, whether a session may ack."""
        owner = self.owner
        return owner == SHARED or (owner.session == session and consumer in (None, owner.consumer))

    def own(self, owner: Owner) -> None:
        """Be one reader's alone, for whom what was taken for several is in no groups any more; or be shared."""
        if owner == self.owner:
            return
        self.owner = owner
        self.dirty_place.changed(PLACE_ID)
        if owner != SHARED and self.is_grouped:
            self._ungroup()

    def _ungroup(self) -> None:
        parked = self.groups.take(1, self.next_sequence)
        for first, last, record in list(self.batches):
            if record.group:
                self.groups.leave(record.group, first, last)
                record.group = ""
                self._grouped -= 1
                self.batches.dirty.changed(first)
        self.put_back(parked)

    def restore_place(self, owner: Owner, missed: int) -> None:
        """Take over what is stored."""
        self.owner, self.missed = owner, missed

    def go_to(self, sequence: int) -> None:
        """Forget all that was taken, and go on elsewhere."""
        end = self.next_sequence
        self.counters.dropped += self.finish(self.let_go(1, end)) + self.finish(self.take_waiting(1, end))
        self.moved.cut(1, end)
        self.next_sequence = sequence

    # --- commands -----------------------------------------------------------------------------------------------------

    def receive(self, command: Receive, moment: Moment) -> Delivery | Busy | None:
        """As in a queue, of as many events as are wanted; of as many as are needed if those are many records."""
        self._fill(command.count_max, self.limits.taken_records)
        self._fill(command.count_min)
        answer = super().receive(command, moment)
        self._refill()
        return answer

    def serve(self, moment: Moment) -> list[Delivery]:
        """As in a queue. Nothing changes when nobody can be served, however often it is called: `_refill`."""
        deliveries: list[Delivery] = []
        self._refill()
        while more := super().serve(moment):
            deliveries += more
            self._refill()
        return deliveries

    def add_waiter(self, waiter: Waiter) -> None:
        """As in a queue; its store serves this consumer from now on."""
        super().add_waiter(waiter)
        self.store.awaited[self.number] = self

    def drop_waiter(self, waiter: Waiter) -> None:
        """As in a queue."""
        super().drop_waiter(waiter)
        if not self.waiting.by_order:
            del self.store.awaited[self.number]

    def clear(self) -> None:
        """As in a queue; its store knows it no more."""
        super().clear()
        self.dirty_place.deleted(PLACE_ID)
        del self.store.consumers[self.number]

    def stats(self) -> QueueStats:
        """As of a queue, and how far it has come."""
        unread = max(self.store.next_sequence - self.next_sequence, 0)
        return replace(super().stats(), position=self.position, unread=unread, missed=self.missed)

    # --- taking from the store ----------------------------------------------------------------------------------------

    def _refill(self) -> None:
        """Where somebody waits, see that as many events are ready as they may need, unless the store has no more.

        What can be served is a matter of what is in the store and here, and not of when somebody looked: replicas look at
        other times, since one that was restored does not wake for what is gone (`timetable`).
        """
        if self.waiting.by_order:
            self._fill(max(self.limits.taken_ready, self.waiting.most_needed()))

    def _fill(self, wanted: int, records_max: int = COUNT_MAX) -> None:
        """Take records until so many events are ready; not beyond too many that wait for others of their key."""
        if self.next_sequence >= self.store.next_sequence:  # as a rule
            return
        parked = self.groups.parked
        for _ in range(records_max):
            if self.ready.count >= wanted or parked.count >= self.limits.parked_max or not self._take():
                break

    def _take(self) -> bool:
        """Take the next record of the store, as far as its events are there; False when there is none."""
        store = self.store
        if (gone := store.first_sequence - self.next_sequence) > 0:
            self.missed += gone
            self.next_sequence += gone
            self.dirty_place.changed(PLACE_ID)
        part = store.ready.next_from(self.next_sequence)
        if part is None:
            self.next_sequence = store.next_sequence
            return False
        first = max(part.first, self.next_sequence)
        (batch,) = store.batches.overlapping(first, first)
        last = min(part.last, batch.last)
        record = batch.value.part(first - batch.first, last - first + 1, batch.last - batch.first + 1)
        if self.owner != SHARED:
            record.group = ""
        self.next_sequence = first
        self.append(record)
        return self.next_sequence < store.next_sequence
