"""The home connection without sockets: greeting, staying, moving, subscribing again, and what becomes of requests."""

from __future__ import annotations

import itertools
from random import Random
from typing import Any

import pytest

from zmqbroker.client.answer import Answer
from zmqbroker.client.home import FOREVER_NS, Ended, Home, Pushed, Subscribed
from zmqbroker.errors import Busy, DeadlineExceeded, LocalProtocolError
from zmqbroker.wire.frames import Reply, Request, decode_header, encode_error, encode_header
from zmqbroker.wire.requests import GrantRequest, Info, PublishRequest, StatsRequest, SubscribeRequest

A, B, C = "tcp://a:1", "tcp://b:1", "tcp://c:1"
SECOND_NS = 1_000_000_000
SUBSCRIBE = SubscribeRequest(1, "orders.*")


def home(*seeds: str) -> Home:
    return Home(seeds or (A,), b"s" * 16, "till", itertools.count(1).__next__, Random(1))


def connected(*seeds: str, now_ns: int = 0) -> Home:
    """A home that stands and has said what it says first."""
    made = home(*seeds)
    made.connected(now_ns)
    made.take_frames()
    return made


def said(made: Home) -> list[tuple[int, int, dict[str, Any]]]:
    """Command, id and fields of what is to be sent."""
    return [decode_header(frames[0]) for frames in made.take_frames()]


def answer(made: Home, command: int, request_id: int, now_ns: int = 0, **fields: Any) -> None:
    made.received([encode_header(command, request_id, fields)], now_ns)


def test_home_greets_asks_who_is_there_and_keeps_what_it_is_told() -> None:
    made = home(A)
    assert (made.endpoint, made.stands, made.node, made.take_frames()) == (A, False, "", [])
    made.connected(0)
    hello, info = said(made)
    assert (hello[0], hello[2]) == (Request.HELLO, {"session": b"s" * 16, "client_id": "till"})
    assert info[0] == Request.INFO
    answer(made, Reply.WELCOME, hello[1], session_timeout_ms=3000, message_bytes_max=1000, node="n1")
    answer(made, Reply.NODE, info[1], members=[{"client": A}, {"client": B}, {"client": None}, 5])
    assert (made.stands, made.node, made.message_bytes_max, made.take_happened()) == (True, "n1", 1000, [])
    assert made.wake_ns() == SECOND_NS
    made.lost()
    assert (made.endpoint, made.node) == (B, "")
    made.lost()
    assert made.endpoint == A


def test_home_passes_over_what_a_node_tells_wrongly() -> None:
    made = home(A)
    made.connected(0)
    (_, hello, _), (_, info, _) = said(made)
    answer(made, Reply.WELCOME, hello, session_timeout_ms="soon")
    answer(made, Reply.NODE, info, members=5)
    assert made.message_bytes_max == 64 << 20
    made.connected(0)
    (_, hello, _), (_, info, _) = said(made)
    made.received([encode_error(hello, Busy("not now"))], 0)
    answer(made, Reply.PONG, info)
    assert made.dropped == 0
    answer(made, Reply.PONG, info)
    made.received([b"no header"], 0)
    assert made.dropped == 2


def test_home_remembers_a_bounded_number_of_nodes() -> None:
    made = home(A)
    made.connected(0)
    _, (_, info, _) = said(made)
    answer(made, Reply.NODE, info, members=[{"client": f"tcp://n{number}:1"} for number in range(100)])
    tried = set()
    for _ in range(100):
        tried.add(made.endpoint)
        made.lost()
    assert len(tried) == 32


def test_seeds_are_tried_in_an_order_of_chance_and_all_of_them() -> None:
    made = home(A, B, C)
    tried = []
    for _ in range(3):
        tried.append(made.endpoint)
        made.lost()
    assert sorted(tried) == [A, B, C]
    assert made.endpoint == tried[0]


def test_request_is_answered_or_refused() -> None:
    made = connected()
    for token in ("one", "two"):
        made.request(StatsRequest("q"), token, FOREVER_NS)
    (_, one, _), (_, two, _) = said(made)
    answer(made, Reply.CHANNEL, two, depth=1)
    made.received([encode_error(one, Busy("later")), b"body"], 0)
    first, second = made.take_happened()
    assert first == Ended("two", Answer({"depth": 1}, []), None)
    assert isinstance(second, Ended)
    assert (second.token, second.answer, type(second.error)) == ("one", None, Busy)
    assert made.take_happened() == []


