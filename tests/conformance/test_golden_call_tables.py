"""Golden bytes of tables of calls and answers between clients and nodes."""

from __future__ import annotations

import msgpack

from tests.conformance.test_golden_calls import CALL, TIME_UNIX_NS
from tests.conformance.test_golden_later import client_items
from zmqbroker.wire.call_tables import (
    ANSWER_TABLE_HEADER,
    called_table_header,
    decode_answer_table,
    decode_call_table,
    decode_called_table,
    decode_respond_table,
    encode_answer_table,
    encode_call_table,
    encode_called_table,
    encode_respond_table,
)


def golden(name: str) -> tuple[bytes, bytes]:
    """Header and table of the one item of that name."""
    (item,) = client_items(name)
    (table,) = item["bodies"]
    return bytes.fromhex(item["header"]), bytes.fromhex(table)


def test_golden_tables_of_requests_are_the_rows_they_stand_for() -> None:
    calls, answers = [(7, 0, b"hello"), (8, 500, b"")], [(CALL, b"hello"), (CALL + 1, b"")]
    _, called = golden("CALL_TABLE")
    _, responded = golden("RESPOND_TABLE")
    assert (decode_call_table(called), encode_call_table(calls)) == (calls, called)
    assert (decode_respond_table(responded), encode_respond_table(answers)) == (answers, responded)


def test_golden_tables_of_replies_are_the_rows_they_stand_for() -> None:
    answers = [(7, msgpack.packb({}), b"hello"), (8, msgpack.packb({"error": "no such price"}), b"")]
    items = msgpack.packb({"kind": "queries", "channel": "price"})
    calls = [(CALL, TIME_UNIX_NS, 100_000, items, b"hello"), (CALL + 1, TIME_UNIX_NS, 500, items, b"")]
    assert golden("ANSWER_TABLE") == (ANSWER_TABLE_HEADER, encode_answer_table(answers))
    assert golden("CALLED_TABLE") == (called_table_header(70_000), encode_called_table(calls))
    assert decode_answer_table(golden("ANSWER_TABLE")[1]) == answers
    assert decode_called_table(golden("CALLED_TABLE")[1]) == calls
