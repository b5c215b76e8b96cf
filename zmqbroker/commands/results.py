"""What the state machine answers: a result per command, in order, and effects that the leader alone acts on."""

from __future__ import annotations

from dataclasses import dataclass

from zmqbroker.commands.members import Roster
from zmqbroker.commands.receipts import Receipt, ReceiveKey
from zmqbroker.errors import RequestError

__all__ = [
    "Acked",
    "Audited",
    "BindingChanged",
    "Changed",
    "ChannelChanged",
    "Closed",
    "ConsumerOpened",
    "Counted",
    "DefaultsChanged",
    "Delivery",
    "HandedOver",
    "Origin",
    "Peeked",
    "Piece",
    "ProducerOpened",
    "Published",
    "PublishedAll",
    "QueueStats",
    "Result",
    "RouteChanged",
    "ScheduleChanged",
    "Waiting",
]


@dataclass(slots=True, frozen=True)
class Published:
    """The batch is in the channel at sequences first_sequence .. first_sequence + count - 1."""

    first_sequence: int
    count: int
    duplicate: bool  # True: an earlier attempt stored it, this one changed nothing
    time_unix_ns: int  # stamp of the entry that stored it
    duplicates: tuple[
        tuple[int, int], ...
    ] = ()  # not stored, since a message with the id is: (place in the batch, its sequence)


@dataclass(slots=True, frozen=True)
class PublishedAll:
    """What became of each of several batches, in order."""

    results: tuple[tuple[str, Published | RequestError], ...]  # with the name of its channel


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
class Counted:
    """Done, with so many messages."""

    count: int
    next: int = 0  # of a redrive that is not through: the sequence to go on from


@dataclass(slots=True, frozen=True)
class HandedOver:
    """`count` messages are finished, and the batches are stored."""

    count: int
    sent: tuple[tuple[str, int, int], ...]  # channel, sequence of the first message, messages; of each batch, in order
    duplicate: bool  # True: an earlier attempt did it, this one changed nothing
    time_unix_ns: int  # stamp of the entry that did it


@dataclass(slots=True, frozen=True)
class ChannelChanged:
    """The channel is there, or with `deleted` no more, as the command wanted it."""

    channel: str
    changed: bool  # False: it was so before
    deleted: bool = False


@dataclass(slots=True, frozen=True)
class DefaultsChanged:
    """What is said of the pattern is what the command wanted."""

    pattern: str
    changed: bool  # False: it was so before


@dataclass(slots=True, frozen=True)
class ScheduleChanged:
    """The schedule is there, or no more, as the command wanted it."""

    name: str
    changed: bool  # False: it was so before


@dataclass(slots=True, frozen=True)
class RouteChanged:
    """The route stands for what the command wanted, or is no more."""

    name: str
    changed: bool  # False: it was so before


@dataclass(slots=True, frozen=True)
class BindingChanged:
    """The source feeds the queues that the command wanted, or none."""

    source: str
    changed: bool  # False: it was so before


@dataclass(slots=True, frozen=True)
class Closed:
    """`returned` messages are ready again."""

    returned: int


@dataclass(slots=True, frozen=True)
class Audited:
    """An audit of the state at `index` is kept."""

    index: int


@dataclass(slots=True, frozen=True)
class ConsumerOpened:
    """The durable consumer is there; it goes on at `position`."""

    position: int  # the lowest sequence that it has not finished; above `last`: it waits for that one
    created: bool  # False: it was there, and where to start was not looked at
    first: int  # sequence of the oldest event that its store keeps; one above `last` when there is none
    last: int  # of the newest event that its store ever had; 0: none


Changed = ChannelChanged | DefaultsChanged | ScheduleChanged | RouteChanged | BindingChanged
Done = Acked | Counted | HandedOver | Changed | Closed | Audited
Result = Published | PublishedAll | ProducerOpened | ConsumerOpened | Waiting | Done | Roster | RequestError | None


@dataclass(slots=True, frozen=True)
class Origin:
    """Where a message was before it was moved to its channel, and why it is here."""

    channel: str
    sequence: int  # there; those of its neighbours rise with theirs
    delivery_count: int  # there
    reason: str  # delivery_limit | overflow | requeued | redriven, or what the consumer said that rejected it


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
    origin: Origin | None = None  # of the first message


@dataclass(slots=True, frozen=True)
class Peeked(Piece):
    """Messages that were only looked at: nobody can ack them by their receipt."""

    state: str = "ready"  # or "delayed", "in_flight"
    due_unix_ns: int = 0  # when they will be ready, if they are delayed


@dataclass(slots=True, frozen=True)
class Delivery:
    """The answer to one receive; no pieces when the wait ended with nothing."""

    key: ReceiveKey
    channel: str
    pieces: tuple[Piece, ...]


@dataclass(slots=True, frozen=True)
class QueueStats:
    """A channel's counters. depth = ready + in_flight + delayed + parked."""

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
    delayed: int = 0
    expired: int = 0  # finished since their time was over, ever
    dead_lettered: int = 0  # moved to the dead-letter channel, ever
    moved: int = 0  # to other channels or behind all others, by command, ever
    dropped: int = 0  # finished since somebody wanted it so, or to make room for others, ever
    oldest_unix_ns: int = 0  # when the oldest live batch was stored; 0: there is none
    parked: int = 0  # due, and behind another message of their group
    deduplicated: int = 0  # finished as they came, since a message with the same id is stored, ever
    sent: int = 0  # stored by senders, ever; the others of `last_sequence` were moved here, or put behind all others
    sent_bytes: int = 0  # of their batch frames
    delivered: int = 0  # assignments of a message, ever
    delivered_bytes: int = 0  # of batch frames: each message's equal share, at every assignment
    consumers: int = 0  # distinct (session, consumer) that wait or hold messages
    active: tuple[bytes, int] | None = None  # session and consumer that get all messages, where only one may
    position: int = 0  # of a durable consumer: the lowest sequence that it has not finished
    unread: int = 0  # the same: sequences of its store that it has not come to
    missed: int = 0  # the same: sequences that its store did not keep until it came to them, ever
