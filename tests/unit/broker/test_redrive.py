"""Purge, deletion by sequence and redrive: what is done with messages that nobody holds."""

from __future__ import annotations

import pytest

from tests.unit.broker.builders import ALICE, BOB, Node, acked_by, named, origins, publish, ranges, receive, ruled
from zmqbroker.broker import MachineLimits
from zmqbroker.commands import (
    Acked,
    ChannelSettings,
    Counted,
    CreateChannel,
    DeleteChannel,
    DeleteMessages,
    Manage,
    Nack,
    Origin,
    Purge,
    Redrive,
    Reject,
    Run,
    Tick,
    UpdateChannel,
)
from zmqbroker.errors import Busy, ChannelNotFound


def with_dead_letters(limits: MachineLimits | None = None) -> Node:
    """Three dead letters of channel a, then two of channel b, then one that was published there."""
    node = Node(limits)
    for channel, count in (("a", 3), ("b", 2)):
        node.entry(CreateChannel(channel, ChannelSettings(dead_letter="dead")), publish(count, channel=channel))
        node.entry(Reject(*named(node.delivery(receive(count, channel=channel))), reason="bad"))
    node.entry(publish(channel="dead"))
    return node


# --- purge ------------------------------------------------------------------------------------------------------------


def test_purge_finishes_what_nobody_holds() -> None:
    node = Node()
    node.entry(publish(5))
    delivery = node.delivery(receive(2))
    assert node.result(Purge("c")) == Counted(3)
    assert (node.stats().ready, node.stats().in_flight, node.stats().dropped) == (0, 2, 3)
    assert node.result(acked_by(delivery)) == Acked(2)
    assert node.published(publish()).first_sequence == 6


def test_purge_with_in_flight_finishes_everything_and_acks_find_it_done() -> None:
    node = Node()
    node.entry(publish(5))
    delivery = node.delivery(receive(2))
    assert node.result(Purge("c", in_flight=True)) == Counted(5)
    assert (node.stats().depth, node.stats().dropped) == (0, 5)
    assert not node.machine.holds(ALICE)
    assert node.result(acked_by(delivery)) == Acked(2)
    assert (node.stats().acked, node.machine.lowest_live_index()) == (0, None)


def test_purge_of_nothing_is_nothing() -> None:
    node = ruled()
    assert node.result(Purge("c", in_flight=True)) == Counted(0)


@pytest.mark.parametrize("command", [Purge("c"), DeleteMessages("c", ()), Redrive("c")])
def test_what_is_done_with_messages_of_a_channel_that_nobody_used_is_refused(command: Manage) -> None:
    node = Node()
    assert isinstance(node.result(command), ChannelNotFound)
    assert node.machine.channels() == []


# --- deletion by sequence ---------------------------------------------------------------------------------------------


def test_delete_by_sequence_finishes_those_messages_as_far_as_nobody_holds_them() -> None:
    node = Node()
    node.entry(publish(10))
    node.delivery(receive(2))
    assert node.result(DeleteMessages("c", ((2, 4), (9, 99)))) == Counted(4)
    assert (node.stats().in_flight, node.stats().ready, node.stats().dropped) == (2, 4, 4)
    assert ranges(node.delivery(receive(10, request=2))) == [(5, 8, 1)]


@pytest.mark.parametrize("sequences", [((4, 2),), ((0, 0),), ((11, 20),), ((-5, -1),), ()])
def test_delete_of_no_such_sequence_is_nothing(sequences: tuple[tuple[int, int], ...]) -> None:
    node = Node()
    node.entry(publish(10))
    assert node.result(DeleteMessages("c", sequences)) == Counted(0)
    assert node.stats().depth == 10


def test_delete_twice_counts_once() -> None:
    node = Node()
    node.entry(publish(3))
    assert node.entry(DeleteMessages("c", ((1, 2), (2, 3))), DeleteMessages("c", ((1, 3),))).results == [Counted(3), Counted(0)]


# --- redrive ----------------------------------------------------------------------------------------------------------


def test_redrive_brings_messages_back_to_where_they_came_from() -> None:
    node = with_dead_letters()
    assert node.result(Redrive("dead")) == Counted(5)
    assert [node.stats(name).ready for name in ("a", "b", "dead")] == [3, 2, 1]
    assert (node.stats("dead").moved, node.stats("dead").last_sequence) == (5, 6)
    delivery = node.delivery(receive(9, channel="a", request=9))
    assert (ranges(delivery), origins(delivery)) == ([(4, 6, 1)], [Origin("dead", 1, 0, "redriven")])


def test_redrive_with_origin_takes_only_those() -> None:
    node = with_dead_letters()
    assert node.result(Redrive("dead", origin="b")) == Counted(2)
    assert [node.stats(name).ready for name in ("a", "b", "dead")] == [0, 2, 4]


def test_redrive_with_count_takes_the_oldest() -> None:
    node = with_dead_letters()
    assert node.result(Redrive("dead", count_max=4)) == Counted(4)
    assert [node.stats(name).ready for name in ("a", "b", "dead")] == [3, 1, 2]
    assert node.result(Redrive("dead", count_max=1)) == Counted(1)
    assert node.stats("b").ready == 2


