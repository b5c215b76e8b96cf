"""Dead letters: what was rejected, or delivered too often, is in another channel and says where it was and why."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.unit.broker.builders import (
    ALICE,
    BOB,
    TINY,
    Node,
    acked_by,
    describe,
    named,
    origins,
    publish,
    ranges,
    receive,
    ruled,
)
from zmqbroker.broker import MachineLimits
from zmqbroker.commands import (
    Ack,
    Acked,
    ChannelSettings,
    Counted,
    DeleteChannel,
    Extend,
    Nack,
    Origin,
    Receipt,
    Reject,
    Requeue,
    Run,
    Tick,
    UpdateChannel,
)
from zmqbroker.errors import Busy, InvalidRequest, StaleReceipt

#: Room for one channel only.
FULL = MachineLimits(channels_max=1)


def spent_after(node: Node, how: str) -> int:
    """Deliver the first message again and again, and let it return in one way; how many deliveries it had."""
    for delivery_count in range(1, 10):
        delivery = node.delivery(receive(visibility_ms=50, request=node.index))
        if not delivery.pieces:
            return delivery_count - 1
        if how == "timeout":
            node.entry(Tick(), after_ms=50)
        elif how == "close":
            node.close(ALICE)
        else:
            node.entry(Nack(*named(delivery), behind=how == "nack behind"))
    raise AssertionError("it always came back")


@pytest.mark.parametrize("how", ["timeout", "close", "nack", "nack behind"])
@pytest.mark.parametrize("limit", [1, 2, 5])
def test_delivery_limit_is_exact_however_the_message_returns(limit: int, how: str) -> None:
    node = ruled(delivery_limit=limit, dead_letter="dead")
    node.entry(publish())
    assert spent_after(node, how) == limit
    assert (node.stats().depth, node.stats().dead_lettered, node.stats("dead").ready) == (0, 1, 1)
    (origin,) = origins(node.delivery(receive(channel="dead")))
    assert origin is not None
    assert (origin.channel, origin.delivery_count, origin.reason) == ("c", limit, "delivery_limit")


def test_delivery_limit_counts_over_timeouts_closes_and_restarts() -> None:
    node = ruled(delivery_limit=3, dead_letter="dead")
    node.entry(publish())
    node.delivery(receive(visibility_ms=50))
    node.entry(Tick(), after_ms=50)
    node.restart()
    node.delivery(receive(request=2))
    node.close(ALICE)
    node.restart()
    assert ranges(node.delivery(receive(session=BOB))) == [(1, 1, 3)]
    assert node.stats().depth == 1
    node.close(BOB)
    assert (node.stats().depth, node.stats("dead").depth) == (0, 1)


def test_delivery_limit_without_dead_letter_channel_keeps_the_message() -> None:
    node = ruled(delivery_limit=1)
    node.entry(publish())
    for delivery_count in range(1, 5):
        delivery = node.delivery(receive(request=node.index))
        assert ranges(delivery) == [(1, 1, delivery_count)]
        node.entry(Nack(*named(delivery)))
    assert (node.stats().ready, node.stats().redelivered) == (1, 3)


def test_delivery_limit_takes_the_spent_messages_only() -> None:
    node = ruled(delivery_limit=2, dead_letter="dead")
    node.entry(publish(4))
    node.entry(Nack(*named(node.delivery(receive(2)))))
    delivery = node.delivery(receive(4, request=2))
    assert ranges(delivery) == [(1, 2, 2), (3, 4, 1)]
    node.entry(Nack(*named(delivery), delay_ms=10))
    assert (node.stats().delayed, node.stats("dead").ready) == (2, 2)


def test_delivery_limit_lower_than_before_holds_for_what_returns() -> None:
    node = ruled(dead_letter="dead")
    node.entry(publish(2))
    node.entry(Nack(*named(node.delivery(receive(2)))))
    node.entry(UpdateChannel("c", ChannelSettings(delivery_limit=1, dead_letter="dead")))
    assert node.stats().ready == 2
    node.entry(Nack(*named(node.delivery(receive(1, request=2)))))
    assert (node.stats().ready, node.stats("dead").ready) == (1, 1)


def test_extending_is_no_way_around_the_delivery_limit() -> None:
    node = ruled(delivery_limit=1, dead_letter="dead")
    node.entry(publish())
    delivery = node.delivery(receive(visibility_ms=50))
    node.entry(Extend(*named(delivery), visibility_ms=50), after_ms=40)
    node.entry(Tick(), after_ms=50)
    assert node.stats("dead").ready == 1


def test_spent_messages_stay_where_no_dead_letter_channel_can_be_made() -> None:
    node = ruled(FULL, delivery_limit=1, dead_letter="dead")
    node.entry(publish())
    node.delivery(receive())
    node.close(ALICE)
    assert node.machine.channels() == ["c"]
    assert ranges(node.delivery(receive(request=2))) == [(1, 1, 2)]
    assert node.stats().dead_lettered == 0


def test_spent_messages_that_stay_serve_who_waits() -> None:
    node = ruled(FULL, delivery_limit=1, dead_letter="dead")
    node.entry(publish())
    node.delivery(receive())
    node.entry(receive(session=BOB, wait_ms=1000))
    (delivery,) = node.close(ALICE).deliveries
    assert ranges(delivery) == [(1, 1, 2)]


# --- reject -----------------------------------------------------------------------------------------------------------


def test_reject_moves_messages_with_where_they_were_and_why() -> None:
    node = ruled(dead_letter="dead")
    node.entry(publish(4))
    delivery = node.delivery(receive(3))
    assert node.result(Reject(*named(delivery), reason="no such order")) == Counted(3)
    assert (node.stats().depth, node.stats().dead_lettered) == (1, 3)
    dead = node.delivery(receive(9, channel="dead"))
    assert ranges(dead) == [(1, 3, 1)], "not delivered there before"
    assert origins(dead) == [Origin("c", 1, 1, "no such order")]
    (piece,) = dead.pieces
    frame = delivery.pieces[0]
    assert (piece.index, piece.position, piece.size) == (frame.index, frame.position, frame.size)
    assert (piece.low, piece.time_unix_ns) == (0, frame.time_unix_ns)


def test_reject_keeps_the_order_and_every_message_its_origin() -> None:
    node = ruled(dead_letter="dead")
    node.entry(publish(3), publish(3, position=2000))
    delivery = node.delivery(receive(6))
    assigning = delivery.pieces[0].receipt.assigning
    node.entry(Reject(ALICE, "c", (Receipt(assigning, 5, 5), Receipt(assigning, 2, 4)), "first 5, then the others"))
    first, rest, last = node.delivery(receive(9, channel="dead")).pieces
    assert [(p.receipt.first, p.receipt.last, p.low, p.position) for p in (first, rest, last)] == [
        (1, 1, 1, 2000),
        (2, 3, 1, 16),
        (4, 4, 0, 2000),
    ]
    assert [p.origin and p.origin.sequence for p in (first, rest, last)] == [5, 2, 4]


def test_origin_of_a_later_message_of_the_range_is_its_own() -> None:
    node = ruled(dead_letter="dead")
    node.entry(publish(5))
    node.entry(Reject(*named(node.delivery(receive(5)))))
    node.delivery(receive(2, channel="dead"))
    assert origins(node.delivery(receive(3, channel="dead", request=2))) == [Origin("c", 3, 1, "")]


def test_origin_survives_a_restart() -> None:
    node = ruled(dead_letter="dead")
    node.entry(publish(2))
    node.entry(Reject(*named(node.delivery(receive(2))), reason="bad"))
    node.restart()
    assert origins(node.delivery(receive(2, channel="dead"))) == [Origin("c", 1, 1, "bad")]


def test_reject_serves_who_waits_for_dead_letters() -> None:
    node = ruled(dead_letter="dead")
    node.entry(publish(), receive(session=BOB, channel="dead", wait_ms=1000))
    delivery = node.delivery(Reject(*named(node.delivery(receive()))))
    assert (delivery.channel, ranges(delivery)) == ("dead", [(1, 1, 1)])


@pytest.mark.parametrize("reason", ["", "requeued"])
def test_dead_letter_expires_no_more_whatever_the_reason(reason: str) -> None:
    node = ruled(dead_letter="dead")
    node.entry(publish(runs=(Run(1, expiry_ms=20),)))
    node.entry(Reject(*named(node.delivery(receive())), reason=reason))
    node.entry(Tick(), after_ms=1000)
    assert node.stats("dead").ready == 1


def test_reject_without_dead_letter_channel_is_refused_and_holds() -> None:
    node = Node()
    node.entry(publish())
    delivery = node.delivery(receive())
    refusal = node.result(Reject(*named(delivery)))
    assert isinstance(refusal, InvalidRequest)
    assert "no dead-letter channel" in refusal.message
    assert node.stats().in_flight == 1


def test_reject_is_busy_where_no_dead_letter_channel_can_be_made_and_the_holder_keeps_the_message() -> None:
    node = ruled(FULL, dead_letter="dead")
    node.entry(publish())
    delivery = node.delivery(receive())
    assert describe(node.result(Reject(*named(delivery)))) == (Busy, {"retry_ms": FULL.retry_ms})
    assert (node.stats().in_flight, node.stats().ready) == (1, 0)
    assert node.result(acked_by(delivery)) is not None
    assert node.stats().acked == 1


def test_reject_of_others_messages_is_stale() -> None:
    node = ruled(dead_letter="dead")
    node.entry(publish())
    _, channel, receipts = named(node.delivery(receive()))
    assert isinstance(node.result(Reject(BOB, channel, receipts)), StaleReceipt)
    assert node.stats().in_flight == 1


def test_dead_letters_of_dead_letters_go_on() -> None:
    node = ruled(dead_letter="dead")
    node.entry(publish())
    node.entry(Reject(*named(node.delivery(receive()))))
    node.entry(UpdateChannel("dead", ChannelSettings(dead_letter="deader")))
    node.entry(Reject(*named(node.delivery(receive(channel="dead"))), reason="twice"))
    assert origins(node.delivery(receive(channel="deader"))) == [Origin("dead", 1, 1, "twice")]


# --- requeue ----------------------------------------------------------------------------------------------------------


def test_requeue_moves_messages_to_another_channel_as_new_ones() -> None:
    node = Node()
    node.entry(publish(3))
    assert node.result(Requeue(*named(node.delivery(receive(2))), to="d")) == Counted(2)
    assert (node.stats().depth, node.stats().moved, node.stats("d").ready) == (1, 2, 2)
    delivery = node.delivery(receive(2, channel="d"))
    assert (ranges(delivery), origins(delivery)) == ([(1, 2, 1)], [Origin("c", 1, 1, "requeued")])


def test_requeue_to_the_same_channel_goes_behind_with_the_count() -> None:
    node = Node()
    node.entry(publish(2))
    node.entry(Requeue(*named(node.delivery(receive(1))), to="c"))
    assert ranges(node.delivery(receive(2, request=2))) == [(2, 2, 1), (3, 3, 2)]


def test_requeued_message_still_expires() -> None:
    node = Node()
    node.entry(publish(runs=(Run(1, expiry_ms=20),)))
    node.entry(Requeue(*named(node.delivery(receive())), to="d"))
    node.restart()
    node.entry(Tick(), after_ms=20)
    assert (node.stats("d").depth, node.stats("d").expired) == (0, 1)


def test_requeue_of_an_expired_message_gives_it_to_nobody() -> None:
    node = Node()
    node.entry(publish(runs=(Run(1, expiry_ms=20),)))
    delivery = node.delivery(receive())
    node.entry(receive(session=BOB, channel="d", wait_ms=1000), after_ms=50)
    applied = node.entry(Requeue(*named(delivery), to="d"))
    assert (applied.results, applied.deliveries) == ([Counted(1)], [])
    assert (node.stats().expired, node.stats().moved, node.stats("d").last_sequence) == (1, 0, 0)


def test_requeue_is_busy_where_the_channel_cannot_be_made_and_the_holder_keeps_the_message() -> None:
    node = Node(FULL)
    node.entry(publish())
    assert isinstance(node.result(Requeue(*named(node.delivery(receive())), to="d")), Busy)
    assert node.stats().in_flight == 1


def test_requeue_keeps_the_entry_alive_until_its_messages_are_finished_everywhere() -> None:
    node = Node()
    node.entry(publish(2))
    delivery = node.delivery(receive(2))
    node.entry(Requeue(ALICE, "c", (Receipt(delivery.pieces[0].receipt.assigning, 1, 1),), to="d"))
    node.ack_all([node.delivery(receive(2))])
    assert (node.stats().depth, node.machine.lowest_live_index()) == (0, 1)
    node.ack_all([node.delivery(receive(channel="d"))])
    assert node.machine.lowest_live_index() is None


def test_moved_parts_of_a_batch_have_their_share_of_its_bytes() -> None:
    node = Node()
    node.entry(publish(4, size=1000))
    assigning = node.delivery(receive(4)).pieces[0].receipt.assigning
    node.entry(*(Requeue(ALICE, "c", (Receipt(assigning, first, first),), to="d") for first in (1, 2, 3)))
    assert (node.stats().size_bytes, node.stats("d").size_bytes) == (1000, 750)
    node.entry(Requeue(ALICE, "c", (Receipt(assigning, 4, 4),), to="d"))
    assert (node.stats().size_bytes, node.stats("d").size_bytes) == (0, 1000)


def test_ack_that_comes_after_the_message_has_moved_is_stale_also_after_a_restart() -> None:
    node = ruled(delivery_limit=1, dead_letter="dead")
    node.entry(publish(2))
    delivery = node.delivery(receive(2, visibility_ms=10))
    node.entry(Tick(), after_ms=10)
    assert node.stats("dead").depth == 2
    for _ in range(2):
        assert isinstance(node.result(acked_by(delivery)), StaleReceipt)
        assert node.stats("dead").depth == 2
        node.restart()


def test_channel_forgets_the_oldest_ranges_that_moved_when_there_are_too_many() -> None:
    node = Node(replace(TINY, moved_max=1))
    node.entry(publish(4))
    held = node.delivery(receive(4))
    (piece,) = held.pieces
    for sequence in (1, 3):
        node.entry(Requeue(held.key.session, "c", (Receipt(piece.receipt.assigning, sequence, sequence),), "d"))
    assert node.result(Ack(held.key.session, "c", (Receipt(piece.receipt.assigning, 1, 1),))) == Acked(1), "it is forgotten"
    assert isinstance(node.result(Ack(held.key.session, "c", (Receipt(piece.receipt.assigning, 3, 3),))), StaleReceipt)
    assert [key[0] for key, _ in node.machine.items()].count(14) == 1
    node.entry(DeleteChannel("c"))
    assert [key[0] for key, _ in node.machine.items()].count(14) == 0
