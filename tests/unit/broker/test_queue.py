"""What happens to the messages of a channel: assigned, returned, finished."""

from __future__ import annotations

import pytest

from tests.unit.broker.builders import (
    ALICE,
    BOB,
    MILLISECOND,
    START,
    TINY,
    Node,
    acked_by,
    describe,
    publish,
    ranges,
    receipts_of,
    receive,
)
from zmqbroker.commands import Ack, Acked, Close, Closed, Delivery, Piece, QueueStats, Receipt, Run, Tick, Waiting
from zmqbroker.errors import Busy, ChannelNotFound, InvalidRequest, StaleReceipt


def holding(count: int = 10) -> tuple[Node, Delivery]:
    """A node on which ALICE holds all messages of one batch."""
    node = Node()
    node.entry(publish(count))
    return node, node.delivery(receive(count))


def stale(count: int, *receipts: tuple[int, int, int]) -> object:
    return (StaleReceipt, {"stale": [list(receipt) for receipt in receipts], "count": count})


# --- receive --------------------------------------------------------------------------------------------------------


def test_receive_ready_messages_are_assigned_at_once() -> None:
    node = Node()
    node.entry(publish(5), after_ms=1)
    applied = node.entry(Tick(), receive(3), after_ms=1)
    piece = Piece(Receipt(2 << 16 | 1, 1, 3), 1, START + MILLISECOND, 1, 16, 1000, 0)
    assert applied.results == [None, Waiting()]
    assert applied.deliveries == [Delivery(receive().key, "c", (piece,))]
    stats = QueueStats(
        channel="c",
        incarnation=1,
        depth=5,
        ready=2,
        in_flight=3,
        waiting_receives=0,
        last_sequence=5,
        acked=0,
        redelivered=0,
        size_bytes=1000,
        oldest_unix_ns=START + MILLISECOND,
        sent=5,
        sent_bytes=1000,
        delivered=3,
        delivered_bytes=600,
        consumers=1,
    )
    assert node.stats() == stats


def test_receive_over_batches_has_a_piece_for_each() -> None:
    node = Node()
    node.entry(publish(3), publish(3, position=2000, size=500))
    node.entry(receive(1, request=1))
    delivery = node.delivery(receive(9, request=2))
    assert [(p.receipt.first, p.receipt.last, p.low, p.position, p.size) for p in delivery.pieces] == [
        (2, 3, 1, 16, 1000),
        (4, 6, 0, 2000, 500),
    ]


def test_receive_without_wait_answers_what_is_ready_even_nothing() -> None:
    node = Node()
    assert ranges(node.delivery(receive(5, request=1))) == []
    node.entry(publish(2))
    assert ranges(node.delivery(receive(5, count_min=3, request=2))) == [(1, 2, 1)]


def test_receive_with_wait_answers_at_once_when_enough_is_ready() -> None:
    node = Node()
    node.entry(publish(2))
    assert ranges(node.delivery(receive(5, count_min=2, wait_ms=1000))) == [(1, 2, 1)]


def test_receive_of_at_most_nothing_gets_nothing() -> None:
    node = Node()
    node.entry(publish(2))
    assert ranges(node.delivery(receive(0))) == []
    assert node.stats().ready == 2


def test_receive_first_message_is_assigned_whatever_its_size() -> None:
    node = Node()
    node.entry(publish(3, body_size=100))
    assert ranges(node.delivery(receive(3, size_max=1))) == [(1, 1, 1)]


def test_receive_oversize_first_batch_of_one_ends_the_assignment() -> None:
    node = Node()
    node.entry(publish(1, body_size=100), publish(1, body_size=0))
    assert ranges(node.delivery(receive(9, size_max=50))) == [(1, 1, 1)]


@pytest.mark.parametrize(("size_max", "last"), [(39, 3), (40, 4), (59, 4), (60, 5), (100, 7), (10_000, 7)])
def test_receive_size_bound_holds_for_the_largest_bodies(size_max: int, last: int) -> None:
    node = Node()
    node.entry(publish(4, body_size=10, size=40), publish(3, body_size=20, size=60))
    delivery = node.delivery(receive(9, size_max=size_max))
    assert delivery.pieces[-1].receipt.last == last


@pytest.mark.parametrize(("size_max", "last"), [(49, 1), (99, 1), (100, 2), (149, 2), (200, 4), (220, 4), (221, 5), (1000, 5)])
def test_receive_size_bound_counts_what_is_in_the_frame_beside_the_bodies(size_max: int, last: int) -> None:
    node = Node()
    node.entry(publish(4, body_size=10, size=200), publish(1, body_size=10, size=21))  # 40 beside each body, and 11
    delivery = node.delivery(receive(9, size_max=size_max))
    assert delivery.pieces[-1].receipt.last == last


