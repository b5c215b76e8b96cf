"""Results and deliveries as reply codes, fields and body frames (docs/PROTOCOL.md §3)."""

from __future__ import annotations

import pytest

from zmqbroker.commands import (
    Acked,
    Closed,
    Member,
    Piece,
    ProducerOpened,
    Published,
    Receipt,
    ReceiveKey,
    Result,
    Roster,
    Waiting,
)
from zmqbroker.raft import Membership
from zmqbroker.server.replies import messages_reply, result_reply
from zmqbroker.wire import codec
from zmqbroker.wire.frames import Reply
from zmqbroker.wire.headers import MessageHeaders, encode_message_headers
from zmqbroker.wire.membership import encode_membership

KEY = ReceiveKey(b"s" * 16, 0, 1)


def piece(batch: bytes, *, index: int = 5, first: int = 1, last: int = 1, low: int = 0, delivery_count: int = 1) -> Piece:
    return Piece(Receipt(index << 16, first, last), delivery_count, 1_000 + index, index, 3, len(batch), low)


def entry(batch: bytes) -> bytes:
    """A payload with the batch at position 3."""
    return b"xyz" + batch + b"behind"


@pytest.mark.parametrize(
    ("result", "code", "fields"),
    [
        (
            Published(7, 2, True, 99),
            Reply.SENT,
            {"sequence": 7, "count": 2, "time_unix_ns": 99, "duplicate": True, "confirm": "quorum"},
        ),
        (Acked(3), Reply.ACKED, {"count": 3, "confirm": "quorum"}),
        (ProducerOpened(4), Reply.PRODUCER, {"last_sequence": 4}),
        (Closed(5), Reply.CLOSED, {"returned": 5}),
    ],
)
def test_result_becomes_its_reply(result: Result, code: Reply, fields: dict[str, object]) -> None:
    assert result_reply(result, "quorum") == (code, fields)


def test_result_roster_tells_who_votes_who_is_joining_and_who_replaces_whom() -> None:
    members = (
        Member(2, "n2", b"\2" * 16, "h2:1"),
        Member(4, "n2", b"\4" * 16, "h4:1", replaces=2),
        Member(5, "copy", b"\5" * 16, "h5:1", voter=False, replaces=1),
    )
    roster = Roster(7, members, encode_membership(Membership((2,), (), (4, 5))), 6)
    code, fields = result_reply(roster, "quorum")
    assert (code, fields["index"]) == (Reply.MEMBERS, 7)
    assert fields["members"][1] == {
        "id": 4,
        "name": "n2",
        "uid": "04" * 16,
        "peer": "h4:1",
        "voter": False,
        "joining": True,
        "replaces": "n2",
    }
    rows = [(row["id"], row["voter"], row["joining"], row["replaces"]) for row in fields["members"]]
    assert rows == [(2, True, False, None), (4, False, True, "n2"), (5, False, False, None)]


@pytest.mark.parametrize("result", [None, Waiting()])
def test_result_that_nobody_waits_for_is_a_bug(result: Result) -> None:
    with pytest.raises(AssertionError):
        result_reply(result, "quorum")


def test_delivery_of_nothing_has_no_pieces() -> None:
    assert messages_reply((), lambda index: b"", plain=False) == ({"pieces": []}, [])
    assert messages_reply((), lambda index: b"", plain=True) == ({"messages": []}, [])


def test_delivery_of_parts_of_batches_holds_only_those_parts() -> None:
    batches = {5: codec.encode_batch(b"c", [b"one", b"two", b"three"]), 6: codec.encode_batch(b"c", [b"four"])}
    pieces = (piece(batches[5], first=2, last=3, low=1), piece(batches[6], index=6, first=4, last=4, delivery_count=2))
    fields, frames = messages_reply(pieces, lambda index: entry(batches[index]), plain=False)
    assert fields == {"pieces": [[5 << 16, 2, 3, 1, 1_005], [6 << 16, 4, 4, 2, 1_006]]}
    assert [codec.decode_batch(frame).bodies for frame in frames] == [[b"two", b"three"], [b"four"]]


def test_delivery_in_plain_form_is_one_map_and_one_body_per_message() -> None:
    headers = encode_message_headers(MessageHeaders("note", {"k": "v"}))
    batch = codec.encode_batch(b"c", [b"one", b"two"], 0, 0, ["ä".encode(), b""], [headers, b""])
    found = (piece(batch, first=8, last=9, delivery_count=3),)
    fields, frames = messages_reply(found, lambda index: entry(batch), plain=True)
    same = {"assigning": 5 << 16, "delivery_count": 3, "time_unix_ns": 1_005}
    assert fields == {
        "messages": [
            {"sequence": 8, "id": "ä", "metadata": "note", "tags": {"k": "v"}, **same},
            {"sequence": 9, "id": "", "metadata": "", "tags": {}, **same},
        ]
    }
    assert frames == [b"one", b"two"]


def test_delivery_in_plain_form_of_headers_that_cannot_be_read_takes_them_for_none() -> None:
    batch = codec.encode_batch(b"c", [b"one"], 0, 0, None, [b"\xc1"])
    fields, frames = messages_reply((piece(batch),), lambda index: entry(batch), plain=True)
    assert (fields["messages"][0]["metadata"], fields["messages"][0]["tags"], frames) == ("", {}, [b"one"])
