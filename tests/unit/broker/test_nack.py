"""Nack: a message returns to its place, now or later, or goes behind all others."""

from __future__ import annotations

import pytest

from tests.unit.broker.builders import ALICE, BOB, Node, acked_by, named, origins, publish, ranges, receive
from zmqbroker.commands import Counted, Extend, Nack, Receipt, Reject, Requeue, Settle, Tick
from zmqbroker.errors import ChannelNotFound, StaleReceipt


def test_nack_returns_messages_to_their_places_with_their_counts() -> None:
    node = Node()
    node.entry(publish(4))
    delivery = node.delivery(receive(2))
    assert node.result(Nack(*named(delivery))) == Counted(2)
    assert (node.stats().ready, node.stats().in_flight) == (4, 0)
    assert ranges(node.delivery(receive(3, request=2))) == [(1, 2, 2), (3, 3, 1)]
    assert node.stats().redelivered == 2


def test_nack_serves_who_waits_in_the_same_entry() -> None:
    node = Node()
    node.entry(publish())
    delivery = node.delivery(receive())
    node.entry(receive(session=BOB, wait_ms=1000))
    again = node.delivery(Nack(*named(delivery)))
    assert (again.key.session, ranges(again)) == (BOB, [(1, 1, 2)])


def test_nack_with_delay_keeps_the_place_and_comes_back_later() -> None:
    node = Node()
    node.entry(publish(3))
    delivery = node.delivery(receive(1))
    assert node.result(Nack(*named(delivery), delay_ms=20)) == Counted(1)
    assert (node.stats().delayed, node.stats().ready) == (1, 2)
    assert ranges(node.delivery(receive(1, request=2))) == [(2, 2, 1)]
    assert ranges(node.delivery(receive(3, request=3), after_ms=20)) == [(1, 1, 2), (3, 3, 1)]


def test_ack_of_what_was_given_back_for_later_is_stale() -> None:
    node = Node()
    node.entry(publish())
    delivery = node.delivery(receive())
    node.entry(Nack(*named(delivery), delay_ms=20))
    assert isinstance(node.result(acked_by(delivery)), StaleReceipt)
    assert node.stats().delayed == 1


def test_nack_behind_gives_new_sequences_and_keeps_count_and_time() -> None:
    node = Node()
    node.entry(publish(3))
    delivery = node.delivery(receive(2))
    assert node.result(Nack(*named(delivery), behind=True), after_ms=5) == Counted(2)
    again = node.delivery(receive(3, request=2))
    assert ranges(again) == [(3, 3, 1), (4, 5, 2)]
    assert [piece.low for piece in again.pieces] == [2, 0]
    assert {piece.time_unix_ns for piece in again.pieces} == {delivery.pieces[0].time_unix_ns}
    assert origins(again) == [None, None]
    assert (node.stats().moved, node.stats().last_sequence, node.stats().depth) == (2, 5, 3)


def test_nack_behind_with_delay_does_both() -> None:
    node = Node()
    node.entry(publish(2))
    node.entry(Nack(*named(node.delivery(receive(1))), delay_ms=10, behind=True))
    assert (node.stats().delayed, node.stats().ready) == (1, 1)
    assert ranges(node.delivery(receive(2, request=2), after_ms=10)) == [(2, 2, 1), (3, 3, 2)]


def test_nack_of_a_part_leaves_the_rest_in_flight() -> None:
    node = Node()
    node.entry(publish(5))
    receipt = node.delivery(receive(5)).pieces[0].receipt
    assert node.result(Nack(ALICE, "c", (Receipt(receipt.assigning, 2, 3),))) == Counted(2)
    assert (node.stats().ready, node.stats().in_flight) == (2, 3)
    assert ranges(node.delivery(receive(5))) == [(1, 1, 1), (4, 5, 1)], "the same receive still holds the rest"


def test_nack_repeated_is_stale_and_does_nothing() -> None:
    node = Node()
    node.entry(publish())
    command = Nack(*named(node.delivery(receive())))
    node.entry(command)
    refusal = node.result(command)
    assert isinstance(refusal, StaleReceipt)
    assert refusal.fields["count"] == 0
    node.entry(Tick())
    assert node.stats().ready == 1


def test_nack_of_what_was_acked_meanwhile_brings_nothing_back() -> None:
    node = Node()
    node.entry(publish(2))
    delivery = node.delivery(receive(2))
    node.ack_all([delivery])
    assert node.result(Nack(*named(delivery))) == Counted(0)
    assert node.stats().depth == 0


EVERY: list[type[Settle]] = [Nack, Reject, Requeue, Extend]


def settle(kind: type[Settle], session: bytes, channel: str, receipts: tuple[Receipt, ...]) -> Settle:
    more: dict[type[Settle], tuple[object, ...]] = {Requeue: ("d",), Extend: (100,)}
    return kind(session, channel, receipts, *more.get(kind, ()))  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", EVERY)
def test_settling_on_a_channel_that_nobody_used_is_refused(kind: type[Settle]) -> None:
    assert isinstance(Node().result(settle(kind, ALICE, "c", ())), ChannelNotFound)


@pytest.mark.parametrize("kind", [Nack, Requeue, Extend])
def test_settling_of_others_messages_is_stale_and_the_own_are_served(kind: type[Settle]) -> None:
    node = Node()
    node.entry(publish(2))
    own = node.delivery(receive(1)).pieces[0].receipt
    other = node.delivery(receive(1, session=BOB)).pieces[0].receipt
    refusal = node.result(settle(kind, ALICE, "c", (other, own)))
    assert isinstance(refusal, StaleReceipt)
    assert refusal.fields == {"stale": [[other.assigning, 2, 2]], "count": 1}
    assert "1 of 2 receipts" in refusal.message
    assert node.machine.holds(BOB)
