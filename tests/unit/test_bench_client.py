"""The benchmark of the Python clients runs from end to end, and notices messages that come twice."""

from __future__ import annotations

import os

import pytest

from bench.client import CASES, Site, Tally, measure_rounds
from bench.load import BenchError
from bench.meter import Meter
from tests.unit.client.servers import FakeServer
from zmqbroker.client import Message
from zmqbroker.client.message import Messages, Piece
from zmqbroker.wire.codec import decode_batch, encode_batch


def messages(first: int, count: int) -> Messages[Message]:
    """Messages as they come."""
    batch = decode_batch(encode_batch(b"q", [b""] * count))
    return Messages([(Piece(None, "q", [1, first, first + count - 1, 1, 1], batch), batch.bodies)], Message)


def test_every_case_runs_and_has_figures() -> None:
    with FakeServer() as server:
        found = measure_rounds(Site(server.endpoint, Meter([os.getpid()]), 300, 16), 1, list(CASES))
    assert list(found["medians"]) == list(CASES)
    assert all(figures["messages_per_s"] > 0 for figures in found["medians"].values())
    stored = {name: len(channel.bodies) for name, channel in server.broker.channels.items() if not name.endswith("warm")}
    assert stored == {f"{case}.0": 300 for case in CASES if "send" in case}


def test_tally_ends_with_the_last_message() -> None:
    tally = Tally(5)
    assert not tally.note(messages(3, 3))
    assert tally.note(messages(1, 2))


@pytest.mark.parametrize(("first", "count"), [(2, 1), (3, 3), (0, 1)])
def test_tally_refuses_what_came_before_or_was_never_sent(first: int, count: int) -> None:
    tally = Tally(4)
    tally.note(messages(1, 2))
    with pytest.raises(BenchError):
        tally.note(messages(first, count))
