"""Stores that feed queues, with all else that queues and stores have: dead letters, redrive, keys, consumers that wait."""

from __future__ import annotations

from typing import Any

from tests.unit.broker.builders import Node, origins, publish, ranges, receive, ruled
from zmqbroker.commands import Counted, OpenConsumer, Origin, Redrive, Reject, SetBinding

STORE = "events_store:s"
CONSUMER = "events_store:s>c"


def full(**settings: Any) -> Node:
    """A store that feeds queue `q`, which has room for one message and has one, as the store has."""
    node = ruled(channel="q", max_messages=1, **settings)
    node.entry(SetBinding("events_store:>", "q"))
    node.entry(publish(channel=STORE))
    return node


def test_redrive_leaves_what_found_no_room_where_it_is_since_its_store_has_it() -> None:
    node = full(dead_letter="dead")
    node.entry(publish(channel=STORE))
    assert node.result(Redrive("dead")) == Counted(0)
    assert (node.stats("dead").depth, node.stats(STORE).last_sequence) == (1, 2)
    assert node.result(Redrive("dead", to="more", origin=STORE)) == Counted(1)


def test_redrive_brings_dead_letters_of_a_bound_queue_back_to_it() -> None:
    node = full(dead_letter="dead")
    delivery = node.delivery(receive(channel="q"))
    node.entry(Reject(delivery.key.session, "q", tuple(piece.receipt for piece in delivery.pieces), "bad"))
    assert node.result(Redrive("dead")) == Counted(1)
    assert origins(node.delivery(receive(channel="q", request=2))) == [Origin("dead", 1, 0, "redriven")]


def test_event_that_finds_no_room_is_not_stored_in_its_store_again() -> None:
    node = full(dead_letter=STORE)
    node.entry(OpenConsumer(STORE, "c", "first"))
    node.entry(publish(2, channel=STORE))
    assert (node.stats(STORE).depth, node.stats("q").depth) == (3, 1)
    assert [binding.left_out for binding in node.machine.bindings] == [2]
    assert ranges(node.delivery(receive(9, channel=CONSUMER))) == [(1, 1, 1), (2, 3, 1)]


def test_dead_letters_of_a_bound_queue_that_come_to_its_store_feed_nothing() -> None:
    node = full(dead_letter=STORE, overflow="dead_letter")
    node.entry(OpenConsumer(STORE, "c", "new"))
    node.entry(receive(9, channel=CONSUMER, count_min=2, wait_ms=1000))
    delivery = node.delivery(publish(channel=STORE))
    assert origins(delivery) == [None, Origin("q", 1, 0, "overflow")]
    assert (node.stats(STORE).depth, node.stats("q").depth, node.stats("q").last_sequence) == (3, 1, 2)
