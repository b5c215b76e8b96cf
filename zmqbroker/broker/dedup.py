"""The ids that a channel has seen of late: what makes a message with a known id be stored once (docs/PROTOCOL.md §3).

Kept by batches, since a batch is stored, and forgotten, as a whole: a key of the store is written once. An id is known as long
as it is kept. When that ends follows from what is stored and from the time of an entry alone, so every replica forgets the same
ids with the same entry: at the end of the window, or when the channel has seen too many since.

Invariants: the batches are in the order of their sequences, which is that of time; every id is in one batch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from zmqbroker.broker.dirty import Dirty
from zmqbroker.broker.limits import MachineLimits
from zmqbroker.broker.records import INSTANT_MAX, INSTANT_STEP_NS, BatchRecord

__all__ = ["Duplicates", "SeenBatch", "SeenIds", "fresh_records", "window_end"]

#: Messages of a batch that were not stored: the place of each, and the sequence of the message that was stored with its id.
Duplicates = tuple[tuple[int, int], ...]

#: A window ends at whole steps of this part of it, so that a channel which falls silent is looked at so many times and no more.
STEPS_OF_A_WINDOW = 64


def window_end(time_unix_ns: int, window_ms: int) -> int:
    """The instant from which on ids that came at `time_unix_ns` are not known any more: a step late at most, never early."""
    window_ns = window_ms * 1_000_000
    step_ns = max(INSTANT_STEP_NS, window_ns // STEPS_OF_A_WINDOW)
    return min(-(-(time_unix_ns + window_ns) // step_ns) * step_ns, INSTANT_MAX)


class SeenBatch(NamedTuple):
    """What is kept of one batch."""

    time_unix_ns: int
    ids: tuple[bytes, ...]  # of its messages in order; empty where one has none, or is a duplicate
    duplicates: Duplicates  # kept for the producer that sends the batch again

    @property
    def counted(self) -> int:
        """What it counts: its messages with an id."""
        return len(self.ids) - self.ids.count(b"") + len(self.duplicates)


class SeenIds:
    """The ids of one channel."""

    __slots__ = ("_batches", "_by_id", "_count", "_count_max", "_firsts", "dirty")

    def __init__(self, limits: MachineLimits) -> None:
        self.dirty: Dirty[int] = Dirty()  # sequences of first messages
        self._count_max = limits.dedup_ids_max
        self._count = 0  # of all batches
        self._batches: dict[int, SeenBatch] = {}  # by the sequence of the first message
        self._firsts: deque[int] = deque()  # the same sequences, ascending
        self._by_id: dict[bytes, int] = {}  # to the sequence of the message that is stored

    def __iter__(self) -> Iterator[int]:
        """The sequences of the batches' first messages, ascending."""
        return iter(self._firsts)

    def __bool__(self) -> bool:
        """True while anything is kept: a batch of duplicates alone has no known id, and is forgotten like any other."""
        return bool(self._firsts)

    def get(self, first: int) -> SeenBatch | None:
        """What is kept of the batch whose first message has that sequence."""
        return self._batches.get(first)

    def duplicates(self, ids: Sequence[bytes], first: int) -> Duplicates:
        """The messages of a new batch whose ids are known, or occur in it before; its first message is to be `first`."""
        known, own, found = self._by_id, dict[bytes, int](), list[tuple[int, int]]()
        for sequence, id in enumerate(ids, first):
            if id and (stored := known.get(id) or own.setdefault(id, sequence)) != sequence:
                found.append((sequence - first, stored))
        return tuple(found)

    def note(self, first: int, time_unix_ns: int, ids: Sequence[bytes], duplicates: Duplicates, *, repeatable: bool) -> None:
        """Keep the ids of a batch that is stored, and if it is `repeatable` its duplicates. The oldest ones may have to go."""
        kept = list(ids)
        for place, _ in duplicates:
            kept[place] = b""
        batch = SeenBatch(time_unix_ns, tuple(kept), duplicates if repeatable else ())
        if not batch.counted:
            return
        self.restore(first, batch)
        self.dirty.created(first)
        while self._count > self._count_max:
            self._forget_oldest()

    def forget(self, now_unix_ns: int, window_ms: int) -> None:
        """Forget the batches whose window is over; with a window of 0 all."""
        while self._firsts and self.ends_unix_ns(window_ms) <= now_unix_ns:
            self._forget_oldest()

    def ends_unix_ns(self, window_ms: int) -> int:
        """When the window of the oldest batch is over; there is one."""
        return window_end(self._batches[self._firsts[0]].time_unix_ns, window_ms) if window_ms else 0

    def clear(self) -> None:
        """Forget all."""
        while self._firsts:
            self._forget_oldest()

    def restore(self, first: int, batch: SeenBatch) -> None:
        """Take over a stored batch, later than all others."""
        self._batches[first] = batch
        self._firsts.append(first)
        self._count += batch.counted
        self._by_id.update((id, sequence) for sequence, id in enumerate(batch.ids, first) if id)

    def _forget_oldest(self) -> None:
        first = self._firsts.popleft()
        batch = self._batches.pop(first)
        self._count -= batch.counted
        for id in filter(None, batch.ids):
            del self._by_id[id]
        self.dirty.deleted(first)


def fresh_records(records: Iterable[tuple[BatchRecord, int]], duplicates: Duplicates) -> Iterator[tuple[BatchRecord, int]]:
    """The records of a whole batch, each with its instant, without the messages that are duplicates."""
    gone = {place for place, _ in duplicates}
    for record, due_unix_ns in records:
        total, begin = record.live, 0
        for end in range(total + 1):
            if end < total and record.low + end not in gone:
                continue
            if begin < end:
                yield record.part(begin, end - begin, total) if end - begin < total else record, due_unix_ns
            begin = end + 1
