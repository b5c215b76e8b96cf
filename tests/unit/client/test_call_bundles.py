"""Messages of one pass that become tables, and tables that become messages, without sockets."""

from __future__ import annotations

from typing import Any

from tests.unit.client.test_home import connected
from zmqbroker.client.answer import Answer
from zmqbroker.client.call_bundles import Frames, bundled, unbundled
from zmqbroker.client.home import Ended, Pushed
from zmqbroker.wire.call_tables import (
    ROW_SIZE_MAX,
    ROWS_MAX,
    decode_call_table,
    decode_respond_table,
    encode_answer_table,
    encode_called_table,
)
from zmqbroker.wire.frames import Reply, Request, decode_header, encode_header
from zmqbroker.wire.requests import (
    AnyRequest,
    CallRequest,
    CallTableRequest,
    Ping,
    RespondRequest,
    decode_request,
    encode_request,
)

CALL = CallRequest("commands", "job", b"x", 500)
NUMBER = 2**61


def frames(*requests: AnyRequest) -> list[Frames]:
    return [encode_request(number, request) for number, request in enumerate(requests, 1)]


def commands(messages: list[Frames]) -> list[int]:
    return [decode_header(message[0])[0] for message in messages]


def test_calls_that_say_the_same_become_a_table_with_their_own_ids_timeouts_and_bodies() -> None:
    others = CallRequest("commands", "job", b"y", 700), CallRequest("commands", "job", b"")
    (message,) = bundled(frames(CALL, *others))
    code, _, fields = decode_header(message[0])
    assert decode_request(code, fields, message[1:]) == CallTableRequest("commands", "job", message[1])
    assert decode_call_table(bytes(message[1])) == [(1, 500, b"x"), (2, 700, b"y"), (3, 0, b"")]


def test_answers_that_say_only_their_call_become_a_table() -> None:
    said = RespondRequest(NUMBER + 2, b"", error="no")
    messages = bundled(frames(RespondRequest(NUMBER, b"a"), RespondRequest(NUMBER + 1, b"b"), said))
    assert commands(messages) == [Request.RESPOND_TABLE, Request.RESPOND]
    assert decode_respond_table(bytes(messages[0][1])) == [(NUMBER, b"a"), (NUMBER + 1, b"b")]


def test_what_no_table_has_room_for_stays_as_it_is_and_where_it_is() -> None:
    apart: list[AnyRequest] = [
        CALL,
        Ping(),
        CALL,
        CallRequest("commands", "other", b"x"),
        CallRequest("commands", "job", b"x" * (ROW_SIZE_MAX + 1)),
        CallRequest("commands", "job", b"x", id="a-1"),
        CallRequest("commands", "job", b"x", id="a-1"),
        CallRequest("queries", "job", b"x", cache_key="k", cache_ttl_ms=5),
        CallRequest("queries", "job", b"x", cache_key="k", cache_ttl_ms=5),
        RespondRequest(NUMBER, b"a"),
        RespondRequest(7, b"a"),
    ]
    assert bundled(frames(*apart)) == frames(*apart)
    assert bundled(frames(CALL)) == frames(CALL)


def test_more_calls_than_a_table_takes_become_several() -> None:
    tables = bundled(frames(*[CALL] * (ROWS_MAX + 1)))
    assert [len(decode_call_table(bytes(message[1]))) for message in tables] == [ROWS_MAX, 1]


def test_tables_stand_for_the_messages_that_would_have_come() -> None:
    table = encode_called_table([(NUMBER, 5, 100, b"\x81\xa4kind\xa8commands", b"x"), (7, 6, 0, b"\x80", b"")])
    first, second = unbundled(Reply.CALLED_TABLE, {"subscription": 3}, [table])
    told: dict[str, Any] = {"subscription": 3, "call": NUMBER, "deadline_unix_ns": 5, "remaining_ms": 100}
    assert decode_header(first[0]) == (Reply.CALLED, 0, {"kind": "commands"} | told)
    assert first[1:] == [b"x"]
    assert decode_header(second[0])[2] == {"subscription": 3, "call": 7, "deadline_unix_ns": 6, "remaining_ms": 0}


def test_home_sends_calls_of_one_pass_in_one_message_and_takes_their_answers_from_one() -> None:
    made = connected()
    ids = [made.request(CALL, token, 10**9) for token in "ab"]
    assert commands(made.take_frames()) == [Request.CALL_TABLE]
    table = encode_answer_table([(ids[1], b"\x81\xa5error\xa1e", b""), (ids[0], b"\x80", b"one")])
    made.received([encode_header(Reply.ANSWER_TABLE, 0, {}), table], 0)
    assert made.take_happened() == [
        Ended("b", Answer({"error": "e"}, [b""]), None),
        Ended("a", Answer({}, [b"one"]), None),
    ]


def test_home_passes_over_a_table_that_cannot_be_read() -> None:
    made = connected()
    made.received([encode_header(Reply.ANSWER_TABLE, 0, {}), b"?"], 0)
    called = encode_called_table([(1, 5, 100, b"\x80", b"x"), (2, 5, 100, b"\x90", b"")])
    made.received([encode_header(Reply.CALLED_TABLE, 0, {"subscription": 1}), called], 0)
    (pushed,) = made.take_happened()
    assert isinstance(pushed, Pushed)
    assert pushed.fields["call"] == 1
    assert made.dropped == 2
