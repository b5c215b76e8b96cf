"""Requests as values: every range and default of docs/PROTOCOL.md §3."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zmqbroker.commands import Receipt
from zmqbroker.errors import (
    InvalidChannel,
    InvalidRequest,
    MalformedFrame,
    MessageTooLarge,
    UnknownCommand,
)
from zmqbroker.wire.frames import Request, channel_fault, decode_header
from zmqbroker.wire.operator_requests import ACTIONS
from zmqbroker.wire.requests import (
    AckRequest,
    AnyRequest,
    ChangeMembers,
    CloseRequest,
    Hello,
    Info,
    OpenProducerRequest,
    Ping,
    ReceiveRequest,
    Send,
    SendBatch,
    StatsRequest,
    Transfer,
    command_of,
    decode_request,
    encode_request,
)

U64 = st.integers(0, 2**64 - 1)
U32 = st.integers(0, 2**32 - 1)
TEXT = st.text(st.characters(codec="utf-8"), max_size=8)
CHANNEL = TEXT.filter(lambda name: channel_fault(name) is None)
COUNT = st.integers(1, 65_535)
DELAY_MS = st.integers(0, 315_576_000_000)
RECEIPTS = st.lists(st.builds(Receipt, U64, U64, U64), min_size=1, max_size=5).map(tuple)


#: explain, expected_sequence, confirm
ANSWERS = st.tuples(st.booleans(), st.none() | U64, st.just("quorum")) | st.tuples(
    st.just(False), st.none() | U64, st.just("none")
)


@st.composite
def sends(draw: st.DrawFn) -> Send:
    producer = draw(U64)
    sequence = draw(st.integers(1, 2**64 - 1)) if producer else 0
    tags = draw(st.none() | st.dictionaries(TEXT, TEXT, max_size=2))
    explain, expected, confirm = draw(ANSWERS.filter(lambda said: said[2] == "quorum" or not producer))
    return Send(
        *(draw(CHANNEL), draw(st.binary(max_size=9)), producer, sequence, draw(TEXT), draw(st.none() | TEXT), tags),
        client_id=draw(st.none() | TEXT),
        trace=draw(st.none() | TEXT),
        delay_ms=draw(DELAY_MS),
        expiry_ms=draw(DELAY_MS),
        priority=draw(st.integers(0, 9)),
        forward=draw(st.booleans()),
        explain=explain,
        expected_sequence=expected,
        confirm=confirm,
        group=draw(TEXT),
    )


REQUESTS: st.SearchStrategy[AnyRequest] = st.one_of(
    st.builds(Hello, st.none() | st.binary(min_size=16, max_size=16), TEXT),
    st.just(Ping()),
    st.just(Info()),
    sends(),
    st.builds(lambda body, forward, said: SendBatch(body, forward, *said), st.binary(max_size=9), st.booleans(), ANSWERS),
    st.builds(
        ReceiveRequest,
        CHANNEL,
        COUNT,
        COUNT,
        st.integers(1, 16 << 20),
        st.integers(0, 60_000),
        st.integers(100, 43_200_000),
        U32,
        st.booleans(),
        st.booleans(),
        st.integers(0, 9),
    ),
    st.builds(AckRequest, CHANNEL, RECEIPTS, st.booleans()),
    st.builds(OpenProducerRequest, CHANNEL, st.integers(1, 2**64 - 1), st.booleans()),
    st.builds(StatsRequest, CHANNEL, st.booleans()),
    st.builds(CloseRequest, st.none() | U32, st.booleans()),
    st.builds(CloseRequest, U32, st.booleans(), U64),
    st.builds(ChangeMembers, st.sampled_from(ACTIONS), TEXT.filter(bool), TEXT, st.booleans(), st.booleans()),
    st.builds(Transfer, TEXT, st.booleans()),
)


@given(request_id=U64, request=REQUESTS)
def test_request_encoded_and_decoded_is_the_same(request_id: int, request: AnyRequest) -> None:
    header, *bodies = encode_request(request_id, request)
    command, decoded_id, fields = decode_header(header)
    assert (command, decoded_id) == (command_of(request), request_id)
    assert decode_request(command, fields, bodies) == request


VALUES = (
    st.none() | st.booleans() | st.integers() | TEXT | st.binary(max_size=16) | st.lists(st.lists(st.integers(), max_size=3))
)
NAMES = st.sampled_from(
    [
        *(
            "session",
            "client_id",
            "channel",
            "producer",
            "sequence",
            "id",
            "metadata",
            "tags",
            "trace",
            "forward",
            "min",
            "max",
        ),
        *("max_bytes", "wait_ms", "visibility_ms", "consumer", "plain", "receipts", "other"),
        *("action", "name", "by", "learner", "to"),
    ]
)


@given(st.integers(0, 0x0F), st.dictionaries(NAMES, VALUES, max_size=5), st.lists(st.binary(max_size=3), max_size=2))
def test_request_arbitrary_fields_raise_only_named_errors(command: int, fields: dict[str, Any], bodies: list[bytes]) -> None:
    try:
        request = decode_request(command, fields, bodies)
    except (UnknownCommand, MalformedFrame, InvalidRequest, InvalidChannel):
        return
    assert command_of(request) == command


def test_request_without_fields_has_the_defaults_of_the_protocol() -> None:
    assert decode_request(Request.HELLO, {}, []) == Hello(None, "")
    assert decode_request(Request.PING, {"later": 1}, []) == Ping()
    assert decode_request(Request.INFO, {}, []) == Info()
    assert decode_request(Request.SEND, {"channel": "q"}, [b"x"]) == Send(
        "q", b"x", 0, 0, "", None, None, None, None, 0, 0, 0, False
    )
    assert decode_request(Request.SEND_BATCH, {}, [b"x"]) == SendBatch(b"x", False)
    expected = ReceiveRequest("q", 1, 1, 1_048_576, 0, 30_000, 0, False, False)
    assert decode_request(Request.RECEIVE, {"channel": "q"}, []) == expected
    assert decode_request(Request.CLOSE, {}, []) == CloseRequest(None, False)
    expected_change = ChangeMembers("add", "n4", "", False, False)
    assert decode_request(Request.CHANGE_MEMBERS, {"action": "add", "name": "n4"}, []) == expected_change
    assert decode_request(Request.TRANSFER, {}, []) == Transfer("", False)


def test_request_encoded_leaves_defaults_out() -> None:
    assert decode_header(encode_request(1, ReceiveRequest("q", count_max=9))[0])[2] == {"channel": "q", "max": 9}
    assert encode_request(1, Ping()) == [b"ZB\x01\x02" + (1).to_bytes(8, "little")]
    body = b"body"
    assert encode_request(1, Send("q", body))[1] is body


def test_request_body_and_batch_come_as_they_are() -> None:
    view = memoryview(b"body")
    assert decode_request(Request.SEND, {"channel": "q"}, [view]) == Send("q", b"body")
    batch = decode_request(Request.SEND_BATCH, {"forward": True}, [view])
    assert isinstance(batch, SendBatch)
    assert batch.batch is view


@pytest.mark.parametrize("command", [0, 0x70, 0x81, 0xFF])
def test_request_unknown_command_is_named(command: int) -> None:
    with pytest.raises(UnknownCommand, match=f"command {command:#04x} is not defined"):
        decode_request(command, {}, [])


@pytest.mark.parametrize("command", [request for request in Request if request != Request.HAND_OVER])
def test_request_wrong_number_of_body_frames_is_malformed(command: Request) -> None:
    with_body = (
        *(Request.SEND, Request.SEND_BATCH, Request.CREATE_SCHEDULE, Request.PUBLISH),
        *(Request.CALL, Request.RESPOND, Request.CALL_TABLE, Request.RESPOND_TABLE),
    )
    expected = 1 if command in with_body else 0
    for count in {0, 1, 2} - {expected}:
        with pytest.raises(MalformedFrame, match=f"{command.name} has {count} body frames, it must have {expected}"):
            decode_request(command, {"channel": "q"}, [b""] * count)


U64_RANGE = f"allowed is 0 to {2**64 - 1}"
RANGES: list[tuple[Request, dict[str, Any], str]] = [
    (Request.HELLO, {"session": bytes(15)}, "field session has 15 bytes, it must have 16"),
    (Request.HELLO, {"client_id": "x" * 256}, "field client_id has 256 bytes, the limit is 255"),
    (Request.SEND, {}, "field channel is missing, it must be text"),
    (Request.SEND, {"producer": -1}, f"field producer is -1, {U64_RANGE}"),
    (Request.SEND, {"producer": 2**64}, f"field producer is {2**64}, {U64_RANGE}"),
    (Request.SEND, {"sequence": 2**64}, f"field sequence is {2**64}, {U64_RANGE}"),
    (Request.SEND, {"producer": 1}, "field sequence is 0 with producer 1: both are 0 or neither is"),
    (Request.SEND, {"sequence": 1}, "field sequence is 1 with producer 0: both are 0 or neither is"),
    (Request.SEND, {"id": "x" * 256}, "field id has 256 bytes, the limit is 255"),
    (Request.SEND, {"metadata": 1}, "field metadata must be text: 1"),
    (Request.SEND, {"metadata": None}, "field metadata must be text: None"),
    (
        Request.SEND,
        {"metadata": "x" * 65_523},
        "fields metadata, tags, client_id and trace: headers of a message",
    ),
    (Request.SEND, {"tags": {"a": 1}}, "field tags must be a map of text: {'a': 1}"),
    (Request.SEND, {"tags": None}, "field tags must be a map of text: None"),
    (Request.SEND, {"tags": []}, "field tags must be a map of text: []"),
    (Request.SEND, {"delay_ms": -1}, "field delay_ms is -1, allowed is 0 to 315576000000"),
    (Request.SEND, {"delay_ms": 315_576_000_001}, "field delay_ms is 315576000001, allowed is 0 to 315576000000"),
    (Request.SEND, {"delay_ms": None}, "field delay_ms must be an integer: None"),
    (Request.SEND, {"expiry_ms": -1}, "field expiry_ms is -1, allowed is 0 to 315576000000"),
    (Request.SEND, {"expiry_ms": 1.5}, "field expiry_ms must be an integer: 1.5"),
    (Request.SEND, {"priority": 10}, "field priority is 10, allowed is 0 to 9"),
    (Request.SEND, {"priority": True}, "field priority must be an integer: True"),
    (Request.SEND, {"group": "é" * 128}, "field group has 256 bytes, the limit is 255"),
    (Request.SEND, {"group": None}, "field group must be text: None"),
    (Request.SEND, {"forward": 1}, "field forward must be true or false: 1"),
    (Request.SEND_BATCH, {"forward": None}, "field forward must be true or false: None"),
    *(
        (command, {name: value}, said)
        for command in (Request.SEND, Request.SEND_BATCH)
        for name, value, said in (
            ("expected_sequence", -1, f"field expected_sequence is -1, {U64_RANGE}"),
            ("expected_sequence", 2**64, f"field expected_sequence is {2**64}, {U64_RANGE}"),
            ("expected_sequence", None, "field expected_sequence must be an integer: None"),
            ("expected_sequence", "7", "field expected_sequence must be an integer: '7'"),
            ("expected_sequence", True, "field expected_sequence must be an integer: True"),
            ("confirm", "", "field confirm is '', it must be one of quorum, none"),
            ("confirm", "leader", "field confirm is 'leader', it must be one of quorum, none"),
            ("confirm", " none", "field confirm is ' none', it must be one of quorum, none"),
            ("confirm", "x" * 300, "field confirm is 'xxx"),
            ("confirm", False, "field confirm must be text: False"),
            ("confirm", None, "field confirm must be text: None"),
            ("explain", 1, "field explain must be true or false: 1"),
        )
    ),
    (Request.SEND, {"confirm": "none", "explain": True}, "field explain is true with confirm 'none'"),
    (Request.SEND_BATCH, {"confirm": "none", "explain": True}, "field explain is true with confirm 'none'"),
    (Request.SEND, {"confirm": "none", "producer": 5, "sequence": 1}, "field confirm is 'none' with producer 5"),
    (Request.RECEIVE, {"min": 0}, "field min is 0, allowed is 1 to 65535"),
    (Request.RECEIVE, {"min": 65_536}, "field min is 65536, allowed is 1 to 65535"),
    (Request.RECEIVE, {"max": 0}, "field max is 0, allowed is 1 to 65535"),
    (Request.RECEIVE, {"max": 65_536}, "field max is 65536, allowed is 1 to 65535"),
    (Request.RECEIVE, {"max_bytes": 0}, "field max_bytes is 0, allowed is 1 to 16777216"),
    (Request.RECEIVE, {"max_bytes": 2**24 + 1}, "field max_bytes is 16777217, allowed is 1 to 16777216"),
    (Request.RECEIVE, {"wait_ms": -1}, "field wait_ms is -1, allowed is 0 to 3600000"),
    (Request.RECEIVE, {"wait_ms": 3_600_001}, "field wait_ms is 3600001, allowed is 0 to 3600000"),
    (Request.RECEIVE, {"visibility_ms": 99}, "field visibility_ms is 99, allowed is 100 to 43200000"),
    (Request.RECEIVE, {"visibility_ms": 43_200_001}, "field visibility_ms is 43200001, allowed is 100 to 43200000"),
    (Request.RECEIVE, {"consumer": 2**32}, "field consumer is 4294967296, allowed is 0 to 4294967295"),
    (Request.RECEIVE, {"plain": 0}, "field plain must be true or false: 0"),
    (Request.RECEIVE, {"consumer_priority": 10}, "field consumer_priority is 10, allowed is 0 to 9"),
    (Request.RECEIVE, {"consumer_priority": -1}, "field consumer_priority is -1, allowed is 0 to 9"),
    (Request.RECEIVE, {"consumer_priority": True}, "field consumer_priority must be an integer: True"),
    (Request.RECEIVE, {"forward": "yes"}, "field forward must be true or false: 'yes'"),
    (Request.ACK, {"other": 1}, "field receipts must be a list of 1 to 4096 receipts: None"),
    (Request.ACK, {"receipts": []}, "field receipts must be a list of 1 to 4096 receipts: []"),
    (Request.ACK, {"receipts": {}}, "field receipts must be a list of 1 to 4096 receipts: {}"),
    (Request.ACK, {"receipts": [[1, 1, 1]] * 4097}, "field receipts must be a list of 1 to 4096 receipts: [[1"),
    (Request.ACK, {"receipts": [[1, 1]]}, "field receipts holds what is not [assigning, first, last]: [1, 1]"),
    (Request.ACK, {"receipts": [[1, 1, -1]]}, "field receipts holds what is not [assigning, first, last]: [1, 1, -1]"),
    (Request.ACK, {"receipts": [[1, 1, 2**64]]}, "field receipts holds what is not [assigning, first, last]: [1, 1, 1844"),
    (Request.ACK, {"receipts": [[1, 1, True]]}, "field receipts holds what is not [assigning, first, last]: [1, 1, True]"),
    (Request.ACK, {"receipts": [7]}, "field receipts holds what is not [assigning, first, last]: 7"),
    (Request.OPEN_PRODUCER, {}, "field producer is missing, it must be an integer"),
    (Request.OPEN_PRODUCER, {"producer": 0}, f"field producer is 0, allowed is 1 to {2**64 - 1}"),
    (Request.STATS, {"channel": 1}, "field channel must be text: 1"),
    (Request.CLOSE, {"consumer": -1}, "field consumer is -1, allowed is 0 to 4294967295"),
    (Request.CLOSE, {"consumer": None}, "field consumer must be an integer: None"),
    (Request.CLOSE, {"consumer": 1, "request": -1}, f"field request is -1, allowed is 0 to {2**64 - 1}"),
    (Request.CLOSE, {"consumer": 1, "request": "7"}, "field request must be an integer: '7'"),
    (Request.CLOSE, {"request": 7}, "field request is 7 and field consumer is missing: a request is one of a consumer"),
    (Request.CHANGE_MEMBERS, {}, "field action is missing, it must be text"),
    (Request.CHANGE_MEMBERS, {"action": "drop"}, "field action is 'drop', it must be one of add, replace, remove"),
    (Request.CHANGE_MEMBERS, {"action": "add"}, "field name is missing, it must be text"),
    (Request.CHANGE_MEMBERS, {"action": "add", "name": ""}, "field name is empty"),
    (Request.CHANGE_MEMBERS, {"action": "add", "name": "x" * 64}, "field name has 64 bytes, the limit is 63"),
    (Request.CHANGE_MEMBERS, {"action": "replace", "name": "n", "by": "x" * 64}, "field by has 64 bytes, the limit is 63"),
    (Request.CHANGE_MEMBERS, {"action": "add", "name": "n", "learner": 1}, "field learner must be true or false: 1"),
    (Request.TRANSFER, {"to": 3}, "field to must be text: 3"),
    (Request.TRANSFER, {"to": "x" * 64}, "field to has 64 bytes, the limit is 63"),
]


@pytest.mark.parametrize(("command", "fields", "message"), RANGES, ids=[f"{item[0].name} {item[2][:40]}" for item in RANGES])
def test_request_field_out_of_range_names_field_and_value(command: Request, fields: dict[str, Any], message: str) -> None:
    bodies = [b"x"] if command in (Request.SEND, Request.SEND_BATCH) else []
    complete = {"channel": "q", **fields} if fields else fields
    with pytest.raises(InvalidRequest) as caught:
        decode_request(command, complete, bodies)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("command", "fields"),
    [
        (Request.SEND, {}),
        (Request.RECEIVE, {}),
        (Request.ACK, {"receipts": [[1, 1, 1]]}),
        (Request.OPEN_PRODUCER, {"producer": 1}),
        (Request.STATS, {}),
    ],
)
def test_request_bad_channel_name_is_an_invalid_channel(command: Request, fields: dict[str, Any]) -> None:
    bodies = [b"x"] if command == Request.SEND else []
    with pytest.raises(InvalidChannel, match="channel name 'a b' holds white space"):
        decode_request(command, {"channel": "a b", **fields}, bodies)
    with pytest.raises(InvalidChannel, match="has 300 bytes, allowed is 1 to 255"):
        decode_request(command, {"channel": "x" * 300, **fields}, bodies)


def test_request_send_over_the_body_limit_is_too_large() -> None:
    assert decode_request(Request.SEND, {"channel": "q"}, [b"12"], 2) == Send("q", b"12")
    with pytest.raises(MessageTooLarge, match="a message has 3 bytes, the limit is 2") as caught:
        decode_request(Request.SEND, {"channel": "q"}, [b"123"], 2)
    assert caught.value.fields == {"size": 3, "limit": 2}
