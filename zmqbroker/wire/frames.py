"""The header frame of a client message, its fields, and errors as ERROR fields.

A header is 12 bytes and one msgpack map. What is read here comes from anyone, so it is bounded and checked: a map with text
keys, limited sizes, no extension types. Fields are read with `integer`, `text`, `binary` and `flag`, whose errors name field
and value. It knows which commands exist (`Request`, `Reply`) and leaves refusing an unknown one to `requests`. It holds no
connection and no session. Source: docs/PROTOCOL.md §2, §3, §6.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from enum import IntEnum
from functools import lru_cache
from typing import Any, TypeVar

import msgpack

from zmqbroker.commands.names import CONSUMER_MARK, PREFIXES, STORE_PREFIX
from zmqbroker.errors import (
    InvalidRequest,
    LocalProtocolError,
    MalformedFrame,
    RequestError,
    UnknownCommand,
    UnsupportedVersion,
)
from zmqbroker.wire.batch import CHANNEL_SIZE_MAX, Buffer

__all__ = [
    "FRAME_SIZE_MAX",
    "MAGIC",
    "PROTOCOL_VERSION",
    "REPLY_BIT",
    "REQUEST_HEADER_SIZE_MAX",
    "U32_MAX",
    "U64_MAX",
    "Reply",
    "Request",
    "binary",
    "channel_fault",
    "decode_header",
    "encode_error",
    "encode_header",
    "encode_packed_header",
    "error_fields",
    "flag",
    "integer",
    "name_rule",
    "pack",
    "request_id_of",
    "shown",
    "split_delimiter",
    "text",
    "unpack",
    "unpack_map",
]

MAGIC = b"ZB"
PROTOCOL_VERSION = 1
#: A request has a handful of small fields; 4096 receipts of three u64 fit twelve times.
REQUEST_HEADER_SIZE_MAX = 1 << 20
#: ZeroMQ closes a connection over a larger frame; a reply's header may be that large.
FRAME_SIZE_MAX = 80 << 20
U32_MAX = 2**32 - 1
U64_MAX = 2**64 - 1
#: Items of one msgpack array: msgpack makes room for as many as an array claims before it has seen them.
_ARRAY_COUNT_MAX = 65_536
#: The same in a request, whose sender is anyone: twice the receipts of an ACK, so that too many of them get a better answer.
_REQUEST_ARRAY_COUNT_MAX = 8192
#: Set in the command of every reply.
REPLY_BIT = 0x80
_HEADER = struct.Struct("<2sBBQ")
#: A value in an error message is cut after this many characters.
_SHOWN_MAX = 80

Frame = TypeVar("Frame", bound=Buffer)


class Request(IntEnum):
    """Command codes of requests."""

    HELLO = 0x01
    PING = 0x02
    INFO = 0x03
    SEND = 0x04
    SEND_BATCH = 0x05
    RECEIVE = 0x06
    ACK = 0x07
    OPEN_PRODUCER = 0x08
    STATS = 0x09
    CLOSE = 0x0A
    CHANGE_MEMBERS = 0x0B
    TRANSFER = 0x0C
    AUDIT = 0x0D
    BACKUP = 0x0E
    NACK = 0x0F
    REJECT = 0x10
    REQUEUE = 0x11
    EXTEND = 0x12
    PURGE = 0x13
    DELETE_MESSAGES = 0x14
    REDRIVE = 0x15
    PEEK = 0x16
    CREATE_CHANNEL = 0x17
    UPDATE_CHANNEL = 0x18
    DELETE_CHANNEL = 0x19
    LIST_CHANNELS = 0x1A
    HAND_OVER = 0x1B
    SET_DEFAULTS = 0x1C
    LIST_DEFAULTS = 0x1D
    CREATE_SCHEDULE = 0x1E
    DELETE_SCHEDULE = 0x1F
    LIST_SCHEDULES = 0x20
    SUBSCRIBE = 0x21
    UNSUBSCRIBE = 0x22
    GRANT = 0x23
    PUBLISH = 0x24
    CALL = 0x25
    RESPOND = 0x26
    CANCEL = 0x27
    CACHE_STATS = 0x28
    READ = 0x29
    OPEN_CONSUMER = 0x2A
    RESET_CONSUMER = 0x2B
    SET_ROUTE = 0x2C
    DELETE_ROUTE = 0x2D
    LIST_ROUTES = 0x2E
    SET_BINDING = 0x2F
    DELETE_BINDING = 0x30
    LIST_BINDINGS = 0x31
    CALL_TABLE = 0x32
    RESPOND_TABLE = 0x33


class Reply(IntEnum):
    """Command codes of replies: bit 7 is set."""

    WELCOME = 0x81
    PONG = 0x82
    NODE = 0x83
    SENT = 0x84
    MESSAGES = 0x86
    ACKED = 0x87
    PRODUCER = 0x88
    CHANNEL = 0x89
    CLOSED = 0x8A
    MEMBERS = 0x8B
    TRANSFERRING = 0x8C
    AUDITED = 0x8D
    BACKED_UP = 0x8E
    DONE = 0x8F
    CHANGED = 0x97
    CHANNELS = 0x9A
    HANDED_OVER = 0x9B
    DEFAULTS = 0x9D
    SCHEDULES = 0xA0
    SUBSCRIBED = 0xA1
    UNSUBSCRIBED = 0xA2
    EVENTS = 0xA3
    PUBLISHED = 0xA4
    ANSWER = 0xA5
    CALLED = 0xA6
    CANCELLED = 0xA7
    CACHE = 0xA8
    EVENTS_READ = 0xA9
    CONSUMER = 0xAA
    ROUTED = 0xAC
    ROUTES = 0xAE
    BINDINGS = 0xB1
    ANSWER_TABLE = 0xB2
    CALLED_TABLE = 0xB3
    ERROR = 0xFF


# --- msgpack ---------------------------------------------------------------------------------------------------------


def pack(value: object, what: str) -> bytes:
    """msgpack of `value`; `what` names it when it cannot be packed. Raises LocalProtocolError."""
    try:
        packed: bytes = msgpack.packb(value)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise LocalProtocolError(f"{what} cannot be packed: {error}") from error
    return packed


def _refuse_extension(code: int, _data: bytes) -> object:
    raise ValueError(f"extension type {code}")


def unpack(data: Buffer, what: str, array_count_max: int = _ARRAY_COUNT_MAX) -> Any:
    """The one msgpack value in `data`; `what` names it in errors. Raises MalformedFrame.

    Arrays have at most `array_count_max` items, and there are no extension types but msgpack's own time stamp.
    """
    try:
        return msgpack.unpackb(data, max_array_len=array_count_max, ext_hook=_refuse_extension)
    except (ValueError, msgpack.UnpackException) as error:
        raise MalformedFrame(f"{what} of {len(data)} bytes are not valid msgpack: {shown(str(error))}") from error


def unpack_map(data: Buffer, what: str, array_count_max: int = _ARRAY_COUNT_MAX) -> dict[str, Any]:
    """The msgpack map with text keys in `data`. Raises MalformedFrame."""
    value = unpack(data, what, array_count_max)
    if not isinstance(value, dict):
        raise MalformedFrame(f"{what} are not a msgpack map: {shown(value)}")
    for key in value:
        if not isinstance(key, str):
            raise MalformedFrame(f"{what} have a key that is not text: {shown(key)}")
    return value


def shown(value: object) -> str:
    """`repr` for an error message, cut to a bearable length."""
    described = repr(value)
    return described if len(described) <= _SHOWN_MAX else described[:_SHOWN_MAX] + "…"


# --- header frames ---------------------------------------------------------------------------------------------------


def encode_header(command: int, request_id: int, fields: Mapping[str, Any]) -> bytes:
    """A header frame. Raises LocalProtocolError on fields that msgpack cannot carry or a header over its limit."""
    if not 0 <= request_id <= U64_MAX:
        raise LocalProtocolError(f"request id {request_id} is not a u64")
    packed = pack(dict(fields), f"fields of command {command:#04x}") if fields else b""
    size, limit = _HEADER.size + len(packed), _header_limit(command)
    if size > limit:
        raise LocalProtocolError(f"a header frame of {size} bytes is over its limit of {limit}")
    return _HEADER.pack(MAGIC, PROTOCOL_VERSION, command, request_id) + packed


def encode_packed_header(command: int, request_id: int, packed: bytes) -> bytes:
    """A header frame with fields that were packed before: what many are answered with is packed once."""
    return _HEADER.pack(MAGIC, PROTOCOL_VERSION, command, request_id) + packed


def decode_header(frame: Buffer, *, from_client: bool = False) -> tuple[int, int, dict[str, Any]]:
    """Command, request id and fields of a header frame. An unknown request is the caller's to refuse.

    Raises MalformedFrame or UnsupportedVersion, and for a reply that comes `from_client` UnknownCommand, before its fields
    are looked at; `request_id_of` says what to answer such a frame with.
    """
    size = len(frame)
    if size < _HEADER.size:
        raise MalformedFrame(f"a header frame of {size} bytes is shorter than {_HEADER.size}")
    magic, version, command, request_id = _HEADER.unpack_from(frame)
    if magic != MAGIC:
        raise MalformedFrame(f"a header frame begins with {magic!r} and not with {MAGIC!r}")
    if version != PROTOCOL_VERSION:
        raise UnsupportedVersion(
            f"protocol version {version} is not spoken here, version {PROTOCOL_VERSION} is",
            minimum=PROTOCOL_VERSION,
            maximum=PROTOCOL_VERSION,
        )
    if from_client and command & REPLY_BIT:
        raise UnknownCommand(f"command {command:#04x} is a reply, a client sends requests")
    limit = _header_limit(command)
    if size > limit:
        raise MalformedFrame(f"a header frame of {size} bytes is over its limit of {limit}")
    count_max = _ARRAY_COUNT_MAX if command & REPLY_BIT else _REQUEST_ARRAY_COUNT_MAX
    fields = unpack_map(memoryview(frame)[_HEADER.size :], "fields", count_max) if size > _HEADER.size else {}
    return command, request_id, fields


def request_id_of(frame: Buffer) -> int:
    """The request id to answer a frame with that cannot be read: 0 when it is too short or has another magic."""
    if len(frame) < _HEADER.size:
        return 0
    magic, _version, _command, request_id = _HEADER.unpack_from(frame)
    return int(request_id) if magic == MAGIC else 0


def split_delimiter(frames: Sequence[Frame]) -> tuple[bool, Sequence[Frame]]:
    """Whether a REQ socket's empty delimiter comes first, and the frames after it."""
    if frames and len(frames[0]) == 0:
        return True, frames[1:]
    return False, frames


