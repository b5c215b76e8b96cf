"""Requests about what never enters the log: fields, ranges, names and patterns; and interest between nodes."""

from __future__ import annotations

from typing import Any

import pytest

from zmqbroker.commands import Announcement, RealtimeKind, Want
from zmqbroker.errors import InvalidChannel, InvalidRequest, MalformedFrame, RequestError
from zmqbroker.wire import codec
from zmqbroker.wire.batch import Buffer
from zmqbroker.wire.frames import Request
from zmqbroker.wire.interest import announcement_fields, read_announcement
from zmqbroker.wire.realtime_requests import name_fault, subscription_fault
from zmqbroker.wire.renaming import rename_batch
from zmqbroker.wire.requests import (
    AnyRequest,
    GrantRequest,
    PublishRequest,
    Send,
    SubscribeRequest,
    UnsubscribeRequest,
    decode_request,
    encode_request,
    reply_of,
)

SUBSCRIBE, GRANT, UNSUBSCRIBE = Request.SUBSCRIBE, Request.GRANT, Request.UNSUBSCRIBE
RANGE = "allowed is"


@pytest.mark.parametrize(
    ("command", "fields", "bodies", "request_"),
    [
        (SUBSCRIBE, {"subscription": 0, "pattern": "a.*"}, [], SubscribeRequest(0, "a.*")),
        (SUBSCRIBE, {"subscription": 1, "pattern": "a", "kind": "commands"}, [], SubscribeRequest(1, "a", "commands")),
        (UNSUBSCRIBE, {"subscription": 3}, [], UnsubscribeRequest(3)),
        (GRANT, {"subscription": 3, "credit": 0, "credit_bytes": 5}, [], GrantRequest(3, 0, 5)),
        (Request.PUBLISH, {"confirm": True}, [b"batch"], PublishRequest(b"batch", True)),
        (Request.SEND, {"channel": "events:foo", "metadata": "m"}, [b"b"], Send("events:foo", b"b", metadata="m")),
    ],
)
def test_request_is_read(command: Request, fields: dict[str, Any], bodies: list[Buffer], request_: AnyRequest) -> None:
    assert decode_request(command, fields, bodies) == request_


def test_requests_are_written_without_defaults() -> None:
    assert len(encode_request(1, PublishRequest(b"batch"))[0]) == 12
    assert encode_request(1, PublishRequest(b"batch"))[1] == b"batch"
    assert reply_of(SubscribeRequest(1, "a")) == 0xA1


