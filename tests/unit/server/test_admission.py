"""What a hand-over must be before the node takes it, and how the desk serves it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from tests.unit.server.harness import ALICE, BOB, Site, pending, waiting
from tests.unit.server.harness import receive as receiving
from zmqbroker.commands import BatchHeader, HandedOver, Receipt
from zmqbroker.config import NodeConfig
from zmqbroker.errors import (
    ChecksumMismatch,
    InvalidChannel,
    InvalidRequest,
    MalformedFrame,
    MessageTooLarge,
    StorageFull,
    Unsupported,
)
from zmqbroker.server.admission import admit_batch, admit_hand_over
from zmqbroker.server.desk import Desk
from zmqbroker.server.placement import group_of
from zmqbroker.server.routes import Pending
from zmqbroker.wire import codec
from zmqbroker.wire.frames import Reply
from zmqbroker.wire.requests import HandOverRequest, OpenProducerRequest

LIMITS = NodeConfig.for_test().limits
RECEIPTS = (Receipt(1 << 16, 1, 1),)


def frame(channel: str = "d", *bodies: bytes, producer: int = 0) -> bytes:
    return codec.encode_batch(channel.encode(), bodies or (b"x",), producer, 1 if producer else 0)


def admit(*frames: bytes, channel: str = "c", groups: int = 1, **limits: int) -> list[BatchHeader]:
    request = HandOverRequest(channel, RECEIPTS, frames)
    found, headers = admit_hand_over(request, replace(LIMITS, **limits), groups)
    assert found == frames
    return headers


def test_hand_over_that_is_right_is_taken() -> None:
    headers = admit(frame("d", b"x", b"y"), frame("e"))
    assert [(header.channel, header.count) for header in headers] == [("d", 2), ("e", 1)]
    assert [header.producer for header in admit(frame(producer=7), frame("e", producer=8))] == [7, 8]


@pytest.mark.parametrize(
    ("bad", "error", "said"),
    [
        (b"nonsense", MalformedFrame, "8 bytes"),
        (frame()[:4] + b"\0\0\0\0" + frame()[8:], ChecksumMismatch, "0x00000000"),
        (frame("a b"), InvalidChannel, "'a b'"),
        (frame("d", bytes(LIMITS.message_bytes_max + 1)), MessageTooLarge, "a message has"),
        (frame(producer=7), InvalidRequest, "some batches of a hand-over have a producer and others none"),
    ],
)
def test_hand_over_with_one_bad_batch_is_refused(bad: bytes, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        admit(frame(), bad)


def test_batch_with_a_column_that_is_not_served_is_unsupported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zmqbroker.server.admission.COLUMNS_SERVED", 0)
    with pytest.raises(Unsupported, match="0x1"):
        admit_batch(codec.encode_batch(b"d", [b"x"], ids=[b"i"]), 100)


def test_hand_over_over_the_limit_is_refused_with_size_and_limit() -> None:
    frames = [frame("d", bytes(1 << 10)) for _ in range(3)]
    limit = (1 << 10) + (1 << 20)
    frames.append(frame("d", *[bytes(1 << 10)] * 1018))
    size = sum(map(len, frames))
    assert max(map(len, frames)) < limit < size
    with pytest.raises(MessageTooLarge, match="the batches of a hand-over have") as caught:
        admit(*frames, message_bytes_max=1 << 10)
    assert caught.value.fields == {"size": size, "limit": limit}


def test_hand_over_to_another_group_is_refused_by_name() -> None:
    assert group_of("c", 2) != group_of("d", 2)
    text = "channel 'd' is in group 1 and channel 'c' in group 2: a hand-over stays in one group"
    with pytest.raises(InvalidRequest, match=text):
        admit(frame("c"), frame("d"), groups=2)
    with pytest.raises(InvalidRequest, match="channel 'c' is in group 2 and channel 'd' in group 1"):
        admit(frame("c"), channel="d", groups=2)
    assert admit(frame("{c}.d"), frame("x.{c}"), groups=2)
    assert admit(frame("d"), groups=1)


# --- at the desk -----------------------------------------------------------------------------------------------------


class Node:
    """A node whose group of one leads, whose disk is full or not."""

    def __init__(self) -> None:
        self.site = Site().lead()
        self.used_bytes = 0
        self.taken: list[int] = []
        self.counters: Counter[str] = Counter()
        self.config = NodeConfig.for_test()
        self.log = SimpleNamespace(size_bytes=0)
        self.bodies = SimpleNamespace(read=self.site.log.read)
        self.log_room = SimpleNamespace(limit_bytes=1000, taken=self.taken.append)
        self.disks = SimpleNamespace(refusal=lambda group: None)
        self.confirm = "quorum"
        self.desk: Any = Desk(self, SimpleNamespace())  # type: ignore[arg-type]

    def reply(self, asked: Pending, code: Reply, fields: dict[str, Any]) -> None:
        self.site.host.reply(asked, code, fields)

    def hand_over(self, request: HandOverRequest, session: bytes = ALICE) -> None:
        self.desk.leading.serve(self.site.group, request, pending(9, session))
        self.site.run()


def holding() -> tuple[Node, HandOverRequest]:
    """Alice holds the one message of channel c, and producer 7 is open on d."""
    node = Node()
    group, asked = node.site.group, waiting(2)
    group.publish(codec.encode_batch(b"c", [b"x"]), 0, pending(1))
    group.submit(receiving(asked), asked)
    node.desk.leading.serve(group, OpenProducerRequest("d", 7), pending(3))
    node.site.run()
    ((_, delivery),) = node.site.host.delivered
    request = HandOverRequest("c", tuple(piece.receipt for piece in delivery.pieces), (frame(producer=7),))
    node.site.host.replies.clear()
    return node, request


def test_desk_hands_over_for_the_session_of_the_connection() -> None:
    node, request = holding()
    node.hand_over(request, BOB)
    ((_, error),) = node.site.host.refused
    assert error.code == "STALE_RECEIPT"
    node.hand_over(request)
    ((request_id, code, fields),) = node.site.host.replies
    assert (request_id, code, fields["count"], fields["sent"]) == (9, Reply.HANDED_OVER, 1, [["d", 1, 1]])
    assert node.taken == [len(request.batches[0])] * 2
    assert node.counters["messages_in"] == 2


def test_desk_without_room_refuses_a_hand_over_but_not_its_repeat() -> None:
    node, request = holding()
    node.log.size_bytes = 1000
    with pytest.raises(StorageFull):
        node.hand_over(request)
    node.log.size_bytes = 0
    node.hand_over(request)
    node.log.size_bytes = 1000
    node.hand_over(request)
    (_, _, first), (_, code, again) = node.site.host.replies
    assert (code, again) == (Reply.HANDED_OVER, {**first, "duplicate": True})


def test_messages_that_were_handed_over_are_read_back_from_their_entry() -> None:
    node, request = holding()
    node.hand_over(replace(request, batches=(frame("e", b"one", producer=8), frame("d", b"two", b"three", producer=7))))
    ((_, error),) = node.site.host.refused
    assert error.code == "UNKNOWN_PRODUCER"
    node.hand_over(replace(request, batches=(frame("e", b"one"), frame("c", b"two", b"three"))))
    asked = waiting(20)
    node.site.group.submit(receiving(asked), asked)
    node.site.run()
    delivery = node.site.host.delivered[-1][1]
    (piece,) = delivery.pieces
    data = node.site.log.read(1, piece.index)
    assert codec.decode_batch(data[piece.position : piece.position + piece.size]).bodies == [b"two", b"three"]


def test_result_of_a_hand_over_is_what_the_machine_kept() -> None:
    node, request = holding()
    node.hand_over(request)
    kept = node.site.machine.handed_over("c", request.receipts, [codec.read_batch(request.batches[0])])
    assert isinstance(kept, HandedOver)
    assert (kept.count, kept.sent, kept.duplicate) == (1, (("d", 1, 1),), True)
