"""Short ways to write commands, and a machine that counts its own entries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from zmqbroker.broker import Applied, Machine, MachineLimits
from zmqbroker.commands import (
    ANY_INCARNATION,
    Ack,
    BatchHeader,
    ChannelSettings,
    Close,
    Command,
    CreateChannel,
    CreateSchedule,
    Delivery,
    HandOver,
    Origin,
    Plan,
    Publish,
    Published,
    PublishedAll,
    QueueStats,
    Receipt,
    Receive,
    ReceiveKey,
    Result,
    Run,
)

__all__ = [
    "ALICE",
    "BOB",
    "MILLISECOND",
    "START",
    "TINY",
    "Node",
    "acked_by",
    "describe",
    "handed",
    "key",
    "named",
    "origins",
    "publish",
    "ranges",
    "receipts_of",
    "receive",
    "ruled",
    "scheduled",
]

ALICE, BOB = b"a" * 16, b"b" * 16

MILLISECOND = 1_000_000

#: Time of the first entry of a `Node`.
START = 1_700_000_000_000_000_000

TINY = MachineLimits(
    results_kept=2,
    producers_max=2,
    channels_max=2,
    waiting_max=3,
    dedup_ids_max=5,
    schedules_max=2,
    schedule_kept_ms=3_000,
    defaults_max=2,
    routes_max=2,
    bindings_max=2,
    bound_queues_max=3,
    redriven_max=2,
    taken_ready=3,
    taken_records=4,
    parked_max=2,
)


def key(session: bytes = ALICE, request: int = 1, consumer: int = 0) -> ReceiveKey:
    """A receive key."""
    return ReceiveKey(session, consumer, request)


def publish(
    count: int = 1,
    *,
    channel: str = "c",
    producer: int = 0,
    base: int = 0,
    body_size: int = 10,
    body_bytes: int | None = None,
    position: int = 16,
    size: int = 1000,
    incarnation: int = ANY_INCARNATION,
    runs: tuple[Run, ...] = (),
    ids: Sequence[bytes] = (),
    expected_sequence: int | None = None,
) -> Publish:
    """A batch whose bodies all have `body_size` bytes, unless `body_bytes` says that most are smaller."""
    total = count * body_size if body_bytes is None else body_bytes
    header = BatchHeader(channel, producer, base, count, total, body_size, 0)
    return Publish(header, position, size, incarnation, runs, ids, expected_sequence)


def scheduled(
    name: str = "s", *, channel: str = "c", checksum: int = 7, runs: tuple[Run, ...] = (), **plan: Any
) -> CreateSchedule:
    """A schedule whose message is that of `publish`."""
    return CreateSchedule(name, Plan(**(plan or {"every_ms": 1000})), publish(channel=channel, runs=runs), checksum)


def receive(
    count_max: int = 1,
    *,
    session: bytes = ALICE,
    request: int = 1,
    consumer: int = 0,
    channel: str = "c",
    count_min: int = 1,
    size_max: int = 1 << 20,
    wait_ms: int = 0,
    visibility_ms: int = 30_000,
    auto_ack: bool = False,
    incarnation: int = ANY_INCARNATION,
    priority: int = 0,
) -> Receive:
    """A receive of `ALICE` that does not wait."""
    receive_key = key(session, request, consumer)
    return Receive(
        receive_key, channel, count_min, count_max, size_max, wait_ms, visibility_ms, incarnation, priority, auto_ack
    )


def receipts_of(delivery: Delivery) -> tuple[Receipt, ...]:
    """The receipts of a delivery."""
    return tuple(piece.receipt for piece in delivery.pieces)


def ranges(delivery: Delivery) -> list[tuple[int, int, int]]:
    """(first, last, delivery_count) of each piece."""
    return [(piece.receipt.first, piece.receipt.last, piece.delivery_count) for piece in delivery.pieces]


def acked_by(delivery: Delivery) -> Ack:
    """The ack of all of a delivery, by its receiver."""
    return Ack(delivery.key.session, delivery.channel, receipts_of(delivery))


def handed(delivery: Delivery, *batches: Publish) -> HandOver:
    """All of a delivery handed over by its receiver."""
    return HandOver(*named(delivery), batches)


def ruled(limits: MachineLimits | None = None, *, channel: str = "c", **settings: Any) -> Node:
    """A node with a channel that has these settings."""
    node = Node(limits)
    node.entry(CreateChannel(channel, ChannelSettings(**settings)))
    return node


def describe(result: Result) -> object:
    """A result in a form that can be compared: errors by type and fields."""
    if isinstance(result, PublishedAll):
        return [(channel, describe(one)) for channel, one in result.results]
    return (type(result), result.fields) if isinstance(result, Exception) else result


def named(delivery: Delivery) -> tuple[bytes, str, tuple[Receipt, ...]]:
    """What every command of a holder begins with: session, channel, all receipts of the delivery."""
    return delivery.key.session, delivery.channel, receipts_of(delivery)


def origins(delivery: Delivery) -> list[Origin | None]:
    """Where the first message of each piece was before."""
    return [piece.origin for piece in delivery.pieces]


def settings_of(machine: Machine, channel: str = "c") -> ChannelSettings | None:
    """How a channel treats its messages, None when there is none."""
    queue = machine.channel(channel)
    return None if queue is None else queue.settings


class Node:
    """A machine, its next index and its clock: one entry per call."""

    def __init__(self, limits: MachineLimits | None = None) -> None:
        self.limits = limits
        self.machine = Machine(limits)
        self.index = 0
        self.now_unix_ns = START

    def entry(self, *commands: Command, after_ms: int = 0) -> Applied:
        """Apply one entry, `after_ms` later than the one before."""
        self.index += 1
        self.now_unix_ns += after_ms * MILLISECOND
        return self.machine.apply(self.index, self.now_unix_ns, commands)

    def result(self, command: Command, after_ms: int = 0) -> Result:
        """Apply an entry of one command; its result."""
        return self.entry(command, after_ms=after_ms).results[0]

    def delivery(self, command: Command, after_ms: int = 0) -> Delivery:
        """Apply an entry of one command that causes exactly one delivery; that delivery."""
        (delivery,) = self.entry(command, after_ms=after_ms).deliveries
        return delivery

    def published(self, command: Command) -> Published:
        """Apply an entry of one publish that is accepted."""
        result = self.result(command)
        assert isinstance(result, Published)
        return result

    def stats(self, channel: str = "c") -> QueueStats:
        """The counters of a channel that exists."""
        stats = self.machine.stats(channel)
        assert stats is not None
        return stats

    def ack_all(self, deliveries: Sequence[Delivery]) -> list[Result]:
        """Ack deliveries in one entry."""
        return self.entry(*(acked_by(delivery) for delivery in deliveries)).results

    def restart(self) -> None:
        """Go on with what the machine would store."""
        self.machine = Machine.restore(self.index, self.machine.items(), self.limits)

    def close(self, session: bytes = ALICE, consumer: int | None = None, request: int = 0) -> Applied:
        """Close a session, a consumer, or one receive of it."""
        return self.entry(Close(session, consumer, request))
