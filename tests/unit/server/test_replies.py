"""Results and deliveries as reply codes, fields and body frames (docs/PROTOCOL.md §3)."""

from __future__ import annotations

import pytest

from zmqbroker.commands import (
    Acked,
    ChannelChanged,
    Closed,
    Counted,
    HandedOver,
    Member,
    Origin,
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
from zmqbroker.wire.columns import Treatment, add_columns
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
        (
            HandedOver(3, (("d", 7, 2), ("e", 1, 1)), True, 99),
            Reply.HANDED_OVER,
            {"count": 3, "sent": [["d", 7, 2], ["e", 1, 1]], "time_unix_ns": 99, "duplicate": True, "confirm": "quorum"},
        ),
        (ProducerOpened(4), Reply.PRODUCER, {"last_sequence": 4}),
        (Closed(5), Reply.CLOSED, {"returned": 5}),
        (Counted(6), Reply.DONE, {"count": 6, "confirm": "quorum"}),
        (ChannelChanged("c", True), Reply.CHANGED, {"channel": "c", "changed": True, "confirm": "quorum"}),
        (ChannelChanged("c", False), Reply.CHANGED, {"channel": "c", "changed": False, "confirm": "quorum"}),
        (ChannelChanged("c", True, deleted=True), Reply.CHANGED, {"channel": "c", "changed": True, "confirm": "quorum"}),
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


def moved(batch: bytes, *, low: int, last: int) -> Piece:
    """A piece of messages that were in another channel before, from sequence 40 on."""
    origin = Origin("orders", 40, 5, "delivery_limit")
    return Piece(Receipt(5 << 16, 1, last), 1, 1_005, 5, 3, len(batch), low, origin)


def test_delivery_of_moved_messages_tells_the_origin_of_the_first_one_in_its_piece() -> None:
    batch = codec.encode_batch(b"orders", [b"a", b"b", b"c"])
    fields, frames = messages_reply((moved(batch, low=1, last=2), piece(batch)), lambda index: entry(batch), plain=False)
    origin = {"channel": "orders", "sequence": 40, "delivery_count": 5, "reason": "delivery_limit"}
    assert fields == {"pieces": [[5 << 16, 1, 2, 1, 1_005, origin], [5 << 16, 1, 1, 1, 1_005]]}
    assert [codec.decode_batch(frame).bodies for frame in frames] == [[b"b", b"c"], [b"a"]]


def test_delivery_in_plain_form_of_moved_messages_tells_the_origin_of_each() -> None:
    batch = codec.encode_batch(b"orders", [b"a", b"b", b"c"])
    fields, bodies = messages_reply((moved(batch, low=1, last=2), piece(batch)), lambda index: entry(batch), plain=True)
    origin = {"channel": "orders", "delivery_count": 5, "reason": "delivery_limit"}
    first, second, third = fields["messages"]
    assert [first["origin"], second["origin"]] == [{**origin, "sequence": 40}, {**origin, "sequence": 41}]
    assert "origin" not in third
    assert bodies == [b"b", b"c", b"a"]


def test_delivery_in_plain_form_names_the_group_of_those_that_have_one() -> None:
    batch = add_columns(codec.encode_batch(b"c", [b"a", b"b", b"c"]), 3, [Treatment(group=name) for name in ("g", "", "é")])
    fields, _ = messages_reply((piece(batch, last=3), piece(batch, last=2, low=1)), lambda index: entry(batch), plain=True)
    assert [one.get("group") for one in fields["messages"]] == ["g", None, "é", None, "é"]


def test_delivery_in_plain_form_says_which_bodies_their_producer_compressed() -> None:
    plain = codec.encode_batch(b"c", [b"a", b"b"])
    flagged = plain[:34] + b"\1" + plain[35:]
    compressed = plain[:4] + codec.crc32c(flagged[8:]).to_bytes(4, "little") + flagged[8:]
    for batch, said in ((plain, [{}, {}]), (compressed, [{"compressed": True}] * 2)):
        fields, bodies = messages_reply((piece(batch, last=2),), {5: entry(batch)}.__getitem__, plain=True)
        assert [{name: value for name, value in one.items() if name == "compressed"} for one in fields["messages"]] == said
        assert bodies == [b"a", b"b"]
    frames = messages_reply((piece(compressed, last=1),), lambda index: entry(compressed), plain=False)[1]
    assert codec.read_batch(frames[0]).flags == 1, "a part of a batch keeps the flag"


@pytest.mark.parametrize(("frames", "count"), [(0, 1), (1, 1), (2, 2), (2.9, 2), (3, 3), (9, 3)])
@pytest.mark.parametrize("plain", [False, True])
def test_messages_within_a_size_are_the_first_ones_and_one_at_least(frames: float, count: int, plain: bool) -> None:
    batch = codec.encode_batch(b"c", [b"one"])
    found = tuple(piece(batch, first=number, last=number) for number in (1, 2, 3))
    size_max = int(frames * len(batch))
    fields, bodies = messages_reply(found, lambda index: entry(batch), plain=plain, size_max=size_max)
    assert len(fields["messages" if plain else "pieces"]) == len(bodies) == count