def test_receive_share_beside_the_bodies_is_rounded_up_so_that_no_bound_is_exceeded() -> None:
    node = Node()
    node.entry(publish(3, body_size=10, size=31))
    assert ranges(node.delivery(receive(9, size_max=20))) == [(1, 1, 1)]
    assert ranges(node.delivery(receive(9, request=2, size_max=21))) == [(2, 3, 1)]


def test_receive_batch_that_fits_as_a_whole_is_not_cut() -> None:
    node = Node()
    node.entry(publish(100, body_size=500, body_bytes=1000), publish(3, body_size=40, size=120))
    assert ranges(node.delivery(receive(200, size_max=1080))) == [(1, 100, 1), (101, 102, 1)]


def test_receive_repeated_while_held_answers_the_same_without_raising() -> None:
    node, delivery = holding(3)
    assert node.delivery(receive(3), after_ms=10) == delivery
    assert node.stats().redelivered == 0
    node.entry(Ack(ALICE, "c", (Receipt(delivery.pieces[0].receipt.assigning, 2, 2),)))
    assert ranges(node.delivery(receive(3))) == [(1, 1, 1), (3, 3, 1)]


def test_receive_repeated_while_waiting_changes_nothing() -> None:
    node = Node()
    node.entry(receive(wait_ms=100))
    applied = node.entry(receive(wait_ms=100), after_ms=50)
    assert (applied.results, applied.deliveries) == ([Waiting()], [])
    assert node.stats().waiting_receives == 1
    assert node.machine.next_due_unix_ns() == START + 100 * MILLISECOND


def test_receive_repeated_after_all_was_acked_is_a_new_one() -> None:
    node, delivery = holding(3)
    node.entry(publish(1), acked_by(delivery))
    assert ranges(node.delivery(receive(3))) == [(4, 4, 1)]


def test_receive_waiting_is_served_by_a_publish() -> None:
    node = Node()
    node.entry(receive(5, count_min=2, wait_ms=1000))
    assert node.entry(publish(1)).deliveries == []
    delivery = node.delivery(publish(1))
    assert receipts_of(delivery) == (Receipt(3 << 16, 1, 1), Receipt(3 << 16, 2, 2))
    assert node.stats().waiting_receives == 0


def test_receive_that_needs_more_is_passed_over() -> None:
    node = Node()
    node.entry(receive(5, count_min=5, wait_ms=1000, request=1), receive(2, count_min=2, wait_ms=1000, request=2))
    assert node.delivery(publish(2)).key.request == 2
    assert [d.key.request for d in node.entry(publish(5)).deliveries] == [1]


def test_receives_waiting_are_served_in_order_of_arrival() -> None:
    node = Node()
    node.entry(*(receive(2, wait_ms=1000, request=request) for request in (3, 1, 2)))
    deliveries = node.entry(publish(5)).deliveries
    assert [(d.key.request, ranges(d)) for d in deliveries] == [(3, [(1, 2, 1)]), (1, [(3, 4, 1)]), (2, [(5, 5, 1)])]


def test_receive_wait_that_ends_answers_what_is_ready() -> None:
    node = Node()
    node.entry(receive(5, count_min=3, wait_ms=100))
    node.entry(publish(2))
    assert node.entry(Tick(), after_ms=99).deliveries == []
    assert ranges(node.delivery(Tick(), after_ms=1)) == [(1, 2, 1)]
    assert node.machine.next_due_unix_ns() == START + 30_100 * MILLISECOND


def test_receive_beyond_the_waiting_bound_is_busy() -> None:
    node = Node(TINY)
    results = node.entry(*(receive(wait_ms=100, request=request) for request in range(4))).results
    assert results[:3] == [Waiting()] * 3
    assert describe(results[3]) == (Busy, {"retry_ms": TINY.retry_ms})
    assert node.stats().waiting_receives == 3


def test_receive_of_another_incarnation_is_refused() -> None:
    node, _ = holding()
    assert isinstance(node.result(receive(incarnation=9)), ChannelNotFound)
    assert node.result(receive(request=2, incarnation=1)) == Waiting()


# --- visibility -----------------------------------------------------------------------------------------------------


def test_visibility_timeout_returns_messages_to_their_place() -> None:
    node = Node()
    node.entry(publish(6))
    node.entry(receive(2, visibility_ms=100, request=1))
    node.entry(Tick(), after_ms=100)
    assert node.stats().ready == 6
    assert ranges(node.delivery(receive(9, session=BOB))) == [(1, 2, 2), (3, 6, 1)]
    assert node.stats().redelivered == 2


