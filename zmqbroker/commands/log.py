"""The commands that an entry holds; all that one needs is in it, so that applying it needs no clock and no configuration."""

from __future__ import annotations

from dataclasses import dataclass

from zmqbroker.commands.channels import Manage
from zmqbroker.commands.receipts import ANY_INCARNATION, Receipt, ReceiveKey
from zmqbroker.commands.settling import Settle

__all__ = [
    "Ack",
    "BatchHeader",
    "Close",
    "Command",
    "OpenProducer",
    "Publish",
    "Receive",
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


@dataclass(slots=True, frozen=True)
class Publish:
    """Append the batch frame at data[position : position + size] of the entry to the channel that it names."""

    header: BatchHeader
    position: int
    size: int
    incarnation: int = ANY_INCARNATION
    runs: tuple[Run, ...] = ()  # all messages in order; none when the columns say nothing


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


@dataclass(slots=True, frozen=True)
class Ack:
    """Finish messages for good."""

    session: bytes
    channel: str
    receipts: tuple[Receipt, ...]


@dataclass(slots=True, frozen=True)
class Close:
    """End a session (`consumer` None) or one consumer of it: waiting receives end, in-flight messages are ready again."""

    session: bytes
    consumer: int | None = None


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


Command = Publish | OpenProducer | Receive | Ack | Settle | Manage | Close | Tick | Trim | TakeAudit
