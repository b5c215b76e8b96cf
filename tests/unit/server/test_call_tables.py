"""Calls and answers by the table at nodes without sockets: each row is what the single message would have been."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.server.realtime_sites import Site, Sites
from tests.unit.server.test_calls import JOB, MS, came, codes, join, settle, take
from zmqbroker.config import NodeConfig
from zmqbroker.server import call_post, responding
from zmqbroker.wire.call_tables import (
    ROW_SIZE_MAX,
    decode_answer_table,
    decode_called_table,
    encode_call_table,
    encode_respond_table,
)
from zmqbroker.wire.frames import REQUEST_HEADER_SIZE_MAX, Reply, Request, decode_header, encode_header
from zmqbroker.wire.peer import PeerKind
from zmqbroker.wire.requests import SubscribeRequest

Row = tuple[int, int, bytes]


@pytest.fixture
def pair() -> Sites:
    return Sites("a", "b")


def respond_by_table(sites: Sites, site: Site, client: bytes = b"r", credit: int = 10, group: str = "") -> None:
    site.ask(SubscribeRequest(1, "job", "commands", group, credit, tables=True), client)
    settle(sites)


def call_all(sites: Sites, site: Site, *rows: Row, **fields: Any) -> None:
    take(sites, site, b"caller", Request.CALL_TABLE, JOB | fields, encode_call_table(rows), 77)


def messages(site: Site, client: bytes) -> list[tuple[int, dict[str, Any], list[bytes]]]:
    """Command, fields and bodies of what a client was sent."""
    found = []
    for frames in site.sent.pop(client, []):
        command, _, fields = decode_header(frames[0])
        found.append((command, fields, frames[1:]))
    return found


def given(site: Site, client: bytes = b"r") -> list[tuple[int, int, int, bytes, bytes]]:
    """The rows of the one table that a responder was sent."""
    ((command, fields, (table,)),) = messages(site, client)
    assert (command, fields) == (Reply.CALLED_TABLE, {"subscription": 1})
    return decode_called_table(table)


def answer_all(sites: Sites, site: Site, rows: list[tuple[int, bytes]], client: bytes = b"r") -> None:
    take(sites, site, client, Request.RESPOND_TABLE, {}, encode_respond_table(rows), 99)


def test_table_of_calls_crosses_two_nodes_and_comes_back_with_one_message_on_each_way(pair: Sites) -> None:
    one, two = pair
    respond_by_table(pair, two)
    pair.travelled.clear()
    call_all(pair, one, (1, 0, b"a"), (2, 0, b"b"), (3, 0, b""))
    rows = given(two)
    assert [row[4] for row in rows] == [b"a", b"b", b""]
    answer_all(pair, two, [(row[0], row[4].upper()) for row in reversed(rows)])
    ((command, fields, (table,)),) = messages(one, b"caller")
    assert (command, fields) == (Reply.ANSWER_TABLE, {})
    assert decode_answer_table(table) == [(3, b"\x80", b""), (2, b"\x80", b"B"), (1, b"\x80", b"A")]
    assert [kind for _, kind, _ in pair.travelled] == [PeerKind.CALL, PeerKind.ANSWER]
    assert (one.realtime.calls.fields()["under_way"], two.realtime.calls.fields()["answers_out"]) == (0, 3)


def test_single_call_and_single_answer_need_no_table(pair: Sites) -> None:
    one, two = pair
    respond_by_table(pair, two)
    call_all(pair, one, (1, 0, b"a"))
    ((command, fields, bodies),) = messages(two, b"r")
    assert (command, bodies) == (Reply.CALLED, [b"a"])
    answer_all(pair, two, [(fields["call"], b"A")])
    assert messages(one, b"caller") == [(Reply.ANSWER, {}, [b"A"])]


def test_simple_responders_and_callers_meet_those_with_tables(pair: Sites) -> None:
    one, two = pair
    join(pair, two, b"r")
    call_all(pair, one, (1, 0, b"a"), (2, 0, b"b"))
    assert [command for command, _, _, _ in came(two, b"r")] == [Reply.CALLED, Reply.CALLED]
    two.lose(b"r")
    two.realtime.gone(b"r")
    settle(pair)
    one.sent.clear()
    respond_by_table(pair, two, b"s")
    for number in (1, 2):
        assert one.realtime.calls.take([b"caller", encode_header(Request.CALL, number, JOB), b"x"], "me", 0)
    settle(pair)
    answer_all(pair, two, [(row[0], b"y") for row in given(two, b"s")], b"s")
    assert messages(one, b"caller") == [(Reply.ANSWER, {}, [b"y"])] * 2


def test_what_is_large_or_said_besides_has_a_message_of_its_own(pair: Sites) -> None:
    one, two = pair
    respond_by_table(pair, two)
    large = b"x" * ROW_SIZE_MAX
    call_all(pair, one, (1, 0, b"a"), (2, 0, large), (3, 0, b"c"))
    (_, fields, bodies), (_, _, (table,)) = messages(two, b"r")
    assert bodies == [large]
    first, third = decode_called_table(table)
    answer_all(pair, two, [(fields["call"], large), (first[0], b"A")])
    take(pair, two, b"r", Request.RESPOND, {"call": third[0], "last": False}, b"C", 99)
    take(pair, two, b"r", Request.RESPOND, {"call": third[0], "error": "e"}, b"", 99)
    told = messages(one, b"caller")
    assert [command for command, _, _ in told] == [Reply.ANSWER] * 4
    assert [(said, len(bodies[0])) for _, said, bodies in told[2:]] == [
        ({"part": 1, "last": False}, 1),
        ({"part": 2, "last": True, "error": "e"}, 0),
    ]


def test_table_is_cut_among_the_members_of_a_group_and_credit_counts_its_rows(pair: Sites) -> None:
    one, two = pair
    respond_by_table(pair, one, b"p", 2, "g")
    respond_by_table(pair, two, b"q", 2, "g")
    call_all(pair, one, *[(number, 0, b"%d" % number) for number in range(1, 7)])
    here, there = given(one, b"p"), given(two, b"q")
    assert (len(here), len(there)) == (2, 2)
    answer_all(pair, two, [(row[0], b"") for row in there], b"q")
    ((command, _, _),) = messages(two, b"q")
    assert command == Reply.CALLED


def test_rows_are_refused_one_by_one(pair: Sites) -> None:
    one, two = pair
    respond_by_table(pair, two)
    size = NodeConfig.for_test().limits.message_bytes_max + 1
    call_all(pair, one, (1, 0, b"a"), (2, 0, b"x" * size), (1, 0, b"again"), (4, 0, b"d"))
    ((_, request_id, fields, _),) = came(one)
    assert (request_id, fields["code"]) == (2, "MESSAGE_TOO_LARGE")
    assert [row[4] for row in given(two)] == [b"a", b"d"]
    assert one.counters["calls_repeated"] == 1


def test_table_without_a_responder_is_refused_row_by_row(pair: Sites) -> None:
    one, _ = pair
    call_all(pair, one, (1, 0, b""), (2, 0, b""))
    assert [(number, fields["code"]) for _, number, fields, _ in came(one)] == [(1, "NO_RESPONDER"), (2, "NO_RESPONDER")]


def test_rows_have_timeouts_of_their_own_unless_there_is_a_deadline_for_all(pair: Sites) -> None:
    one, two = pair
    respond_by_table(pair, two)
    call_all(pair, one, (1, 100, b""), (2, 0, b""), timeout_ms=900)
    assert [row[2] for row in given(two)] == [100, 900]
    one.realtime.calls.tick(200 * MS)
    settle(pair, 200 * MS)
    assert [(fields["code"], number) for _, number, fields, _ in came(one)] == [("DEADLINE_EXCEEDED", 1)]
    two.sent.clear()
    call_all(pair, one, (3, 100, b""), (4, 0, b""), deadline_unix_ns=2**63)
    assert {row[2] for row in given(two)} == {3_600_000}


@pytest.mark.parametrize(
    ("fields", "table", "code"),
    [
        ({"id": "a"}, None, "INVALID_REQUEST"),
        ({"kind": "queries", "cache_key": "k", "cache_ttl_ms": 5}, None, "INVALID_REQUEST"),
        ({"kind": "queries", "cache_ttl_ms": 5}, None, "INVALID_REQUEST"),
        ({"kind": "events"}, None, "INVALID_REQUEST"),
        ({"channel": "a*"}, None, "INVALID_CHANNEL"),
        ({"timeout_ms": 0}, None, "INVALID_REQUEST"),
        ({"deadline_unix_ns": 1}, None, "DEADLINE_EXCEEDED"),
        ({"metadata": 5}, None, "INVALID_REQUEST"),
        ({"tags": 5}, None, "INVALID_REQUEST"),
        ({"client_id": 5}, None, "INVALID_REQUEST"),
        ({"trace": 5}, None, "INVALID_REQUEST"),
        ({"metadata": "m" * REQUEST_HEADER_SIZE_MAX}, None, "LOCAL"),
        ({}, b"", "MALFORMED_FRAME"),
        ({}, encode_call_table([(1, 3_600_001, b"")]), "INVALID_REQUEST"),
    ],
)
def test_table_of_calls_that_cannot_be_served_is_refused_as_a_whole(
    pair: Sites, fields: dict[str, Any], table: bytes | None, code: str
) -> None:
    one, two = pair
    respond_by_table(pair, two)
    body = encode_call_table([(1, 0, b""), (2, 0, b"")]) if table is None else table
    if code == "LOCAL":  # no client of ours makes such a header
        header, code = encode_header(Request.CALL_TABLE, 77, JOB) + bytes(REQUEST_HEADER_SIZE_MAX), "MALFORMED_FRAME"
    else:
        header = encode_header(Request.CALL_TABLE, 77, JOB | fields)
    assert one.realtime.calls.take([b"caller", header, body], "", 0)
    settle(pair)
    ((_, request_id, said, _),) = came(one)
    assert (request_id, said["code"]) == (77, code)
    assert not came(two, b"r")
    assert not one.realtime.calls.fields()["under_way"]


def test_table_without_fields_is_refused(pair: Sites) -> None:
    one, _ = pair
    header = encode_header(Request.CALL_TABLE, 77, {})
    assert one.realtime.calls.take([b"caller", header, encode_call_table([(1, 0, b"")])], "", 0)
    settle(pair)
    assert codes(came(one)) == [("INVALID_REQUEST", False)]


def test_answers_to_calls_that_are_not_there_are_named_and_the_others_are_given(pair: Sites) -> None:
    one, two = pair
    respond_by_table(pair, two)
    call_all(pair, one, (1, 0, b"a"), (2, 0, b"b"))
    rows = given(two)
    answer_all(pair, two, [(5, b"?"), (rows[0][0], b"A"), (6, b"?"), (rows[1][0], b"B")])
    ((_, _, fields, _),) = came(two, b"r")
    assert fields["code"] == "UNKNOWN_CALL"
    assert fields["message"].startswith("2 of 4 rows")
    assert fields["message"].endswith("the first is 5")
    ((_, _, (table,)),) = messages(one, b"caller")
    assert [row[2] for row in decode_answer_table(table)] == [b"A", b"B"]


def test_answers_are_refused_as_a_whole_when_one_is_too_large_or_none_can_be_read(pair: Sites) -> None:
    one, two = pair
    respond_by_table(pair, two)
    call_all(pair, one, (1, 0, b"a"), (2, 0, b"b"))
    rows = given(two)
    size = NodeConfig.for_test().limits.message_bytes_max + 1
    answer_all(pair, two, [(rows[0][0], b"A"), (rows[1][0], b"x" * size)])
    take(pair, two, b"r", Request.RESPOND_TABLE, {}, b"?", 99)
    header = encode_header(Request.RESPOND_TABLE, 99, {})
    assert two.realtime.calls.take([b"r", header + b"\xc1", encode_respond_table([(rows[0][0], b"A")])], "", 0)
    settle(pair)
    assert [code for code, _ in codes(came(two, b"r"))] == ["MESSAGE_TOO_LARGE", "MALFORMED_FRAME", "MALFORMED_FRAME"]
    assert one.realtime.calls.fields()["under_way"] == 2


def test_table_that_a_responder_has_no_room_for_is_told_of_call_by_call(pair: Sites) -> None:
    one, two = pair
    respond_by_table(pair, two)
    two.fill(b"r")
    call_all(pair, one, (1, 0, b"a"), (2, 0, b"b"))
    assert codes(came(one)) == [("BUSY", False)] * 2


def test_table_for_a_responder_that_is_gone_goes_to_another_one_of_its_group(pair: Sites) -> None:
    one, two = pair
    respond_by_table(pair, two, b"p", group="g")
    respond_by_table(pair, two, b"q", group="g")
    two.lose(b"p")
    call_all(pair, one, (1, 0, b"a"), (2, 0, b"b"), (3, 0, b"c"), (4, 0, b"d"))
    found = [row for _, _, (table,) in messages(two, b"q") for row in decode_called_table(table)]
    assert sorted(row[4] for row in found) == [b"a", b"b", b"c", b"d"]


def test_tables_are_cut_at_their_bound(pair: Sites, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call_post, "ROWS_MAX", 2)
    monkeypatch.setattr(responding, "ROWS_MAX", 2)
    one, two = pair
    respond_by_table(pair, two)
    call_all(pair, one, *[(number, 0, b"") for number in (1, 2, 3)])
    (_, _, (table,)), (command, fields, _) = messages(two, b"r")
    assert command == Reply.CALLED
    answer_all(pair, two, [*((row[0], b"") for row in decode_called_table(table)), (fields["call"], b"")])
    assert [command for command, _, _ in messages(one, b"caller")] == [Reply.ANSWER_TABLE, Reply.ANSWER]


def test_table_with_more_frames_than_it_may_have_is_not_taken_here(pair: Sites) -> None:
    one, _ = pair
    for command in (Request.CALL_TABLE, Request.RESPOND_TABLE):
        assert not one.realtime.calls.take([b"caller", encode_header(command, 1, JOB), b"x", b""], "", 0)
