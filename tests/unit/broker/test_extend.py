"""Extending the visibility timeout of all or some messages of a receive."""

from __future__ import annotations

import pytest

from tests.unit.broker.builders import (
    ALICE,
    MILLISECOND,
    START,
    Node,
    acked_by,
    named,
    publish,
    ranges,
    receipts_of,
    receive,
    ruled,
)
from zmqbroker.commands import Ack, Acked, Close, Closed, Counted, Delivery, Extend, Receipt, Requeue, Run, Tick


def holding(count: int = 6) -> tuple[Node, Delivery]:
    """A node on which ALICE holds that many messages for 100 ms."""
    node = Node()
    node.entry(publish(count))
    return node, node.delivery(receive(count, visibility_ms=100))


def part_of(delivery: Delivery, first: int, last: int) -> tuple[Receipt, ...]:
    return (Receipt(delivery.pieces[0].receipt.assigning, first, last),)


def test_extend_holds_all_messages_from_now_on() -> None:
    node, delivery = holding()
    assert node.result(Extend(*named(delivery), visibility_ms=100), after_ms=60) == Counted(6)
    assert node.machine.next_due_unix_ns() == START + 160 * MILLISECOND
    node.entry(Tick(), after_ms=99)
    assert node.stats().in_flight == 6
    node.entry(Tick(), after_ms=1)
    assert node.stats().ready == 6


def test_extend_may_shorten() -> None:
    node, delivery = holding()
    node.entry(Extend(*named(delivery), visibility_ms=0))
    node.entry(Tick())
    assert node.stats().ready == 6


def test_extend_of_a_part_lets_the_rest_return() -> None:
    node, delivery = holding()
    assert node.result(Extend(ALICE, "c", part_of(delivery, 3, 4), 500), after_ms=50) == Counted(2)
    node.entry(Tick(), after_ms=50)
    assert (node.stats().ready, node.stats().in_flight) == (4, 2)
    assert node.result(Ack(ALICE, "c", part_of(delivery, 3, 4))) == Acked(2)
    assert ranges(node.delivery(receive(6, request=2))) == [(1, 2, 2), (5, 6, 2)]


def test_extend_of_a_part_keeps_its_receipts() -> None:
    node, delivery = holding()
    node.entry(Extend(ALICE, "c", part_of(delivery, 3, 4), 500))
    assert node.result(acked_by(delivery)) == Acked(6), "one receipt over all of them"
    assert not node.machine.holds(ALICE)


def test_receive_repeated_after_an_extend_answers_all_that_it_holds_in_order() -> None:
    node, delivery = holding()
    node.entry(Extend(ALICE, "c", part_of(delivery, 1, 2), 500))
    node.entry(Extend(ALICE, "c", part_of(delivery, 4, 5), 800))
    again = node.delivery(receive(6, visibility_ms=100))
    assert ranges(again) == [(1, 2, 1), (3, 3, 1), (4, 5, 1), (6, 6, 1)]
    assert {receipt.assigning for receipt in receipts_of(again)} == {delivery.pieces[0].receipt.assigning}


def test_receive_repeated_after_an_extend_answers_by_priority() -> None:
    node = Node()
    node.entry(publish(4, runs=(Run(2), Run(2, priority=5))))
    delivery = node.delivery(receive(4))
    assert ranges(delivery) == [(3, 4, 1), (1, 2, 1)]
    node.entry(Extend(ALICE, "c", part_of(delivery, 3, 3), 500))
    assert ranges(node.delivery(receive(4))) == [(3, 3, 1), (4, 4, 1), (1, 2, 1)]


def test_receive_repeated_after_the_rest_returned_answers_the_extended_part() -> None:
    node, delivery = holding()
    node.entry(Extend(ALICE, "c", part_of(delivery, 5, 6), 500))
    node.entry(Tick(), after_ms=100)
    assert ranges(node.delivery(receive(6))) == [(5, 6, 1)]


def test_extend_over_parts_with_different_deadlines_extends_each() -> None:
    node, delivery = holding()
    node.entry(Extend(ALICE, "c", part_of(delivery, 3, 4), 500))
    assert node.result(Extend(*named(delivery), visibility_ms=900)) == Counted(6)
    node.entry(Tick(), after_ms=899)
    assert node.stats().in_flight == 6
    node.entry(Tick(), after_ms=1)
    assert node.stats().ready == 6


def test_extend_is_no_delivery() -> None:
    node, delivery = holding(1)
    for _ in range(5):
        node.entry(Extend(*named(delivery), visibility_ms=100), after_ms=50)
    assert ranges(node.delivery(receive(visibility_ms=100))) == [(1, 1, 1)]
    assert node.stats().redelivered == 0


def test_extend_of_what_was_acked_holds_nothing() -> None:
    node, delivery = holding()
    node.ack_all([delivery])
    assert node.result(Extend(*named(delivery), visibility_ms=100)) == Counted(0)
    assert not node.machine.holds(ALICE)


def test_close_returns_extended_parts_too() -> None:
    node, delivery = holding()
    node.entry(Extend(ALICE, "c", part_of(delivery, 3, 4), 500))
    assert node.result(Close(ALICE)) == Closed(6)
    assert ranges(node.delivery(receive(6, request=2))) == [(1, 6, 2)]


@pytest.mark.parametrize("first", [1, 3])
def test_extended_parts_survive_a_restart(first: int) -> None:
    node, delivery = holding()
    node.entry(Extend(ALICE, "c", part_of(delivery, first, first + 1), 500))
    node.restart()
    repeated = receive(6, visibility_ms=100)
    assert sum(last - low + 1 for low, last, _ in ranges(node.delivery(repeated))) == 6
    node.entry(Tick(), after_ms=100)
    assert ranges(node.delivery(repeated)) == [(first, first + 1, 1)]


def test_what_was_extended_can_be_moved() -> None:
    node = ruled(channel="d")
    node.entry(publish(4))
    delivery = node.delivery(receive(4))
    node.entry(Extend(ALICE, "c", part_of(delivery, 2, 3), 500))
    assert node.result(Requeue(*named(delivery), to="d")) == Counted(4)
    assert (node.stats("d").ready, node.stats().depth) == (4, 0)