@pytest.mark.parametrize(
    ("command", "fields", "text"),
    [
        (SUBSCRIBE, {"pattern": "a"}, "field subscription is missing, it must be an integer"),
        (SUBSCRIBE, {"pattern": "a", "subscription": -1}, f"field subscription is -1, {RANGE} 0 to 4294967295"),
        (SUBSCRIBE, {"pattern": "a", "subscription": 2**32}, f"field subscription is {2**32}, {RANGE} 0 to 4294967295"),
        (SUBSCRIBE, {"pattern": "a", "subscription": True}, "field subscription must be an integer: True"),
        (SUBSCRIBE, {"subscription": 1}, "field pattern is missing, it must be text"),
        (SUBSCRIBE, {"subscription": 1, "pattern": b"a"}, "field pattern must be text: b'a'"),
        (
            SUBSCRIBE,
            {"subscription": 1, "pattern": "a", "kind": "queues"},
            "field kind is 'queues', it must be one of ev",
        ),
        (SUBSCRIBE, {"subscription": 1, "pattern": "a", "kind": 1}, "field kind must be text: 1"),
        (SUBSCRIBE, {"subscription": 1, "pattern": "a", "group": "x" * 256}, "field group has 256 bytes, the limit is 255"),
        (SUBSCRIBE, {"subscription": 1, "pattern": "a", "group": None}, "field group must be text: None"),
        (SUBSCRIBE, {"subscription": 1, "pattern": "a", "group": "\ud800"}, "field group is not valid Unicode"),
        (SUBSCRIBE, {"subscription": 1, "pattern": "a", "credit": 0}, f"field credit is 0, {RANGE} 1 to 1000000"),
        (SUBSCRIBE, {"subscription": 1, "pattern": "a", "credit": 1.5}, "field credit must be an integer: 1.5"),
        (SUBSCRIBE, {"subscription": 1, "pattern": "a", "credit_bytes": 2**27}, f"field credit_bytes is {2**27}, {RANGE} 1 to"),
        (SUBSCRIBE, {"subscription": 1, "pattern": "a", "plain": 1}, "field plain must be true or false: 1"),
        (UNSUBSCRIBE, {}, "field subscription is missing, it must be an integer"),
        (UNSUBSCRIBE, {"subscription": "1"}, "field subscription must be an integer: '1'"),
        (GRANT, {"credit": 1, "credit_bytes": 1}, "field subscription is missing, it must be an integer"),
        (GRANT, {"subscription": 1, "credit_bytes": 1}, "field credit is missing, it must be an integer"),
        (GRANT, {"subscription": 1, "credit": -1, "credit_bytes": 1}, f"field credit is -1, {RANGE} 0 to"),
        (GRANT, {"subscription": 1, "credit": 1}, "field credit_bytes is missing, it must be an integer"),
        (GRANT, {"subscription": 1, "credit": 1, "credit_bytes": 2**64}, f"field credit_bytes is {2**64}, {RANGE} 0 to"),
    ],
)
def test_field_that_breaks_its_rule_is_named_with_its_value(command: Request, fields: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        decode_request(command, fields, [])
    assert caught.value.message.startswith(text)


def test_confirm_of_a_publish_that_is_no_flag_is_named() -> None:
    with pytest.raises(InvalidRequest, match="field confirm must be true or false: 'yes'"):
        decode_request(Request.PUBLISH, {"confirm": "yes"}, [b""])


@pytest.mark.parametrize("pattern", ["a", "*", ">", "a.*", "*.b", "a.*.c.>", "*.*", "ä.b", "x" * 255, "a..b", "_sys"])
def test_pattern_that_keeps_the_rules(pattern: str) -> None:
    assert subscription_fault(pattern) is None


RULES = [
    ("", "has 0 bytes, allowed is 1 to 255"),
    ("ä" * 128, "has 256 bytes, allowed is 1 to 255"),
    ("a\ud800", "is not valid Unicode"),
    ("a b", "holds white space or a control character, ' '"),
    ("a\x00", "holds white space or a control character, '\\x00'"),
    ("a;b", "holds ';', which names more than one channel"),
    ("a.", "ends with '.'"),
    ("_sys.a", "begins with '_sys.', which is the broker's own"),
    ("events:a", "begins with 'events:': here a name stands without the prefix of its kind"),
    ("queues:a", "begins with 'queues:': here a name stands without the prefix of its kind"),
]


@pytest.mark.parametrize(
    ("pattern", "rule"),
    [
        *RULES,
        (">.a", "holds '>' before its end: it stands for one or more tokens at the tail"),
        ("a.>.>", "holds '>' before its end: it stands for one or more tokens at the tail"),
        ("a*", "holds '*' within the token 'a*': a wildcard is a token of its own, between dots"),
        ("a.**", "holds '*' within the token '**': a wildcard is a token of its own, between dots"),
        ("a.b>", "holds '>' within the token 'b>': a wildcard is a token of its own, between dots"),
        ("_sys.*", "begins with '_sys.', which is the broker's own"),
        ("*.", "ends with '.'"),
    ],
)
def test_pattern_that_breaks_a_rule_is_refused_with_it(pattern: str, rule: str) -> None:
    fault = subscription_fault(pattern)
    assert fault is not None
    assert fault.startswith("events pattern ")
    assert fault.endswith(rule)
    with pytest.raises(InvalidChannel, match="events pattern"):
        decode_request(SUBSCRIBE, {"subscription": 1, "pattern": pattern}, [])


@pytest.mark.parametrize("kind", ["commands", "queries"])
@pytest.mark.parametrize("pattern", ["*", "a.*", "a.>", "a*"])
def test_wildcards_are_for_events_only(kind: str, pattern: str) -> None:
    assert subscription_fault(pattern, kind) == (
        f"{kind} pattern {pattern!r} holds a wildcard, which only subscriptions to events may have"
    )
    assert subscription_fault("a", kind) is None
    assert subscription_fault("a.", kind) == f"{kind} pattern 'a.' ends with '.'"


@pytest.mark.parametrize(("name", "rule"), [*RULES, ("a.*", "holds '*', which names more than one channel")])
def test_name_that_breaks_a_rule_is_refused_with_it(name: str, rule: str) -> None:
    fault = name_fault(name)
    assert fault is not None
    assert fault.startswith("events name ")
    assert fault.endswith(rule)
    with pytest.raises(InvalidChannel, match="events name"):
        decode_request(Request.SEND, {"channel": f"events:{name}"}, [b""])


def test_name_that_keeps_the_rules() -> None:
    assert name_fault("orders.eu") is None


def test_send_of_an_event_keeps_the_rules_of_sends() -> None:
    with pytest.raises(InvalidRequest, match="field tags must be a map of text: 5"):
        decode_request(Request.SEND, {"channel": "events:a", "tags": 5}, [b""])


@pytest.mark.parametrize("name", ["a", "events:foo", "x" * 255])
def test_batch_under_another_name_is_the_batch_that_has_it(name: str) -> None:
    columns = {"ids": [b"1", b""], "headers": [b"", b"\x80"]}
    batch = codec.encode_batch(b"orders", [b"one", b"two"], 5, 7, **columns)
    assert rename_batch(batch, name.encode()) == codec.encode_batch(name.encode(), [b"one", b"two"], 5, 7, **columns)
    assert rename_batch(memoryview(batch), b"orders") == batch


# --- interest between nodes --------------------------------------------------------------------------------------------

RUN = bytes(range(16))


def test_announcement_comes_back_from_its_fields() -> None:
    rows = ((Want(RealtimeKind.QUERIES, "a", "g"), 3), (Want(RealtimeKind.EVENTS, "a.>", ""), 0))
    for told in (
        Announcement(RUN, 0),
        Announcement(RUN, 7, rows),
        Announcement(RUN, 7, rows, 0, 2),
        Announcement(RUN, 7, ask=True),
    ):
        assert read_announcement(announcement_fields(told)) == told


@pytest.mark.parametrize(
    ("fields", "error", "text"),
    [
        ({"version": 1}, MalformedFrame, "an INTEREST does not say which run"),
        ({"run": b"short", "version": 1}, InvalidRequest, "field run has 5 bytes"),
        ({"run": RUN}, InvalidRequest, "field version is missing"),
        ({"run": RUN, "version": 1, "wants": 5}, MalformedFrame, "wants of an INTEREST are no list: 5"),
        ({"run": RUN, "version": 1, "piece": -1}, InvalidRequest, "field piece is -1"),
        ({"run": RUN, "version": 1, "piece": 2, "pieces": 2}, InvalidRequest, "field piece is 2, allowed is 0 to 1"),
        ({"run": RUN, "version": 1, "pieces": "1"}, InvalidRequest, "field pieces must be an integer"),
        ({"run": RUN, "version": 1, "ask": 1}, InvalidRequest, "field ask must be true or false"),
        *(
            ({"run": RUN, "version": 1, "wants": [row]}, MalformedFrame, "a want of an INTEREST is")
            for row in (
                5,
                [],
                [1, "a", ""],
                [9, "a", "", 1],
                [1, b"a", "", 1],
                [1, "a", 0, 1],
                [1, "a", "", -1],
                [1, "a", "", "1"],
            )
        ),
    ],
)
def test_interest_that_breaks_its_shape_is_refused(fields: dict[str, Any], error: type[RequestError], text: str) -> None:
    with pytest.raises(error) as caught:
        read_announcement(fields)
    assert caught.value.message.startswith(text)
