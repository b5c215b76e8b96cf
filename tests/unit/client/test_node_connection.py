"""One node asked directly: answers, refusals that pass, answers that do not come, names that nobody knows."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import zmq

from zmqbroker.client import node
from zmqbroker.client.node import NodeConnection
from zmqbroker.errors import Busy, DeadlineExceeded, InvalidRequest
from zmqbroker.wire.frames import Reply, decode_header, encode_error, encode_header
from zmqbroker.wire.requests import Info, Ping

#: Gives the frames to answer a request with: its number from 1 on, and its id.
Answers = Callable[[int, int], list[list[bytes]]]


@contextmanager
def serving(answers: Answers, address: str = "tcp://127.0.0.1") -> Iterator[str]:
    """A node; its endpoint."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    router = context.socket(zmq.ROUTER)
    router.setsockopt(zmq.LINGER, 0)
    if address.startswith("ipc"):
        router.bind(address)
        endpoint = address
    else:
        endpoint = f"{address}:{router.bind_to_random_port(address, min_port=20_000, max_port=32_000)}"
    ending = threading.Event()

    def serve() -> None:
        count = 0
        while not ending.is_set():
            if router.poll(20):
                routing_id, header = router.recv_multipart()
                count += 1
                for frames in answers(count, decode_header(header)[1]):
                    router.send_multipart([routing_id, *frames])

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield endpoint
    finally:
        ending.set()
        thread.join()
        router.close(0)
        context.term()


class Clock:
    """A clock that only pauses move."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.pauses: list[float] = []

    def __call__(self) -> float:
        return self.now_s

    def pause(self, seconds: float) -> None:
        """Wait."""
        self.pauses.append(seconds)
        self.now_s += seconds


def pong(request_id: int, **fields: object) -> list[bytes]:
    """A reply."""
    return [encode_header(Reply.PONG, request_id, fields), b"body"]


def test_answer_is_given_with_its_body() -> None:
    with serving(lambda _, request_id: [pong(request_id, leader="x")]) as endpoint, NodeConnection(endpoint) as connection:
        assert connection.ask(Ping(), 30_000) == ({"leader": "x"}, [b"body"])
        assert connection.ask(Info(), 30_000).fields == {"leader": "x"}


def test_ipc_endpoint_is_asked(tmp_path: object) -> None:
    address = f"ipc://{tmp_path}/socket"
    with serving(lambda _, request_id: [pong(request_id)], address) as endpoint, NodeConnection(endpoint) as connection:
        assert connection.ask(Ping(), 30_000).bodies == [b"body"]


def test_busy_is_waited_out_and_any_other_refusal_raised() -> None:
    def answers(count: int, request_id: int) -> list[list[bytes]]:
        error = Busy("wait", retry_ms=70) if count < 3 else InvalidRequest("wrong")
        return [[encode_error(request_id, error)]]

    clock = Clock()
    with (
        serving(answers) as endpoint,
        NodeConnection(endpoint, pause=clock.pause) as connection,
        pytest.raises(InvalidRequest, match="wrong"),
    ):
        connection.ask(Ping(), 30_000)
    assert clock.pauses == [0.07, 0.07]


def test_refusal_that_stays_is_what_the_request_ends_with() -> None:
    clock = Clock()
    busy = Busy("another backup is being taken", retry_ms=1_000_000)
    with (
        serving(lambda _, request_id: [[encode_error(request_id, busy)]]) as endpoint,
        NodeConnection(endpoint, clock=clock, pause=clock.pause) as connection,
        pytest.raises(Busy, match="another backup is being taken"),
    ):
        connection.ask(Ping(), 12_000)
    assert clock.pauses == [5.0, 5.0, 2.0]


def test_what_answers_nothing_that_was_asked_is_passed_by() -> None:
    def answers(_: int, request_id: int) -> list[list[bytes]]:
        return [[b"no header"], pong(request_id + 7), pong(request_id, leader="x")]

    with serving(answers) as endpoint, NodeConnection(endpoint) as connection:
        assert connection.ask(Ping(), 30_000).fields == {"leader": "x"}


def test_silence_is_ended_by_a_new_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node, "PATIENCE_MS", 100)
    with (
        serving(lambda count, request_id: [pong(request_id)] if count > 1 else []) as endpoint,
        NodeConnection(endpoint) as connection,
    ):
        assert connection.ask(Ping(), 30_000).bodies == [b"body"]


def test_no_answer_at_all_is_an_error_with_the_endpoint() -> None:
    with (
        serving(lambda *_: []) as endpoint,
        NodeConnection(endpoint) as connection,
        pytest.raises(DeadlineExceeded, match=f"{endpoint} gave no answer to PING in 50 ms") as caught,
    ):
        connection.ask(Ping(), 50)
    assert caught.value.outcome_unknown


def test_name_that_nobody_knows_is_tried_until_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise OSError("unknown")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    clock = Clock()
    with (
        NodeConnection("tcp://nowhere:5590", clock=clock, pause=clock.pause) as connection,
        pytest.raises(DeadlineExceeded),
    ):
        connection.ask(Ping(), 1_000)
    assert len(clock.pauses) >= 10


def test_ipv6_address_is_bracketed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [(0, 0, 0, "", ("::1", 5590, 0, 0))])
    with NodeConnection("tcp://localhost:5590") as connection:
        assert connection._address() == "tcp://[::1]:5590"
