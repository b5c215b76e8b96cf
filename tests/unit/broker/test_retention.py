"""Retention by age: what a channel keeps no longer than so long; and that nothing is deleted where nobody wants it."""

from __future__ import annotations

import pytest

from tests.unit.broker.builders import MILLISECOND, START, Node, acked_by, named, publish, receive, ruled
from zmqbroker.commands import Acked, ChannelSettings, CreateChannel, Nack, Redrive, Reject, Requeue, Run, Tick, UpdateChannel

YEAR_MS = 365 * 86_400_000


def test_nothing_is_deleted_by_default() -> None:
    node = Node()
    node.entry(*(publish(100) for _ in range(50)))
    node.entry(Tick(), after_ms=10 * YEAR_MS)
    assert (node.stats().depth, node.stats().expired, node.stats().dropped) == (5000, 0, 0)
    assert node.machine.next_due_unix_ns() is None


def test_message_is_gone_when_it_is_too_old_and_counts_as_expired() -> None:
    node = ruled(max_age_ms=50)
    node.entry(publish(3))
    assert node.machine.next_due_unix_ns() == START + 50 * MILLISECOND
    node.entry(Tick(), after_ms=49)
    assert node.stats().depth == 3
    node.entry(Tick(), after_ms=1)
    assert (node.stats().depth, node.stats().expired, node.machine.lowest_live_index()) == (0, 3, None)


@pytest.mark.parametrize(("own_ms", "gone_ms"), [(20, 20), (80, 50), (0, 50)])
def test_age_holds_whatever_the_expiry_of_the_message_says(own_ms: int, gone_ms: int) -> None:
    node = ruled(max_age_ms=50, expiry_ms=60)
    node.entry(publish(runs=(Run(1, expiry_ms=own_ms),)))
    node.entry(Tick(), after_ms=gone_ms - 1)
    assert node.stats().depth == 1
    node.entry(Tick(), after_ms=1)
    assert node.stats().expired == 1


def test_delayed_message_grows_old_too() -> None:
    node = ruled(max_age_ms=50)
    node.entry(publish(runs=(Run(1, delay_ms=100),)))
    node.entry(Tick(), after_ms=50)
    assert (node.stats().delayed, node.stats().expired) == (0, 1)


def test_message_in_flight_may_be_acked_and_is_gone_when_it_returns() -> None:
    node = ruled(max_age_ms=50)
    node.entry(publish(2))
    kept, returned = node.delivery(receive()), node.delivery(receive(request=2))
    node.entry(Tick(), after_ms=100)
    assert node.stats().in_flight == 2
    assert node.result(acked_by(kept)) == Acked(1)
    node.entry(Nack(*named(returned)))
    assert (node.stats().depth, node.stats().acked, node.stats().expired) == (0, 1, 1)


def test_other_settings_hold_for_what_is_stored_from_then_on() -> None:
    node = Node()
    node.entry(publish())
    node.entry(UpdateChannel("c", ChannelSettings(max_age_ms=50)), publish())
    node.entry(UpdateChannel("c", ChannelSettings()), publish())
    node.entry(Tick(), after_ms=YEAR_MS)
    assert (node.stats().depth, node.stats().expired) == (2, 1)


def test_age_begins_anew_in_a_channel_to_which_a_message_moves() -> None:
    node = ruled(max_age_ms=50, dead_letter="dead")
    node.entry(CreateChannel("dead", ChannelSettings(max_age_ms=100)), publish())
    node.entry(Reject(*named(node.delivery(receive(), after_ms=40))))
    node.entry(Tick(), after_ms=90)
    assert node.stats("dead").depth == 1
    node.entry(Redrive("dead"))
    node.entry(Tick(), after_ms=49)
    assert (node.stats().depth, node.stats("dead").depth) == (1, 0)
    node.entry(Tick(), after_ms=1)
    assert node.stats().expired == 1


@pytest.mark.parametrize(("age_ms", "gone_ms"), [(0, 50), (20, 20), (200, 50)])
def test_requeued_message_is_gone_at_the_earlier_of_both_instants(age_ms: int, gone_ms: int) -> None:
    node = ruled(max_age_ms=50)
    node.entry(CreateChannel("other", ChannelSettings(max_age_ms=age_ms)), publish())
    node.entry(Requeue(*named(node.delivery(receive())), "other"))
    node.entry(Tick(), after_ms=gone_ms - 1)
    assert node.stats("other").depth == 1
    node.entry(Tick(), after_ms=1)
    assert node.stats("other").expired == 1


def test_message_that_goes_behind_is_as_old_as_before() -> None:
    node = ruled(max_age_ms=50)
    node.entry(publish())
    node.entry(Nack(*named(node.delivery(receive())), behind=True), after_ms=40)
    node.entry(Tick(), after_ms=10)
    assert node.stats().expired == 1


def test_age_survives_a_restart() -> None:
    node = ruled(max_age_ms=50)
    node.entry(publish())
    node.restart()
    node.entry(Tick(), after_ms=50)
    assert node.stats().expired == 1