def _header_limit(command: int) -> int:
    return FRAME_SIZE_MAX if command & REPLY_BIT else REQUEST_HEADER_SIZE_MAX


# --- errors ----------------------------------------------------------------------------------------------------------


def error_fields(error: RequestError) -> dict[str, Any]:
    """The fields of the ERROR reply that tells of `error`; `errors.error_from_wire` is the way back."""
    return {
        **error.fields,
        "code": error.code,
        "message": error.message,
        "retryable": error.retryable,
        "outcome_unknown": error.outcome_unknown,
    }


def encode_error(request_id: int, error: RequestError) -> bytes:
    """The header frame of an ERROR reply, which has no body frames."""
    return encode_header(Reply.ERROR, request_id, error_fields(error))


# --- fields ----------------------------------------------------------------------------------------------------------


def integer(fields: Mapping[str, Any], name: str, default: int | None, low: int, high: int) -> int:
    """An integer field in low..high; a `default` of None makes it required. Raises InvalidRequest."""
    value = fields.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool):
        raise _wrong(name, fields, "an integer")
    if not low <= value <= high:
        raise InvalidRequest(f"field {name} is {value}, allowed is {low} to {high}")
    return value


def text(fields: Mapping[str, Any], name: str, default: str | None, size_max: int) -> str:
    """A text field of at most `size_max` bytes of UTF-8; a `default` of None makes it required. Raises InvalidRequest."""
    value = fields.get(name, default)
    if not isinstance(value, str):
        raise _wrong(name, fields, "text")
    size = len(value.encode(errors="replace"))
    if size > size_max:
        raise InvalidRequest(f"field {name} has {size} bytes, the limit is {size_max}: {shown(value)}")
    return value


