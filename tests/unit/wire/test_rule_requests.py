"""Requests for defaults and schedules, as values: every range and default of docs/PROTOCOL.md §3."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.wire.test_queue_requests import SETTINGS as BAD_SETTINGS
from tests.unit.wire.test_queue_requests import settings_for
from tests.unit.wire.test_requests import CHANNEL, DELAY_MS, U64, VALUES
from zmqbroker.commands import CreateChannel, DeleteSchedule, Plan, SetDefaults, settings_said
from zmqbroker.errors import InvalidChannel, InvalidRequest, MalformedFrame, MessageTooLarge
from zmqbroker.wire.frames import Reply, Request, decode_header
from zmqbroker.wire.requests import (
    AnyRequest,
    CreateScheduleRequest,
    ListDefaults,
    ListSchedules,
    ManageRequest,
    Send,
    command_of,
    decode_request,
    encode_request,
    reply_of,
)
from zmqbroker.wire.rule_requests import pattern_fault

DEFAULTS, SCHEDULE = Request.SET_DEFAULTS, Request.CREATE_SCHEDULE
RULES = (DEFAULTS, Request.LIST_DEFAULTS, SCHEDULE, Request.DELETE_SCHEDULE, Request.LIST_SCHEDULES)
TEXT = st.text(st.characters(codec="utf-8"), max_size=8)
PATTERN = st.one_of(CHANNEL, st.sampled_from(["*", ">", "a.*", "a.>", "*.b", "*.*.>", ".*"]))
PLANS = st.one_of(
    st.builds(Plan, st.integers(1000, 315_576_000_000), U64, st.just(0), st.just(""), U64, U64),
    st.builds(Plan, st.integers(1000, 315_576_000_000), st.just(0), DELAY_MS, st.just(""), U64, U64),
    st.builds(Plan, cron=st.sampled_from(["* * * * *", "0 3 1-7 * MON", "*/5 0,12 * JAN *"]), times=U64, until_unix_ns=U64),
)


@st.composite
def saids(draw: st.DrawFn) -> dict[str, Any]:
    said: dict[str, Any] = dict(settings_said(draw(settings_for("q")), draw(st.sampled_from([(), ("max_bytes", "overflow")]))))
    return said | draw(st.sampled_from([{}, {"create_on_use": False}, {"create_on_use": True}]))


@st.composite
def channels_made(draw: st.DrawFn) -> CreateChannel:
    name = draw(CHANNEL)
    settings = draw(settings_for(name))
    unsaid = [key for key in ("delay_ms", "max_bytes", "overflow") if key not in settings_said(settings)]
    explicit = draw(st.lists(st.sampled_from(unsaid), unique=True)) if unsaid else []
    return CreateChannel(name, settings, tuple(sorted(explicit)))


MESSAGES = st.builds(
    Send,
    CHANNEL,
    st.binary(max_size=5),
    id=TEXT,
    metadata=st.none() | TEXT,
    tags=st.none() | st.dictionaries(TEXT, TEXT, max_size=2),
    expiry_ms=DELAY_MS,
    priority=st.integers(0, 9),
)
REQUESTS: st.SearchStrategy[AnyRequest] = st.one_of(
    st.builds(ManageRequest, st.builds(SetDefaults, PATTERN, saids()), st.booleans()),
    st.builds(ManageRequest, st.builds(DeleteSchedule, CHANNEL), st.booleans()),
    st.builds(ManageRequest, channels_made(), st.booleans()),
    st.builds(CreateScheduleRequest, CHANNEL, PLANS, MESSAGES, st.booleans()),
    st.builds(ListSchedules, TEXT, TEXT, st.integers(1, 1000), st.booleans()),
    st.builds(ListDefaults, st.booleans()),
)


@given(U64, REQUESTS)
def test_rule_request_encoded_and_decoded_is_the_same(request_id: int, request: AnyRequest) -> None:
    header, *bodies = encode_request(request_id, request)
    command, decoded_id, fields = decode_header(header, from_client=True)
    assert (command, decoded_id) == (command_of(request), request_id)
    assert decode_request(command, fields, bodies) == request


NAMES = ["name", "channel", "pattern", "settings", "every_ms", "first_unix_ns", "delay_ms", "cron", "times", "until_unix_ns"]
NAMES += ["search", "after", "max", "forward", "id", "metadata", "tags", "expiry_ms", "priority"]
ANY_SETTINGS = st.dictionaries(st.sampled_from(["create_on_use", "delay_ms", "overflow", b"x"]), VALUES, max_size=3)


@given(
    st.sampled_from(RULES),
    st.dictionaries(st.sampled_from(NAMES), VALUES | ANY_SETTINGS | st.integers(0, 2000), max_size=5),
    st.booleans(),
    st.lists(st.binary(max_size=3), max_size=2),
)
def test_rule_request_arbitrary_fields_raise_only_named_errors(
    command: Request, fields: dict[str, Any], whole: bool, bodies: list[bytes]
) -> None:
    try:
        request = decode_request(command, complete(command, fields) if whole else fields, bodies)
    except (MalformedFrame, InvalidRequest, InvalidChannel):
        return
    assert command_of(request) == command


def test_rule_request_without_fields_has_the_defaults_of_the_protocol() -> None:
    schedule = CreateScheduleRequest("s", Plan(1000, 0, 0, "", 0, 0), Send("q", b"x"), False)
    expected: dict[Request, tuple[dict[str, Any], AnyRequest]] = {
        DEFAULTS: ({"pattern": "a.>"}, ManageRequest(SetDefaults("a.>", {}, False), False)),
        Request.LIST_DEFAULTS: ({}, ListDefaults(False)),
        SCHEDULE: ({"name": "s", "channel": "q", "every_ms": 1000}, schedule),
        Request.DELETE_SCHEDULE: ({"name": "s"}, ManageRequest(DeleteSchedule("s"), False)),
        Request.LIST_SCHEDULES: ({}, ListSchedules("", "", 1000, False)),
    }
    assert tuple(expected) == RULES
    for command, (fields, request) in expected.items():
        assert decode_request(command, fields, bodies_of(command)) == request


def test_reply_of_rule_requests() -> None:
    made = CreateScheduleRequest("s", Plan(1000), Send("q", b""))
    changing: list[AnyRequest] = [ManageRequest(SetDefaults("a")), ManageRequest(DeleteSchedule("s")), made]
    assert {reply_of(request) for request in changing} == {Reply.CHANGED}
    assert (reply_of(ListDefaults()), reply_of(ListSchedules())) == (Reply.DEFAULTS, Reply.SCHEDULES)


def test_message_of_a_schedule_has_the_limit_of_every_message() -> None:
    fields = {"name": "s", "channel": "q", "every_ms": 1000}
    with pytest.raises(MessageTooLarge, match="a message has 11 bytes, the limit is 10"):
        decode_request(SCHEDULE, fields, [bytes(11)], 10)


COMPLETE = {"pattern": "a.*", "name": "s", "channel": "q"}


def bodies_of(command: Request) -> list[bytes]:
    """As many body frames as a request has."""
    return [b"x"] if command == SCHEDULE else []


def complete(command: Request, fields: dict[str, Any]) -> dict[str, Any]:
    """Fields that are wrong in nothing but what is given."""
    every = {"every_ms": 1000} if command == SCHEDULE and "cron" not in fields else {}
    return {**COMPLETE, **every, **fields}


DELAY_RANGE = "allowed is 0 to 315576000000"
#: What each of them must refuse, with the sentence that it begins with.
RANGES: list[tuple[Request, dict[str, Any], str]] = [
    *((command, {"forward": 1}, "field forward must be true or false: 1") for command in RULES),
    (DEFAULTS, {"pattern": 5}, "field pattern must be text: 5"),
    (DEFAULTS, {"pattern": ""}, "pattern '' has 0 bytes, allowed is 1 to 255"),
    (DEFAULTS, {"pattern": "x" * 256}, "field pattern has 256 bytes, the limit is 255"),
    (DEFAULTS, {"pattern": "a b"}, "pattern 'a b' holds white space"),
    (DEFAULTS, {"pattern": "a*"}, "pattern 'a*': * is a whole token between dots, and > the last one"),
    (DEFAULTS, {"pattern": "*a.b"}, "pattern '*a.b': * is a whole token between dots, and > the last one"),
    (DEFAULTS, {"pattern": ">.a"}, "pattern '>.a': * is a whole token between dots, and > the last one"),
    (DEFAULTS, {"pattern": "a.>>"}, "pattern 'a.>>': * is a whole token between dots, and > the last one"),
    (DEFAULTS, {"pattern": "a;b"}, "pattern 'a;b' holds ';'"),
    (DEFAULTS, {"pattern": "a."}, "pattern 'a.' ends with '.'"),
    (DEFAULTS, {"pattern": "_sys.>"}, "pattern '_sys.>' begins with '_sys.'"),
    (DEFAULTS, {"settings": {"create_on_use": 0}}, "field create_on_use must be true or false: 0"),
    *(
        (DEFAULTS, {"settings": settings}, said)
        for settings, said in BAD_SETTINGS
        if settings not in ({"overflow": "dead_letter"}, {"dead_letter": "q"})  # which are no fault of a pattern
    ),
    (Request.DELETE_SCHEDULE, {"name": None}, "field name must be text: None"),
    (Request.DELETE_SCHEDULE, {"name": "a b"}, "schedule name 'a b' holds white space"),
    (SCHEDULE, {"name": ""}, "schedule name '' has 0 bytes"),
    (SCHEDULE, {"name": "x" * 256}, "field name has 256 bytes, the limit is 255"),
    (SCHEDULE, {"name": "_sys.x"}, "schedule name '_sys.x' begins with '_sys.'"),
    (SCHEDULE, {"name": 7}, "field name must be text: 7"),
    (SCHEDULE, {"every_ms": 0}, "field every_ms is 0, allowed is 1000 and more, or else cron"),
    (SCHEDULE, {"every_ms": 999}, "field every_ms is 999, allowed is 1000 and more, or else cron"),
    (SCHEDULE, {"every_ms": -1}, f"field every_ms is -1, {DELAY_RANGE}"),
    (SCHEDULE, {"every_ms": 315_576_000_001}, f"field every_ms is 315576000001, {DELAY_RANGE}"),
    (SCHEDULE, {"every_ms": "1 s"}, "field every_ms must be an integer: '1 s'"),
    (SCHEDULE, {"first_unix_ns": -1}, "field first_unix_ns is -1, allowed is 0 to"),
    (SCHEDULE, {"first_unix_ns": 1.5}, "field first_unix_ns must be an integer: 1.5"),
    (SCHEDULE, {"delay_ms": -1}, f"field delay_ms is -1, {DELAY_RANGE}"),
    (SCHEDULE, {"delay_ms": 5, "first_unix_ns": 6}, "field first_unix_ns is 6 and delay_ms 5: at most one"),
    (SCHEDULE, {"cron": 5}, "field cron must be text: 5"),
    (SCHEDULE, {"cron": "x" * 256}, "field cron has 256 bytes, the limit is 255"),
    (SCHEDULE, {"cron": "0 3 * *"}, "field cron: '0 3 * *' has 4 fields"),
    (SCHEDULE, {"cron": "61 3 * * *"}, "field cron: minute '61': '61' is not within 0 to 59"),
    (SCHEDULE, {"cron": "0 3 30 2 *"}, "field cron: '0 3 30 2 *' never comes"),
    (SCHEDULE, {"cron": "* * * * *", "every_ms": 1000}, "field cron is '* * * * *': it says all by itself"),
    (SCHEDULE, {"cron": "* * * * *", "delay_ms": 1}, "field cron is '* * * * *': it says all by itself"),
    (SCHEDULE, {"cron": "* * * * *", "first_unix_ns": 1}, "field cron is '* * * * *': it says all by itself"),
    (SCHEDULE, {"times": -1}, "field times is -1, allowed is 0 to"),
    (SCHEDULE, {"times": True}, "field times must be an integer: True"),
    (SCHEDULE, {"until_unix_ns": "never"}, "field until_unix_ns must be an integer: 'never'"),
    (SCHEDULE, {"until_unix_ns": 1}, "until_unix_ns is 1, before the schedule falls due once"),  # only the state can tell
    (SCHEDULE, {"channel": 5}, "field channel must be text: 5"),
    (SCHEDULE, {"id": "x" * 256}, "field id has 256 bytes, the limit is 255"),
    (SCHEDULE, {"tags": []}, "field tags must be a map of text: []"),
    (SCHEDULE, {"metadata": 5}, "field metadata must be text: 5"),
    (SCHEDULE, {"metadata": "x" * 65_536}, "fields metadata, tags, client_id and trace: "),
    (SCHEDULE, {"expiry_ms": -1}, f"field expiry_ms is -1, {DELAY_RANGE}"),
    (SCHEDULE, {"priority": 10}, "field priority is 10, allowed is 0 to 9"),
    (Request.LIST_SCHEDULES, {"search": 5}, "field search must be text: 5"),
    (Request.LIST_SCHEDULES, {"after": "x" * 256}, "field after has 256 bytes, the limit is 255"),
    (Request.LIST_SCHEDULES, {"max": 0}, "field max is 0, allowed is 1 to 1000"),
    (Request.LIST_SCHEDULES, {"max": 1001}, "field max is 1001, allowed is 1 to 1000"),
]


@pytest.mark.parametrize(
    ("command", "fields", "message"),
    [row for row in RANGES if "falls due once" not in row[2]],
    ids=[f"{command.name} {said[:60]}" for command, _, said in RANGES if "falls due once" not in said],
)
def test_rule_request_field_that_breaks_its_rule_is_named_with_its_value(
    command: Request, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        decode_request(command, complete(command, fields), bodies_of(command))
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("command", "name"), [(DEFAULTS, "pattern"), (SCHEDULE, "name"), (SCHEDULE, "channel"), (Request.DELETE_SCHEDULE, "name")]
)
def test_rule_request_field_that_is_missing_is_named(command: Request, name: str) -> None:
    fields = complete(command, {})
    del fields[name]
    with pytest.raises(InvalidRequest, match=f"field {name} is missing, it must be text"):
        decode_request(command, fields, bodies_of(command))


@pytest.mark.parametrize("command", RULES)
@pytest.mark.parametrize("count", [0, 1, 2])
def test_rule_request_wrong_number_of_body_frames_is_malformed(command: Request, count: int) -> None:
    if count == len(bodies_of(command)):
        return
    with pytest.raises(MalformedFrame, match=f"{command.name} has {count} body frames"):
        decode_request(command, complete(command, {}), [b"x"] * count)


def test_bad_channel_of_a_schedule_or_of_defaults_is_an_invalid_channel() -> None:
    with pytest.raises(InvalidChannel, match="'a b' holds white space"):
        decode_request(SCHEDULE, complete(SCHEDULE, {"channel": "a b"}), [b"x"])
    with pytest.raises(InvalidChannel, match="'a b' holds white space"):
        decode_request(DEFAULTS, complete(DEFAULTS, {"settings": {"dead_letter": "a b"}}), [])


@pytest.mark.parametrize("pattern", ["a", "*", ">", "a.*.b", "*.>", "a..b", ".a", "ü.>", "x" * 253 + ".>"])
def test_pattern_within_the_rules_is_taken(pattern: str) -> None:
    assert pattern_fault(pattern) is None
