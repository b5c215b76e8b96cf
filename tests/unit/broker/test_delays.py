"""Delays: messages that are received later, to the next 10 ms."""

from __future__ import annotations

import pytest

from tests.unit.broker.builders import MILLISECOND, START, Node, publish, ranges, receive, ruled
from zmqbroker.commands import DeleteMessages, Purge, Run, Tick


def test_delayed_message_is_received_when_its_delay_is_over_and_not_before() -> None:
    node = Node()
    node.entry(publish(runs=(Run(1, delay_ms=30),)))
    assert (node.stats().delayed, node.stats().ready, node.stats().depth) == (1, 0, 1)
    assert ranges(node.delivery(receive(), after_ms=29)) == []
    assert ranges(node.delivery(receive(request=2), after_ms=1)) == [(1, 1, 1)]
    assert node.stats().delayed == 0


@pytest.mark.parametrize(("delay_ms", "due_ms"), [(1, 10), (10, 10), (11, 20), (25, 30)])
def test_delay_ends_at_the_next_whole_step_of_10_ms(delay_ms: int, due_ms: int) -> None:
    node = Node()
    node.entry(publish(runs=(Run(1, delay_ms=delay_ms),)))
    assert node.machine.next_due_unix_ns() == START + due_ms * MILLISECOND


def test_delay_that_never_ends_has_the_last_instant() -> None:
    node = Node()
    node.entry(publish(runs=(Run(1, delay_ms=2**63),)))
    assert node.machine.next_due_unix_ns() == 2**64 - 1


def test_delayed_message_serves_a_waiting_receive_when_it_falls_due() -> None:
    node = Node()
    node.entry(publish(runs=(Run(1, delay_ms=20),)), receive(wait_ms=1000))
    assert node.entry(Tick(), after_ms=19).deliveries == []
    assert ranges(node.delivery(Tick(), after_ms=1)) == [(1, 1, 1)]


def test_delayed_messages_do_not_hold_up_those_behind_them() -> None:
    node = Node()
    node.entry(publish(4, runs=(Run(1), Run(2, delay_ms=50), Run(1))))
    assert ranges(node.delivery(receive(4))) == [(1, 1, 1), (4, 4, 1)]
    assert ranges(node.delivery(receive(4, request=2), after_ms=50)) == [(2, 3, 1)]


def test_channel_delay_holds_for_messages_that_say_none() -> None:
    node = ruled(delay_ms=40)
    node.entry(publish(2, runs=(Run(1), Run(1, delay_ms=10))), publish())
    assert (node.stats().delayed, node.stats().ready) == (3, 0)
    assert ranges(node.delivery(receive(3), after_ms=10)) == [(2, 2, 1)]
    assert ranges(node.delivery(receive(3, request=2), after_ms=30)) == [(1, 1, 1), (3, 3, 1)]


def test_delays_survive_a_restart() -> None:
    node = Node()
    node.entry(publish(3, runs=(Run(1, delay_ms=10), Run(2, delay_ms=30))))
    node.restart()
    assert (node.stats().delayed, node.machine.next_due_unix_ns()) == (3, START + 10 * MILLISECOND)
    assert ranges(node.delivery(receive(3), after_ms=10)) == [(1, 1, 1)]
    node.restart()
    assert ranges(node.delivery(receive(3, request=2), after_ms=20)) == [(2, 3, 1)]


def test_delayed_message_is_cancelled_by_its_sequence() -> None:
    node = Node()
    sequence = node.published(publish(runs=(Run(1, delay_ms=20),))).first_sequence
    node.entry(DeleteMessages("c", ((sequence, sequence),)))
    assert ranges(node.delivery(receive(), after_ms=20)) == []
    assert (node.stats().depth, node.stats().dropped) == (0, 1)
    assert node.machine.lowest_live_index() is None


def test_purge_finishes_delayed_messages_too() -> None:
    node = Node()
    node.entry(publish(2, runs=(Run(1), Run(1, delay_ms=20))))
    node.entry(Purge("c"))
    assert (node.stats().depth, node.stats().dropped) == (0, 2)


def test_a_hundred_thousand_delays_of_neighbours_are_one_range() -> None:
    node = Node()
    for _ in range(100):
        node.entry(publish(1000, runs=(Run(1000, delay_ms=10_000),)))
    assert node.stats().delayed == 100_000
    kinds = [key[0] for key, _ in node.machine.items()]
    assert (kinds.count(8), kinds.count(2), kinds.count(3)) == (1, 100, 0)
