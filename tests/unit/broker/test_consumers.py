"""Who among consumers gets messages: by priority, or one alone; and what is told of them."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.broker.builders import ALICE, BOB, Node, acked_by, key, named, publish, ranges, receipts_of, receive, ruled
from zmqbroker.broker import Applied, Machine
from zmqbroker.commands import (
    ChannelSettings,
    DeleteChannel,
    Delivery,
    Extend,
    Nack,
    Purge,
    ReceiveKey,
    Tick,
    UpdateChannel,
)

CAROL = b"c" * 16


def waits(session: bytes, **how: Any) -> Any:
    """A receive that waits for a minute, longer than it holds messages."""
    return receive(1, session=session, wait_ms=60_000, **how)


def got(applied: Applied) -> list[bytes]:
    """Whose receives were given messages, in order."""
    return [delivery.key.session for delivery in applied.deliveries if delivery.pieces]


def active(node: Node) -> tuple[bytes, int] | None:
    """The channel's active consumer."""
    return node.stats().active


# --- priority ---------------------------------------------------------------------------------------------------------


def test_waiting_receives_of_a_higher_priority_are_served_first_and_equals_by_age() -> None:
    node = Node()
    for request, priority in enumerate((0, 3, 9, 3)):
        node.entry(waits(ALICE, request=request, priority=priority))
    given = node.entry(publish(1), publish(1), publish(1), publish(1)).deliveries
    assert [delivery.key.request for delivery in given] == [2, 1, 3, 0]


def test_lower_priority_gets_messages_while_the_higher_one_does_not_wait_or_needs_more() -> None:
    node = Node()
    node.entry(waits(ALICE, priority=9, count_min=3), waits(BOB), waits(CAROL, priority=1))
    assert got(node.entry(publish(1))) == [CAROL]
    assert got(node.entry(publish(1))) == [BOB]


def test_higher_priority_is_served_first_when_one_batch_is_enough_for_several() -> None:
    node = Node()
    node.entry(waits(BOB, request=1), waits(ALICE, request=2, priority=1, count_min=2))
    deliveries = node.entry(publish(3)).deliveries
    assert [(delivery.key.session, ranges(delivery)) for delivery in deliveries] == [(ALICE, [(1, 1, 1)]), (BOB, [(2, 2, 1)])]


def test_priority_comes_back_with_the_state() -> None:
    node = Node()
    node.entry(waits(BOB), waits(ALICE, priority=4))
    node.restart()
    assert got(node.entry(publish(1))) == [ALICE]


# --- one consumer at a time -------------------------------------------------------------------------------------------


def test_single_active_gives_all_messages_to_the_first_that_receives() -> None:
    node = ruled(single_active=True)
    node.entry(waits(ALICE, request=1), waits(BOB), waits(ALICE, request=2, consumer=1), waits(ALICE, request=3))
    assert active(node) == (ALICE, 0)
    given = node.entry(publish(1), publish(1), publish(5)).deliveries
    assert [delivery.key for delivery in given] == [key(ALICE, 1), key(ALICE, 3)]
    assert node.delivery(receive(9, session=BOB, request=7)).pieces == ()
    assert (node.stats().ready, node.stats().consumers) == (5, 3)


def test_single_active_takeover_by_priority_then_by_age_gets_what_returned() -> None:
    node = ruled(single_active=True)
    node.entry(publish(2))
    held = node.delivery(receive(2))
    node.entry(waits(BOB, request=1), waits(CAROL, priority=1), waits(BOB, request=2, priority=1, consumer=5))
    assert active(node) == (ALICE, 0), "a higher priority preempts nobody"
    applied = node.close(ALICE)
    assert (got(applied), active(node)) == ([CAROL], (CAROL, 0))
    assert ranges(applied.deliveries[0]) == [(1, 1, 2)]
    assert [type(result).__name__ for result in node.ack_all([held])] == ["StaleReceipt"]
    assert got(node.close(CAROL)) == [BOB]
    assert active(node) == (BOB, 5)
    assert got(node.close(BOB, 5)) == [BOB]
    assert active(node) == (BOB, 0)


def test_single_active_of_a_closed_receive_alone_stays_active() -> None:
    node = ruled(single_active=True)
    node.entry(waits(ALICE, request=1), waits(ALICE, request=2), waits(BOB))
    node.close(ALICE, 0, request=1)
    assert (active(node), node.stats().waiting_receives) == ((ALICE, 0), 2)
    assert node.delivery(publish(1)).key == key(ALICE, 2)