def test_visibility_timeout_not_over_keeps_messages_in_flight() -> None:
    node = Node()
    node.entry(publish(1))
    node.entry(receive(visibility_ms=100))
    node.entry(Tick(), after_ms=99)
    assert node.stats().in_flight == 1
    assert node.machine.next_due_unix_ns() == START + 100 * MILLISECOND


def test_visibility_timeout_serves_a_waiting_receive() -> None:
    node = Node()
    node.entry(publish(1))
    node.entry(receive(visibility_ms=100))
    node.entry(receive(session=BOB, wait_ms=1000))
    delivery = node.delivery(Tick(), after_ms=100)
    assert (delivery.key.session, ranges(delivery)) == (BOB, [(1, 1, 2)])
    assert receipts_of(delivery) == (Receipt(4 << 16 | 0xFFFF, 1, 1),)


def test_visibility_timeout_before_the_end_of_a_wait_serves_it_once() -> None:
    node = Node()
    node.entry(publish(1))
    node.entry(receive(visibility_ms=100), receive(session=BOB, wait_ms=200))
    delivery = node.delivery(Tick(), after_ms=500)
    assert ranges(delivery) == [(1, 1, 2)]


def test_visibility_timeout_after_the_end_of_a_wait_comes_too_late_for_it() -> None:
    node = Node()
    node.entry(publish(1))
    node.entry(receive(visibility_ms=200), receive(session=BOB, wait_ms=100))
    assert ranges(node.delivery(Tick(), after_ms=500)) == []
    assert node.stats().ready == 1


def test_visibility_of_nothing_lasts_until_the_next_entry() -> None:
    node = Node()
    node.entry(publish(1))
    node.entry(receive(visibility_ms=0), receive(session=BOB, wait_ms=100, visibility_ms=0))
    assert ranges(node.delivery(Tick())) == [(1, 1, 2)]
    node.entry(Tick())
    assert node.stats().ready == 1


def test_deadline_beyond_the_last_instant_is_the_last_instant() -> None:
    node = Node()
    node.entry(publish(1))
    node.entry(receive(visibility_ms=2**63))
    assert node.machine.next_due_unix_ns() == 2**64 - 1


# --- ack ------------------------------------------------------------------------------------------------------------


def test_ack_held_messages_are_gone() -> None:
    node, delivery = holding(10)
    assert node.result(acked_by(delivery)) == Acked(10)
    stats = node.stats()
    assert (stats.depth, stats.acked, stats.size_bytes, stats.last_sequence) == (0, 10, 0, 10)
    assert node.machine.next_due_unix_ns() is None


def test_ack_repeated_counts_again_and_finishes_nothing() -> None:
    node, delivery = holding(10)
    node.result(acked_by(delivery))
    assert node.result(acked_by(delivery)) == Acked(10)
    assert node.stats().acked == 10


def test_ack_part_of_a_piece_keeps_the_rest_in_flight() -> None:
    node, delivery = holding(10)
    assigning = delivery.pieces[0].receipt.assigning
    assert node.result(Ack(ALICE, "c", (Receipt(assigning, 4, 6), Receipt(assigning, 5, 8)))) == Acked(7)
    stats = node.stats()
    assert (stats.in_flight, stats.acked, stats.size_bytes) == (5, 5, 1000)
    node.entry(Tick(), after_ms=30_000)
    assert ranges(node.delivery(receive(10, session=BOB))) == [(1, 3, 2), (9, 10, 2)]


def test_ack_of_several_batches_drops_each_when_its_last_message_is_finished() -> None:
    node = Node()
    node.entry(publish(2))
    node.entry(publish(2))
    delivery = node.delivery(receive(4))
    assigning = delivery.pieces[0].receipt.assigning
    assert node.machine.lowest_live_index() == 1
    node.entry(Ack(ALICE, "c", (Receipt(assigning, 2, 4),)))
    assert (node.stats().size_bytes, node.machine.lowest_live_index()) == (1000, 1)
    node.entry(Ack(ALICE, "c", (Receipt(assigning, 1, 1),)))
    assert (node.stats().size_bytes, node.machine.lowest_live_index()) == (0, None)


def test_ack_of_another_session_is_stale() -> None:
    node, delivery = holding(2)
    result = node.result(Ack(BOB, "c", receipts_of(delivery)))
    assert describe(result) == stale(0, (2 << 16, 1, 2))
    assert node.stats().in_flight == 2


