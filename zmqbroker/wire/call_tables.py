"""Tables of commands and queries: many calls, or many answers, of one connection in one message.

A table is u32 count, u32 0, the rows, and behind them what each row tells the size of, in the same order and with nothing
between or after. Only whole answers are in tables, and only what is small: the others have messages of their own.

    CALL_TABLE      u64 request id, u32 timeout_ms, u32 size of body; body
    RESPOND_TABLE   u64 call, u32 size of body; body
    CALLED_TABLE    u64 call, u64 deadline_unix_ns, u32 remaining_ms, u32 size of items, u32 size of body; items, body
    ANSWER_TABLE    u64 request id, u32 size of items, u32 size of body; items, body

Source: docs/PROTOCOL.md §3, CALL_TABLE.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from zmqbroker.errors import InvalidRequest, MalformedFrame
from zmqbroker.wire.batch import Buffer
from zmqbroker.wire.call_requests import TIMEOUT_MS_MAX
from zmqbroker.wire.frames import Reply, encode_header

__all__ = [
    "ANSWER_TABLE_HEADER",
    "ROWS_MAX",
    "ROW_SIZE_MAX",
    "AnswerRow",
    "CallRow",
    "CalledRow",
    "RespondRow",
    "called_table_header",
    "decode_answer_table",
    "decode_call_table",
    "decode_called_table",
    "decode_respond_table",
    "encode_answer_table",
    "encode_call_table",
    "encode_called_table",
    "encode_respond_table",
]

#: As many as one connection may have under way.
ROWS_MAX = 1000
#: Bytes of items and body of a row that a node makes. Larger ones are not worth a copy, and a table stays below 5 MB.
ROW_SIZE_MAX = 4096

_COUNTS = struct.Struct("<II")
_CALL = struct.Struct("<QII")
_CALLED = struct.Struct("<QQIII")
_RESPOND = struct.Struct("<QI")

#: The header of every ANSWER_TABLE: its request ids are in its rows.
ANSWER_TABLE_HEADER = encode_header(Reply.ANSWER_TABLE, 0, {})


# Plain tuples, since there is one for each call.
#: A call: request id, timeout_ms (0: what the fields say), body.
CallRow = tuple[int, int, bytes]
#: A whole answer that says nothing but its body: call, body.
RespondRow = tuple[int, bytes]
#: A call for a responder: call, deadline_unix_ns, remaining_ms, items (a msgpack map, what CALLED tells besides), body.
CalledRow = tuple[int, int, int, bytes, bytes]
#: A whole answer: request id, items (a msgpack map, what ANSWER tells of it), body.
AnswerRow = tuple[int, bytes, bytes]


def called_table_header(subscription: int) -> bytes:
    """The header frame of a CALLED_TABLE."""
    return encode_header(Reply.CALLED_TABLE, 0, {"subscription": subscription})


def encode_call_table(rows: Sequence[tuple[int, int, Buffer]]) -> bytes:
    """Body frame of a CALL_TABLE with rows as CallRow has them."""
    heads = [_CALL.pack(request_id, timeout_ms, len(body)) for request_id, timeout_ms, body in rows]
    return b"".join((_COUNTS.pack(len(rows), 0), *heads, *[row[2] for row in rows]))


def decode_call_table(table: bytes) -> list[CallRow]:
    """The calls. Raises MalformedFrame, or InvalidRequest for a timeout that no call may have."""
    position, rows = _begin(table, _CALL.size), []
    for request_id, timeout_ms, size in _CALL.iter_unpack(table[_COUNTS.size : position]):
        if timeout_ms > TIMEOUT_MS_MAX:
            raise InvalidRequest(f"timeout_ms of call {request_id} is {timeout_ms}, allowed is 0 to {TIMEOUT_MS_MAX}")
        end = position + size
        rows.append((request_id, timeout_ms, table[position:end]))
        position = end
    _finish(table, position)
    return rows


def encode_respond_table(rows: Sequence[tuple[int, Buffer]]) -> bytes:
    """Body frame of a RESPOND_TABLE with rows as RespondRow has them."""
    heads = [_RESPOND.pack(call, len(body)) for call, body in rows]
    return b"".join((_COUNTS.pack(len(rows), 0), *heads, *[row[1] for row in rows]))


def decode_respond_table(table: bytes) -> list[RespondRow]:
    """The answers. Raises MalformedFrame."""
    position, rows = _begin(table, _RESPOND.size), []
    for call, size in _RESPOND.iter_unpack(table[_COUNTS.size : position]):
        end = position + size
        rows.append((call, table[position:end]))
        position = end
    _finish(table, position)
    return rows


def encode_called_table(rows: Sequence[tuple[int, int, int, bytes, bytes]]) -> bytes:
    """Body frame of a CALLED_TABLE with rows as CalledRow has them."""
    pack = _CALLED.pack
    heads = [pack(call, at, left, len(items), len(body)) for call, at, left, items, body in rows]
    return b"".join((_COUNTS.pack(len(rows), 0), *heads, *[part for row in rows for part in row[3:]]))


def decode_called_table(table: bytes) -> list[CalledRow]:
    """The calls. Raises MalformedFrame."""
    position, rows = _begin(table, _CALLED.size), []
    heads = _CALLED.iter_unpack(table[_COUNTS.size : position])
    for call, deadline_unix_ns, remaining_ms, items_size, size in heads:
        middle = position + items_size
        end = middle + size
        rows.append((call, deadline_unix_ns, remaining_ms, table[position:middle], table[middle:end]))
        position = end
    _finish(table, position)
    return rows


def encode_answer_table(rows: Sequence[tuple[int, bytes, bytes]]) -> bytes:
    """Body frame of an ANSWER_TABLE with rows as AnswerRow has them."""
    heads = [_CALL.pack(request_id, len(items), len(body)) for request_id, items, body in rows]
    return b"".join((_COUNTS.pack(len(rows), 0), *heads, *[part for row in rows for part in row[1:]]))


def decode_answer_table(table: bytes) -> list[AnswerRow]:
    """The answers. Raises MalformedFrame."""
    position, rows = _begin(table, _CALL.size), []
    for request_id, items_size, size in _CALL.iter_unpack(table[_COUNTS.size : position]):
        middle = position + items_size
        end = middle + size
        rows.append((request_id, table[position:middle], table[middle:end]))
        position = end
    _finish(table, position)
    return rows


def _begin(table: bytes, row_size: int) -> int:
    """Where the rows end. Raises MalformedFrame."""
    if len(table) < _COUNTS.size:
        raise MalformedFrame(f"a table of {len(table)} bytes is shorter than {_COUNTS.size}")
    count: int
    count, reserved = _COUNTS.unpack_from(table)
    if reserved:
        raise MalformedFrame(f"the reserved field of a table is {reserved}, it must be 0")
    if not 1 <= count <= ROWS_MAX:
        raise MalformedFrame(f"a table has {count} rows, allowed is 1 to {ROWS_MAX}")
    end = _COUNTS.size + count * row_size
    if end > len(table):
        raise MalformedFrame(f"a table of {len(table)} bytes has no room for its {count} rows of {row_size}")
    return end


def _finish(table: bytes, position: int) -> None:
    if position != len(table):
        raise MalformedFrame(f"the rows of a table tell of {position} bytes, it has {len(table)}")
