"""Stores that feed queues, with all else that queues and stores have: dead letters, redrive, keys, consumers that wait."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import pytest

from tests.unit.broker.builders import TINY, Node, acked_by, handed, origins, publish, ranges, receive, ruled
from zmqbroker.commands import (
    Acked,
    Command,
    Counted,
    DeleteChannel,
    OpenConsumer,
    Origin,
    PublishAll,
    Purge,
    Redrive,
    Reject,
    ResetConsumer,
    Run,
    SetBinding,
)
from zmqbroker.errors import StaleReceipt

STORE = "events_store:s"
CONSUMER = "events_store:s>c"


def full(**settings: Any) -> Node:
    """A store that feeds queue `q`, which has room for one message and has one, as the store has."""
    node = ruled(channel="q", max_messages=1, **settings)
    node.entry(SetBinding("events_store:>", "q"))
    node.entry(publish(channel=STORE))
    return node


def test_redrive_brings_what_found_no_room_to_the_queue_and_not_to_the_store_that_has_it() -> None:
    node = full(dead_letter="dead")
    node.entry(publish(channel=STORE))
    assert node.result(Redrive("dead", origin=STORE)) == Counted(0)
    assert node.result(Redrive("dead", origin="q")) == Counted(1)
    assert (node.stats("dead").depth, node.stats("q").depth, node.stats(STORE).last_sequence) == (0, 2, 2)


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


def test_queue_that_is_a_destination_beside_a_store_that_feeds_it_gets_the_message_twice() -> None:
    node = Node()
    node.entry(SetBinding("events_store:>", "q"))
    node.entry(PublishAll((publish(channel=STORE), publish(channel="q"))))
    assert origins(node.delivery(receive(9, channel="q"))) == [None, Origin(STORE, 1, 0, "binding")]


# --- the entry that has the bodies ----------------------------------------------------------------------------------------


def three_holders(**settings: Any) -> Node:
    """An event in a store, in a consumer's hands, and in a bound queue: one body, in entry 3."""
    node = ruled(channel=STORE, **settings)
    node.entry(SetBinding("events_store:>", "q"), OpenConsumer(STORE, "c", "first"))
    node.entry(publish(channel=STORE, runs=(Run(1, group="key"),)))
    return node


@pytest.mark.parametrize("order", list(permutations(["store", "consumer", "queue"])))
@pytest.mark.parametrize("restarts", [False, True])
def test_body_lives_until_the_last_of_its_holders_has_finished(order: tuple[str, ...], *, restarts: bool) -> None:
    node = three_holders()
    held = node.delivery(receive(channel=CONSUMER))
    ends: dict[str, Command] = {"store": Purge(STORE), "consumer": acked_by(held), "queue": Purge("q")}
    for holder in order:
        assert (node.machine.is_live(3), node.machine.lowest_live_index()) == (True, 3)
        node.entry(ends[holder])
        if restarts:
            node.restart()
    assert (node.machine.is_live(3), node.machine.lowest_live_index()) == (False, None)


@pytest.mark.parametrize("end", [ResetConsumer(STORE, "c", "new"), DeleteChannel(CONSUMER)])
def test_body_of_what_a_consumer_forgets_lives_no_longer_for_it(end: Command) -> None:
    node = three_holders()
    node.entry(receive(channel=CONSUMER))
    node.entry(Purge(STORE), Purge("q"))
    assert node.machine.is_live(3)
    node.entry(end)
    assert not node.machine.is_live(3)


def test_body_of_a_superseded_event_lives_for_the_queue_that_was_fed() -> None:
    node = three_holders(keep_latest=True)
    node.entry(publish(channel=STORE, runs=(Run(1, group="key"),)))
    assert (node.stats(STORE).depth, node.stats("q").depth) == (1, 2)
    assert list(node.machine.live_indexes()) == [3, 4]


def test_lost_entry_is_gone_from_store_consumer_and_bound_queue_which_go_on() -> None:
    node = three_holders(keep_latest=True)
    held = node.delivery(receive(channel=CONSUMER))
    assert node.machine.lose(lambda index: index == 3) == 3
    assert not node.machine.is_live(3)
    assert [node.stats(name).depth for name in (STORE, CONSUMER, "q")] == [0, 0, 0]
    store = node.machine.store(STORE)
    assert store is not None
    assert store.newest_of_key("key") is None
    node.restart()
    node.entry(publish(channel=STORE, runs=(Run(1, group="key"),)))
    assert ranges(node.delivery(receive(channel=CONSUMER, request=2))) == [(2, 2, 1)]
    assert ranges(node.delivery(receive(channel="q", request=3))) == [(2, 2, 1)]
    assert node.result(acked_by(held)) == Acked(1)


# --- what one event costs -------------------------------------------------------------------------------------------------


def test_event_changes_nothing_of_consumers_where_nobody_waits() -> None:
    node = Node()
    node.entry(*(OpenConsumer(STORE, f"c{number}", "new") for number in range(50)), SetBinding("events_store:other", "q"))
    node.machine.changes()
    node.entry(publish(channel=STORE))
    assert len(node.machine.changes()) == 3  # the store, its batch, what is ready there


def test_consumer_takes_no_more_of_a_long_store_than_its_receiver_may_need() -> None:
    node = Node(TINY)
    node.entry(OpenConsumer(STORE, "c", "first"))
    node.entry(*(publish(channel=STORE) for _ in range(20)))
    node.entry(receive(1000, channel=CONSUMER))
    assert (node.stats(CONSUMER).in_flight, node.stats(CONSUMER).unread) == (TINY.taken_records, 20 - TINY.taken_records)


# --- receipts ---------------------------------------------------------------------------------------------------------------


def test_receipts_of_what_a_reset_forgot_are_stale_below_it_and_finished_above() -> None:
    node = Node()
    node.entry(OpenConsumer(STORE, "c", "first"), publish(3, channel=STORE))
    held = node.delivery(receive(3, channel=CONSUMER))
    node.entry(ResetConsumer(STORE, "c", "first"))
    assert isinstance(node.result(acked_by(held)), StaleReceipt)
    again = node.delivery(receive(3, channel=CONSUMER, request=2))
    assert isinstance(node.result(acked_by(held)), StaleReceipt)
    node.entry(ResetConsumer(STORE, "c", "new"))
    assert [node.result(acked_by(one)) for one in (held, again)] == [Acked(3), Acked(3)]
    assert isinstance(node.result(handed(again, publish(channel="q"))), StaleReceipt)
