"""Header frames, fields, errors as fields, channel names: docs/PROTOCOL.md §2, §3, §6."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zmqbroker.errors import (
    Busy,
    DeadlineExceeded,
    InvalidRequest,
    LocalProtocolError,
    MalformedFrame,
    NotLeader,
    RequestError,
    UnknownCommand,
    UnsupportedVersion,
    error_from_wire,
)
from zmqbroker.wire import frames
from zmqbroker.wire.frames import Reply, Request

PROTOCOL = Path(__file__).parents[3] / "docs" / "PROTOCOL.md"
TEXT = st.text(st.characters(codec="utf-8"), max_size=8)
SCALARS = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | TEXT | st.binary(max_size=8)
FIELDS = st.dictionaries(TEXT, SCALARS | st.lists(SCALARS, max_size=3), max_size=4)


def start(version: int = 1, command: int = 2, request_id: int = 7) -> bytes:
    return b"ZB" + bytes([version, command]) + request_id.to_bytes(8, "little")


@given(command=st.integers(0, 255), request_id=st.integers(0, 2**64 - 1), fields=FIELDS)
def test_header_encoded_and_decoded_is_the_same(command: int, request_id: int, fields: dict[str, Any]) -> None:
    frame = frames.encode_header(command, request_id, fields)
    for buffer in (frame, bytearray(frame), memoryview(frame)):
        assert frames.decode_header(buffer) == (command, request_id, fields)
        assert frames.request_id_of(buffer) == request_id


def test_header_without_fields_is_twelve_bytes() -> None:
    assert frames.encode_header(Request.PING, 7, {}) == start()
    assert frames.decode_header(start()) == (Request.PING, 7, {})


@given(frame=st.binary(max_size=40) | st.binary(max_size=40).map(lambda rest: start() + rest))
def test_header_arbitrary_bytes_raise_only_named_errors(frame: bytes) -> None:
    try:
        fields = frames.decode_header(frame)[2]
    except (MalformedFrame, UnsupportedVersion):
        frames.request_id_of(frame)
    else:
        assert all(isinstance(key, str) for key in fields)


def nested(depth: int) -> bytes:
    return b"\x81\xa1a" + b"\x91" * depth + b"\xc0"


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (b"", "a header frame of 0 bytes is shorter than 12"),
        (start()[:11], "a header frame of 11 bytes is shorter than 12"),
        (b"BZ" + start()[2:], "a header frame begins with b'BZ' and not with b'ZB'"),
        (start() + b"\x81", "fields of 1 bytes are not valid msgpack"),
        (start() + b"\xc1", "fields of 1 bytes are not valid msgpack"),
        (start() + b"\x80\x80", "fields of 2 bytes are not valid msgpack"),
        (start() + b"\x90", "fields are not a msgpack map: \\[\\]"),
        (start() + b"\x81\x01\x02", "fields of 3 bytes are not valid msgpack"),
        (start() + b"\x81\xc4\x01a\x02", "fields have a key that is not text: b'a'"),
        (start() + b"\x81\xa1a\xa1\xff", "fields of 5 bytes are not valid msgpack"),
        (start() + b"\x81\xa1a\xd4\x05\x00", "fields of 6 bytes are not valid msgpack: 'extension type 5'"),
        (start() + b"\x81\xa1a\xdd\x00\x01\x00\x01" + b"\xc0" * 65_537, "not valid msgpack: '65537 exceeds max_array_len"),
        (start() + b"\x81\xa1a\xdd\x00\x00\x20\x01" + b"\xc0" * 8193, "not valid msgpack: '8193 exceeds max_array_len"),
        (start() + nested(100_000), "not valid msgpack"),
    ],
)
def test_header_malformed_names_what_is_wrong(frame: bytes, message: str) -> None:
    with pytest.raises(MalformedFrame, match=message):
        frames.decode_header(frame)


def test_header_array_that_only_a_reply_may_have_is_read_in_a_reply() -> None:
    fields = b"\x81\xa1a\xdd\x00\x00\x20\x01" + b"\xc0" * 8193
    assert frames.decode_header(start(command=Reply.MESSAGES) + fields)[2] == {"a": [None] * 8193}


def test_header_of_a_reply_from_a_client_is_refused_before_its_fields_are_read() -> None:
    frame = start(command=Reply.MESSAGES) + b"\xc1"
    with pytest.raises(UnknownCommand, match="command 0x86 is a reply"):
        frames.decode_header(frame, from_client=True)
    assert frames.decode_header(start(), from_client=True) == (2, 7, {})


def test_header_of_another_version_names_the_versions_spoken() -> None:
    with pytest.raises(UnsupportedVersion, match="protocol version 2") as caught:
        frames.decode_header(start(version=2))
    assert caught.value.fields == {"minimum": 1, "maximum": 1}


@pytest.mark.parametrize("frame", [b"", start()[:11], b"XX" + start()[2:]])
def test_request_id_of_an_unreadable_frame_is_0(frame: bytes) -> None:
    assert frames.request_id_of(frame) == 0


def test_request_id_is_known_for_another_version_or_bad_fields() -> None:
    assert frames.request_id_of(start(version=9) + b"\xc1") == 7


def test_header_size_limit_holds_for_requests_and_not_for_replies() -> None:
    room = frames.REQUEST_HEADER_SIZE_MAX - 12 - 8
    largest = frames.encode_header(Request.SEND, 1, {"m": "x" * room})
    assert len(largest) == frames.REQUEST_HEADER_SIZE_MAX
    assert frames.decode_header(largest)[0] == Request.SEND
    with pytest.raises(LocalProtocolError, match="1048577 bytes is over its limit of 1048576"):
        frames.encode_header(Request.SEND, 1, {"m": "x" * (room + 1)})
    reply = frames.encode_header(Reply.MESSAGES, 1, {"m": "x" * (room + 1)})
    assert frames.decode_header(reply)[0] == Reply.MESSAGES
    with pytest.raises(MalformedFrame, match="1048577 bytes is over its limit of 1048576"):
        frames.decode_header(reply[:3] + bytes([Request.SEND]) + reply[4:])


@pytest.mark.parametrize("fields", [{"a": object()}, {"a": 2**64}, {"a": "\ud800"}, {"a": {1, 2}}])
def test_header_with_fields_that_msgpack_cannot_carry_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(LocalProtocolError, match="fields of command 0x04 cannot be packed"):
        frames.encode_header(Request.SEND, 1, fields)


@pytest.mark.parametrize("request_id", [-1, 2**64])
def test_header_with_a_request_id_out_of_range_is_refused(request_id: int) -> None:
    with pytest.raises(LocalProtocolError, match=f"request id {request_id} is not a u64"):
        frames.encode_header(Request.PING, request_id, {})


#: Requests that share the reply of another one, whose code it has: so many replies say the same.
SHARED = {
    Reply.SENT: {Request.SEND_BATCH},
    Reply.MESSAGES: {Request.PEEK},
    Reply.DONE: {
        *(Request.REJECT, Request.REQUEUE, Request.EXTEND),
        *(Request.PURGE, Request.DELETE_MESSAGES, Request.REDRIVE),
    },
    Reply.CHANGED: {
        *(Request.UPDATE_CHANNEL, Request.DELETE_CHANNEL),
        *(Request.SET_DEFAULTS, Request.CREATE_SCHEDULE, Request.DELETE_SCHEDULE),
        *(Request.SET_ROUTE, Request.DELETE_ROUTE, Request.SET_BINDING, Request.DELETE_BINDING),
    },
    Reply.CONSUMER: {Request.RESET_CONSUMER},
}

#: Replies to requests that are answered otherwise as a rule.
SECOND = {Reply.ROUTED}


def test_reply_codes_are_request_codes_with_bit_7_but_for_those_that_several_requests_share() -> None:
    assert all(reply & 0x80 for reply in Reply)
    answered = {int(reply) & 0x7F for reply in Reply if reply not in {Reply.ERROR, *SECOND}}
    assert answered == {int(request) for request in Request} - set().union(*SHARED.values())


def test_protocol_names_every_request_and_reply_with_its_code() -> None:
    section = PROTOCOL.read_text(encoding="utf-8").split("## 3. Requests and replies")[1].split("## 4.")[0]
    found = {name: int(code, 16) for code, name in re.findall(r"^\| (0x[0-9A-F]{2}) \| ([A-Z_]+) \|", section, re.MULTILINE)}
    assert found == {member.name: int(member) for kind in (Request, Reply) for member in kind}
    answered = re.findall(r"^\| 0x([0-9A-F]{2}) \|.*\| 0x([0-9A-F]{2}) ([A-Z_]+) \|$", section, re.MULTILINE)
    assert [(int(request, 16), int(reply, 16)) for request, reply, _ in answered] == [
        (int(request), int(next((reply for reply, some in SHARED.items() if request in some), request | 0x80)))
        for request in Request
    ]
    assert all(Reply(int(reply, 16)).name == name for _, reply, name in answered)


def test_delimiter_of_a_req_socket_is_split_off() -> None:
    assert frames.split_delimiter([b"", b"header", b"body"]) == (True, [b"header", b"body"])
    assert frames.split_delimiter([memoryview(b"")]) == (True, [])
    assert frames.split_delimiter([b"header", b""]) == (False, [b"header", b""])
    assert frames.split_delimiter([]) == (False, [])


# --- errors ----------------------------------------------------------------------------------------------------------


def test_error_fields_hold_everything_and_come_back() -> None:
    error = Busy("4096 requests are under way", retry_ms=20)
    expected = {"code": "BUSY", "message": "4096 requests are under way", "retryable": True, "outcome_unknown": False}
    assert frames.error_fields(error) == {**expected, "retry_ms": 20}
    back = error_from_wire(frames.error_fields(error))
    assert isinstance(back, Busy)
    assert back.retry_ms == 20


def test_error_fields_extra_field_never_hides_the_code() -> None:
    assert frames.error_fields(RequestError("text", code="BUSY"))["code"] == "REQUEST_ERROR"


def test_error_reply_round_trip_keeps_the_unknown_outcome() -> None:
    command, request_id, fields = frames.decode_header(frames.encode_error(9, DeadlineExceeded("30 s passed")))
    assert (command, request_id) == (Reply.ERROR, 9)
    assert error_from_wire(fields).outcome_unknown
    _, _, fields = frames.decode_header(frames.encode_error(9, NotLeader("ask n2", leader="tcp://10.0.0.2:5590")))
    assert fields["leader"] == "tcp://10.0.0.2:5590"


# --- fields ----------------------------------------------------------------------------------------------------------


def test_integer_within_its_range_or_default() -> None:
    assert frames.integer({"n": 3}, "n", 1, 3, 3) == 3
    assert frames.integer({}, "n", 4, 3, 5) == 4


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"n": 2}, "field n is 2, allowed is 3 to 5"),
        ({"n": 6}, "field n is 6, allowed is 3 to 5"),
        ({"n": True}, "field n must be an integer: True"),
        ({"n": "3"}, "field n must be an integer: '3'"),
        ({"n": 3.0}, "field n must be an integer: 3.0"),
        ({"n": None}, "field n must be an integer: None"),
        ({}, "field n is missing, it must be an integer"),
    ],
)
def test_integer_wrong_names_field_and_value(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        frames.integer(fields, "n", None, 3, 5)
    assert str(caught.value) == message


def test_text_is_measured_in_bytes() -> None:
    assert frames.text({"t": "éé"}, "t", None, 4) == "éé"
    assert frames.text({}, "t", "d", 4) == "d"
    with pytest.raises(InvalidRequest, match="field t has 4 bytes, the limit is 3: 'éé'"):
        frames.text({"t": "éé"}, "t", None, 3)


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"t": b"x"}, "field t must be text: b'x'"), ({}, "field t is missing, it must be text")],
)
def test_text_wrong_names_field_and_value(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        frames.text(fields, "t", None, 3)
    assert str(caught.value) == message


def test_binary_has_its_exact_size_or_is_absent() -> None:
    assert frames.binary({"b": b"12"}, "b", 2) == b"12"
    assert frames.binary({}, "b", 2) is None


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (b"1", "field b has 1 bytes, it must have 2"),
        ("12", "field b must be binary of 2 bytes: '12'"),
        (None, "field b must be binary of 2 bytes: None"),
    ],
)
def test_binary_wrong_names_field_and_value(value: object, message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        frames.binary({"b": value}, "b", 2)
    assert str(caught.value) == message


def test_flag_is_a_bool_and_nothing_else() -> None:
    assert frames.flag({"f": True}, "f") is True
    assert frames.flag({}, "f") is False
    assert frames.flag({}, "f", True) is True
    with pytest.raises(InvalidRequest, match="field f must be true or false: 1"):
        frames.flag({"f": 1}, "f")


def test_error_message_cuts_a_long_value() -> None:
    with pytest.raises(InvalidRequest) as caught:
        frames.integer({"n": "x" * 100_000}, "n", None, 0, 1)
    assert len(str(caught.value)) < 150
    assert str(caught.value).endswith("…")


# --- channel names ---------------------------------------------------------------------------------------------------


NAMES = ["a", "orders.eu-1", "é" * 127, "x" * 255, "_sys", "Grüße/数", "a..b", ".a"]
NAMES += ["a:b", "event:a", "events_store:a", "events_store:a:b", "events_store:a.b>c.d", "events_store:x>events:y"]


@pytest.mark.parametrize("name", NAMES)
def test_channel_name_within_the_rules_has_no_fault(name: str) -> None:
    assert frames.channel_fault(name) is None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "channel name '' has 0 bytes, allowed is 1 to 255"),
        ("é" * 128, "has 256 bytes, allowed is 1 to 255"),
        ("a b", "channel name 'a b' holds white space or a control character, ' '"),
        ("a\u2003", "holds white space or a control character, '\\u2003'"),
        ("a\x00", "holds white space or a control character, '\\x00'"),
        ("a\x7f", "holds white space or a control character, '\\x7f'"),
        ("a\x9f", "holds white space or a control character, '\\x9f'"),
        ("a*", "channel name 'a*' holds '*', which names more than one channel"),
        ("a.>", "holds '>', which names more than one channel"),
        ("a;b", "holds ';', which names more than one channel"),
        ("a.", "channel name 'a.' ends with '.'"),
        ("_sys.log", "channel name '_sys.log' begins with '_sys.', which is the broker's own"),
        ("events_store:", "channel name 'events_store:' ends where a name must follow"),
        ("events_store:_sys.log", "begins with '_sys.', which is the broker's own"),
        ("events_store:a>", "channel name 'events_store:a>' ends where a name must follow"),
        ("events_store:a.>b", "ends with '.'"),
        ("events_store:a>b>c", "holds '>', which names more than one channel"),
        ("events:a", "channel name 'events:a' begins with 'events:', which no replicated channel does"),
        ("queues:a", "begins with 'queues:', which no replicated channel does"),
        ("routes:a;b", "begins with 'routes:', which no replicated channel does"),
        ("\ud800", "channel name '\\ud800' is not valid Unicode"),
    ],
)
def test_channel_name_breaking_a_rule_is_named(name: str, message: str) -> None:
    fault = frames.channel_fault(name)
    assert fault is not None
    assert fault.endswith(message)


def test_unpack_one_value_of_any_type() -> None:
    assert frames.unpack(msgpack.packb([1, "a"]), "list") == [1, "a"]
    with pytest.raises(MalformedFrame, match="list of 0 bytes are not valid msgpack"):
        frames.unpack(b"", "list")
