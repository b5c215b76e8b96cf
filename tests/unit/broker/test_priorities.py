"""Priorities: higher ones are received first, equal ones in order."""

from __future__ import annotations

from tests.unit.broker.builders import ALICE, Node, named, publish, ranges, receive, ruled
from zmqbroker.commands import Nack, Receipt, Redrive, Reject, Run, Tick


def mixed() -> Node:
    """Sequences 1, 4, 7 without a priority, 2, 5, 8 of priority 5, 3, 6, 9 of priority 9."""
    node = Node()
    for _ in range(3):
        node.entry(publish(3, runs=(Run(1), Run(1, priority=5), Run(1, priority=9))))
    return node


def order(node: Node, count: int = 9, request: int = 1) -> list[int]:
    """The sequences that a receive gets, in its order."""
    delivery = node.delivery(receive(count, request=request))
    return [sequence for first, last, _ in ranges(delivery) for sequence in range(first, last + 1)]


def test_higher_priorities_are_received_first_and_equal_ones_in_order() -> None:
    assert order(mixed()) == [3, 6, 9, 2, 5, 8, 1, 4, 7]


def test_receive_of_a_few_takes_the_highest() -> None:
    node = mixed()
    assert order(node, 2) == [3, 6]
    assert order(node, 3, request=2) == [9, 2, 5]
    assert order(node, 9, request=3) == [8, 1, 4, 7]
    assert node.stats().ready == 0


def test_late_message_of_a_high_priority_overtakes() -> None:
    node = Node()
    node.entry(publish(3))
    node.entry(publish(1, runs=(Run(1, priority=1),)))
    assert order(node, 2) == [4, 1]


def test_message_that_returns_has_its_priority_still() -> None:
    node = mixed()
    node.entry(Nack(*named(node.delivery(receive(9)))))
    assert order(node, 4, request=2) == [3, 6, 9, 2]


def test_delayed_message_has_its_priority_when_it_is_due() -> None:
    node = Node()
    node.entry(publish(3, runs=(Run(2), Run(1, delay_ms=10, priority=9))))
    node.entry(Tick(), after_ms=10)
    assert order(node, 2) == [3, 1]


def test_priorities_survive_a_restart() -> None:
    node = mixed()
    node.restart()
    assert order(node, 5) == [3, 6, 9, 2, 5]
    node.restart()
    assert order(node, 5) == [3, 6, 9, 2, 5], "a repeated receive answers in the same order"


def test_priority_goes_along_to_other_channels() -> None:
    node = ruled(dead_letter="dead")
    node.entry(publish(3, runs=(Run(2), Run(1, priority=9))))
    node.entry(Reject(*named(node.delivery(receive(3)))))
    node.entry(Redrive("dead", to="d"))
    delivery = node.delivery(receive(1, channel="d"))
    assert [piece.low for piece in delivery.pieces] == [2]


def test_large_message_of_a_high_priority_is_not_overtaken_by_small_ones() -> None:
    node = Node()
    node.entry(publish(1, body_size=10, size=10))
    node.entry(publish(2, body_size=100, size=200, runs=(Run(2, priority=9),)))
    assert ranges(node.delivery(receive(3, size_max=150))) == [(2, 2, 1)]


def test_parts_of_a_priority_are_acked_one_by_one() -> None:
    node = mixed()
    receipt = node.delivery(receive(3)).pieces[0].receipt
    node.entry(Nack(ALICE, "c", (Receipt(receipt.assigning, 6, 6),)))
    assert order(node, 2, request=2) == [6, 2]