def binary(fields: Mapping[str, Any], name: str, size: int) -> bytes | None:
    """A binary field of exactly `size` bytes, None when it is absent. Raises InvalidRequest."""
    value = fields.get(name)
    if value is None and name not in fields:
        return None
    if not isinstance(value, bytes):
        raise _wrong(name, fields, f"binary of {size} bytes")
    if len(value) != size:
        raise InvalidRequest(f"field {name} has {len(value)} bytes, it must have {size}")
    return value


def flag(fields: Mapping[str, Any], name: str, default: bool = False) -> bool:
    """A true-or-false field. Raises InvalidRequest."""
    value = fields.get(name, default)
    if not isinstance(value, bool):
        raise _wrong(name, fields, "true or false")
    return value


def _wrong(name: str, fields: Mapping[str, Any], expected: str) -> InvalidRequest:
    if name not in fields:
        return InvalidRequest(f"field {name} is missing, it must be {expected}")
    return InvalidRequest(f"field {name} must be {expected}: {shown(fields[name])}")


# --- channel names ---------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1024)  # a busy channel is named in every batch
def channel_fault(name: str) -> str | None:
    """Why `name` cannot name a channel, as one sentence with rule and name; None when it can. Source: PROTOCOL §3."""
    rule = _channel_rule(name)
    return None if rule is None else f"channel name {shown(name)} {rule}"


def _channel_rule(name: str) -> str | None:
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        return "is not valid Unicode"
    if not 1 <= size <= CHANNEL_SIZE_MAX:
        return f"has {size} bytes, allowed is 1 to {CHANNEL_SIZE_MAX}"
    if name.startswith(STORE_PREFIX):
        store, mark, consumer = name.removeprefix(STORE_PREFIX).partition(CONSUMER_MARK)
        return name_rule(store) or (name_rule(consumer) if mark else None)
    if prefix := next((prefix for prefix in PREFIXES if name.startswith(prefix)), None):
        return f"begins with {prefix!r}, which no replicated channel does"
    return name_rule(name)


def name_rule(name: str) -> str | None:
    """Which rule for names a name without its prefix breaks; None when it keeps them all."""
    if not name:
        return "ends where a name must follow"
    for character in name:
        if character.isspace() or character < " " or "\x7f" <= character <= "\x9f":
            return f"holds white space or a control character, {character!r}"
        if character in "*>;":
            return f"holds {character!r}, which names more than one channel"
    if name.endswith("."):
        return "ends with '.'"
    if name.startswith("_sys."):
        return "begins with '_sys.', which is the broker's own"
    return None
