"""Clients at the port of the nodes."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from zmqbroker.errors import Unsupported, error_from_wire
from zmqbroker.server.strays import answer_to
from zmqbroker.wire.frames import Reply, decode_header
from zmqbroker.wire.peer import Envelope, PeerKind, encode_peer
from zmqbroker.wire.requests import Hello, encode_request

HELLO = [bytes(frame) for frame in encode_request(7, Hello())]
PEER = [bytes(frame) for frame in encode_peer(Envelope(PeerKind.HELLO, b"c" * 16, b"s" * 16, b"r" * 16), {})]


@pytest.mark.parametrize("delimiter", [[], [b""]])
def test_client_is_told_that_it_is_wrong_here(delimiter: list[bytes]) -> None:
    answer = answer_to([b"id", *delimiter, *HELLO])
    assert answer is not None
    assert answer[:-1] == [b"id", *delimiter]
    command, request_id, fields = decode_header(answer[-1])
    assert (command, request_id) == (Reply.ERROR, 7)
    assert isinstance(error_from_wire(fields), Unsupported)


@pytest.mark.parametrize("frames", [[], [b""], [b"", b""], PEER, [b"ZB"], [b"ZBP"], [b"ZB\2" + HELLO[0][3:]], [b"x", *HELLO]])
def test_others_are_not_answered(frames: Sequence[bytes]) -> None:
    assert answer_to([b"id", *frames]) is None
