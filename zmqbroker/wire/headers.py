"""The headers column of a batch: what a message carries beside its body, as one small msgpack map or nothing.

The broker stores these bytes without looking; clients, and the plain forms of SEND and RECEIVE, make and read them. Unknown
keys are ignored when reading. Source: docs/PROTOCOL.md §5.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from zmqbroker.errors import LocalProtocolError, MalformedFrame
from zmqbroker.wire.batch import HEADERS_SIZE_MAX, Buffer
from zmqbroker.wire.frames import pack, shown, unpack_map

__all__ = [
    "CLIENT_ID_SIZE_MAX",
    "NO_HEADERS",
    "TRACE_SIZE_MAX",
    "MessageHeaders",
    "decode_message_headers",
    "encode_message_headers",
]

#: Bytes of a client's name for itself.
CLIENT_ID_SIZE_MAX = 255
#: Bytes of a trace context: a W3C traceparent has 55, and a tracestate behind it up to 512.
TRACE_SIZE_MAX = 1024


class MessageHeaders(NamedTuple):
    """One message's headers; None and the empty map are the same as absent."""

    metadata: str | None = None
    tags: Mapping[str, str] | None = None
    client_id: str | None = None
    trace: str | None = None


NO_HEADERS = MessageHeaders()


def encode_message_headers(headers: MessageHeaders) -> bytes:
    """A value of the headers column: nothing at all without headers. Raises LocalProtocolError over 65,535 bytes."""
    present = {name: value for name, value in headers._asdict().items() if value is not None and value != {}}
    if not present:
        return b""
    packed = pack(present, "headers")
    if len(packed) > HEADERS_SIZE_MAX:
        raise LocalProtocolError(f"headers of a message have {len(packed)} bytes, the limit is {HEADERS_SIZE_MAX}")
    return packed


def decode_message_headers(value: Buffer) -> MessageHeaders:
    """The headers in a value of the column. Raises MalformedFrame."""
    if len(value) == 0:
        return NO_HEADERS
    fields = unpack_map(value, "headers")
    tags = fields.get("tags")
    if tags is not None and not is_tags(tags):
        raise MalformedFrame(f"header tags is not a map of text: {shown(tags)}")
    return MessageHeaders(_text(fields, "metadata"), tags, _text(fields, "client_id"), _text(fields, "trace"))


def is_tags(value: object) -> bool:
    """True for a map from text to text."""
    return isinstance(value, dict) and all(isinstance(item, str) for pair in value.items() for item in pair)


def _text(fields: Mapping[str, Any], name: str) -> str | None:
    value = fields.get(name)
    if value is None or isinstance(value, str):
        return value
    raise MalformedFrame(f"header {name} is not text: {shown(value)}")
