"""The commands that an entry holds; all that one needs is in it, so that applying it needs no clock and no configuration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from zmqbroker.commands.channels import Manage
from zmqbroker.commands.defaults import SetDefaults
from zmqbroker.commands.receipts import ANY_INCARNATION, Receipt, ReceiveKey
from zmqbroker.commands.routes import RoutingRule
from zmqbroker.commands.schedules import Plan
from zmqbroker.commands.settling import Settle
from zmqbroker.commands.stores import OpenConsumer, ResetConsumer

__all__ = [
    "Ack",
    "BatchHeader",
    "Close",
    "Command",
    "CreateSchedule",
    "DeleteSchedule",
    "HandOver",
    "NewSchedule",
    "OpenProducer",
    "Publish",
    "PublishAll",
    "Receive",
    "Rule",
    "Run",
    "TakeAudit",
    "Tick",
    "Trim",
]


@dataclass(slots=True, frozen=True)
class BatchHeader:
    """What broker and machine know of a batch frame (docs/PROTOCOL.md, "Batch frame"); nobody looks at the bodies."""

    channel: str
    producer: int  # 0 for none
    base_sequence: int  # from 1; 0 without a producer
    count: int
    body_bytes: int  # all bodies together
    body_size_max: int  # the largest body, in bytes
    columns: int  # bit set
    flags: int = 0  # bit set; bit 0: the producer compressed the bodies


@dataclass(slots=True, frozen=True)
class Run:
    """Neighbours in a batch whose columns say the same."""

    count: int
    delay_ms: int = 0  # 0: not said
    expiry_ms: int = 0  # the same
    priority: int = 0  # 0 to 9, higher ones are received first
    group: str = ""  # of its messages one at a time is received; "": none


@dataclass(slots=True, frozen=True)
class Publish:
    """Append the batch frame at data[position : position + size] of the entry to the channel that it names."""

    header: BatchHeader
    position: int
    size: int
    incarnation: int = ANY_INCARNATION
    runs: tuple[Run, ...] = ()  # all messages in order; none when the columns say nothing
    ids: Sequence[bytes] = ()  # of all messages, empty where one has none; none when the batch has no such column
    expected_sequence: int | None = None  # what the channel's last sequence must be; None: any


@dataclass(slots=True, frozen=True)
class HandOver:
    """Finish messages and append batches: all of it, or nothing."""

    session: bytes
    channel: str  # of the receipts
    receipts: tuple[Receipt, ...]
    batches: tuple[Publish, ...]  # each to a channel of its own, of any incarnation; all of a producer, or none


@dataclass(slots=True, frozen=True)
class PublishAll:
    """Append batches, each to the channel that its frame names: all that an earlier attempt has not stored, or none of them."""

    batches: tuple[Publish, ...]  # to different channels, of any incarnation


@dataclass(slots=True, frozen=True)
class OpenProducer:
    """Make `producer` known to a channel; a repeat changes nothing and answers the last accepted sequence."""

    channel: str
    producer: int  # 1 .. 2**64 - 1, chosen at random by the client
    incarnation: int = ANY_INCARNATION


@dataclass(slots=True, frozen=True)
class Receive:
    """Assign up to `count_max` messages as soon as `count_min` are ready, or whatever is ready when the wait ends."""

    key: ReceiveKey
    channel: str
    count_min: int = 1
    count_max: int = 1
    size_max: int = 1 << 20  # bytes, with their share of headers; the first message is assigned whatever its size
    wait_ms: int = 0
    visibility_ms: int = 30_000
    incarnation: int = ANY_INCARNATION
    consumer_priority: int = 0  # 0 to 9; while it waits, those of a lower one get nothing that it could take
    auto_ack: bool = False  # what is assigned is finished at once: delivered at most once


@dataclass(slots=True, frozen=True)
class Ack:
    """Finish messages for good."""

    session: bytes
    channel: str
    receipts: tuple[Receipt, ...]


@dataclass(slots=True, frozen=True)
class Close:
    """End a session (`consumer` None) or one consumer of it: waiting receives end, in-flight messages are ready again.

    With `request` only that receive of the consumer ends, and the consumer goes on.
    """

    session: bytes
    consumer: int | None = None
    request: int = 0  # a client's request id; 0: all

    def ends(self, key: ReceiveKey) -> bool:
        """Whether this is the end of a receive, and of what it holds."""
        whose = key.session == self.session and self.consumer in (None, key.consumer)
        return whose and self.request in (0, key.request)


@dataclass(slots=True, frozen=True)
class Tick:
    """Nothing but the entry's time stamp: what fell due is due."""


@dataclass(slots=True, frozen=True)
class Trim:
    """Every voter holds the log up to `index`: entries below may be dropped once nothing points at them."""

    index: int


@dataclass(slots=True, frozen=True)
class TakeAudit:
    """Keep checksums of the state as this entry leaves it, so that replicas can be compared; changes nothing."""


@dataclass(slots=True, frozen=True)
class NewSchedule:
    """A schedule that is to be made, with its message: what a leader proposes."""

    name: str
    plan: Plan
    frame: bytes  # a batch frame of one message without a producer


@dataclass(slots=True, frozen=True)
class CreateSchedule:
    """The same as nodes apply it: the message lies in the entry."""

    name: str
    plan: Plan
    message: Publish
    checksum: int  # crc32c of the batch frame: with its size and channel what tells whether another one is the same


@dataclass(slots=True, frozen=True)
class DeleteSchedule:
    """Forget a schedule; the messages that it has sent stay."""

    name: str


Rule = SetDefaults | CreateSchedule | DeleteSchedule | RoutingRule
Consuming = OpenConsumer | ResetConsumer
Storing = Publish | PublishAll | HandOver
Command = Storing | OpenProducer | Receive | Ack | Settle | Manage | Rule | Consuming | Close | Tick | Trim | TakeAudit
