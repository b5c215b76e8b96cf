"""Calls and answers as requests: every field with every fault, and what travels on as one packed map."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest

from zmqbroker.commands import RealtimeKind
from zmqbroker.errors import InvalidChannel, InvalidRequest, MalformedFrame, RequestError
from zmqbroker.wire.call_requests import (
    CALL_REQUESTS,
    CacheStatsRequest,
    CallRequest,
    CancelRequest,
    RespondRequest,
    call_head,
    check_call,
    respond_items,
)
from zmqbroker.wire.frames import Request, decode_header
from zmqbroker.wire.requests import decode_request, encode_request

CALL = {"kind": "queries", "channel": "prices"}
RESPOND = {"call": 7}
BAD_TEXT = "\ud800"


def read(command: Request, fields: dict[str, Any]) -> Any:
    return CALL_REQUESTS[command](fields, (b"body",))


@pytest.mark.parametrize(
    "request_",
    [
        CallRequest("commands", "svc", b"x"),
        CallRequest("queries", "svc", b"", 5, 9, "id", "m", {"a": "b"}, "c", "t", "key", 3),
        RespondRequest(1, b"x"),
        RespondRequest(2**64 - 1, b"x", "m", {"a": "b"}, "", executed=False, last=False),
        RespondRequest(1, b"", error="no such thing"),
        CancelRequest(9),
        CacheStatsRequest(),
        CacheStatsRequest("svc"),
    ],
)
def test_requests_of_calls_come_back_as_they_were_sent(request_: Any) -> None:
    header, *bodies = encode_request(11, request_)
    code, request_id, fields = decode_header(header, from_client=True)
    assert request_id == 11
    assert decode_request(code, fields, bodies) == request_


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"kind": None}, "field kind must be text: None"),
        ({"kind": "events"}, "field kind is 'events', it must be one of commands, queries"),
        ({"channel": 5}, "field channel must be text: 5"),
        ({"timeout_ms": 0}, "field timeout_ms is 0, allowed is 1 to 3600000"),
        ({"timeout_ms": 3_600_001}, "field timeout_ms is 3600001, allowed"),
        ({"timeout_ms": "1"}, "field timeout_ms must be an integer: '1'"),
        ({"deadline_unix_ns": -1}, "field deadline_unix_ns is -1, allowed"),
        ({"deadline_unix_ns": 1.5}, "field deadline_unix_ns must be an integer: 1.5"),
        ({"id": "x" * 256}, "field id has 256 bytes, the limit is 255"),
        ({"id": BAD_TEXT}, "field id is not valid Unicode"),
        ({"metadata": 1}, "field metadata must be text: 1"),
        ({"metadata": None}, "field metadata must be text: None"),
        ({"metadata": BAD_TEXT}, "field metadata is not valid Unicode"),
        ({"metadata": "x" * 65_536}, "field metadata has 65536 bytes, the limit is 65535"),
        ({"tags": {"a": 1}}, "field tags must be a map of text: {'a': 1}"),
        ({"tags": None}, "field tags must be a map of text: None"),
        ({"tags": {"a": BAD_TEXT}}, "field tags is not valid Unicode"),
        ({"metadata": "ü" * 32_767, "tags": {"a": "b"}}, "fields metadata and tags have 65536 bytes together"),
        ({"tags": {"a": "x" * 65_535}}, "fields metadata and tags have 65536 bytes together, the limit is 65535"),
        ({"client_id": "x" * 256}, "field client_id has 256 bytes, the limit is 255"),
        ({"trace": "x" * 1025}, "field trace has 1025 bytes, the limit is 1024"),
        ({"cache_key": "x" * 256, "cache_ttl_ms": 1}, "field cache_key has 256 bytes, the limit is 255"),
        ({"cache_key": "k"}, "field cache_key is 'k' and cache_ttl_ms is 0: an answer is kept under a key and for a time"),
        ({"cache_ttl_ms": 5}, "field cache_key is '' and cache_ttl_ms is 5"),
        ({"cache_key": "k", "cache_ttl_ms": -1}, "field cache_ttl_ms is -1, allowed is 0 to 86400000"),
        ({"kind": "commands", "cache_key": "k", "cache_ttl_ms": 1}, "field cache_key and cache_ttl_ms are for queries"),
    ],
)
def test_call_with_a_bad_field_is_refused_by_name(fields: dict[str, Any], fault: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read(Request.CALL, CALL | fields)
    assert fault in str(caught.value)


@pytest.mark.parametrize("field", ["kind", "channel"])
def test_call_without_what_it_needs_is_refused_by_name(field: str) -> None:
    with pytest.raises(InvalidRequest, match=f"field {field} is missing, it must be text"):
        read(Request.CALL, {name: value for name, value in CALL.items() if name != field})


@pytest.mark.parametrize(
    ("channel", "fault"),
    [
        ("", "queries name '' has 0 bytes"),
        ("a.*", "holds '[*]'"),
        ("a.>", "holds '>'"),
        ("a b", "white space"),
        ("a.", "ends with"),
        ("_sys.a", "the broker's own"),
        ("queries:a", "begins with 'queries:'"),
        ("x" * 256, "has 256 bytes"),
    ],
)
def test_call_of_a_channel_whose_name_breaks_a_rule_is_refused_by_name(channel: str, fault: str) -> None:
    with pytest.raises(InvalidChannel, match=fault):
        read(Request.CALL, CALL | {"channel": channel})


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"call": 0}, "field call is 0, allowed is 1 to"),
        ({"call": "1"}, "field call must be an integer: '1'"),
        ({"metadata": 5}, "field metadata must be text: 5"),
        ({"tags": []}, r"field tags must be a map of text: \[\]"),
        ({"error": 5}, "field error must be text: 5"),
        ({"error": "x" * 4097}, "field error has 4097 bytes, the limit is 4096"),
        ({"error": BAD_TEXT}, "field error is not valid Unicode"),
        ({"executed": 1}, "field executed must be true or false: 1"),
        ({"last": 0}, "field last must be true or false: 0"),
        ({"error": "e", "last": False}, "field last is false with error 'e'"),
    ],
)
def test_answer_with_a_bad_field_is_refused_by_name(fields: dict[str, Any], fault: str) -> None:
    with pytest.raises(InvalidRequest, match=fault):
        read(Request.RESPOND, RESPOND | fields)


@pytest.mark.parametrize("command", [Request.RESPOND, Request.CANCEL])
def test_what_names_no_call_is_refused_by_name(command: Request) -> None:
    with pytest.raises(InvalidRequest, match="field call is missing, it must be an integer"):
        read(command, {})


@pytest.mark.parametrize("command", [Request.CALL, Request.RESPOND])
def test_calls_and_answers_have_one_body_frame(command: Request) -> None:
    for bodies in ([], [b"", b""]):
        with pytest.raises(MalformedFrame, match=f"{command.name} has {len(bodies)} body frames, it must have 1"):
            decode_request(command, CALL | RESPOND, bodies)


def test_head_tells_a_responder_what_was_said_and_who_said_it() -> None:
    fields = msgpack.packb({**CALL, "id": "i", "metadata": "m", "tags": {"a": "b"}, "trace": "t", "timeout_ms": 5})
    head = call_head(fields, "me")
    assert (head.kind, head.channel, head.timeout_ms) == (RealtimeKind.QUERIES, "prices", 5)
    told = {**CALL, "id": "i", "metadata": "m", "tags": {"a": "b"}, "client_id": "me", "trace": "t"}
    assert msgpack.unpackb(head.items) == told
    assert call_head(fields, "me") is head
    said = msgpack.packb({**CALL, "client_id": "somebody", "metadata": "x" * 300})
    assert msgpack.unpackb(call_head(said, "me").items)["client_id"] == "somebody"


@pytest.mark.parametrize("fields", [b"", b"\xc1", b"\x01"])
def test_head_of_what_is_no_map_or_says_nothing_is_refused(fields: bytes) -> None:
    with pytest.raises(RequestError):
        call_head(fields, "me")


def test_items_of_an_answer_are_what_it_says_beside_its_body() -> None:
    assert respond_items(RespondRequest(1, b"x")) == b"\x80"
    full = RespondRequest(1, b"x", "m", {"a": "b"}, "e", executed=False)
    assert msgpack.unpackb(respond_items(full)) == {"metadata": "m", "tags": {"a": "b"}, "error": "e", "executed": False}


def test_client_can_check_a_call_before_it_is_sent() -> None:
    check_call(CallRequest("queries", "svc", b"", metadata="m", cache_key="k", cache_ttl_ms=1))
    with pytest.raises(InvalidRequest, match="field timeout_ms is 0"):
        check_call(CallRequest("queries", "svc", b"", 0))
    with pytest.raises(InvalidChannel, match="commands name 'a b'"):
        check_call(CallRequest("commands", "a b", b""))


def test_statistics_of_a_channel_whose_name_breaks_a_rule_are_refused_by_name() -> None:
    with pytest.raises(InvalidChannel, match="queries name 'a b' holds white space"):
        read(Request.CACHE_STATS, {"channel": "a b"})
    with pytest.raises(InvalidRequest, match="field channel must be text: 5"):
        read(Request.CACHE_STATS, {"channel": 5})
