"""An events store: a channel from which nobody receives, so that every event is there until retention drops it.

All live events are ready, in the order of their sequences; they have no delay, no priority and no turns. Readers look at them
(`peeking`), and durable consumers (`store_consumer`) take copies of their records. A group of a message is here the key of an
event, and the same in consumers that are shared, whose members get one event of a key at a time.

With `keep_latest` a newer event finishes the older one of its key. The index of keys follows from the records: it is derived
when the state is restored, and so the setting is made while the store is empty.

Invariants: ready has all live sequences; the time of a record is not before that of the record before it.
Source: docs/PROTOCOL.md §3.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from zmqbroker.broker.groups import Groups
from zmqbroker.broker.queue import Queue
from zmqbroker.broker.ranges import Range
from zmqbroker.broker.records import BatchRecord, Moment
from zmqbroker.commands import ChannelSettings, Delivery

if TYPE_CHECKING:
    from zmqbroker.broker.store_consumer import StoreConsumer

__all__ = ["EventsStore"]


class Keys(Groups):
    """Instead of groups: the newest event of every key, where the store keeps only these."""

    __slots__ = ("newest",)

    def __init__(self, queue: Queue) -> None:
        super().__init__(queue.batches)
        self.newest: dict[str, int] = {}  # sequences; empty without `keep_latest`

    def leave(self, group: str, first: int, last: int) -> Range[int] | None:
        """Events of a key have finished; none waited for that."""
        if first <= self.newest.get(group, 0) <= last:
            del self.newest[group]
        return None


class EventsStore(Queue):
    """One store and what it knows of its consumers."""

    groups: Keys

    def __init__(self, touch: Callable[[int], Queue], *parts: Any) -> None:
        super().__init__(*parts)
        self.groups = Keys(self)
        self.consumers: dict[int, StoreConsumer] = {}  # by channel number
        self.awaited: dict[int, StoreConsumer] = {}  # those of them where a receive waits
        self._touch = touch  # the machine's: a consumer is about to change

    # --- what readers ask ---------------------------------------------------------------------------------------------

    @property
    def first_sequence(self) -> int:
        """Sequence of the oldest event; that of the next one when there is none."""
        oldest = next(iter(self.ready), None)
        return self.next_sequence if oldest is None else oldest.first

    @property
    def last_sequence(self) -> int:
        """The highest sequence that was ever given, whether its event is there or not; 0: none."""
        return self.next_sequence - 1

    def newest(self) -> int | None:
        """Sequence of the newest event that is there."""
        part = self.ready.floor(self.next_sequence)
        return None if part is None else part.last

    def since(self, instant_unix_ns: int) -> int:
        """Sequence of the first event that was stored at an instant or later; that of the next one when there is none."""
        batch = self.batches.first_where(lambda record: record.time_unix_ns >= instant_unix_ns)
        part = None if batch is None else self.ready.next_from(batch.first)
        return self.next_sequence if batch is None or part is None else max(batch.first, part.first)

    def newest_of_key(self, key: str) -> int | None:
        """Sequence of the newest event of a key, where the setting `keep_latest` keeps an index of them."""
        return self.groups.newest.get(key)

    # --- storing ------------------------------------------------------------------------------------------------------

    def append(self, record: BatchRecord, deliveries: int = 0, due_unix_ns: int = 0) -> None:
        """As of any channel; what has a key finishes what had it before, where only the newest is kept."""
        before = self.batches.floor(self.next_sequence)
        if before is not None:  # what was moved here has the time at which it was stored elsewhere
            record.time_unix_ns = max(record.time_unix_ns, before.value.time_unix_ns)
        record.priority = 0
        super().append(record)
        if record.group and self.settings.keep_latest:
            self._supersede(record.group, self.next_sequence - record.live, self.next_sequence - 1)

    def _supersede(self, key: str, first: int, last: int) -> None:
        """Only the last of these new events of a key stays, and none that was there."""
        older = self.groups.newest.get(key)
        if older is not None:
            self.counters.dropped += self.finish(self.take_waiting(older, older))
        if first < last:
            self.counters.dropped += self.finish(self.take_waiting(first, last - 1))
        self.groups.newest[key] = last

    def make_ready(self, first: int, last: int, deliveries: int) -> None:
        """Events wait for no others of their key."""
        self.add_ready(first, last, 0)

    def change_settings(self, settings: ChannelSettings) -> None:
        """As of any channel."""
        super().change_settings(settings)
        if not settings.keep_latest:
            self.groups.newest.clear()

    def restore_groups(self) -> bool:
        """Derive the newest event of every key: the last of its record, since only that is kept."""
        if self.settings.keep_latest:
            for first, last, _ in self.ready:
                for batch in self.batches.overlapping(first, last):
                    if batch.value.group:
                        self.groups.newest[batch.value.group] = batch.last
        return True

    def serve(self, moment: Moment) -> list[Delivery]:
        """Serve the consumers where somebody waits; to all others a new event costs nothing."""
        if not self.awaited:
            return []
        numbers = sorted(self.awaited)
        return [delivery for number in numbers for delivery in self._touch(number).serve(moment)]
