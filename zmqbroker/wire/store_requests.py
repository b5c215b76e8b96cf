"""Requests about events stores, as values: read events without a position of one's own; open and reset a durable consumer.

Ranges and defaults are those of docs/PROTOCOL.md §3. `requests` reads and writes them with all others; what a start means for
a store is the broker's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from zmqbroker.commands.names import is_consumer, is_store
from zmqbroker.errors import InvalidRequest
from zmqbroker.wire.batch import COUNT_MAX, SEQUENCE_MAX
from zmqbroker.wire.columns import GROUP_SIZE_MAX
from zmqbroker.wire.frames import U32_MAX, U64_MAX, Request, flag, integer, shown, text
from zmqbroker.wire.queue_requests import (
    DELAY_MS_MAX,
    PEEK_SIZE_DEFAULT,
    PEEK_SIZE_MAX,
    REASON_SIZE_MAX,
    Fields,
    read_channel_name,
)

__all__ = [
    "READ_WAIT_MS_MAX",
    "START_VALUES",
    "STORE_REQUESTS",
    "OpenConsumerRequest",
    "ReadRequest",
    "ResetConsumerRequest",
    "StoreRequest",
    "start_fault",
]

#: A minute: nobody tells a node that whoever waits is gone, so that it would keep the place for so long.
READ_WAIT_MS_MAX = 60_000
#: Where reading begins, each with the range of the `value` that belongs to it; None: to these belongs none.
START_VALUES: dict[str, tuple[int, int] | None] = {
    "new": None,
    "first": None,
    "last": None,
    "sequence": (1, SEQUENCE_MAX),
    "time": (0, U64_MAX),
    "time_delta_ms": (0, DELAY_MS_MAX),
}


@dataclass(slots=True, frozen=True)
class ReadRequest:
    """Events of a store from a place on: what there is, or else what comes first within `wait_ms`."""

    channel: str
    start: str = "new"
    value: int = 0  # a sequence, an instant in unix ns or milliseconds before now, as `start` says
    count_max: int = 1
    size_max: int = PEEK_SIZE_DEFAULT
    wait_ms: int = 0
    key: str = ""  # only the last event of this key; "": all events
    incarnation: int = 0  # of the store that the sequence is of; 0: whichever is there
    plain: bool = False
    forward: bool = False


@dataclass(slots=True, frozen=True)
class OpenConsumerRequest:
    """Make a durable consumer, or find it; with `exclusive` it is from now on this session's alone."""

    channel: str  # the consumer's full name
    start: str = "new"
    value: int = 0
    exclusive: bool = False
    consumer: int = 0  # the number that its RECEIVEs will have
    forward: bool = False


@dataclass(slots=True, frozen=True)
class ResetConsumerRequest:
    """Have a durable consumer go on somewhere else."""

    channel: str
    start: str
    value: int = 0
    forward: bool = False


StoreRequest = ReadRequest | OpenConsumerRequest | ResetConsumerRequest


def start_fault(start: str, value: int) -> str | None:
    """Why nothing can begin there, as one sentence; None when it can."""
    if start not in START_VALUES:
        return f"field start is {shown(start)}, it must be one of {', '.join(START_VALUES)}"
    allowed = START_VALUES[start]
    if allowed is None:
        return f"field value is {value} with start {start!r}, to which no value belongs" if value else None
    low, high = allowed
    return None if low <= value <= high else f"field value is {value}, allowed with start {start!r} is {low} to {high}"


def _read_start(fields: Fields, default: str | None) -> tuple[str, int]:
    start, value = text(fields, "start", default, REASON_SIZE_MAX), integer(fields, "value", 0, 0, U64_MAX)
    if fault := start_fault(start, value):
        raise InvalidRequest(fault)
    return start, value


def _read_consumer_name(fields: Fields) -> str:
    channel = read_channel_name(fields)
    if not is_consumer(channel):
        raise InvalidRequest(f"field channel is {shown(channel)}, a consumer is called 'events_store:STORE>CONSUMER'")
    return channel


def _read_read(fields: Fields) -> ReadRequest:
    channel = read_channel_name(fields)
    if not is_store(channel):
        raise InvalidRequest(f"field channel is {shown(channel)}, an events store is called 'events_store:STORE'")
    start, value = _read_start(fields, "new")
    key, wait_ms = text(fields, "key", "", GROUP_SIZE_MAX), integer(fields, "wait_ms", 0, 0, READ_WAIT_MS_MAX)
    if key and (start != "last" or wait_ms):
        raise InvalidRequest(
            f"field key is {shown(key)} with start {start!r} and wait_ms {wait_ms}: of a key there is the last event, now"
        )
    return ReadRequest(
        channel=channel,
        start=start,
        value=value,
        count_max=integer(fields, "max", 1, 1, COUNT_MAX),
        size_max=integer(fields, "max_bytes", PEEK_SIZE_DEFAULT, 1, PEEK_SIZE_MAX),
        wait_ms=wait_ms,
        key=key,
        incarnation=integer(fields, "incarnation", 0, 0, U64_MAX),
        plain=flag(fields, "plain"),
        forward=flag(fields, "forward"),
    )


def _read_open_consumer(fields: Fields) -> OpenConsumerRequest:
    return OpenConsumerRequest(
        _read_consumer_name(fields),
        *_read_start(fields, "new"),
        exclusive=flag(fields, "exclusive"),
        consumer=integer(fields, "consumer", 0, 0, U32_MAX),
        forward=flag(fields, "forward"),
    )


def _read_reset_consumer(fields: Fields) -> ResetConsumerRequest:
    return ResetConsumerRequest(_read_consumer_name(fields), *_read_start(fields, None), forward=flag(fields, "forward"))


#: What reads each of them from its fields; none has body frames.
STORE_REQUESTS: dict[int, Callable[[Fields], StoreRequest]] = {
    Request.READ: _read_read,
    Request.OPEN_CONSUMER: _read_open_consumer,
    Request.RESET_CONSUMER: _read_reset_consumer,
}
