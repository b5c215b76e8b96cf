"""Answers in parts over the home connection, without sockets."""

from __future__ import annotations

from tests.unit.client.test_home import answer, connected
from zmqbroker.client.answer import Answer
from zmqbroker.client.home import Ended, Part, Pushed
from zmqbroker.errors import NoResponder
from zmqbroker.wire.frames import Reply, encode_error, encode_header
from zmqbroker.wire.requests import CallRequest

CALL = CallRequest("queries", "price", b"eur")
SECOND_NS = 1_000_000_000


def test_answer_in_parts_ends_its_request_with_the_last_one() -> None:
    made = connected()
    request_id = made.request(CALL, "token", SECOND_NS)
    for part in (1, 2):
        made.received([encode_header(Reply.ANSWER, request_id, {"part": part, "last": False}), b"%d" % part], 0)
    made.received([encode_header(Reply.ANSWER, request_id, {"part": 3, "last": True}), b"3"], 0)
    made.received([encode_header(Reply.ANSWER, request_id, {"part": 4, "last": False}), b"4"], 0)
    first, second, last = made.take_happened()
    assert isinstance(first, Part)
    assert isinstance(second, Part)
    assert [part.answer.bodies for part in (first, second)] == [[b"1"], [b"2"]]
    assert last == Ended("token", Answer({"part": 3, "last": True}, [b"3"]), None)
    assert made.dropped == 1


def test_answer_in_parts_can_end_with_an_error() -> None:
    made = connected()
    request_id = made.request(CALL, "token", SECOND_NS)
    made.received([encode_header(Reply.ANSWER, request_id, {"part": 1, "last": False}), b"1"], 0)
    made.received([encode_error(request_id, NoResponder("gone", outcome_unknown=True))], 0)
    _, ended = made.take_happened()
    assert isinstance(ended, Ended)
    assert isinstance(ended.error, NoResponder)


def test_calls_are_pushed_without_a_request() -> None:
    made = connected()
    answer(made, Reply.CALLED, 0, subscription=1, call=5)
    (pushed,) = made.take_happened()
    assert pushed == Pushed(Reply.CALLED, {"subscription": 1, "call": 5}, [])
