"""Requests that settle messages or manage channels, as values: every range and default of docs/PROTOCOL.md §3."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.wire.test_requests import CHANNEL, DELAY_MS, RECEIPTS, U32, U64, VALUES
from zmqbroker.commands import (
    ChannelSettings,
    CreateChannel,
    DeleteChannel,
    DeleteMessages,
    Extend,
    Manage,
    Nack,
    Purge,
    Receipt,
    Redrive,
    Reject,
    Requeue,
    Settle,
    UpdateChannel,
)
from zmqbroker.errors import InvalidChannel, InvalidRequest, MalformedFrame
from zmqbroker.wire.frames import Reply, Request, decode_header
from zmqbroker.wire.queue_requests import settings_fields
from zmqbroker.wire.requests import (
    AnyRequest,
    ListChannels,
    ManageRequest,
    PeekRequest,
    SettleRequest,
    command_of,
    decode_request,
    encode_request,
    reply_of,
)

SETTLES = (Request.NACK, Request.REJECT, Request.REQUEUE, Request.EXTEND)
NEW = tuple(request for request in Request if Request.NACK <= request <= Request.LIST_CHANNELS)
TEXT = st.text(st.characters(codec="utf-8"), max_size=8)
SEQUENCE = st.integers(1, 2**64 - 1)
SPANS = st.lists(st.tuples(SEQUENCE, SEQUENCE).map(lambda pair: (min(pair), max(pair))), min_size=1, max_size=4).map(tuple)


@st.composite
def settings_for(draw: st.DrawFn, channel: str) -> ChannelSettings:
    dead_letter = draw(st.just("") | CHANNEL.filter(lambda name: name != channel))
    overflows = ["reject", "drop_oldest", *(["dead_letter"] if dead_letter else [])]
    return ChannelSettings(
        *(draw(U32), dead_letter, draw(DELAY_MS), draw(DELAY_MS), draw(U64), draw(U64)),
        *(draw(st.sampled_from(overflows)), draw(U32), draw(DELAY_MS), draw(st.booleans()), draw(DELAY_MS)),
    )


@st.composite
def commands(draw: st.DrawFn) -> Any:
    channel, other = draw(st.lists(CHANNEL, min_size=2, max_size=2, unique=True))
    held = (b"", channel, draw(RECEIPTS))
    delay_ms = draw(DELAY_MS)
    maker = draw(st.integers(0, 9))
    match maker:
        case 0:
            return Nack(*held, delay_ms, not delay_ms and draw(st.booleans()))
        case 1:
            return Reject(*held, draw(TEXT))
        case 2:
            return Requeue(*held, other)
        case 3:
            return Extend(*held, draw(st.integers(100, 43_200_000)))
        case 4:
            return Purge(channel, draw(st.booleans()))
        case 5:
            return DeleteMessages(channel, draw(SPANS))
        case 6:
            return Redrive(
                channel,
                draw(st.sampled_from(["", other])),
                draw(st.just("") | CHANNEL),
                draw(U64),
                draw(st.integers(1, 2**64 - 1)),
            )
        case 7:
            return CreateChannel(channel, draw(settings_for(channel)))
        case 8:
            return UpdateChannel(channel, draw(settings_for(channel)))
        case _:
            return DeleteChannel(channel)


def request_of(command: Any, forward: bool) -> AnyRequest:
    settles = isinstance(command, Nack | Reject | Requeue | Extend)
    return SettleRequest(command, forward) if settles else ManageRequest(command, forward)


REQUESTS: st.SearchStrategy[AnyRequest] = st.one_of(
    st.builds(request_of, commands(), st.booleans()),
    st.builds(
        PeekRequest,
        *(CHANNEL, SEQUENCE, U64, st.integers(1, 65_535), st.integers(1, 16 << 20), st.booleans(), st.booleans()),
    ),
    st.builds(ListChannels, TEXT, TEXT, st.integers(1, 1000), st.booleans()),
)


@given(request_id=U64, request=REQUESTS)
def test_queue_request_encoded_and_decoded_is_the_same(request_id: int, request: AnyRequest) -> None:
    header, *bodies = encode_request(request_id, request)
    command, decoded_id, fields = decode_header(header, from_client=True)
    assert (command, decoded_id, bodies) == (command_of(request), request_id, [])
    assert decode_request(command, fields, bodies) == request


NAMES = st.sampled_from(
    [
        *("channel", "receipts", "delay_ms", "behind", "reason", "to", "visibility_ms", "in_flight", "sequences", "origin"),
        *("max", "first", "since_unix_ns", "max_bytes", "plain", "settings", "search", "after", "forward"),
    ]
)
ANY_SETTINGS = st.dictionaries(
    st.sampled_from([*ChannelSettings.__dataclass_fields__, "colour", b"delay_ms"]), VALUES | st.integers(0, 9), max_size=3
)


@given(
    st.sampled_from(NEW),
    st.dictionaries(NAMES, VALUES | ANY_SETTINGS | st.integers(0, 200), max_size=5),
    st.booleans(),
    st.lists(st.binary(max_size=3), max_size=1),
)
def test_queue_request_arbitrary_fields_raise_only_named_errors(
    command: Request, fields: dict[str, Any], complete: bool, bodies: list[bytes]
) -> None:
    base = {"channel": "q", "receipts": [[1, 1, 1]], "sequences": [[1, 1]], "to": "r", "visibility_ms": 100}
    try:
        request = decode_request(command, {**base, **fields} if complete else fields, bodies)
    except (MalformedFrame, InvalidRequest, InvalidChannel):
        return
    assert command_of(request) == command


def test_queue_request_without_fields_has_the_defaults_of_the_protocol() -> None:
    held = {"channel": "q", "receipts": [[1, 2, 3]]}
    settled = (b"", "q", (Receipt(1, 2, 3),))
    expected: dict[Request, tuple[dict[str, Any], AnyRequest]] = {
        Request.NACK: (held, SettleRequest(Nack(*settled, 0, False), False)),
        Request.REJECT: (held, SettleRequest(Reject(*settled, ""), False)),
        Request.REQUEUE: ({**held, "to": "r"}, SettleRequest(Requeue(*settled, "r"), False)),
        Request.EXTEND: ({**held, "visibility_ms": 100}, SettleRequest(Extend(*settled, 100), False)),
        Request.PURGE: ({"channel": "q"}, ManageRequest(Purge("q", False), False)),
        Request.DELETE_MESSAGES: ({"channel": "q", "sequences": [[4, 4]]}, ManageRequest(DeleteMessages("q", ((4, 4),)))),
        Request.REDRIVE: ({"channel": "q"}, ManageRequest(Redrive("q", "", "", 0), False)),
        Request.PEEK: ({"channel": "q"}, PeekRequest("q", 1, 0, 1, 1_048_576, False, False)),
        Request.CREATE_CHANNEL: (
            {"channel": "q"},
            ManageRequest(CreateChannel("q", ChannelSettings(0, "", 0, 0, 0, 0, "reject", 0))),
        ),
        Request.UPDATE_CHANNEL: ({"channel": "q"}, ManageRequest(UpdateChannel("q", ChannelSettings()))),
        Request.DELETE_CHANNEL: ({"channel": "q"}, ManageRequest(DeleteChannel("q"), False)),
        Request.LIST_CHANNELS: ({}, ListChannels("", "", 1000, False)),
    }
    assert tuple(expected) == NEW
    for command, (fields, request) in expected.items():
        assert decode_request(command, fields, []) == request


def test_queue_request_encoded_leaves_defaults_out() -> None:
    def fields(request: AnyRequest) -> dict[str, Any]:
        return decode_header(encode_request(1, request)[0])[2]

    assert fields(SettleRequest(Nack(b"s" * 16, "q", (Receipt(1, 2, 3),)))) == {"channel": "q", "receipts": [[1, 2, 3]]}
    assert fields(ManageRequest(Redrive("q", count_max=7), True)) == {"channel": "q", "max": 7, "forward": True}
    assert fields(ManageRequest(Redrive("q", first=7))) == {"channel": "q", "first": 7}
    assert fields(ManageRequest(CreateChannel("q"))) == {"channel": "q"}
    assert fields(ManageRequest(UpdateChannel("q", ChannelSettings()))) == {"channel": "q", "settings": {}}
    said = ManageRequest(UpdateChannel("q", ChannelSettings(max_bytes=5), ("overflow",)))
    assert fields(said) == {"channel": "q", "settings": {"max_bytes": 5, "overflow": "reject"}}
    assert decode_request(Request.UPDATE_CHANNEL, fields(said), []) == said
    assert fields(PeekRequest("q", count_max=3)) == {"channel": "q", "max": 3}
    assert fields(ListChannels()) == {}


def test_settings_as_fields_leave_defaults_out() -> None:
    assert settings_fields(ChannelSettings()) == {}
    assert settings_fields(ChannelSettings(delivery_limit=3, overflow="drop_oldest")) == {
        "delivery_limit": 3,
        "overflow": "drop_oldest",
    }


@pytest.mark.parametrize("command", SETTLES)
def test_settle_request_takes_no_session_from_its_fields(command: Request) -> None:
    fields = {"channel": "q", "receipts": [[1, 1, 1]], "to": "r", "visibility_ms": 100, "session": b"s" * 16}
    request = decode_request(command, fields, [])
    assert isinstance(request, SettleRequest)
    assert request.command.session == b""


def test_reply_of_requests_that_share_one() -> None:
    held = (b"", "q", (Receipt(1, 1, 1),))
    done: list[Settle] = [Nack(*held), Reject(*held), Requeue(*held, "r"), Extend(*held, 100)]
    counted: list[Manage] = [Purge("q"), DeleteMessages("q", ()), Redrive("q")]
    changed: list[Manage] = [CreateChannel("q"), UpdateChannel("q", ChannelSettings()), DeleteChannel("q")]
    assert {reply_of(SettleRequest(command)) for command in done} == {Reply.DONE}
    assert {reply_of(ManageRequest(command)) for command in counted} == {Reply.DONE}
    assert {reply_of(ManageRequest(command)) for command in changed} == {Reply.CHANGED}
    assert (reply_of(PeekRequest("q")), reply_of(ListChannels())) == (Reply.MESSAGES, Reply.CHANNELS)


U64_RANGE = f"allowed is 0 to {2**64 - 1}"
DELAY_RANGE = "allowed is 0 to 315576000000"
OF_RECEIPTS = "field receipts must be a list of 1 to 4096 receipts"
NO_RECEIPT = "field receipts holds what is not [assigning, first, last]"
OF_RANGES = "field sequences must be a list of 1 to 4096 ranges"
NO_RANGE = "field sequences holds what is not [first, last]"

#: What every request that settles must refuse.
OF_ALL_SETTLES: list[tuple[dict[str, Any], str]] = [
    ({"receipts": None}, f"{OF_RECEIPTS}: None"),
    ({"receipts": []}, f"{OF_RECEIPTS}: []"),
    ({"receipts": "all"}, f"{OF_RECEIPTS}: 'all'"),
    ({"receipts": [[1, 1, 1]] * 4097}, f"{OF_RECEIPTS}: [[1, 1, 1]"),
    ({"receipts": [[1, 1]]}, f"{NO_RECEIPT}: [1, 1]"),
    ({"receipts": [[1, 1, -1]]}, f"{NO_RECEIPT}: [1, 1, -1]"),
    ({"receipts": [[1, 1, "1"]]}, f"{NO_RECEIPT}: [1, 1, '1']"),
    ({"receipts": [[1, 1, 2**64]]}, f"{NO_RECEIPT}: [1, 1, 18446744073709551616]"),
]
RANGES: list[tuple[Request, dict[str, Any], str]] = [
    *((command, fields, said) for command in SETTLES for fields, said in OF_ALL_SETTLES),
    *((command, {"channel": 5}, "field channel must be text: 5") for command in NEW if command != Request.LIST_CHANNELS),
    *((command, {"forward": "yes"}, "field forward must be true or false: 'yes'") for command in NEW),
    (Request.NACK, {"delay_ms": -1}, f"field delay_ms is -1, {DELAY_RANGE}"),
    (Request.NACK, {"delay_ms": 315_576_000_001}, f"field delay_ms is 315576000001, {DELAY_RANGE}"),
    (Request.NACK, {"delay_ms": "1"}, "field delay_ms must be an integer: '1'"),
    (Request.NACK, {"behind": 1}, "field behind must be true or false: 1"),
    (Request.NACK, {"behind": True, "delay_ms": 5}, "field behind is true and delay_ms 5"),
    (Request.REJECT, {"reason": "x" * 256}, "field reason has 256 bytes, the limit is 255: 'xxx"),
    (Request.REJECT, {"reason": "ü" * 128}, "field reason has 256 bytes, the limit is 255: 'üüü"),
    (Request.REJECT, {"reason": None}, "field reason must be text: None"),
    (Request.REQUEUE, {"to": None}, "field to must be text: None"),
    (Request.REQUEUE, {"to": "q"}, "field to is 'q', which is the channel itself"),
    (Request.EXTEND, {"visibility_ms": 99}, "field visibility_ms is 99, allowed is 100 to 43200000"),
    (Request.EXTEND, {"visibility_ms": 43_200_001}, "field visibility_ms is 43200001, allowed is 100 to 43200000"),
    (Request.EXTEND, {"visibility_ms": -1}, "field visibility_ms is -1, allowed is 100 to 43200000"),
    (Request.EXTEND, {"visibility_ms": 1e3}, "field visibility_ms must be an integer: 1000.0"),
    (Request.PURGE, {"in_flight": 0}, "field in_flight must be true or false: 0"),
    (Request.DELETE_MESSAGES, {"sequences": None}, f"{OF_RANGES}: None"),
    (Request.DELETE_MESSAGES, {"sequences": []}, f"{OF_RANGES}: []"),
    (Request.DELETE_MESSAGES, {"sequences": {}}, OF_RANGES + ": {}"),
    (Request.DELETE_MESSAGES, {"sequences": [[1, 1]] * 4097}, f"{OF_RANGES}: [[1, 1]"),
    (Request.DELETE_MESSAGES, {"sequences": [5]}, f"{NO_RANGE}: 5"),
    (Request.DELETE_MESSAGES, {"sequences": [[0, 5]]}, f"{NO_RANGE}: [0, 5]"),
    (Request.DELETE_MESSAGES, {"sequences": [[5, 4]]}, f"{NO_RANGE}: [5, 4]"),
    (Request.DELETE_MESSAGES, {"sequences": [[5, 2**64]]}, f"{NO_RANGE}: [5, 18446744073709551616]"),
    (Request.DELETE_MESSAGES, {"sequences": [[5, 6, 7]]}, f"{NO_RANGE}: [5, 6, 7]"),
    (Request.DELETE_MESSAGES, {"sequences": [[True, 6]]}, f"{NO_RANGE}: [True, 6]"),
    (Request.REDRIVE, {"to": "q"}, "field to is 'q', which is the channel itself"),
    (Request.REDRIVE, {"to": 7}, "field to must be text: 7"),
    (Request.REDRIVE, {"origin": None}, "field origin must be text: None"),
    (Request.REDRIVE, {"max": -1}, f"field max is -1, {U64_RANGE}"),
    (Request.REDRIVE, {"max": 2**64}, f"field max is {2**64}, {U64_RANGE}"),
    (Request.PEEK, {"first": 0}, f"field first is 0, allowed is 1 to {2**64 - 1}"),
    (Request.PEEK, {"first": "1"}, "field first must be an integer: '1'"),
    (Request.PEEK, {"since_unix_ns": -1}, f"field since_unix_ns is -1, {U64_RANGE}"),
    (Request.PEEK, {"max": 0}, "field max is 0, allowed is 1 to 65535"),
    (Request.PEEK, {"max": 65_536}, "field max is 65536, allowed is 1 to 65535"),
    (Request.PEEK, {"max_bytes": 0}, "field max_bytes is 0, allowed is 1 to 16777216"),
    (Request.PEEK, {"max_bytes": 2**24 + 1}, "field max_bytes is 16777217, allowed is 1 to 16777216"),
    (Request.PEEK, {"plain": 1}, "field plain must be true or false: 1"),
    (Request.LIST_CHANNELS, {"search": 5}, "field search must be text: 5"),
    (Request.LIST_CHANNELS, {"search": "x" * 256}, "field search has 256 bytes, the limit is 255: 'xxx"),
    (Request.LIST_CHANNELS, {"after": None}, "field after must be text: None"),
    (Request.LIST_CHANNELS, {"after": "x" * 256}, "field after has 256 bytes, the limit is 255: 'xxx"),
    (Request.LIST_CHANNELS, {"max": 0}, "field max is 0, allowed is 1 to 1000"),
    (Request.LIST_CHANNELS, {"max": 1001}, "field max is 1001, allowed is 1 to 1000"),
]
SETTINGS: list[tuple[Any, str]] = [
    (None, "field settings must be a map: None"),
    ([], "field settings must be a map: []"),
    ({"colour": "blue"}, "setting 'colour' is not known, it is 'blue'; there are delivery_limit, dead_letter, delay_ms"),
    ({"colour": 1, b"delay_ms": 7}, "setting 'colour' is not known, it is 1; there are"),
    ({b"delay_ms": 7, "colour": 1}, "setting b'delay_ms' is not known, it is 7; there are"),
    ({"delivery_limit": -1}, "field delivery_limit is -1, allowed is 0 to 4294967295"),
    ({"delivery_limit": 2**32}, "field delivery_limit is 4294967296, allowed is 0 to 4294967295"),
    ({"dead_letter": 5}, "field dead_letter must be text: 5"),
    ({"dead_letter": None}, "field dead_letter must be text: None"),
    ({"dead_letter": "q"}, "setting dead_letter is 'q', which is the channel itself"),
    ({"delay_ms": -1}, f"field delay_ms is -1, {DELAY_RANGE}"),
    ({"delay_ms": 315_576_000_001}, f"field delay_ms is 315576000001, {DELAY_RANGE}"),
    ({"expiry_ms": 1.5}, "field expiry_ms must be an integer: 1.5"),
    ({"expiry_ms": 315_576_000_001}, f"field expiry_ms is 315576000001, {DELAY_RANGE}"),
    ({"max_messages": -1}, f"field max_messages is -1, {U64_RANGE}"),
    ({"max_messages": True}, "field max_messages must be an integer: True"),
    ({"max_bytes": "1"}, "field max_bytes must be an integer: '1'"),
    ({"max_bytes": 2**64}, f"field max_bytes is {2**64}, {U64_RANGE}"),
    ({"max_in_flight": 2**32}, "field max_in_flight is 4294967296, allowed is 0 to 4294967295"),
    ({"dedup_window_ms": -1}, f"field dedup_window_ms is -1, {DELAY_RANGE}"),
    ({"dedup_window_ms": 315_576_000_001}, f"field dedup_window_ms is 315576000001, {DELAY_RANGE}"),
    ({"dedup_window_ms": "1s"}, "field dedup_window_ms must be an integer: '1s'"),
    ({"single_active": 1}, "field single_active must be true or false: 1"),
    ({"single_active": "true"}, "field single_active must be true or false: 'true'"),
    ({"single_active": None}, "field single_active must be true or false: None"),
    ({"max_age_ms": -1}, f"field max_age_ms is -1, {DELAY_RANGE}"),
    ({"max_age_ms": 315_576_000_001}, f"field max_age_ms is 315576000001, {DELAY_RANGE}"),
    ({"max_age_ms": "1 d"}, "field max_age_ms must be an integer: '1 d'"),
    ({"keep_latest": 1}, "field keep_latest must be true or false: 1"),
    ({"overflow": ""}, "setting overflow is '', it must be one of reject, drop_oldest, dead_letter"),
    ({"overflow": "spill"}, "setting overflow is 'spill', it must be one of reject, drop_oldest, dead_letter"),
    ({"overflow": 1}, "field overflow must be text: 1"),
    ({"overflow": "x" * 256}, "field overflow has 256 bytes, the limit is 255"),
    ({"overflow": "dead_letter"}, "setting overflow is 'dead_letter' and setting dead_letter names no channel"),
]
RANGES += [
    (command, {"settings": settings}, said)
    for command in (Request.CREATE_CHANNEL, Request.UPDATE_CHANNEL)
    for settings, said in SETTINGS
]
#: What a channel of its kind does not have.
OF_OTHER_KINDS: list[tuple[str, dict[str, Any], str]] = [
    ("q", {"keep_latest": True}, "setting keep_latest is True, and a queue has no such setting"),
    ("q", {"dead_letter": "events_store:s>c"}, "setting dead_letter is 'events_store:s>c', a consumer of an events store"),
    ("events_store:s", {"delay_ms": 5}, "setting delay_ms is 5, and an events store has no such setting"),
    ("events_store:s", {"single_active": True}, "setting single_active is True, and an events store has no such setting"),
    ("events_store:s", {"overflow": "dead_letter"}, "setting overflow is 'dead_letter', and an events store keeps its events"),
    ("events_store:s>c", {"max_bytes": 5}, "setting max_bytes is 5, and a consumer of an events store has no such setting"),
    ("events_store:s>c", {"dead_letter": "events_store:s"}, "setting dead_letter is 'events_store:s', the store that"),
]
RANGES += [
    (command, {"channel": channel, "settings": settings}, said)
    for command in (Request.CREATE_CHANNEL, Request.UPDATE_CHANNEL)
    for channel, settings, said in OF_OTHER_KINDS
]
#: With these, every new request is complete.
COMPLETE = {"channel": "q", "receipts": [[1, 1, 1]], "sequences": [[1, 1]], "visibility_ms": 100}


def complete(command: Request, fields: dict[str, Any]) -> dict[str, Any]:
    """Fields that are wrong in nothing but what is given."""
    needed = {"to": "r"} if command == Request.REQUEUE else {}
    return {**COMPLETE, **needed, **fields}


@pytest.mark.parametrize(
    ("command", "fields", "message"), RANGES, ids=[f"{command.name} {said[:40]}" for command, _, said in RANGES]
)
def test_queue_request_field_that_breaks_its_rule_is_named_with_its_value(
    command: Request, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        decode_request(command, complete(command, fields), [])
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("command", NEW)
def test_queue_request_whose_fields_are_complete_is_read(command: Request) -> None:
    assert command_of(decode_request(command, complete(command, {}), [])) == command


MISSING = [
    *((command, "channel", "field channel is missing, it must be text") for command in NEW if command != Request.LIST_CHANNELS),
    *((command, "receipts", f"{OF_RECEIPTS}: None") for command in SETTLES),
    (Request.REQUEUE, "to", "field to is missing, it must be text"),
    (Request.EXTEND, "visibility_ms", "field visibility_ms is missing, it must be an integer"),
    (Request.DELETE_MESSAGES, "sequences", f"{OF_RANGES}: None"),
]


@pytest.mark.parametrize(("command", "name", "message"), MISSING)
def test_queue_request_field_that_is_missing_is_named(command: Request, name: str, message: str) -> None:
    fields = complete(command, {})
    del fields[name]
    with pytest.raises(InvalidRequest) as caught:
        decode_request(command, fields, [])
    assert str(caught.value) == message


#: Every field that names a channel.
NAMING: list[tuple[Request, str]] = [
    *((command, "channel") for command in NEW if command != Request.LIST_CHANNELS),
    *((Request.REQUEUE, "to"), (Request.REDRIVE, "to"), (Request.REDRIVE, "origin")),
    *((Request.CREATE_CHANNEL, "dead_letter"), (Request.UPDATE_CHANNEL, "dead_letter")),
]


@pytest.mark.parametrize(("command", "name"), NAMING)
@pytest.mark.parametrize(
    ("channel", "rule"),
    [
        ("a b", "'a b' holds white space"),
        ("x" * 256, "has 256 bytes, allowed is 1 to 255"),
        ("_sys.x", "'_sys.x' begins with '_sys.'"),
        ("a.*", "'a.*' holds '*'"),
        ("a.", "'a.' ends with '.'"),
    ],
)
def test_queue_request_bad_channel_name_is_an_invalid_channel(command: Request, name: str, channel: str, rule: str) -> None:
    fields = {"settings": {name: channel}} if name == "dead_letter" else {name: channel}
    with pytest.raises(InvalidChannel) as caught:
        decode_request(command, complete(command, fields), [])
    assert rule in str(caught.value)


@pytest.mark.parametrize("command", [command for command, name in NAMING if name == "channel"])
def test_queue_request_empty_channel_name_is_an_invalid_channel(command: Request) -> None:
    with pytest.raises(InvalidChannel, match="channel name '' has 0 bytes"):
        decode_request(command, complete(command, {"channel": ""}), [])