def test_single_active_stays_so_for_its_visibility_time_when_it_does_nothing() -> None:
    node = ruled(single_active=True)
    node.entry(publish(3))
    node.ack_all([node.delivery(receive(1, visibility_ms=500))])
    node.entry(waits(BOB))
    assert node.machine.next_due_unix_ns() == node.now_unix_ns + 500_000_000
    assert got(node.entry(Tick(), after_ms=499)) == []
    node.ack_all([node.delivery(receive(1, request=2, visibility_ms=700))])
    assert got(node.entry(Tick(), after_ms=699)) == []
    assert (active(node), node.machine.holds(ALICE)) == ((ALICE, 0), True)
    assert got(node.entry(Tick(), after_ms=1)) == [BOB]
    assert (active(node), node.machine.holds(ALICE)) == ((BOB, 0), False)


def test_single_active_that_polls_without_waiting_stays_active() -> None:
    node = ruled(single_active=True)
    for request in range(5):
        assert node.delivery(receive(1, request=request, visibility_ms=100), after_ms=90).pieces == ()
        assert active(node) == (ALICE, 0)
    node.entry(waits(BOB))
    assert got(node.entry(publish(1), after_ms=90)) == []
    assert node.delivery(receive(1, request=9, visibility_ms=100)).pieces != ()


def test_single_active_whose_time_is_over_and_nobody_waits_leaves_its_place_to_the_next_that_receives() -> None:
    node = ruled(single_active=True)
    node.entry(receive(1, visibility_ms=100))
    node.entry(publish(1), after_ms=100)
    assert active(node) is None
    assert node.delivery(receive(1, session=BOB)).pieces != ()
    assert active(node) == (BOB, 0)


def test_single_active_time_runs_only_while_it_neither_waits_nor_holds() -> None:
    node = ruled(single_active=True)
    node.entry(publish(1))
    held = node.delivery(receive(1, visibility_ms=100))
    node.entry(Extend(*named(held), 10_000))
    node.entry(waits(BOB), waits(ALICE, request=5, visibility_ms=100))
    node.entry(Tick(), after_ms=9_000)
    assert active(node) == (ALICE, 0)
    node.ack_all([held])
    node.entry(Tick(), after_ms=9_000)
    assert active(node) == (ALICE, 0), "it waits"


def test_single_active_message_whose_time_is_over_comes_again_to_the_active_one() -> None:
    node = ruled(single_active=True)
    node.entry(publish(1))
    node.entry(receive(1, visibility_ms=100))
    node.entry(waits(BOB), waits(ALICE, request=2))
    assert got(node.entry(Tick(), after_ms=100)) == [ALICE]


def test_single_active_wait_of_another_ends_with_nothing() -> None:
    node = ruled(single_active=True)
    node.entry(waits(ALICE, count_min=3), receive(1, session=BOB, wait_ms=50))
    node.entry(publish(2))
    (delivery,) = node.entry(Tick(), after_ms=50).deliveries
    assert delivery == Delivery(ReceiveKey(BOB, 0, 1), "c", ())
    assert got(node.entry(publish(1))) == [ALICE]


def test_single_active_set_with_consumers_under_way_leaves_them_what_they_hold() -> None:
    node = Node()
    node.entry(publish(2), receive(1, session=BOB))
    node.entry(waits(CAROL, count_min=9), waits(ALICE, count_min=9, priority=1))
    node.entry(UpdateChannel("c", ChannelSettings(single_active=True)))
    assert active(node) == (ALICE, 0)
    assert node.stats().in_flight == 1
    assert got(node.entry(waits(BOB, request=2))) == []
    assert got(node.entry(UpdateChannel("c", ChannelSettings()))) == [BOB]
    assert (active(node), node.machine.changes()[0][0]) == (None, b"\0")


def test_single_active_set_and_taken_back_leaves_nothing_behind() -> None:
    node, plain = ruled(single_active=True), ruled()
    stored = dict(node.machine.changes())
    for each in (node, plain):
        each.entry(waits(ALICE))
    stored.update(node.machine.changes())
    assert any(found[0] == 13 for found in stored)
    node.entry(UpdateChannel("c", ChannelSettings()))
    plain.entry(Tick())
    for found, value in node.machine.changes():
        if value is None:
            del stored[found]
        else:
            stored[found] = value
    assert sorted(stored.items()) == node.machine.items() == plain.machine.items()
    assert not any(found[0] == 13 for found in stored)


def test_single_active_ends_with_its_channel() -> None:
    node = ruled(single_active=True)
    node.entry(receive(1))
    node.entry(DeleteChannel("c"))
    assert not node.machine.holds(ALICE)
    assert node.machine.next_due_unix_ns() is None
    node.entry(publish(1), receive(1, session=BOB))
    assert active(node) is None, "a new channel has no rules"


