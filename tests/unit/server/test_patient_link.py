"""A link that keeps what a full pipe refuses, and loses it with the connection."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import pytest

from zmqbroker.server import patient_link
from zmqbroker.server.patient_link import PatientLink
from zmqbroker.server.sockets import PeerLink
from zmqbroker.wire.batch import Buffer


class Pipe:
    """A `PeerLink` with room for so many messages."""

    address = "127.0.0.1:5591"

    def __init__(self, room: int) -> None:
        self.room = room
        self.sent: list[bytes] = []
        self.lost = False
        self.closed = False

    def send(self, frames: Sequence[Buffer]) -> bool:
        if self.room:
            self.room -= 1
            self.sent.append(bytes(frames[0]))
            return True
        return False

    def broke(self) -> bool:
        lost, self.lost = self.lost, False
        return lost

    def close(self) -> None:
        self.closed = True


def link_over(pipe: Pipe) -> PatientLink:
    return PatientLink(cast(PeerLink, pipe))


def test_what_a_full_pipe_refuses_waits_and_is_sent_in_order() -> None:
    pipe = Pipe(1)
    link = link_over(pipe)
    assert [link.send([body]) for body in (b"1", b"2", b"3")] == [True] * 3
    assert (link.blocked, pipe.sent, link.address) == (True, [b"1"], pipe.address)
    pipe.room = 1
    assert link.send([b"4"])
    link.flush()
    assert pipe.sent == [b"1", b"2"]
    pipe.room = 9
    link.flush()
    assert (link.blocked, pipe.sent) == (False, [b"1", b"2", b"3", b"4"])
    link.flush()
    link.close()
    assert pipe.closed


def test_without_a_connection_nothing_waits() -> None:
    pipe = Pipe(0)
    link = link_over(pipe)
    assert not link.send([b"1"])
    assert not link.blocked


def test_what_waits_is_lost_with_the_connection() -> None:
    pipe = Pipe(1)
    link = link_over(pipe)
    link.send([b"1"])
    link.send([b"2"])
    pipe.lost = True
    link.flush()
    assert not link.blocked
    assert not link.send([b"3"])
    pipe.room = 1
    assert link.send([b"4"])
    assert pipe.sent == [b"1", b"4"]


def test_no_more_waits_than_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patient_link, "WAITING_BYTES_MAX", 3)
    pipe = Pipe(1)
    link = link_over(pipe)
    assert [link.send([body]) for body in (b"1", b"22", b"33", b"4", b"5")] == [True, True, False, True, False]
    pipe.room = 9
    link.flush()
    assert pipe.sent == [b"1", b"22", b"4"]
    assert link.send([b"666"])
