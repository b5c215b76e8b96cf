"""Receiving and sending on sockets: both twins, the same messages, bounds and refusals."""

from __future__ import annotations

import importlib
import random
import select
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import zmq
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.processes import free_ports, wait_until
from zmqbroker.server import _zmqio_py, sockets, zmqio

#: Nothing in these tests takes this long; it only ends a test that would hang.
PATIENCE_MS = 60_000
PLENTY = 1 << 30

Kind = type[_zmqio_py.ZmqIo]
Socket = zmq.Socket[bytes]


@pytest.fixture(params=["python", "compiled"], scope="module")
def kind(request: pytest.FixtureRequest) -> Kind:
    """One twin."""
    if request.param == "python":
        return _zmqio_py.ZmqIo
    found: Kind = pytest.importorskip("zmqbroker.server._zmqio").ZmqIo
    return found


class Pair:
    """A ROUTER and a DEALER that is connected to it."""

    def __init__(self, context: zmq.Context[Socket], kind: Kind, high_water_mark: int = 1000) -> None:
        self.router, self.dealer = context.socket(zmq.ROUTER), context.socket(zmq.DEALER)
        for socket in (self.router, self.dealer):
            socket.setsockopt(zmq.LINGER, 0)
            socket.setsockopt(zmq.SNDHWM, high_water_mark)
            socket.setsockopt(zmq.RCVHWM, high_water_mark)
        self.router.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self.dealer.setsockopt(zmq.ROUTING_ID, b"dealer")
        port = self.router.bind_to_random_port("tcp://127.0.0.1")
        self.dealer.connect(f"tcp://127.0.0.1:{port}")
        self.io, self.peer = kind(self.router), kind(self.dealer)
        assert self.peer.send([b"greeting"]) == 0
        assert self.wait(self.io) == [[b"dealer", b"greeting"]]

    def wait(self, io: _zmqio_py.ZmqIo, count: int = 1) -> list[list[bytes]]:
        """`count` messages, however many turns they take."""
        found: list[list[bytes]] = []
        while len(found) < count:
            assert io.socket.poll(PATIENCE_MS), f"{len(found)} of {count} messages came"
            found += io.drain(count - len(found), PLENTY)
        return found

    def close(self) -> None:
        self.router.close(0)
        self.dealer.close(0)


@pytest.fixture(scope="module")
def context() -> Iterator[zmq.Context[Socket]]:
    made: zmq.Context[Socket] = zmq.Context()
    yield made
    made.destroy(linger=0)


@pytest.fixture
def pair(context: zmq.Context[Socket], kind: Kind) -> Iterator[Pair]:
    made = Pair(context, kind)
    yield made
    made.close()


@pytest.fixture(scope="module")
def shared(context: zmq.Context[Socket], kind: Kind) -> Iterator[Pair]:
    """For many examples one after the other."""
    made = Pair(context, kind)
    yield made
    made.close()


@settings(deadline=None, max_examples=60)
@given(st.lists(st.lists(st.one_of(st.binary(max_size=40), st.integers(0, 100_000)), min_size=1, max_size=9), max_size=8))
def test_messages_arrive_as_they_were_sent_both_ways(shared: Pair, drawn: list[list[bytes | int]]) -> None:
    """Numbers stand for frames of so many bytes: below and above what libzmq keeps inside a message, and reads at once."""
    messages = [[frame if isinstance(frame, bytes) else random.Random(frame).randbytes(frame) for frame in m] for m in drawn]
    for frames in messages:
        assert shared.peer.send(frames) == 0
    assert shared.wait(shared.io, len(messages)) == [[b"dealer", *frames] for frames in messages]
    for frames in messages:
        assert shared.io.send([b"dealer", *frames]) == 0
    assert shared.wait(shared.peer, len(messages)) == messages


@pytest.mark.parametrize("size", [0, 1, 28, 29, 30, 33, 255, 256, 8191, 8192, 8193, 65_535, 65_536, 3 << 20])
def test_frame_of_every_kind_of_size_arrives(shared: Pair, size: int) -> None:
    frame = random.Random(size).randbytes(size)
    assert shared.peer.send([frame, b"", frame]) == 0
    assert shared.wait(shared.io) == [[b"dealer", frame, b"", frame]]


