"""Tables of calls and answers: what goes in comes out, and nothing else is taken."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import pytest

from zmqbroker.errors import InvalidRequest, MalformedFrame
from zmqbroker.wire import call_tables
from zmqbroker.wire.call_requests import TIMEOUT_MS_MAX
from zmqbroker.wire.call_tables import ROWS_MAX

U64 = 2**64 - 1
CALLS = [(1, 0, b"one"), (U64, TIMEOUT_MS_MAX, b""), (3, 1, b"x" * 5000)]
TABLES: dict[str, list[Any]] = {
    "call": CALLS,
    "respond": [(U64, b"one"), (2, b""), (3, b"three")],
    "called": [(U64, U64, 1000, b"\x81\xa4kind\xa8commands", b"one"), (2, 5, 0, b"\x80", b"")],
    "answer": [(U64, b"\x80", b"one"), (2, b"\x81\xa5error\xa1e", b""), (3, b"\x80", b"")],
}


def coder(name: str) -> tuple[Callable[[list[Any]], bytes], Callable[[bytes], list[Any]]]:
    return getattr(call_tables, f"encode_{name}_table"), getattr(call_tables, f"decode_{name}_table")


@pytest.mark.parametrize("name", TABLES)
def test_table_both_ways(name: str) -> None:
    encode, decode = coder(name)
    assert decode(encode(TABLES[name])) == TABLES[name]


@pytest.mark.parametrize("name", TABLES)
def test_table_that_is_cut_or_longer_than_it_tells_is_refused_at_every_byte(name: str) -> None:
    encode, decode = coder(name)
    table = encode(TABLES[name][:2])
    for size in range(len(table)):
        with pytest.raises(MalformedFrame):
            decode(table[:size])
    with pytest.raises(MalformedFrame, match=f"tell of {len(table)} bytes, it has {len(table) + 1}"):
        decode(table + b"x")


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize(
    ("counts", "text"),
    [
        ((0, 0), "0 rows, allowed is 1 to 1000"),
        ((ROWS_MAX + 1, 0), "1001 rows, allowed is 1 to 1000"),
        ((2**32 - 1, 0), "4294967295 rows"),
        ((1, 7), "the reserved field of a table is 7"),
    ],
)
def test_table_with_wrong_counts_is_refused_by_name(name: str, counts: tuple[int, int], text: str) -> None:
    encode, decode = coder(name)
    with pytest.raises(MalformedFrame, match=text):
        decode(struct.pack("<II", *counts) + encode(TABLES[name][:1])[8:])


def test_table_may_have_as_many_rows_as_calls_may_be_under_way() -> None:
    rows = [(number, 0, b"") for number in range(ROWS_MAX)]
    assert call_tables.decode_call_table(call_tables.encode_call_table(rows)) == rows


def test_timeout_of_a_row_that_no_call_may_have_is_refused_by_name() -> None:
    with pytest.raises(InvalidRequest, match="timeout_ms of call 7 is 3600001, allowed is 0 to 3600000"):
        call_tables.decode_call_table(call_tables.encode_call_table([(7, TIMEOUT_MS_MAX + 1, b"")]))
