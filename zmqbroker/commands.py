"""Frozen requests and replies: what a client asks, what the log carries, what the state machine answers.

Values only; bytes for them are made in `wire`. Field names, units and bounds are those of docs/PROTOCOL.md. The commands of
the replicated log (`Publish` ... `Trim`) are what an entry holds; everything a command needs is in it, so that applying it
needs no clock and no configuration.
"""

from __future__ import annotations

from dataclasses import dataclass

from zmqbroker.errors import RequestError

__all__ = [
    "ANY_INCARNATION",
    "RECEIPT_ORDINAL_BITS",
    "Ack",
    "Acked",
    "Audited",
    "BatchHeader",
    "Close",
    "Closed",
    "Command",
    "Delivery",
    "Member",
    "OpenProducer",
    "Piece",
    "ProducerOpened",
    "Publish",
    "Published",
    "QueueStats",
    "Receipt",
    "Receive",
    "ReceiveKey",
    "Result",
    "Roster",
    "TakeAudit",
    "Tick",
    "Trim",
    "Waiting",
]

#: Incarnation that fits whatever channel has the name now, or creates it.
ANY_INCARNATION = 0

#: A receipt's `assigning` number is (index of the assigning entry << 16) | command ordinal in that entry.
RECEIPT_ORDINAL_BITS = 16


@dataclass(slots=True, frozen=True)
class Member:
    """One node of the cluster."""

    id: int  # Raft node id, from 1, never reused
    name: str
    uid: bytes  # 16 random bytes, new with every new data directory
    peer: str  # host:port of its peer socket
    voter: bool = True  # False: stays a learner, which gets the log and counts for nothing
    replaces: int = 0  # id of the member that leaves when this one has caught up; 0 for nobody


@dataclass(slots=True, frozen=True)
class Roster:
    """Who takes part in a group, as of the last membership change that was applied."""

    index: int = 0  # of that change's entry; 0: since the cluster was formed
    members: tuple[Member, ...] = ()  # ascending by id
    membership: bytes = b""  # which of them vote, as wire.membership writes it
    next_id: int = 1  # above every id ever given


@dataclass(slots=True, frozen=True, order=True)
class Receipt:
    """Messages first..last (channel sequences, inclusive) that were assigned together; the holder acks by it."""

    assigning: int
    first: int
    last: int


@dataclass(slots=True, frozen=True)
class ReceiveKey:
    """Who waits: a session's request. A repeated RECEIVE with the same key is the same receive."""

    session: bytes  # 16 bytes
    consumer: int  # chosen by the client; 0 for plain receives
    request: int  # the client's request id


# --- commands in the log -------------------------------------------------------------------------------------------


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
class Publish:
    """Append the batch frame at data[position : position + size] of the entry to the channel that it names."""

    header: BatchHeader
    position: int
    size: int
    incarnation: int = ANY_INCARNATION


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
    size_max: int = 1 << 20  # bytes of bodies; the first message is assigned whatever its size
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


Command = Publish | OpenProducer | Receive | Ack | Close | Tick | Trim | TakeAudit


# --- results of applying them, in the order of an entry's commands -------------------------------------------------


@dataclass(slots=True, frozen=True)
class Published:
    """The batch is in the channel at sequences first_sequence .. first_sequence + count - 1."""

    first_sequence: int
    count: int
    duplicate: bool  # True: an earlier attempt stored it, this one changed nothing
    time_unix_ns: int  # stamp of the entry that stored it


@dataclass(slots=True, frozen=True)
class ProducerOpened:
    """The producer is known; its next batch starts at last_sequence + 1."""

    last_sequence: int


@dataclass(slots=True, frozen=True)
class Waiting:
    """A receive was registered or answered; its messages come as a `Delivery`, in this apply or a later one."""


@dataclass(slots=True, frozen=True)
class Acked:
    """`count` messages are finished, counting those that an earlier attempt of the same ack had finished."""

    count: int


@dataclass(slots=True, frozen=True)
class Closed:
    """`returned` messages are ready again."""

    returned: int


@dataclass(slots=True, frozen=True)
class Audited:
    """An audit of the state at `index` is kept."""

    index: int


Result = Published | ProducerOpened | Waiting | Acked | Closed | Audited | Roster | RequestError | None


# --- effects: data that the leader alone acts on --------------------------------------------------------------------


@dataclass(slots=True, frozen=True)
class Piece:
    """Messages of one stored batch that were assigned together.

    The batch frame is data[position : position + size] of the entry at `index`; the messages are those with offsets
    (0-based, in the batch) low .. low + receipt.last - receipt.first.
    """

    receipt: Receipt
    delivery_count: int  # 1 for the first delivery
    time_unix_ns: int  # when the batch was stored
    index: int
    position: int
    size: int
    low: int


@dataclass(slots=True, frozen=True)
class Delivery:
    """The answer to one receive; no pieces when the wait ended with nothing."""

    key: ReceiveKey
    channel: str
    pieces: tuple[Piece, ...]


@dataclass(slots=True, frozen=True)
class QueueStats:
    """A channel's counters. depth = ready + in_flight."""

    channel: str
    incarnation: int
    depth: int
    ready: int
    in_flight: int
    waiting_receives: int
    last_sequence: int
    acked: int
    redelivered: int
    size_bytes: int  # of the stored batches that still hold a live message