def test_whatever_lies_in_memory_can_be_sent(pair: Pair) -> None:
    data = bytearray(b"0123456789")
    assert pair.peer.send((memoryview(data)[2:5], data, b"end")) == 0
    data[:] = b"overwrites"
    assert pair.wait(pair.io) == [[b"dealer", b"234", b"0123456789", b"end"]]


@pytest.mark.parametrize("size", [8191, 8192, 1 << 20])
def test_frame_is_held_while_it_is_on_its_way_and_not_longer(pair: Pair, size: int) -> None:
    """The compiled twin has libzmq read large frames where they lie; nobody else may keep them."""
    frame = random.Random(size).randbytes(size)
    expected, alone = bytes(bytearray(frame)), sys.getrefcount(frame)
    for _ in range(3):
        assert pair.peer.send([b"head", frame]) == 0
    assert pair.wait(pair.io, 3) == [[b"dealer", b"head", expected]] * 3

    def is_let_go() -> bool:
        pair.peer.readable()  # any call gives up what libzmq's thread has let go
        return sys.getrefcount(frame) == alone

    wait_until(is_let_go, PATIENCE_MS / 1000, "the frame is let go")


def test_frame_that_nobody_else_holds_arrives_whole(pair: Pair) -> None:
    for number in range(50):
        assert pair.peer.send([random.Random(number).randbytes(50_000)]) == 0
    for number, frames in enumerate(pair.wait(pair.io, 50)):
        assert frames == [b"dealer", random.Random(number).randbytes(50_000)]


def test_frame_that_is_refused_is_given_back(pair: Pair) -> None:
    frame = bytes(100_000)
    alone = sys.getrefcount(frame)
    assert pair.io.send([frame, b"to nobody"]) == zmq.EHOSTUNREACH
    pair.io.readable()
    assert sys.getrefcount(frame) == alone


@pytest.mark.parametrize("wrong", ["text", 7, None])
def test_what_is_no_bytes_is_refused_before_anything_is_sent(pair: Pair, wrong: Any) -> None:
    with pytest.raises(TypeError):
        pair.peer.send([b"first", wrong])
    assert pair.peer.send([b"second"]) == 0
    assert pair.wait(pair.io) == [[b"dealer", b"second"]]


def test_drain_stops_at_its_bounds_and_at_the_end(context: zmq.Context[Socket], kind: Kind) -> None:
    """In one process, where a message is there when it was sent."""
    receiver, sender = context.socket(zmq.PULL), context.socket(zmq.PUSH)
    receiver.bind("inproc://bounds")
    sender.connect("inproc://bounds")
    io, peer = kind(receiver), kind(sender)
    assert io.drain(10, PLENTY) == []
    messages = [[b"%02d" % number, bytes(98)] for number in range(10)]  # of 100 bytes
    for frames in messages:
        assert peer.send(frames) == 0
    assert (io.drain(0, PLENTY), io.drain(10, 0)) == ([], [])
    assert io.drain(3, PLENTY) == messages[:3]
    assert io.drain(10, 201) == messages[3:6]  # the third brings it over
    assert io.drain(10, 200) == messages[6:8]
    assert io.drain(10, PLENTY) == messages[8:]
    receiver.close(0)
    sender.close(0)


def test_compiled_refuses_what_does_not_lie_in_one_piece(context: zmq.Context[Socket]) -> None:
    pair = Pair(context, pytest.importorskip("zmqbroker.server._zmqio").ZmqIo)
    with pytest.raises(TypeError):
        pair.peer.send([b"first", memoryview(b"0123456789")[::2]])
    assert pair.peer.send([b"second"]) == 0
    assert pair.wait(pair.io) == [[b"dealer", b"second"]]
    pair.close()


def test_readable_says_whether_a_message_waits(pair: Pair) -> None:
    assert pair.io.readable() is False
    assert pair.peer.send([b"one"]) == 0
    assert pair.router.poll(PATIENCE_MS)
    assert pair.io.readable() is True
    assert pair.io.drain(1, PLENTY) == [[b"dealer", b"one"]]
    assert pair.io.readable() is False


