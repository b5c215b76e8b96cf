"""The producers of one channel: what makes a retried publish be stored once (docs/PROTOCOL.md §4).

Keeps, per producer, the last accepted sequence and the results of its latest batches. The least recently used producer gives
way when there are too many; use is counted by commands, never by a clock, so every replica evicts the same one.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from zmqbroker.broker.dirty import Dirty
from zmqbroker.broker.limits import MachineLimits
from zmqbroker.commands import BatchHeader, Published
from zmqbroker.errors import Duplicate, OutOfSequence, RequestError, UnknownProducer

__all__ = ["Producer", "Producers", "StoredBatch"]


class StoredBatch(NamedTuple):
    """The result of one accepted batch."""

    base_sequence: int  # the producer's number of its first message
    message_count: int
    first_sequence: int  # the channel's
    time_unix_ns: int


@dataclass(slots=True)
class Producer:
    """What a channel knows of one producer."""

    used: int  # value of the channel's use counter at its last use; unique
    last_sequence: int = 0  # the last accepted one, 0 for none
    results: OrderedDict[int, StoredBatch] = field(default_factory=OrderedDict)  # by base_sequence, ascending, contiguous


class Producers:
    """The known producers of one channel, least recently used first."""

    __slots__ = ("_limits", "_producers", "dirty", "uses")

    def __init__(self, limits: MachineLimits) -> None:
        self.uses = 0  # commands that named a known producer, ever
        self.dirty: Dirty[int] = Dirty()  # producer ids
        self._limits = limits
        self._producers: OrderedDict[int, Producer] = OrderedDict()  # ordered by `used`

    def __iter__(self) -> Iterator[int]:
        """The known producers' ids, least recently used first."""
        return iter(self._producers)

    def get(self, producer: int) -> Producer | None:
        """What is known of a producer; asking is no use."""
        return self._producers.get(producer)

    def open(self, producer: int) -> int:
        """Make a producer known, evicting the least recently used one if need be; returns its last accepted sequence."""
        if producer in self._producers:
            return self._use(producer).last_sequence
        if len(self._producers) >= self._limits.producers_max:
            evicted, _ = self._producers.popitem(last=False)
            self.dirty.deleted(evicted)
        self.uses += 1
        self._producers[producer] = Producer(self.uses)
        self.dirty.created(producer)
        return 0

    def clear(self) -> None:
        """Forget all."""
        for producer in self._producers:
            self.dirty.deleted(producer)
        self._producers.clear()

    def check(self, header: BatchHeader) -> Published | RequestError | None:
        """None when the batch is the producer's next; else the stored result of an earlier attempt, or the refusal."""
        if header.producer in self._producers:
            self._use(header.producer)
        return self.judge(header)

    def judge(self, header: BatchHeader, ahead: int = 0) -> Published | RequestError | None:
        """What `check` answers when the producer's next `ahead` messages are stored; asking is no use."""
        producer = self._producers.get(header.producer)
        if producer is None:
            return UnknownProducer(f"producer {header.producer} is not open on channel {header.channel!r}")
        base, expected = header.base_sequence, producer.last_sequence + ahead + 1
        if base == expected:
            return None
        if (stored := self.stored(header)) is not None:
            return stored
        oldest_kept = next(iter(producer.results), producer.last_sequence + 1)
        if base >= 1 and base + header.count <= oldest_kept:
            return Duplicate(f"sequences {base} to {base + header.count - 1} of producer {header.producer} are stored")
        return OutOfSequence(
            f"base sequence {base} with {header.count} messages does not continue producer {header.producer}, "
            f"which is at {expected - 1}",
            expected=expected,
        )

    def stored(self, header: BatchHeader) -> Published | None:
        """What `check` answers to a repeat whose result is kept, and None for any other batch; asking is no use."""
        producer = self._producers.get(header.producer)
        stored = producer.results.get(header.base_sequence) if producer is not None else None
        if stored is None or stored.message_count != header.count:
            return None
        return Published(stored.first_sequence, stored.message_count, True, stored.time_unix_ns)

    def record(self, header: BatchHeader, first_sequence: int, time_unix_ns: int) -> None:
        """Note the result of a batch that `check` let pass."""
        producer = self._producers[header.producer]
        base = header.base_sequence
        producer.last_sequence = base + header.count - 1
        producer.results[base] = StoredBatch(base, header.count, first_sequence, time_unix_ns)
        if len(producer.results) > self._limits.results_kept:
            producer.results.popitem(last=False)
        self.dirty.changed(header.producer)

    def restore(self, producer_id: int, producer: Producer) -> None:
        """Take over a stored producer; `sort_by_use` follows when all are there."""
        self._producers[producer_id] = producer

    def sort_by_use(self) -> None:
        """Bring restored producers into the order of their last use."""
        self._producers = OrderedDict(sorted(self._producers.items(), key=lambda item: item[1].used))

    def _use(self, producer: int) -> Producer:
        self.uses += 1
        self._producers.move_to_end(producer)
        known = self._producers[producer]
        known.used = self.uses
        self.dirty.changed(producer)
        return known