@pytest.mark.parametrize("count", [1, 2])
def test_redrive_with_count_takes_the_oldest_of_a_batch_in_several_states(count: int) -> None:
    node = with_dead_letters()
    node.entry(Nack(*named(node.delivery(receive(1, channel="dead"))), delay_ms=100))
    assert node.result(Redrive("dead", origin="a", count_max=count)) == Counted(count)
    delivery = node.delivery(receive(9, channel="a", request=9))
    assert [origin and origin.sequence for origin in origins(delivery)] == [1, 2][:count]


def test_redrive_to_another_channel_takes_all_there_is() -> None:
    node = with_dead_letters()
    assert node.result(Redrive("dead", to="again")) == Counted(6)
    assert node.stats("again").ready == 6


def test_redrive_of_what_came_from_nowhere_leaves_it() -> None:
    node = Node()
    node.entry(publish(3))
    assert node.result(Redrive("c")) == Counted(0)
    assert node.stats().ready == 3


@pytest.mark.parametrize("command", [Redrive("c", to="c"), Redrive("c", origin="d", to="e")])
def test_redrive_of_nothing_makes_no_channel(command: Redrive) -> None:
    node = Node()
    node.entry(publish(3))
    assert node.result(command) == Counted(0)
    assert node.machine.channels() == ["c"]


def test_redrive_leaves_what_somebody_holds_and_makes_no_channel_for_it() -> None:
    node = Node()
    node.entry(publish(3))
    node.delivery(receive(3))
    assert node.result(Redrive("c", to="d")) == Counted(0)
    assert node.machine.channels() == ["c"]


def test_redrive_serves_who_waits() -> None:
    node = with_dead_letters()
    node.entry(receive(session=BOB, channel="a", count_min=3, count_max=3, wait_ms=1000))
    assert ranges(node.delivery(Redrive("dead", origin="a"))) == [(4, 6, 1)]


def test_redriven_message_is_counted_anew() -> None:
    node = ruled(channel="a", delivery_limit=1, dead_letter="dead")
    node.entry(publish(channel="a"))
    for request in range(3):
        assert node.delivery(receive(channel="a", request=request)).pieces[0].delivery_count == 1
        node.close(ALICE)
        assert node.stats("dead").ready == 1
        node.entry(Redrive("dead"))
    assert node.stats("a").ready == 1


def test_redrive_is_busy_where_the_channel_cannot_be_made() -> None:
    node = Node(MachineLimits(channels_max=1))
    node.entry(publish(3))
    assert isinstance(node.result(Redrive("c", to="d")), Busy)
    assert (node.stats().ready, node.stats().moved) == (3, 0)


def test_redrive_that_stops_for_want_of_a_channel_says_how_far_it_came_and_counts_that() -> None:
    node = with_dead_letters(MachineLimits(channels_max=3))
    node.entry(DeleteChannel("b"), publish(channel="other"))
    assert node.result(Redrive("dead")) == Counted(3, next=4)
    assert (node.stats("dead").moved, node.stats("dead").ready, node.stats("a").ready) == (3, 3, 3)
    assert isinstance(node.result(Redrive("dead", first=4)), Busy)


def test_redrive_looks_at_some_batches_and_says_where_to_go_on() -> None:
    node = Node(MachineLimits(redriven_max=2))
    for _ in range(5):
        node.entry(publish(3))
    assert node.result(Redrive("c", to="d")) == Counted(6, next=7)
    assert node.result(Redrive("c", to="d", count_max=2, first=7)) == Counted(2)
    assert node.result(Redrive("c", to="d", first=10)) == Counted(6)
    assert ranges(node.delivery(receive(99))) == [(9, 9, 1)]
    assert node.stats("d").ready == 14


def test_redrive_from_a_sequence_leaves_what_is_before_it() -> None:
    node = Node()
    node.entry(publish(4), publish(4))
    assert node.result(Redrive("c", to="d", first=3)) == Counted(6)
    assert ranges(node.delivery(receive(99))) == [(1, 2, 1)]
    assert node.result(Redrive("c", to="d", first=2**64 - 1)) == Counted(0)


def test_redrive_passes_by_what_stays_and_goes_on_behind_it() -> None:
    node = with_dead_letters(MachineLimits(redriven_max=1))
    steps, first = [], 1
    while first:
        found = node.result(Redrive("dead", origin="b", first=first))
        assert isinstance(found, Counted)
        steps.append((found.count, found.next))
        first = found.next
    assert steps == [(0, 4), (2, 6), (0, 0)]


def test_redriven_message_expires_no_more() -> None:
    node = Node()
    node.entry(publish(runs=(Run(1, expiry_ms=20),)))
    node.entry(Redrive("c", to="d"))
    node.entry(Tick(), after_ms=50)
    assert node.stats("d").ready == 1


def test_redrive_of_delayed_messages_makes_them_ready_there() -> None:
    node = Node()
    node.entry(publish(2, runs=(Run(2, delay_ms=1000),)), UpdateChannel("c", ChannelSettings()))
    assert node.result(Redrive("c", to="d")) == Counted(2)
    assert (node.stats("d").ready, node.stats("d").delayed) == (2, 0)
