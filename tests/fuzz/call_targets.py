"""Tables of calls and answers between clients and nodes: whatever can be read is written as the same bytes again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from tests.fuzz.target import MissedTwin, Target
from zmqbroker.errors import RequestError
from zmqbroker.wire.call_tables import (
    decode_answer_table,
    decode_call_table,
    decode_called_table,
    decode_respond_table,
    encode_answer_table,
    encode_call_table,
    encode_called_table,
    encode_respond_table,
)

__all__ = ["CALL_TARGETS"]

_ITEMS = b"\x81\xa4kind\xa8commands"


def _run(decode: Callable[[bytes], Sequence[Any]], encode: Callable[[Sequence[Any]], bytes], data: bytes) -> None:
    if encode(decode(data)) != data:
        raise MissedTwin("a table is another one when it was read and written again")


def _target(name: str, decode: Callable[..., Any], encode: Callable[..., bytes], rows: Sequence[Any]) -> Target:
    return Target(name, partial(_run, decode, encode), lambda: [encode(rows), encode(rows[:1])], (RequestError,))


CALL_TARGETS = (
    _target("call_table", decode_call_table, encode_call_table, [(7, 0, b"hello"), (8, 500, b"")]),
    _target("respond_table", decode_respond_table, encode_respond_table, [(2**61, b"hello"), (8, b"")]),
    _target(
        "called_table", decode_called_table, encode_called_table, [(2**61, 1, 500, _ITEMS, b"hello"), (8, 2, 0, _ITEMS, b"")]
    ),
    _target("answer_table", decode_answer_table, encode_answer_table, [(7, b"\x80", b"hello"), (8, _ITEMS, b"")]),
)
