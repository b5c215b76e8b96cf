"""Calls and answers of one pass in one message: single frames become tables, and tables what single messages would have been.

Only neighbours are put together, so that everything else stays in its order around them; and only what is small, and says
nothing that a table has no room for. Source: docs/PROTOCOL.md §3, CALL_TABLE.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import groupby
from typing import Any

from zmqbroker.wire.batch import Buffer
from zmqbroker.wire.call_requests import NOT_OF_MANY
from zmqbroker.wire.call_tables import (
    ROW_SIZE_MAX,
    ROWS_MAX,
    decode_answer_table,
    decode_called_table,
    encode_call_table,
    encode_respond_table,
)
from zmqbroker.wire.frames import Reply, Request, encode_header, encode_packed_header, pack, request_id_of, unpack_map

__all__ = ["bundled", "unbundled"]

#: Fields of calls whose way into a table is remembered; they are the same for most calls of a client.
_FIELDS_MAX = 1024
_FIELDS_AT = 12
#: The fields of a RESPOND that says nothing but `call`, as a u64, and their size with it.
_ONLY_CALL, _ONLY_CALL_SIZE = b"\x81\xa4call\xcf", 15

Frames = list[Buffer]
#: What messages of one table have in common: the request, and of calls their fields without timeout.
_Shape = tuple[Request, bytes]


def bundled(messages: Sequence[Frames]) -> list[Frames]:
    """What is to be sent instead of messages of client to node."""
    if len(messages) < 2:
        return list(messages)
    out: list[Frames] = []
    for shape, run in groupby(messages, _shape):
        alike = list(run)
        if shape is None or len(alike) == 1:
            out += alike
        else:
            out += [_table(shape, alike[start : start + ROWS_MAX]) for start in range(0, len(alike), ROWS_MAX)]
    return out


def _shape(frames: Frames) -> _Shape | None:
    if len(frames) != 2 or len(frames[1]) > ROW_SIZE_MAX:
        return None
    header = bytes(frames[0])
    command, fields = header[3], header[_FIELDS_AT:]
    if command == Request.CALL and (shared := _split(fields)[0]):
        return Request.CALL_TABLE, shared
    if command == Request.RESPOND and len(fields) == _ONLY_CALL_SIZE and fields.startswith(_ONLY_CALL):
        return Request.RESPOND_TABLE, b""
    return None


@lru_cache(maxsize=_FIELDS_MAX)
def _split(fields: bytes) -> tuple[bytes, int]:
    """Fields of a call without its timeout, and that, 0 for none; no fields for a call that goes into no table."""
    told = unpack_map(fields, "fields")
    if any(name in told for name in NOT_OF_MANY):
        return b"", 0
    timeout_ms = told.pop("timeout_ms", 0)
    return pack(told, "fields of calls"), timeout_ms


def _table(shape: _Shape, messages: Sequence[Frames]) -> Frames:
    command, shared = shape
    if command == Request.RESPOND_TABLE:
        answers = [(int.from_bytes(header[-8:]), body) for header, body in messages]
        return [encode_packed_header(command, request_id_of(messages[0][0]), b""), encode_respond_table(answers)]
    calls = [
        (int.from_bytes(header[4:_FIELDS_AT], "little"), _split(bytes(header[_FIELDS_AT:]))[1], body)
        for header, body in messages
    ]
    return [encode_packed_header(command, calls[0][0], shared), encode_call_table(calls)]


def unbundled(command: int, fields: dict[str, Any], bodies: Sequence[Buffer]) -> Iterator[list[Buffer]]:
    """The messages that a table stands for. Raises MalformedFrame."""
    for table in bodies:
        if command == Reply.ANSWER_TABLE:
            for request_id, items, body in decode_answer_table(bytes(table)):
                yield [encode_packed_header(Reply.ANSWER, request_id, items), body]
        else:
            for call, deadline_unix_ns, remaining_ms, items, body in decode_called_table(bytes(table)):
                own = {"deadline_unix_ns": deadline_unix_ns, "remaining_ms": remaining_ms, "call": call}
                yield [encode_header(Reply.CALLED, 0, {**unpack_map(items, "items of a call"), **own, **fields}), body]