def test_drain_says_whether_it_left_anything(pair: Pair) -> None:
    for number in range(3):
        assert pair.peer.send([b"%d" % number]) == 0
    found = pair.wait(pair.io, 1)
    assert not pair.io.dry, "the bound ended it"
    assert pair.io.drain(10, 0) == []
    assert not pair.io.dry, "so did this one"
    while len(found) < 3:
        assert pair.router.poll(PATIENCE_MS)
        found += pair.io.drain(10, PLENTY)
    assert pair.io.dry
    assert [frames[1] for frames in found] == [b"0", b"1", b"2"]


def told(port: sockets.ClientPort) -> bool:
    """Whether a node would look at the port: it says so, or its descriptor does."""
    return port.readable() or bool(select.select([port.descriptor], [], [], 0)[0])


def test_port_never_hides_a_message_that_a_bound_or_a_send_has_left(
    context: zmq.Context[Socket], kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sockets, "ZmqIo", kind)
    endpoint = f"tcp://127.0.0.1:{free_ports(1)[0]}"
    port, client = sockets.ClientPort(context, [endpoint]), context.socket(zmq.DEALER)
    client.setsockopt(zmq.LINGER, 0)
    client.connect(endpoint)
    for number in range(2):
        client.send(b"%d" % number)
    found: list[list[bytes]] = []
    while not found:
        found = port.drain(1)
    wait_until(lambda: told(port), 60, "the second message, which the bound left or the descriptor announces")
    while len(found) < 2:
        found += port.drain(10)
    assert not port.readable()
    port.send(found[0][0], [b"reply"])
    client.send(b"behind the send")
    wait_until(lambda: told(port), 60, "what came while the reply was sent")
    port.close()
    client.close(0)


def test_peer_that_is_not_there_is_said(pair: Pair) -> None:
    assert pair.io.send([b"nobody", b"reply"]) == zmq.EHOSTUNREACH
    assert pair.io.send([b"dealer", b"reply"]) == 0
    assert pair.wait(pair.peer) == [[b"reply"]]


def test_full_pipe_is_said_and_loses_nothing(context: zmq.Context[Socket], kind: Kind) -> None:
    pair = Pair(context, kind, high_water_mark=2)
    sent = 0
    while (refused := pair.io.send([b"dealer", bytes(1 << 20), b"%d" % sent])) == 0:
        sent += 1
        assert sent < 1000, "two messages and the kernel's buffers hold no gigabyte"
    assert refused == zmq.EAGAIN
    assert [frames[1] for frames in pair.wait(pair.peer, sent)] == [b"%d" % number for number in range(sent)]
    pair.close()


def test_several_messages_are_sent_up_to_the_first_that_is_refused(pair: Pair) -> None:
    messages = [[b"dealer", b"1"], [b"dealer", b"", b"2"], [b"nobody", b"3"], [b"dealer", b"4"]]
    assert pair.io.send_all(messages) == 2
    assert pair.io.send_all(messages[3:]) == 1
    assert pair.io.send_all([]) == 0
    assert pair.wait(pair.peer, 3) == [[b"1"], [b"", b"2"], [b"4"]]


def test_closed_socket_is_an_error(context: zmq.Context[Socket], kind: Kind) -> None:
    pair = Pair(context, kind)
    pair.close()
    for call in (
        pair.io.readable,
        lambda: pair.io.drain(1, 1),
        lambda: pair.io.send([b"dealer", b"late"]),
        lambda: pair.io.send_all([[b"dealer"]]),
    ):
        with pytest.raises(zmq.ZMQError) as raised:
            call()
        assert raised.value.errno == zmq.ENOTSOCK


def test_switch_takes_the_twin_when_the_compiled_one_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "zmqbroker.server._zmqio", None)
    chosen = importlib.reload(zmqio)
    try:
        assert (chosen.compiled, chosen.ZmqIo) == (False, _zmqio_py.ZmqIo)
    finally:
        monkeypatch.undo()
        importlib.reload(zmqio)
