"""The requests of consumers, of a producer's begin and of a session's end, as values.

Ranges and defaults are those of docs/PROTOCOL.md §3. `requests` reads and writes them with all others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from zmqbroker.commands import Receipt
from zmqbroker.errors import InvalidRequest
from zmqbroker.wire.batch import COUNT_MAX, SEQUENCE_MAX
from zmqbroker.wire.frames import U32_MAX, U64_MAX, Request, flag, integer
from zmqbroker.wire.queue_requests import VISIBILITY_MS_MAX, VISIBILITY_MS_MIN, Fields, read_channel_name, read_receipts

__all__ = [
    "CONSUMER_PRIORITY_MAX",
    "CONSUMING_REQUESTS",
    "RECEIVE_SIZE_DEFAULT",
    "RECEIVE_SIZE_MAX",
    "VISIBILITY_MS_DEFAULT",
    "AckRequest",
    "CloseRequest",
    "OpenProducerRequest",
    "ReceiveRequest",
    "StatsRequest",
]

#: Bytes of bodies in one MESSAGES reply, when the first message is not larger.
RECEIVE_SIZE_MAX = 16 << 20
RECEIVE_SIZE_DEFAULT = 1 << 20
WAIT_MS_MAX = 3_600_000
CONSUMER_PRIORITY_MAX = 9
VISIBILITY_MS_DEFAULT = 30_000


@dataclass(slots=True, frozen=True)
class ReceiveRequest:
    """Ask for messages."""

    channel: str
    count_min: int = 1
    count_max: int = 1
    size_max: int = RECEIVE_SIZE_DEFAULT
    wait_ms: int = 0
    visibility_ms: int = VISIBILITY_MS_DEFAULT
    consumer: int = 0
    plain: bool = False
    forward: bool = False
    consumer_priority: int = 0
    auto_ack: bool = False


@dataclass(slots=True, frozen=True)
class AckRequest:
    """Finish messages."""

    channel: str
    receipts: tuple[Receipt, ...]
    forward: bool = False


@dataclass(slots=True, frozen=True)
class OpenProducerRequest:
    """Make a producer known to a channel."""

    channel: str
    producer: int
    forward: bool = False


@dataclass(slots=True, frozen=True)
class StatsRequest:
    """Ask for a channel's counters: the asked node's own, or those of the leader when it knows one and `forward` is set."""

    channel: str
    forward: bool = False


@dataclass(slots=True, frozen=True)
class CloseRequest:
    """End a consumer, or with None the whole session; with `request` only the RECEIVE of that id of the consumer."""

    consumer: int | None = None
    forward: bool = False
    request: int = 0


ConsumingRequest = ReceiveRequest | AckRequest | OpenProducerRequest | StatsRequest | CloseRequest


def _read_receive(fields: Fields) -> ReceiveRequest:
    return ReceiveRequest(
        channel=read_channel_name(fields),
        count_min=integer(fields, "min", 1, 1, COUNT_MAX),
        count_max=integer(fields, "max", 1, 1, COUNT_MAX),
        size_max=integer(fields, "max_bytes", RECEIVE_SIZE_DEFAULT, 1, RECEIVE_SIZE_MAX),
        wait_ms=integer(fields, "wait_ms", 0, 0, WAIT_MS_MAX),
        visibility_ms=integer(fields, "visibility_ms", VISIBILITY_MS_DEFAULT, VISIBILITY_MS_MIN, VISIBILITY_MS_MAX),
        consumer=integer(fields, "consumer", 0, 0, U32_MAX),
        plain=flag(fields, "plain"),
        auto_ack=flag(fields, "auto_ack"),
        forward=flag(fields, "forward"),
        consumer_priority=integer(fields, "consumer_priority", 0, 0, CONSUMER_PRIORITY_MAX),
    )


def _read_ack(fields: Fields) -> AckRequest:
    return AckRequest(read_channel_name(fields), read_receipts(fields), flag(fields, "forward"))


def read_open_producer(fields: Fields) -> OpenProducerRequest:
    """An OPEN_PRODUCER on one channel. Raises InvalidRequest or InvalidChannel."""
    producer = integer(fields, "producer", None, 1, SEQUENCE_MAX)
    return OpenProducerRequest(read_channel_name(fields), producer, flag(fields, "forward"))


def _read_stats(fields: Fields) -> StatsRequest:
    return StatsRequest(read_channel_name(fields), flag(fields, "forward"))


def _read_close(fields: Fields) -> CloseRequest:
    consumer = integer(fields, "consumer", None, 0, U32_MAX) if "consumer" in fields else None
    request = integer(fields, "request", 0, 0, U64_MAX)
    if request and consumer is None:
        raise InvalidRequest(f"field request is {request} and field consumer is missing: a request is one of a consumer")
    return CloseRequest(consumer, flag(fields, "forward"), request)


#: What reads each of them from its fields; none has body frames.
CONSUMING_REQUESTS: dict[int, Callable[[Fields], ConsumingRequest]] = {
    Request.RECEIVE: _read_receive,
    Request.ACK: _read_ack,
    Request.STATS: _read_stats,
    Request.CLOSE: _read_close,
}