def test_request_waits_for_a_connection_and_is_sent_once() -> None:
    made = home(A)
    request_id = made.request(StatsRequest("q"), "token", 5 * SECOND_NS)
    assert (made.take_frames(), made.wake_ns()) == ([], 5 * SECOND_NS)
    made.lost()
    made.connected(0)
    assert [number for _, number, _ in said(made)][-1] == request_id
    made.lost()
    (ended,) = made.take_happened()
    assert isinstance(ended, Ended)
    assert isinstance(ended.error, DeadlineExceeded)
    assert ended.error.outcome_unknown
    made.connected(0)
    assert len(made.take_frames()) == 2


def test_request_ends_at_its_deadline_and_says_whether_it_was_sent() -> None:
    made = home(A)
    made.request(StatsRequest("q"), "unsent", 5)
    made.request(StatsRequest("q"), "later", 9)
    assert made.tick(4)
    assert made.tick(5)
    (unsent,) = made.take_happened()
    made.connected(6)
    assert made.wake_ns() == 9
    assert made.tick(9)
    (late,) = made.take_happened()
    assert isinstance(unsent, Ended)
    assert isinstance(late, Ended)
    assert isinstance(unsent.error, DeadlineExceeded)
    assert isinstance(late.error, DeadlineExceeded)
    assert (unsent.error.outcome_unknown, late.error.outcome_unknown) == (False, True)
    assert unsent.error.message == f"no node could be reached in time, {A} neither"
    assert made.wake_ns() > SECOND_NS


def test_request_that_is_forgotten_ends_without_a_word() -> None:
    made = connected()
    request_id = made.request(StatsRequest("q"), "token", FOREVER_NS)
    made.forget(request_id)
    made.forget(request_id)
    answer(made, Reply.CHANNEL, request_id)
    assert (made.take_happened(), made.dropped) == ([], 1)


def test_what_is_not_answered_is_said_on_a_connection_or_not_at_all() -> None:
    made = home(A)
    assert not made.say(GrantRequest(1, 2, 3))
    assert made.frames_of(PublishRequest(b"batch"))[1] == b"batch"
    made.connected(0)
    made.take_frames()
    assert made.say(GrantRequest(1, 2, 3))
    assert said(made)[0][0] == Request.GRANT


def test_home_subscribes_now_and_after_every_move() -> None:
    made = home(A, B)
    made.subscribe(SUBSCRIBE)
    made.connected(0)
    command, request_id, fields = said(made)[-1]
    assert (command, fields) == (Request.SUBSCRIBE, {"subscription": 1, "pattern": "orders.*"})
    answer(made, Reply.SUBSCRIBED, request_id, subscription=1)
    assert made.take_happened() == [Subscribed(1, None)]
    made.subscribe(SubscribeRequest(2, "a"))
    assert [fields["subscription"] for _, _, fields in said(made)] == [2]
    made.lost()
    made.connected(0)
    assert [fields["subscription"] for _, _, fields in said(made)[2:]] == [1, 2]
    assert made.unsubscribe(1)
    assert not made.unsubscribe(1)
    made.lost()
    assert not made.unsubscribe(2)
    made.connected(0)
    assert len(said(made)) == 2


def test_subscription_that_is_refused_is_given_up() -> None:
    made = home(A)
    made.subscribe(SUBSCRIBE)
    made.connected(0)
    made.received([encode_error(said(made)[-1][1], Busy("full"))], 0)
    (refused,) = made.take_happened()
    assert isinstance(refused, Subscribed)
    assert isinstance(refused.error, Busy)
    made.lost()
    made.connected(0)
    assert len(said(made)) == 2


def test_what_comes_unasked_is_handed_on() -> None:
    made = connected()
    made.received([encode_header(Reply.EVENTS, 0, {"subscription": 1}), b"batch"], 0)
    assert made.take_happened() == [Pushed(Reply.EVENTS, {"subscription": 1}, [b"batch"])]


def test_home_pings_three_times_in_a_timeout_and_gives_up_who_is_silent() -> None:
    made = connected(now_ns=0)
    assert made.tick(5 * SECOND_NS - 1)
    assert made.take_frames() == []
    assert made.tick(5 * SECOND_NS)
    ((command, request_id, _),) = said(made)
    assert command == Request.PING
    answer(made, Reply.PONG, request_id, 5 * SECOND_NS)
    assert made.wake_ns() == 10 * SECOND_NS
    assert made.tick(10 * SECOND_NS)
    assert made.tick(15 * SECOND_NS)
    assert not made.tick(20 * SECOND_NS)
    made.lost()
    assert made.tick(99 * SECOND_NS)
    assert made.wake_ns() == FOREVER_NS


@pytest.mark.parametrize("stands", [False, True])
def test_client_that_is_closed_ends_what_is_under_way(stands: bool) -> None:
    made = connected() if stands else home()
    made.request(Info(), "token", FOREVER_NS)
    made.end_all()
    (ended,) = made.take_happened()
    assert isinstance(ended, Ended)
    assert isinstance(ended.error, LocalProtocolError)
