"""Expirations: messages that nobody received in time are finished, and counted."""

from __future__ import annotations

import pytest

from tests.unit.broker.builders import ALICE, MILLISECOND, START, Node, acked_by, named, publish, ranges, receive, ruled
from zmqbroker.commands import Acked, Close, Command, Extend, Nack, Run, Tick

SHORT = (Run(1, expiry_ms=20),)


def test_ready_message_expires() -> None:
    node = Node()
    node.entry(publish(runs=SHORT))
    assert node.machine.next_due_unix_ns() == START + 20 * MILLISECOND
    node.entry(Tick(), after_ms=19)
    assert node.stats().ready == 1
    node.entry(Tick(), after_ms=1)
    assert (node.stats().depth, node.stats().expired, node.stats().size_bytes) == (0, 1, 0)
    assert node.machine.lowest_live_index() is None
    assert node.machine.next_due_unix_ns() is None


def test_expired_message_is_not_given_to_a_receive_of_the_same_entry() -> None:
    node = Node()
    node.entry(publish(runs=SHORT))
    assert ranges(node.delivery(receive(), after_ms=20)) == []


def test_delayed_message_that_expires_first_is_never_received() -> None:
    node = Node()
    node.entry(publish(runs=(Run(1, delay_ms=50, expiry_ms=20),)), receive(wait_ms=1000))
    assert node.entry(Tick(), after_ms=20).deliveries == []
    assert (node.stats().delayed, node.stats().expired) == (0, 1)
    assert node.entry(Tick(), after_ms=30).deliveries == []


def test_message_that_falls_due_and_expires_at_once_is_not_received() -> None:
    node = Node()
    node.entry(publish(runs=(Run(1, delay_ms=20, expiry_ms=20),)), receive(wait_ms=1000))
    assert node.entry(Tick(), after_ms=20).deliveries == []
    assert node.stats().expired == 1


def test_message_in_flight_may_be_acked_after_its_expiry() -> None:
    node = Node()
    node.entry(publish(runs=SHORT))
    delivery = node.delivery(receive(visibility_ms=1000))
    node.entry(Tick(), after_ms=100)
    assert node.stats().in_flight == 1
    assert node.result(acked_by(delivery)) == Acked(1)
    assert (node.stats().acked, node.stats().expired) == (1, 0)


@pytest.mark.parametrize("how", ["close", "nack", "nack with a delay", "nack behind", "timeout"])
def test_message_that_returns_after_its_expiry_is_finished(how: str) -> None:
    node = Node()
    node.entry(publish(2, runs=(Run(1, expiry_ms=20), Run(1))))
    delivery = node.delivery(receive(2, visibility_ms=200))
    commands: dict[str, Command] = {
        "close": Close(ALICE),
        "nack": Nack(*named(delivery)),
        "nack with a delay": Nack(*named(delivery), delay_ms=10),
        "nack behind": Nack(*named(delivery), behind=True),
        "timeout": Tick(),
    }
    node.entry(commands[how], after_ms=200 if how == "timeout" else 50)
    assert (node.stats().depth, node.stats().expired) == (1, 1)


def test_message_that_returns_before_its_expiry_expires_then() -> None:
    node = Node()
    node.entry(publish(runs=SHORT))
    node.entry(Nack(*named(node.delivery(receive()))), after_ms=10)
    assert node.stats().ready == 1
    node.entry(Tick(), after_ms=10)
    assert (node.stats().ready, node.stats().expired) == (0, 1)


def test_expiry_during_the_wait_of_an_extended_hold_counts_when_it_ends() -> None:
    node = Node()
    node.entry(publish(runs=SHORT))
    delivery = node.delivery(receive(visibility_ms=15))
    node.entry(Extend(*named(delivery), visibility_ms=100), after_ms=10)
    node.entry(Tick(), after_ms=50)
    assert (node.stats().in_flight, node.stats().expired) == (1, 0)
    node.entry(Tick(), after_ms=50)
    assert (node.stats().in_flight, node.stats().expired) == (0, 1)


def test_channel_expiry_holds_for_messages_that_say_none() -> None:
    node = ruled(expiry_ms=30)
    node.entry(publish(), publish(runs=(Run(1, expiry_ms=60),)))
    node.entry(Tick(), after_ms=30)
    assert (node.stats().expired, node.stats().ready) == (1, 1)
    node.entry(Tick(), after_ms=30)
    assert (node.stats().expired, node.stats().ready) == (2, 0)


def test_expiry_survives_a_restart() -> None:
    node = Node()
    node.entry(publish(runs=SHORT))
    node.restart()
    assert node.machine.next_due_unix_ns() == START + 20 * MILLISECOND
    node.entry(Tick(), after_ms=20)
    assert node.stats().expired == 1


def test_expiry_of_a_batch_that_was_partly_acked_counts_the_rest() -> None:
    node = Node()
    node.entry(publish(3, runs=(Run(3, expiry_ms=20),)))
    node.ack_all([node.delivery(receive(1))])
    node.entry(Tick(), after_ms=20)
    assert (node.stats().acked, node.stats().expired, node.stats().depth) == (1, 2, 0)