def test_ack_after_the_visibility_timeout_is_stale() -> None:
    node, delivery = holding(2)
    assert describe(node.result(acked_by(delivery), after_ms=30_000)) == stale(0, (2 << 16, 1, 2))
    assert node.stats().ready == 2


def test_ack_with_an_older_assignment_is_stale() -> None:
    node, delivery = holding(1)
    node.entry(receive(request=2), after_ms=30_000)
    assert describe(node.result(acked_by(delivery))) == stale(0, (2 << 16, 1, 1))
    assert node.stats().in_flight == 1


def test_ack_stale_receipts_do_not_hold_up_the_others() -> None:
    node = Node()
    node.entry(publish(9))
    good = node.delivery(receive(4)).pieces[0].receipt
    wrong = (good.assigning, 4, 5)
    result = node.result(Ack(ALICE, "c", (Receipt(*wrong), Receipt(good.assigning, 1, 2))))
    assert describe(result) == stale(2, wrong)
    assert (node.stats().acked, node.stats().in_flight) == (2, 2)


@pytest.mark.parametrize(("first", "last"), [(2, 1), (0, 1), (-5, -1), (1, 11), (11, 11), (2**64 - 1, 2**64 - 1)])
def test_ack_impossible_range_is_stale(first: int, last: int) -> None:
    node, _ = holding(10)
    assert describe(node.result(Ack(ALICE, "c", (Receipt(2 << 16, first, last),)))) == stale(0, (2 << 16, first, last))
    assert node.stats().in_flight == 10


def test_ack_on_an_unknown_channel_is_refused() -> None:
    assert isinstance(Node().result(Ack(ALICE, "c", (Receipt(1, 1, 1),))), ChannelNotFound)


# --- close ----------------------------------------------------------------------------------------------------------


def test_close_returns_messages_and_serves_others() -> None:
    node = Node()
    node.entry(publish(3))
    node.entry(receive(3), receive(2, session=BOB, wait_ms=1000))
    applied = node.close()
    assert applied.results == [Closed(3)]
    assert [(d.key.session, ranges(d)) for d in applied.deliveries] == [(BOB, [(1, 2, 2)])]
    assert receipts_of(applied.deliveries[0]) == (Receipt(3 << 16, 1, 2),)


def test_close_ends_waiting_receives_without_an_answer() -> None:
    node = Node()
    node.entry(receive(wait_ms=1000), receive(channel="d", wait_ms=1000))
    applied = node.close()
    assert (applied.results, applied.deliveries) == ([Closed(0)], [])
    assert node.stats().waiting_receives == 0
    assert (list(node.machine.sessions()), node.machine.next_due_unix_ns()) == ([], None)


def test_close_of_a_consumer_leaves_the_others() -> None:
    node = Node()
    node.entry(publish(4))
    node.entry(receive(1, consumer=1), receive(1, consumer=2), receive(2, consumer=1, request=2, wait_ms=10))
    node.entry(receive(2, consumer=2, request=3, count_min=2, wait_ms=1000), receive(consumer=1, request=4, wait_ms=1000))
    applied = node.close(consumer=1)
    assert applied.results == [Closed(3)]
    assert [(d.key.request, ranges(d)) for d in applied.deliveries] == [(3, [(1, 1, 2), (3, 3, 2)])]
    assert node.stats().in_flight == 3


def test_close_of_a_session_that_holds_nothing_returns_nothing() -> None:
    node, _ = holding(1)
    assert node.entry(Close(BOB)).results == [Closed(0)]
    assert node.stats().in_flight == 1


def test_close_repeated_returns_nothing_more() -> None:
    node, _ = holding(1)
    assert node.close().results == [Closed(1)]
    assert node.close().results == [Closed(0)]


# --- publish --------------------------------------------------------------------------------------------------------


def test_publish_without_messages_is_refused() -> None:
    node = Node()
    assert isinstance(node.result(publish(0)), InvalidRequest)
    assert node.machine.channels() == []


@pytest.mark.parametrize("runs", [(Run(2),), (Run(4),), (Run(3), Run(1)), (Run(4), Run(-1)), (Run(3), Run(0))])
def test_publish_whose_columns_are_not_those_of_its_messages_is_refused(runs: tuple[Run, ...]) -> None:
    node = Node()
    assert isinstance(node.result(publish(3, runs=runs)), InvalidRequest)
    assert node.machine.channels() == []


def test_publish_many_batches_are_one_ready_range() -> None:
    node = Node()
    node.entry(*(publish(100) for _ in range(50)))
    keys = [item_key[0] for item_key, _ in node.machine.items()]
    assert (keys.count(2), keys.count(3)) == (50, 1)
