"""Peek: what is there, in order, whoever has it; nothing changes by it."""

from __future__ import annotations

from tests.unit.broker.builders import ALICE, MILLISECOND, START, Node, publish, receipts_of, receive
from zmqbroker.broker.peeking import peek
from zmqbroker.commands import Ack, ChannelSettings, CreateChannel, Nack, Origin, Peeked, Receipt, Reject

ALL = (1, 0, 1000, 1 << 20)


def look(node: Node, first: int, since_unix_ns: int, count: int, size: int, channel: str = "c") -> tuple[Peeked, ...]:
    """What a peek at a channel finds."""
    queue = node.machine.channel(channel)
    assert queue is not None
    return peek(queue, first, since_unix_ns, count, size)


def rows(found: tuple[Peeked, ...]) -> list[tuple[int, int, int]]:
    """First and last sequence and deliveries of each piece, none of which is assigned to anybody."""
    assert all(piece.receipt.assigning == 0 for piece in found)
    return [(piece.receipt.first, piece.receipt.last, piece.delivery_count) for piece in found]


def test_peek_of_nothing() -> None:
    node = Node()
    assert node.machine.channel("c") is None
    node.entry(publish(2))
    node.ack_all([node.delivery(receive(2))])
    assert look(node, *ALL) == ()


def test_peek_shows_ready_delayed_and_in_flight_with_their_deliveries_and_changes_nothing() -> None:
    node = Node()
    node.entry(publish(6))
    held = node.delivery(receive(4))
    (receipt,) = receipts_of(held)
    node.entry(Nack(ALICE, "c", (Receipt(receipt.assigning, 2, 2),), delay_ms=1000))
    node.entry(Nack(ALICE, "c", (Receipt(receipt.assigning, 3, 3),)))
    before = node.machine.items()
    found = look(node, *ALL)
    assert rows(found) == [(1, 1, 1), (2, 2, 1), (3, 3, 1), (4, 4, 1), (5, 6, 0)]
    assert [piece.state for piece in found] == ["in_flight", "delayed", "ready", "in_flight", "ready"]
    assert [piece.due_unix_ns for piece in found] == [0, START + 1000 * MILLISECOND, 0, 0, 0]
    assert node.machine.items() == before


def test_peek_passes_over_what_is_finished() -> None:
    node = Node()
    node.entry(publish(5))
    (receipt,) = receipts_of(node.delivery(receive(5)))
    assert rows(look(node, *ALL)) == [(1, 5, 1)]
    node.entry(Ack(ALICE, "c", (Receipt(receipt.assigning, 2, 3),)))
    assert rows(look(node, *ALL)) == [(1, 1, 1), (4, 5, 1)]


def test_peek_begins_at_a_sequence_and_knows_its_place_in_the_frame() -> None:
    node = Node()
    node.entry(publish(4))
    node.entry(publish(4))
    found = look(node, 3, 0, 3, 1 << 20)
    assert rows(found) == [(3, 4, 0), (5, 5, 0)]
    assert [(piece.index, piece.low) for piece in found] == [(1, 2), (2, 0)]


def test_peek_begins_at_an_instant() -> None:
    node = Node()
    node.entry(publish(2))
    node.entry(publish(2), after_ms=5)
    assert rows(look(node, 1, START + 5 * MILLISECOND, 10, 1 << 20)) == [(3, 4, 0)]
    assert rows(look(node, 1, START + 6 * MILLISECOND, 10, 1 << 20)) == []


def test_peek_keeps_its_bounds_and_the_first_message_fits_whatever_its_size() -> None:
    node = Node()
    node.entry(publish(3, body_size=100, size=360))
    node.entry(publish(3, body_size=100, size=360))
    assert rows(look(node, 1, 0, 4, 1 << 20)) == [(1, 3, 0), (4, 4, 0)]
    assert rows(look(node, 1, 0, 3, 1 << 20)) == [(1, 3, 0)]
    assert rows(look(node, 1, 0, 100, 480)) == [(1, 3, 0), (4, 4, 0)]
    assert rows(look(node, 1, 0, 100, 479)) == [(1, 3, 0)]
    assert rows(look(node, 1, 0, 100, 1)) == [(1, 1, 0)]


def test_peek_shows_where_a_message_was_before() -> None:
    node = Node()
    node.entry(CreateChannel("c", ChannelSettings(dead_letter="d")))
    node.entry(publish(3))
    delivery = node.delivery(receive(3))
    node.entry(Reject(ALICE, "c", receipts_of(delivery), "bad"))
    found = look(node, 2, 0, 10, 1 << 20, channel="d")
    assert [piece.origin for piece in found] == [Origin("c", 2, 1, "bad")]
