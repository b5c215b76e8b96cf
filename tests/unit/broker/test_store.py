"""Events stores: what they keep, what they refuse, and what readers ask of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.unit.broker.builders import ALICE, MILLISECOND, START, Node, handed, publish, receive, ruled, scheduled
from zmqbroker.broker.peeking import peek
from zmqbroker.broker.ranges import RangeMap
from zmqbroker.broker.store import EventsStore
from zmqbroker.commands import (
    Ack,
    ChannelChanged,
    ChannelSettings,
    Command,
    CreateChannel,
    DeleteChannel,
    DeleteMessages,
    Extend,
    HandOver,
    Nack,
    OpenProducer,
    Publish,
    Published,
    Purge,
    Receipt,
    Redrive,
    Reject,
    Requeue,
    Run,
    Said,
    SetDefaults,
    UpdateChannel,
)
from zmqbroker.errors import ChannelExists, ChannelFull, Duplicate, InvalidRequest, SequenceMismatch, Unsupported

STORE = "events_store:s"
HELD = (ALICE, STORE, (Receipt(1, 1, 1),))


def event(count: int = 1, key: str = "", **said: Any) -> Publish:
    """Events of the store, with a key or without."""
    runs = (Run(count, group=key),) if key else ()
    return publish(count, channel=STORE, **({"runs": runs} | said))


def kept(**settings: Any) -> Node:
    """A node with the store, which has these settings."""
    return ruled(channel=STORE, **settings)


def store_of(node: Node) -> EventsStore:
    store = node.machine.store(STORE)
    assert store is not None
    return store


def sequences(node: Node) -> list[int]:
    """Of all events that are there."""
    pieces = peek(store_of(node), 1, 0, 1000, 1 << 20)
    return [sequence for piece in pieces for sequence in range(piece.receipt.first, piece.receipt.last + 1)]


# --- what is stored ---------------------------------------------------------------------------------------------------


def test_events_are_kept_in_order_until_something_drops_them() -> None:
    node = Node()
    node.entry(event(3), event(2))
    assert sequences(node) == [1, 2, 3, 4, 5]
    assert (node.stats(STORE).ready, node.stats(STORE).last_sequence) == (5, 5)
    node.restart()
    assert sequences(node) == [1, 2, 3, 4, 5]


def test_producers_are_exact_and_sequences_expected_as_in_a_queue() -> None:
    node = Node()
    node.entry(OpenProducer(STORE, 7), event(2, producer=7, base=1))
    assert node.result(event(2, producer=7, base=1)) == Published(1, 2, True, START)
    assert isinstance(node.result(event(expected_sequence=1)), SequenceMismatch)
    assert isinstance(node.result(event(expected_sequence=2)), Published)
    assert not isinstance(node.result(event(producer=7, base=3)), Duplicate)
    assert sequences(node) == [1, 2, 3, 4]


def test_ids_within_the_window_are_stored_once() -> None:
    node = kept(dedup_window_ms=1000)
    node.entry(event(2, ids=[b"a", b"b"]))
    node.entry(event(2, ids=[b"b", b"c"]))
    assert sequences(node) == [1, 2, 4]


def test_priorities_do_not_change_the_order() -> None:
    node = Node()
    node.entry(event(2, runs=(Run(1), Run(1, priority=9))))
    assert [batch.value.priority for batch in store_of(node).batches] == [0, 0]


def test_keys_park_no_event() -> None:
    node = Node()
    node.entry(event(2, "k"), event(1, "k"))
    node.restart()
    assert (node.stats(STORE).ready, node.stats(STORE).parked) == (3, 0)


def test_schedule_stores_an_event_when_it_is_due() -> None:
    node = Node()
    node.entry(scheduled(channel=STORE, every_ms=1000))
    node.entry(after_ms=1000)
    assert sequences(node) == [1]


def test_event_with_a_delay_is_refused_and_named() -> None:
    node = Node()
    assert "delay_ms 5" in str(node.result(event(3, runs=(Run(2), Run(1, delay_ms=5)))))
    assert node.machine.store(STORE) is None
    delayed = scheduled(channel=STORE, runs=(Run(1, delay_ms=5),), every_ms=1000)
    assert "make a schedule" in str(node.result(delayed))


def test_what_is_requeued_into_a_store_has_no_earlier_time_than_what_is_there() -> None:
    node = Node()
    node.entry(publish(channel="q"))
    node.entry(event(), after_ms=5)
    delivery = node.delivery(receive(channel="q"))
    node.entry(Requeue(ALICE, "q", (delivery.pieces[0].receipt,), STORE), after_ms=5)
    assert sequences(node) == [1, 2]
    assert [batch.value.time_unix_ns for batch in store_of(node).batches] == [START + 5 * MILLISECOND] * 2


def test_hand_over_publishes_an_event() -> None:
    node = Node()
    node.entry(publish(channel="q"))
    delivery = node.delivery(receive(channel="q"))
    assert isinstance(node.result(handed(delivery, event(runs=(Run(1, delay_ms=5),)))), InvalidRequest)
    node.entry(handed(delivery, event()))
    assert sequences(node) == [1]


# --- retention --------------------------------------------------------------------------------------------------------


def test_oldest_events_are_dropped_by_count_unless_it_is_to_reject() -> None:
    node = kept(max_messages=3)
    node.entry(event(2), event(2))
    assert sequences(node) == [2, 3, 4]
    node.entry(UpdateChannel(STORE, ChannelSettings(max_messages=3), ("overflow",)))
    assert isinstance(node.result(event()), ChannelFull)
    node.entry(UpdateChannel(STORE, ChannelSettings(max_messages=3)))
    assert isinstance(node.result(event()), Published)


def test_oldest_events_are_dropped_by_bytes() -> None:
    node = kept(max_bytes=2000)
    node.entry(event(2), event(2), event(2))
    assert sequences(node) == [3, 4, 5, 6]


def test_oldest_events_are_dropped_by_age() -> None:
    node = kept(max_age_ms=1000)
    node.entry(event())
    node.entry(event(), after_ms=600)
    node.entry(after_ms=600)
    assert sequences(node) == [2]


def test_purge_and_delete_work_as_in_a_queue() -> None:
    node = Node()
    node.entry(event(5), DeleteMessages(STORE, ((2, 3),)))
    assert sequences(node) == [1, 4, 5]
    node.entry(Purge(STORE))
    assert (sequences(node), store_of(node).first_sequence) == ([], 6)


def test_entries_of_lost_bodies_are_dropped() -> None:
    node = kept(keep_latest=True)
    node.entry(event(1, "k"))
    node.entry(event(1, "h"))
    assert node.machine.lose(lambda index: index == 2) == 1
    assert (sequences(node), store_of(node).newest_of_key("k")) == ([2], None)


# --- keys -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("restarting", [False, True])
def test_newest_event_of_a_key_is_all_that_is_kept(restarting: bool) -> None:
    node = kept(keep_latest=True)
    node.entry(event(3, "k"), event(1, "h"), event())
    assert sequences(node) == [3, 4, 5]
    if restarting:
        node.restart()
    assert (store_of(node).newest_of_key("k"), store_of(node).newest_of_key("h")) == (3, 4)
    node.entry(event(1, "k"))
    assert (sequences(node), store_of(node).newest_of_key("k")) == ([4, 5, 6], 6)
    assert node.stats(STORE).dropped == 3


def test_key_whose_newest_event_is_gone_has_none() -> None:
    node = kept(keep_latest=True)
    node.entry(event(1, "k"), DeleteMessages(STORE, ((1, 1),)))
    assert store_of(node).newest_of_key("k") is None
    node.entry(event(1, "k"))
    assert (sequences(node), store_of(node).newest_of_key("k")) == ([2], 2)


def test_without_the_setting_no_key_is_looked_up() -> None:
    node = Node()
    node.entry(event(1, "k"), event(1, "k"))
    assert (sequences(node), store_of(node).newest_of_key("k")) == ([1, 2], None)


def test_setting_is_made_while_the_store_is_empty_and_ended_at_any_time() -> None:
    node = Node()
    node.entry(event(1, "k"))
    wanted = UpdateChannel(STORE, ChannelSettings(keep_latest=True))
    assert "purge it first" in str(node.result(wanted))
    node.entry(Purge(STORE))
    assert node.result(wanted) == ChannelChanged(STORE, True)
    node.entry(event(1, "k"))
    assert node.result(wanted) == ChannelChanged(STORE, False)
    node.entry(UpdateChannel(STORE, ChannelSettings()), event(1, "k"))
    assert (sequences(node), store_of(node).newest_of_key("k")) == ([2, 3], None)


# --- what readers ask -------------------------------------------------------------------------------------------------


def test_empty_store_says_that_the_next_event_is_its_first() -> None:
    node = kept()
    store = store_of(node)
    assert (store.first_sequence, store.last_sequence, store.newest(), store.since(0)) == (1, 0, None, 1)


def test_first_and_last_sequences_are_those_of_events_that_are_there() -> None:
    node = Node()
    node.entry(event(5), DeleteMessages(STORE, ((1, 2), (5, 5))))
    store = store_of(node)
    assert (store.first_sequence, store.last_sequence, store.newest()) == (3, 5, 4)


def test_first_event_at_an_instant_or_later_is_found() -> None:
    node = Node()
    node.entry(event(3))
    node.entry(event(3), after_ms=10)
    node.entry(event(3), after_ms=10)
    node.entry(DeleteMessages(STORE, ((4, 4), (9, 9))))
    since = [store_of(node).since(START + ms * MILLISECOND) for ms in (-1, 0, 1, 10, 11, 20, 21)]
    assert since == [1, 1, 5, 5, 7, 7, 10]


def test_instant_is_found_among_many_records_without_looking_at_all() -> None:
    node = Node()
    for _ in range(1200):
        node.entry(event(), after_ms=1)
    asked: list[int] = []

    def holds(record: Any) -> bool:
        asked.append(record.index)
        return bool(record.time_unix_ns >= START + 700 * MILLISECOND)

    found = store_of(node).batches.first_where(holds)
    assert found is not None
    assert (found.first, store_of(node).since(START + 700 * MILLISECOND)) == (700, 700)
    assert len(asked) < 20


def test_peek_looks_at_few_of_many_records(monkeypatch: pytest.MonkeyPatch) -> None:
    node = Node()
    for _ in range(300):
        node.entry(event())
    asked: list[int] = []

    def counted(batches: RangeMap[Any], first: int) -> Iterator[Any]:
        for batch in upward(batches, first):
            asked.append(batch.first)
            yield batch

    upward = RangeMap.upward
    monkeypatch.setattr(RangeMap, "upward", counted)
    assert [piece.receipt.first for piece in peek(store_of(node), 7, 0, 3, 1 << 20)] == [7, 8, 9]
    assert len(asked) < 6


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [
        receive(channel=STORE),
        Ack(*HELD),
        Nack(*HELD),
        Reject(*HELD),
        Requeue(*HELD, "q"),
        Extend(*HELD, 1000),
        HandOver(*HELD, (publish(channel="q"),)),
    ],
    ids=lambda command: type(command).__name__,
)
@pytest.mark.parametrize("is_there", [False, True])
def test_what_only_receivers_do_is_refused_by_name(command: Command, is_there: bool) -> None:
    node = Node()
    if is_there:
        node.entry(event())
    result = node.result(command)
    assert isinstance(result, Unsupported)
    assert "read it, or receive from a consumer of it" in str(result)
    assert node.machine.channels() == ([STORE] if is_there else [])


def test_redrive_from_a_store_is_refused_by_name() -> None:
    node = kept()
    assert isinstance(node.result(Redrive(STORE, "q")), Unsupported)


@pytest.mark.parametrize(
    ("channel", "settings"),
    [
        (STORE, {"delay_ms": 5}),
        (STORE, {"dead_letter": "d"}),
        (STORE, {"delivery_limit": 5}),
        (STORE, {"max_in_flight": 5}),
        (STORE, {"single_active": True}),
        (STORE, {"overflow": "dead_letter"}),
        ("q", {"keep_latest": True}),
        ("q", {"dead_letter": f"{STORE}>c"}),
    ],
)
@pytest.mark.parametrize("kind", [CreateChannel, UpdateChannel])
def test_setting_that_a_channel_of_its_kind_does_not_have_is_refused_by_name(
    channel: str, settings: dict[str, Any], kind: Any
) -> None:
    node = ruled(channel=channel)
    result = node.result(kind(channel, ChannelSettings(**settings)))
    assert isinstance(result, InvalidRequest)
    assert f"setting {next(iter(settings))} is" in str(result)


def test_create_with_the_defaults_of_a_store_changes_nothing() -> None:
    node = kept()
    assert store_of(node).settings == ChannelSettings(overflow="drop_oldest")
    assert node.result(CreateChannel(STORE)) == ChannelChanged(STORE, False)
    assert isinstance(node.result(CreateChannel(STORE, ChannelSettings(), ("overflow",))), ChannelExists)


def test_defaults_by_pattern_give_a_store_what_it_can_have() -> None:
    node = Node()
    said: Said = {"max_messages": 9, "delay_ms": 5, "overflow": "dead_letter", "dead_letter": "d", "keep_latest": True}
    node.entry(SetDefaults(">", said), event(), publish(channel="q"))
    assert store_of(node).settings == ChannelSettings(max_messages=9, overflow="drop_oldest", keep_latest=True)
    queue = node.machine.channel("q")
    assert queue is not None
    assert queue.settings == ChannelSettings(max_messages=9, delay_ms=5, overflow="dead_letter", dead_letter="d")


def test_store_that_is_deleted_begins_anew() -> None:
    node = Node()
    node.entry(event(3), DeleteChannel(STORE))
    assert node.machine.store(STORE) is None
    assert node.machine.lowest_live_index() is None
    node.entry(event())
    assert sequences(node) == [1]
