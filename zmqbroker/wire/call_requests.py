"""Commands and queries as requests: calling, answering, giving up a call.

Ranges and defaults are those of docs/PROTOCOL.md §3. What a call or an answer carries beside its body goes through the broker
as one packed map, its *items*: checked where it comes in, and never taken apart again. `call_frames` makes frames of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

from zmqbroker.commands import RealtimeKind
from zmqbroker.errors import InvalidChannel, InvalidRequest
from zmqbroker.wire.batch import HEADERS_SIZE_MAX, ID_SIZE_MAX, Buffer
from zmqbroker.wire.frames import REQUEST_HEADER_SIZE_MAX, U64_MAX, Request, flag, integer, pack, shown, text, unpack_map
from zmqbroker.wire.headers import CLIENT_ID_SIZE_MAX, TRACE_SIZE_MAX, is_tags
from zmqbroker.wire.realtime_requests import KINDS, name_fault

__all__ = [
    "CALL_KINDS",
    "CALL_REQUESTS",
    "NOT_OF_MANY",
    "TIMEOUT_MS_MAX",
    "AnyCallRequest",
    "CacheStatsRequest",
    "CallHead",
    "CallRequest",
    "CallTableRequest",
    "CancelRequest",
    "RespondRequest",
    "RespondTableRequest",
    "call_head",
    "check_call",
    "check_respond",
    "read_respond",
    "respond_items",
    "table_head",
]

#: An hour, as long as a RECEIVE waits at most.
TIMEOUT_MS_MAX = 3_600_000
TIMEOUT_MS_DEFAULT = 10_000
CACHE_KEY_SIZE_MAX = 255
#: A day: what is to be kept longer belongs into a channel.
CACHE_TTL_MS_MAX = 86_400_000
#: Bytes of what a responder says went wrong.
ERROR_SIZE_MAX = 4096
#: Fields of a CALL that calls of a table cannot share.
NOT_OF_MANY = ("id", "cache_key", "cache_ttl_ms")
#: Kinds of subscriptions that can be called.
CALL_KINDS = ("commands", "queries")
#: Heads of calls that are remembered, and how large one may be: a caller that says the same with every call is read once.
_HEADS_MAX, _HEAD_SIZE_MAX = 1024, 256

Fields = Mapping[str, Any]


@dataclass(slots=True, frozen=True)
class CallRequest:
    """Ask whoever responds on a channel."""

    kind: str  # one of CALL_KINDS
    channel: str  # without prefix
    body: Buffer
    timeout_ms: int = TIMEOUT_MS_DEFAULT
    deadline_unix_ns: int = 0  # in place of the timeout; 0: the timeout counts
    id: str = ""
    metadata: str | None = None
    tags: Mapping[str, str] | None = None
    client_id: str = ""
    trace: str = ""
    cache_key: str = ""  # queries only: an answer that is kept under it will do
    cache_ttl_ms: int = 0  # how long the answer to this one is kept


@dataclass(slots=True, frozen=True)
class RespondRequest:
    """Answer a call, or a part of it."""

    call: int  # the one of CALLED
    body: Buffer
    metadata: str | None = None
    tags: Mapping[str, str] | None = None
    error: str = ""  # what went wrong
    executed: bool | None = None  # whether a command was executed; None: unless there is an error
    last: bool = True  # nothing comes behind it


@dataclass(slots=True, frozen=True)
class CancelRequest:
    """Give up a call of this connection."""

    call: int  # the request id of CALL


@dataclass(slots=True, frozen=True)
class CacheStatsRequest:
    """Ask a node what its cache of answers to queries did."""

    channel: str = ""  # of that channel; empty: of all


@dataclass(slots=True, frozen=True)
class CallTableRequest:
    """Make many calls that say the same but for their bodies and timeouts."""

    kind: str  # one of CALL_KINDS
    channel: str  # without prefix
    body: Buffer  # the table, which nobody has looked into yet
    timeout_ms: int = TIMEOUT_MS_DEFAULT  # of those that have none of their own
    deadline_unix_ns: int = 0  # of all, in place of the timeouts; 0: these count
    metadata: str | None = None
    tags: Mapping[str, str] | None = None
    client_id: str = ""
    trace: str = ""


@dataclass(slots=True, frozen=True)
class RespondTableRequest:
    """Answer many calls, with nothing but bodies."""

    body: Buffer  # the table, which nobody has looked into yet


AnyCallRequest = CallRequest | RespondRequest | CancelRequest | CacheStatsRequest | CallTableRequest | RespondTableRequest


class CallHead(NamedTuple):
    """A call without its body, as a node needs it."""

    kind: RealtimeKind
    channel: str
    timeout_ms: int
    deadline_unix_ns: int
    cache_key: str
    cache_ttl_ms: int
    items: bytes  # what CALLED tells of it, but what depends on the time and the responder


# --- reading ---------------------------------------------------------------------------------------------------------


def _read_call(fields: Fields, bodies: Sequence[Buffer]) -> CallRequest:
    kind = text(fields, "kind", None, REQUEST_HEADER_SIZE_MAX)
    if kind not in CALL_KINDS:
        raise InvalidRequest(f"field kind is {shown(kind)}, it must be one of {', '.join(CALL_KINDS)}")
    channel = text(fields, "channel", None, REQUEST_HEADER_SIZE_MAX)
    if fault := name_fault(channel, kind):
        raise InvalidChannel(fault)
    cache_key = _text(fields, "cache_key", CACHE_KEY_SIZE_MAX)
    cache_ttl_ms = integer(fields, "cache_ttl_ms", 0, 0, CACHE_TTL_MS_MAX)
    if kind == "commands" and (cache_key or cache_ttl_ms):
        raise InvalidRequest("field cache_key and cache_ttl_ms are for queries: a command is executed each time")
    if bool(cache_key) != bool(cache_ttl_ms):
        raise InvalidRequest(
            f"field cache_key is {shown(cache_key)} and cache_ttl_ms is {cache_ttl_ms}: an answer is kept under a key "
            "and for a time, or not at all"
        )
    return CallRequest(
        kind,
        channel,
        bodies[0],
        integer(fields, "timeout_ms", TIMEOUT_MS_DEFAULT, 1, TIMEOUT_MS_MAX),
        integer(fields, "deadline_unix_ns", 0, 0, U64_MAX),
        _text(fields, "id", ID_SIZE_MAX),
        *_metadata_and_tags(fields),
        _text(fields, "client_id", CLIENT_ID_SIZE_MAX),
        _text(fields, "trace", TRACE_SIZE_MAX),
        cache_key,
        cache_ttl_ms,
    )


def check_call(call: CallRequest) -> None:
    """Raises InvalidRequest, or InvalidChannel, for a call that a node would refuse."""
    fields = {name: getattr(call, name) for name in call.__dataclass_fields__ if name != "body"}
    _read_call({name: value for name, value in fields.items() if value is not None}, (b"",))


def check_respond(answer: RespondRequest) -> None:
    """Raises InvalidRequest for an answer that a node would refuse."""
    fields = {name: getattr(answer, name) for name in answer.__dataclass_fields__ if name != "body"}
    read_respond({name: value for name, value in fields.items() if value is not None}, (b"",))


def read_respond(fields: Fields, bodies: Sequence[Buffer]) -> RespondRequest:
    """What a RESPOND says. Raises InvalidRequest."""
    call = integer(fields, "call", None, 1, U64_MAX)
    executed = flag(fields, "executed") if "executed" in fields else None
    error, last = _text(fields, "error", ERROR_SIZE_MAX), flag(fields, "last", True)
    if error and not last:
        raise InvalidRequest(f"field last is false with error {shown(error)}: nothing comes behind an error")
    return RespondRequest(call, bodies[0], *_metadata_and_tags(fields), error, executed, last)


def _read_cancel(fields: Fields, _bodies: Sequence[Buffer]) -> CancelRequest:
    return CancelRequest(integer(fields, "call", None, 1, U64_MAX))


def _read_cache_stats(fields: Fields, _bodies: Sequence[Buffer]) -> CacheStatsRequest:
    channel = text(fields, "channel", "", REQUEST_HEADER_SIZE_MAX)
    if channel and (fault := name_fault(channel, "queries")):
        raise InvalidChannel(fault)
    return CacheStatsRequest(channel)


def _metadata_and_tags(fields: Fields) -> tuple[str | None, Mapping[str, str] | None]:
    metadata, tags = _text(fields, "metadata", HEADERS_SIZE_MAX), fields.get("tags", {})
    if not is_tags(tags):
        raise InvalidRequest(f"field tags must be a map of text: {shown(tags)}")
    if tags:
        try:
            size = len(metadata.encode()) + sum(len(name.encode()) + len(value.encode()) for name, value in tags.items())
        except UnicodeEncodeError:
            raise InvalidRequest(f"field tags is not valid Unicode: {shown(tags)}") from None
        if size > HEADERS_SIZE_MAX:
            raise InvalidRequest(f"fields metadata and tags have {size} bytes together, the limit is {HEADERS_SIZE_MAX}")
    return metadata or None, tags or None


def _text(fields: Fields, name: str, size_max: int) -> str:
    value = text(fields, name, "", size_max)
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InvalidRequest(f"field {name} is not valid Unicode: {shown(value)}") from None
    return value


def _read_call_table(fields: Fields, bodies: Sequence[Buffer]) -> CallTableRequest:
    for name in NOT_OF_MANY:
        if name in fields:
            raise InvalidRequest(f"field {name} is {shown(fields[name])}: it belongs to one call, and not to a table")
    call = _read_call(fields, bodies)
    times = call.timeout_ms, call.deadline_unix_ns
    return CallTableRequest(call.kind, call.channel, bodies[0], *times, call.metadata, call.tags, call.client_id, call.trace)


def _read_respond_table(_fields: Fields, bodies: Sequence[Buffer]) -> RespondTableRequest:
    return RespondTableRequest(bodies[0])


#: What reads the fields and body frames of each. All of them raise InvalidRequest, and those with a channel InvalidChannel.
CALL_REQUESTS: dict[int, Callable[[Fields, Sequence[Buffer]], AnyCallRequest]] = {
    Request.CALL: _read_call,
    Request.RESPOND: read_respond,
    Request.CANCEL: _read_cancel,
    Request.CACHE_STATS: _read_cache_stats,
    Request.CALL_TABLE: _read_call_table,
    Request.RESPOND_TABLE: _read_respond_table,
}


# --- heads and items -------------------------------------------------------------------------------------------------


def call_head(fields: bytes, client_id: str) -> CallHead:
    """What a CALL says in its fields, as they came; `client_id` is what its client calls itself. Raises as reading does."""
    return _known_head(fields, client_id) if len(fields) <= _HEAD_SIZE_MAX else _head(fields, client_id)


def _head(fields: bytes, client_id: str) -> CallHead:
    call = _read_call(unpack_map(fields, "fields") if fields else {}, (b"",))
    told = {
        "kind": call.kind,
        "channel": call.channel,
        "id": call.id,
        "metadata": call.metadata,
        "tags": call.tags,
        "client_id": call.client_id or client_id,
        "trace": call.trace,
    }
    items = pack({name: value for name, value in told.items() if value}, "items of a call")
    kind = KINDS[call.kind]
    return CallHead(kind, call.channel, call.timeout_ms, call.deadline_unix_ns, call.cache_key, call.cache_ttl_ms, items)


def table_head(fields: bytes, client_id: str) -> CallHead:
    """The same of a CALL_TABLE, for all its calls."""
    return _known_table_head(fields, client_id) if len(fields) <= _HEAD_SIZE_MAX else _table_head(fields, client_id)


def _table_head(fields: bytes, client_id: str) -> CallHead:
    _read_call_table(unpack_map(fields, "fields") if fields else {}, (b"",))
    return _head(fields, client_id)


_known_head = lru_cache(maxsize=_HEADS_MAX)(_head)
_known_table_head = lru_cache(maxsize=_HEADS_MAX)(_table_head)


def respond_items(answer: RespondRequest) -> bytes:
    """What ANSWER tells of an answer beside its body and its place."""
    told: dict[str, Any] = {"metadata": answer.metadata, "tags": answer.tags, "error": answer.error}
    items = {name: value for name, value in told.items() if value}
    if answer.executed is not None:
        items["executed"] = answer.executed
    return pack(items, "items of an answer")