def test_single_active_channel_deleted_with_several_waiting_makes_none_of_them_active() -> None:
    node = ruled(single_active=True)
    node.entry(receive(wait_ms=1000), receive(session=BOB, wait_ms=1000), receive(session=b"c" * 16, wait_ms=1000))
    applied = node.entry(DeleteChannel("c"))
    assert [delivery.pieces for delivery in applied.deliveries] == [(), (), ()]
    assert (list(node.machine.sessions()), node.machine.next_due_unix_ns()) == ([], None)
    node.entry(after_ms=100_000)


def test_single_active_survives_a_restart_waiting_holding_and_idle() -> None:
    for commands in ([waits(ALICE)], [publish(1), receive(1)], [receive(1)]):
        node = ruled(single_active=True)
        node.entry(*commands)
        node.entry(waits(BOB, request=3))
        node.restart()
        assert (active(node), node.machine.changes()) == ((ALICE, 0), [])
        other = Machine.restore(node.index, node.machine.items())
        assert other.next_due_unix_ns() == node.machine.next_due_unix_ns()
        assert got(node.close(ALICE)) == ([BOB] if len(commands) == 2 else [])
        assert active(node) == (BOB, 0)


def test_single_active_that_loses_what_it_holds_is_idle_from_the_next_entry_on() -> None:
    node = ruled(single_active=True)
    node.entry(publish(1))
    node.entry(receive(1, visibility_ms=100))
    node.machine.lose(lambda index: True)
    node.restart()
    node.entry(waits(BOB))
    assert active(node) == (ALICE, 0)
    node.entry(Tick(), after_ms=100)
    assert active(node) == (BOB, 0)


def test_single_active_keeps_max_in_flight() -> None:
    node = ruled(single_active=True, max_in_flight=1)
    node.entry(waits(ALICE), waits(ALICE, request=2), waits(BOB))
    (first,) = node.entry(publish(2)).deliveries
    assert got(node.entry(acked_by(first))) == [ALICE]


# --- what is told -----------------------------------------------------------------------------------------------------


def test_stats_count_what_was_sent_and_delivered_with_shares_of_the_frames() -> None:
    node = Node()
    node.entry(publish(3, size=1000), publish(1, size=70))
    first = node.delivery(receive(2))
    node.entry(Nack(*named(first)))
    node.entry(receive(9, request=2))
    stats = node.stats()
    assert (stats.sent, stats.sent_bytes) == (4, 1070)
    assert (stats.delivered, stats.redelivered, stats.delivered_bytes) == (6, 2, 666 + 1070)


def test_stats_of_a_purged_channel_still_know_what_was_sent() -> None:
    node = Node()
    node.entry(publish(3), Purge("c"))
    assert (node.stats().sent, node.stats().sent_bytes, node.stats().delivered, node.stats().depth) == (3, 1000, 0, 0)


def test_stats_count_consumers_once_however_much_they_wait_and_hold() -> None:
    node = Node()
    node.entry(publish(2), receive(1), receive(1, request=2), waits(ALICE, request=3), waits(BOB), waits(BOB, consumer=1))
    assert node.stats().consumers == 3
    node.close(BOB)
    assert node.stats().consumers == 1


@pytest.mark.parametrize("request_", [1, 0])
def test_close_of_one_receive_returns_only_what_it_holds(request_: int) -> None:
    node = Node()
    node.entry(publish(2))
    held = [node.delivery(receive(1, request=request)) for request in (1, 2)]
    node.close(ALICE, 0, request=request_)
    assert node.stats().ready == (1 if request_ else 2)
    assert receipts_of(held[1])[0].first == 2


# --- many waits -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("wait_ms", "step_ms"), [(1, 0), (63, 0), (64, 2), (127, 2), (128, 4), (10_000, 256), (60_000, 1_024)])
def test_waits_of_many_end_together_a_little_late_and_never_early(wait_ms: int, step_ms: int) -> None:
    node = Node()
    ends = set()
    for request in range(50):
        node.entry(receive(1, session=BOB, request=request, wait_ms=wait_ms), after_ms=1)
        end_unix_ns = node.machine.next_due_unix_ns()
        assert end_unix_ns is not None
        late_ms = (end_unix_ns - node.now_unix_ns) / 1_000_000 - wait_ms
        assert 0 <= late_ms <= wait_ms / 32
        assert not step_ms or end_unix_ns % (step_ms * 1_000_000) == 0
        ends.add(end_unix_ns)
        node.close(BOB)
    assert len(ends) <= (50 // step_ms + 1 if step_ms else 50)
