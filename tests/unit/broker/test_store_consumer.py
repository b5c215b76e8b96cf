"""Durable consumers of events stores, rule by rule; the model has them all at once."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.broker.builders import (
    ALICE,
    BOB,
    MILLISECOND,
    START,
    TINY,
    Node,
    acked_by,
    handed,
    named,
    publish,
    ranges,
    receipts_of,
    receive,
    ruled,
)
from zmqbroker.broker import Machine, MachineLimits
from zmqbroker.broker.store_consumer import StoreConsumer
from zmqbroker.commands import (
    Ack,
    Acked,
    ChannelChanged,
    ChannelSettings,
    Command,
    ConsumerOpened,
    Counted,
    CreateChannel,
    CreateSchedule,
    DeleteChannel,
    DeleteMessages,
    Delivery,
    Extend,
    HandOver,
    Nack,
    OpenConsumer,
    OpenProducer,
    Plan,
    Publish,
    Purge,
    Receipt,
    Receive,
    Redrive,
    Reject,
    Requeue,
    ResetConsumer,
    Run,
    SetDefaults,
    UpdateChannel,
    Waiting,
)
from zmqbroker.errors import (
    Busy,
    ChannelNotFound,
    ConsumerTaken,
    Corruption,
    InvalidRequest,
    PositionGone,
    StaleReceipt,
    Unsupported,
)

STORE, CONSUMER = "events_store:s", "events_store:s>c"


def event(count: int = 1, key: str = "", **said: Any) -> Publish:
    """Events of the store, with a key or without."""
    return publish(count, channel=STORE, runs=(Run(count, group=key),) if key else (), **said)


def opened(start: str = "first", value: int = 0, **said: Any) -> OpenConsumer:
    """The consumer, shared, from the first event on."""
    return OpenConsumer(STORE, said.pop("consumer", "c"), start, value, **({"session": ALICE} | said))


def taken(count_max: int = 100, **said: Any) -> Receive:
    """A receive from the consumer."""
    return receive(count_max, **({"channel": CONSUMER} | said))


def begun(*commands: Command, limits: MachineLimits | None = None, **said: Any) -> Node:
    """A node on which these are done, and then the consumer is opened."""
    node = Node(limits)
    node.entry(*commands, opened(**said))
    return node


def consumer_of(node: Node) -> StoreConsumer:
    consumer = node.machine.channel(CONSUMER)
    assert isinstance(consumer, StoreConsumer)
    return consumer


def spans(delivery: Delivery) -> list[tuple[int, int]]:
    return [(piece.receipt.first, piece.receipt.last) for piece in delivery.pieces]


# --- where it begins --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "value", "position"),
    [
        ("new", 0, 10),
        ("first", 0, 3),
        ("last", 0, 8),
        ("sequence", 3, 3),
        ("sequence", 9, 9),
        ("sequence", 1000, 1000),
        ("time", START + 10 * MILLISECOND, 4),
        ("time", 0, 3),
        ("time", START + 21 * MILLISECOND, 10),
        ("time_delta_ms", 10, 4),
        ("time_delta_ms", 0, 7),
        ("time_delta_ms", 2**63, 3),
    ],
)
def test_consumer_begins_where_it_is_told_to(start: str, value: int, position: int) -> None:
    node = Node()
    node.entry(event(3))
    node.entry(event(3), after_ms=10)
    node.entry(event(3), DeleteMessages(STORE, ((1, 2), (9, 9))), after_ms=10)
    assert node.result(opened(start, value)) == ConsumerOpened(position, True, 3, 9)
    assert node.stats(CONSUMER).position == position


def test_start_is_not_looked_at_when_the_consumer_is_there() -> None:
    node = begun(event(3))
    assert node.result(opened("new")) == ConsumerOpened(1, False, 1, 3)
    assert node.result(opened("sequence", 77, settings=ChannelSettings(max_in_flight=1))) == ConsumerOpened(1, False, 1, 3)
    assert consumer_of(node).settings == ChannelSettings()


def test_start_in_an_empty_store_is_the_next_event() -> None:
    for start in ("new", "first", "last", "time", "time_delta_ms"):
        assert Node().result(opened(start)) == ConsumerOpened(1, True, 1, 0)


def test_sequence_that_is_gone_is_refused_with_the_first_one_and_makes_nothing() -> None:
    node = Node()
    node.entry(event(5), DeleteMessages(STORE, ((1, 3),)))
    result = node.result(opened("sequence", 3))
    assert isinstance(result, PositionGone)
    assert result.first == 4
    assert node.machine.channels() == [STORE]


@pytest.mark.parametrize(("start", "value"), [("sequence", 0), ("middle", 5), ("", 0)])
@pytest.mark.parametrize("kind", [OpenConsumer, ResetConsumer])
def test_start_that_is_no_place_is_refused_by_name(kind: Any, start: str, value: int) -> None:
    node = Node()
    node.entry(event(), opened(consumer="other"))
    if kind is ResetConsumer:
        node.entry(opened())
    result = node.result(kind(STORE, "c", start, value))
    assert isinstance(result, InvalidRequest)
    assert f"start is {start!r} with the value {value}" in str(result)


@pytest.mark.parametrize("store", ["q", "events:s", STORE + ">a", ""])
@pytest.mark.parametrize("kind", [OpenConsumer, ResetConsumer])
def test_what_is_no_store_has_no_consumers(kind: Any, store: str) -> None:
    assert isinstance(Node().result(kind(store, "c", "first")), InvalidRequest)


def test_store_is_made_where_use_makes_it() -> None:
    node = Node()
    node.entry(SetDefaults("events_store:s", {"create_on_use": False}))
    assert isinstance(node.result(opened()), ChannelNotFound)
    assert node.machine.channels() == []
    node.entry(CreateChannel(STORE))
    assert isinstance(node.result(opened()), ConsumerOpened)


def test_store_is_not_made_where_there_is_no_room_for_both() -> None:
    node = Node(TINY)
    node.entry(publish(channel="q"))
    assert isinstance(node.result(opened()), Busy)
    assert node.machine.channels() == ["q"]


@pytest.mark.parametrize(
    "settings",
    [{"max_messages": 3}, {"keep_latest": True}, {"delay_ms": 1}, {"dead_letter": STORE}, {"dead_letter": f"{STORE}>d"}],
)
def test_setting_that_a_consumer_does_not_have_is_refused_by_name(settings: dict[str, Any]) -> None:
    for command in (opened(settings=ChannelSettings(**settings)), UpdateChannel(CONSUMER, ChannelSettings(**settings))):
        result = begun(consumer="d").result(command)
        assert isinstance(result, InvalidRequest)
        assert next(iter(settings)) in str(result)


def test_settings_are_those_that_are_said_and_defaults_that_a_consumer_can_have() -> None:
    node = Node()
    node.entry(SetDefaults(">", {"delivery_limit": 3, "max_in_flight": 9, "max_messages": 5, "dead_letter": STORE}))
    node.entry(opened(settings=ChannelSettings(max_in_flight=2)))
    assert consumer_of(node).settings == ChannelSettings(delivery_limit=3, max_in_flight=2)
    node.entry(DeleteChannel(CONSUMER), opened(explicit=("max_in_flight",)))
    assert consumer_of(node).settings == ChannelSettings(delivery_limit=3)


# --- what it reads ----------------------------------------------------------------------------------------------------


def test_events_come_in_order_under_their_own_sequences_and_stay_in_the_store() -> None:
    node = begun(event(3), event(2))
    delivery = node.delivery(taken(4))
    assert ranges(delivery) == [(1, 3, 1), (4, 4, 1)]
    assert [(piece.index, piece.low) for piece in delivery.pieces] == [(1, 0), (1, 0)]
    assert node.result(acked_by(delivery)) == Acked(4)
    assert (node.stats(CONSUMER).position, node.stats(STORE).ready) == (5, 5)
    assert spans(node.delivery(taken(request=2))) == [(5, 5)]


def test_nothing_is_taken_before_somebody_receives() -> None:
    node = begun(event(3))
    node.entry(event(3))
    assert (node.stats(CONSUMER).depth, node.stats(CONSUMER).unread) == (0, 6)
    touched = {key for key, _ in node.machine.changes()}
    node.entry(event(3))
    assert touched.isdisjoint(key for key, _ in node.machine.changes() if key[1:5] == bytes([0, 0, 0, 2]))


def test_who_waits_is_served_by_the_publish() -> None:
    node = begun()
    node.entry(taken(wait_ms=1000))
    applied = node.entry(event(2))
    assert [spans(delivery) for delivery in applied.deliveries] == [[(1, 2)]]
    assert applied.deliveries[0].pieces[0].receipt.assigning >> 16 == node.index


def test_every_consumer_gets_every_event() -> None:
    node = Node()
    node.entry(*(opened(consumer=name) for name in "abc"))
    node.entry(*(receive(9, channel=f"{STORE}>{name}", wait_ms=1000, request=ord(name)) for name in "abc"))
    applied = node.entry(event(2))
    assert [(delivery.channel, spans(delivery)) for delivery in applied.deliveries] == [
        (f"{STORE}>{name}", [(1, 2)]) for name in "abc"
    ]


def test_members_of_a_shared_consumer_share_the_events() -> None:
    node = begun(event(4))
    deliveries = [node.delivery(taken(2, session=session)) for session in (ALICE, BOB)]
    assert [spans(delivery) for delivery in deliveries] == [[(1, 2)], [(3, 4)]]
    node.close(ALICE)
    assert ranges(node.delivery(taken(session=BOB, request=2))) == [(1, 2, 2)]


def test_holes_in_the_store_are_passed_over() -> None:
    node = begun(event(9), DeleteMessages(STORE, ((3, 4), (9, 9))))
    assert spans(node.delivery(taken())) == [(1, 2), (5, 8)]
    assert (node.stats(CONSUMER).missed, node.stats(CONSUMER).unread) == (0, 0)


def test_wait_for_more_events_than_are_taken_at_once_ends_with_enough() -> None:
    node = Node(TINY)
    node.entry(*(event() for _ in range(9)), opened())
    node.entry(taken(count_min=8, wait_ms=1000))
    assert node.stats(CONSUMER).delivered == 8


def test_receive_that_needs_few_takes_no_more_than_so_many_records() -> None:
    node = Node(TINY)
    node.entry(*(event() for _ in range(9)), opened())
    assert spans(node.delivery(taken(9))) == [(number, number) for number in range(1, 1 + TINY.taken_records)]


def test_max_in_flight_and_single_active_hold_as_in_a_queue() -> None:
    node = begun(event(5), settings=ChannelSettings(max_in_flight=2, single_active=True))
    delivery = node.delivery(taken(wait_ms=1000))
    assert spans(delivery) == [(1, 2)]
    assert node.entry(taken(session=BOB, wait_ms=1000)).deliveries == []
    node.entry(taken(request=2, wait_ms=1000))
    applied = node.entry(acked_by(delivery))
    assert [spans(each) for each in applied.deliveries] == [[(3, 4)]]


def test_auto_ack_finishes_what_is_delivered() -> None:
    node = begun(event(3, "k"))
    applied = node.entry(taken(auto_ack=True), taken(auto_ack=True, request=2))
    assert [spans(delivery) for delivery in applied.deliveries] == [[(1, 1)], [(2, 2)]]
    assert node.stats(CONSUMER).position == 3


def test_event_delivered_too_often_leaves_for_the_dead_letters() -> None:
    node = begun(event(2), settings=ChannelSettings(delivery_limit=1, dead_letter="dead"))
    node.entry(Nack(*named(node.delivery(taken(1)))))
    dead = node.delivery(receive(channel="dead"))
    assert dead.pieces[0].origin is not None
    assert (dead.pieces[0].origin.channel, dead.pieces[0].origin.sequence) == (CONSUMER, 1)
    assert spans(node.delivery(taken())) == [(2, 2)]


def test_dead_letters_of_a_consumer_are_redriven_where_it_is_said_where_to() -> None:
    node = begun(event(2), settings=ChannelSettings(dead_letter="dead"))
    node.entry(Reject(*named(node.delivery(taken()))))
    assert node.result(Redrive("dead")) == Counted(0)
    assert node.result(Redrive("dead", to=STORE)) == Counted(2)
    assert spans(node.delivery(taken(request=2))) == [(3, 4)]


def test_events_are_rejected_requeued_extended_and_handed_over_as_in_a_queue() -> None:
    node = begun(event(4), settings=ChannelSettings(dead_letter="dead"))
    first, second, third, fourth = (node.delivery(taken(1, request=request, visibility_ms=50)) for request in range(1, 5))
    node.entry(Reject(*named(first)), Requeue(*named(second), "q"), handed(third, publish(channel="q")))
    node.entry(Extend(*named(fourth), 1000))
    node.entry(after_ms=500)
    assert (node.stats("dead").ready, node.stats("q").ready, node.stats(CONSUMER).in_flight) == (1, 2, 1)


def test_nack_with_a_delay_comes_again_and_behind_is_refused() -> None:
    node = begun(event(2))
    delivery = node.delivery(taken(1))
    assert isinstance(node.result(Nack(*named(delivery), behind=True)), Unsupported)
    node.entry(Nack(*named(delivery), 50))
    assert spans(node.delivery(taken(request=2))) == [(2, 2)]
    assert (node.stats(CONSUMER).delayed, node.stats(CONSUMER).position) == (1, 1)
    assert ranges(node.delivery(taken(request=3), after_ms=100)) == [(1, 1, 2)]


# --- keys -------------------------------------------------------------------------------------------------------------


def test_events_of_a_key_come_one_at_a_time_where_it_is_shared() -> None:
    node = begun(event(1, "k"), event(1, "k"), event())
    delivery = node.delivery(taken())
    assert spans(delivery) == [(1, 1), (3, 3)]
    node.entry(taken(session=BOB, wait_ms=1000))
    applied = node.entry(acked_by(delivery))
    assert [spans(each) for each in applied.deliveries] == [[(2, 2)]]


def test_events_of_a_key_come_in_order_where_it_is_exclusive() -> None:
    node = begun(event(3, "k"), event(2), exclusive=True)
    assert spans(node.delivery(taken())) == [(1, 3), (4, 5)]


def test_events_taken_for_several_are_in_no_groups_for_one() -> None:
    node = begun(event(3, "k"), event(2))
    node.entry(taken(1, session=BOB))
    node.entry(opened(exclusive=True))
    node.restart()
    assert ranges(node.delivery(taken())) == [(1, 1, 2), (2, 3, 1), (4, 5, 1)]


def test_a_key_of_which_too_many_wait_holds_up_what_is_behind() -> None:
    node = Node(TINY)
    node.entry(*(event(1, "k") for _ in range(4)), event(), opened())
    delivery = node.delivery(taken())
    assert (spans(delivery), node.stats(CONSUMER).parked) == ([(1, 1)], TINY.parked_max)
    node.entry(acked_by(delivery))
    assert spans(node.delivery(taken(request=2))) == [(2, 2)]


# --- retention --------------------------------------------------------------------------------------------------------


def test_what_is_taken_is_safe_from_the_retention_of_the_store() -> None:
    node = ruled(channel=STORE, max_messages=2)
    node.entry(event(), event(), opened())
    delivery = node.delivery(taken())
    node.entry(event(2))
    node.entry(Nack(*named(delivery)))
    assert node.machine.lowest_live_index() == 2
    node.restart()
    again = node.delivery(taken(request=2))
    assert ranges(again) == [(1, 1, 2), (2, 2, 2), (3, 4, 1)]
    node.entry(acked_by(again))
    assert node.machine.lowest_live_index() == 4


def test_what_retention_took_is_counted_as_missed() -> None:
    node = ruled(channel=STORE, max_messages=2)
    node.entry(opened(), event(2), event(2), event(1))
    assert spans(node.delivery(taken())) == [(4, 4), (5, 5)]
    assert node.stats(CONSUMER).missed == 3
    node.restart()
    assert node.stats(CONSUMER).missed == 3


def test_superseded_event_in_flight_stays_its_holders() -> None:
    node = ruled(channel=STORE, keep_latest=True)
    node.entry(event(1, "k"), opened(exclusive=True))
    delivery = node.delivery(taken())
    node.entry(event(1, "k"))
    assert node.result(acked_by(delivery)) == Acked(1)
    assert spans(node.delivery(taken(request=2))) == [(2, 2)]


def test_event_past_its_age_is_not_delivered_again() -> None:
    node = ruled(channel=STORE, max_age_ms=100)
    node.entry(event(), opened())
    delivery = node.delivery(taken())
    node.entry(event(), after_ms=200)
    node.entry(Nack(*named(delivery)))
    assert spans(node.delivery(taken(request=2))) == [(2, 2)]
    assert node.stats(CONSUMER).expired == 1


# --- exclusive --------------------------------------------------------------------------------------------------------


def test_another_reader_of_an_exclusive_consumer_is_refused_whatever_it_wants() -> None:
    node = begun(event(3), exclusive=True, number=7)
    delivery = node.delivery(taken(1, consumer=7))
    held = (BOB, CONSUMER, receipts_of(delivery))
    refused: list[Command] = [
        taken(session=BOB, consumer=7),
        taken(consumer=8),
        Ack(*held),
        Nack(*held),
        Reject(*held),
        Requeue(*held, "q"),
        Extend(*held, 5),
        HandOver(*held, (publish(channel="q"),)),
    ]
    for command in refused:
        assert isinstance(node.result(command), ConsumerTaken), command
    assert node.result(acked_by(delivery)) == Acked(1)


def test_who_takes_over_goes_on_exactly_at_the_last_ack() -> None:
    node = begun(event(9), exclusive=True)
    done, held = node.delivery(taken(2)), node.delivery(taken(3, request=2))
    node.entry(taken(request=3, count_min=50, wait_ms=9000), acked_by(done))
    applied = node.entry(opened(exclusive=True, session=BOB))
    assert applied.results == [ConsumerOpened(3, False, 1, 9)]
    assert [(delivery.key.request, delivery.pieces) for delivery in applied.deliveries] == [(3, ())]
    assert ranges(node.delivery(taken(session=BOB))) == [(3, 5, 2), (6, 9, 1)]
    assert isinstance(node.result(acked_by(held)), ConsumerTaken)
    assert not node.machine.holds(ALICE)


def test_reader_that_opens_again_keeps_what_it_holds() -> None:
    node = begun(event(3), exclusive=True)
    delivery = node.delivery(taken(2))
    assert node.result(opened(exclusive=True)) == ConsumerOpened(1, False, 1, 3)
    assert node.result(acked_by(delivery)) == Acked(2)


def test_another_consumer_number_of_the_same_session_takes_over() -> None:
    node = begun(event(3), exclusive=True, number=1)
    delivery = node.delivery(taken(2, consumer=1))
    node.entry(opened(exclusive=True, number=2))
    assert ranges(node.delivery(taken(consumer=2))) == [(1, 2, 2), (3, 3, 1)]
    assert isinstance(node.result(acked_by(delivery)), StaleReceipt)


def test_owner_survives_a_restart_and_ends_when_it_is_opened_for_all() -> None:
    node = begun(event(3), exclusive=True)
    node.restart()
    assert isinstance(node.result(taken(session=BOB)), ConsumerTaken)
    node.entry(opened(session=BOB))
    node.restart()
    assert node.result(taken(session=BOB)) == Waiting()


def test_who_is_active_is_so_no_more_when_another_takes_over() -> None:
    node = begun(event(3), settings=ChannelSettings(single_active=True))
    node.entry(taken(1))
    node.entry(opened(exclusive=True, session=BOB))
    assert ranges(node.delivery(taken(session=BOB))) == [(1, 1, 2), (2, 3, 1)]
    assert node.stats(CONSUMER).active == (BOB, 0)


# --- reset ------------------------------------------------------------------------------------------------------------


def test_reset_reads_again_what_was_acked_and_old_receipts_are_stale() -> None:
    node = begun(event(5))
    acked, held = node.delivery(taken(2)), node.delivery(taken(1, request=2))
    node.entry(acked_by(acked))
    assert node.result(ResetConsumer(STORE, "c", "sequence", 2)) == ConsumerOpened(2, False, 1, 5)
    assert isinstance(node.result(acked_by(held)), StaleReceipt)
    again = node.delivery(taken(request=3))
    assert ranges(again) == [(2, 5, 1)]
    assert isinstance(node.result(acked_by(held)), StaleReceipt)
    assert node.result(acked_by(again)) == Acked(4)
    assert node.stats(CONSUMER).dropped == 3


def test_reset_forward_passes_over_what_was_not_read() -> None:
    node = begun(event(5))
    node.entry(ResetConsumer(STORE, "c", "new"))
    assert node.delivery(taken()).pieces == ()
    assert node.stats(CONSUMER).position == 6


def test_reset_serves_who_waits() -> None:
    node = begun(event(2), start="new")
    node.entry(taken(wait_ms=1000))
    applied = node.entry(ResetConsumer(STORE, "c", "last"))
    assert applied.results == [ConsumerOpened(2, False, 1, 2)]
    assert [spans(delivery) for delivery in applied.deliveries] == [[(2, 2)]]


def test_reset_of_what_left_for_other_channels_reads_it_again() -> None:
    node = begun(event(1))
    node.entry(Requeue(*named(node.delivery(taken())), "q"))
    node.entry(ResetConsumer(STORE, "c", "first"))
    delivery = node.delivery(taken(request=2))
    assert node.result(acked_by(delivery)) == Acked(1)


def test_reset_to_what_is_gone_changes_nothing() -> None:
    node = begun(event(5), DeleteMessages(STORE, ((1, 2),)), start="sequence", value=4)
    result = node.result(ResetConsumer(STORE, "c", "sequence", 2))
    assert isinstance(result, PositionGone)
    assert (result.first, node.stats(CONSUMER).position) == (3, 4)


def test_reset_of_a_consumer_that_is_not_there_is_refused() -> None:
    assert isinstance(Node().result(ResetConsumer(STORE, "c", "first")), ChannelNotFound)


# --- as a channel -----------------------------------------------------------------------------------------------------


def test_receive_does_not_make_a_consumer() -> None:
    node = Node()
    assert isinstance(node.result(taken()), ChannelNotFound)
    assert isinstance(node.result(Ack(ALICE, CONSUMER, (Receipt(1, 1, 1),))), ChannelNotFound)


@pytest.mark.parametrize(
    "command",
    [
        publish(channel=CONSUMER),
        OpenProducer(CONSUMER, 1),
        CreateChannel(CONSUMER),
        Purge(CONSUMER),
        DeleteMessages(CONSUMER, ((1, 1),)),
        Redrive(CONSUMER, "q"),
    ],
    ids=lambda command: type(command).__name__,
)
@pytest.mark.parametrize("is_there", [False, True])
def test_what_nobody_does_with_a_consumer_is_refused_by_name(command: Command, is_there: bool) -> None:
    node = begun() if is_there else Node()
    result = node.result(command)
    assert isinstance(result, Unsupported)
    assert CONSUMER in str(result)


def test_nothing_is_moved_handed_over_or_sent_by_a_schedule_to_a_consumer() -> None:
    node = begun(event(2))
    delivery = node.delivery(taken(1))
    for command in (Requeue(*named(delivery), CONSUMER), handed(delivery, publish(channel=CONSUMER))):
        assert isinstance(node.result(command), Unsupported)
    assert isinstance(node.result(handed(delivery, publish(channel=f"{STORE}>new"))), Unsupported)
    assert isinstance(node.result(CreateSchedule("s", Plan(every_ms=1000), publish(channel=CONSUMER), 1)), Unsupported)
    assert list(node.machine.schedules()) == []
    assert node.result(acked_by(delivery)) == Acked(1)


def test_deleted_consumer_frees_what_it_took_and_begins_anew() -> None:
    node = ruled(channel=STORE, max_messages=1)
    node.entry(event(), opened())
    node.entry(taken(wait_ms=1000), taken(count_min=9, wait_ms=1000, request=2))
    node.entry(event())
    applied = node.entry(DeleteChannel(CONSUMER))
    assert applied.results == [ChannelChanged(CONSUMER, changed=True, deleted=True)]
    assert [delivery.pieces for delivery in applied.deliveries] == [()]
    assert (node.machine.lowest_live_index(), node.machine.consumers(STORE)) == (4, [])
    assert node.result(opened("new")) == ConsumerOpened(3, True, 2, 2)


def test_deleted_store_takes_its_consumers_along() -> None:
    node = begun(event(3))
    node.entry(opened(consumer="d"), taken(1), taken(count_min=5, wait_ms=1000, request=2))
    stored = dict(node.machine.changes())
    applied = node.entry(DeleteChannel(STORE))
    assert [delivery.pieces for delivery in applied.deliveries] == [()]
    assert node.machine.channels() == []
    assert (list(node.machine.sessions()), node.machine.lowest_live_index()) == ([], None)
    for key, value in node.machine.changes():
        if value is None:
            del stored[key]
        else:
            stored[key] = value
    assert sorted(stored.items()) == node.machine.items()


def test_lost_bodies_are_lost_to_consumers_too() -> None:
    node = begun(event(2))
    node.entry(event(2))
    delivery = node.delivery(taken(3))
    assert node.machine.lose(lambda index: index == 1) == 4
    assert node.result(acked_by(delivery)) == Acked(3)
    assert spans(node.delivery(taken(request=2))) == [(4, 4)]


def test_consumers_are_told_by_name() -> None:
    node = Node()
    node.entry(opened(consumer="b"), opened(consumer="a"))
    assert [consumer.name for consumer in node.machine.consumers(STORE)] == [f"{STORE}>a", f"{STORE}>b"]
    assert node.machine.consumers("q") == []
    assert node.machine.store(CONSUMER) is None


def test_place_is_described_and_one_of_a_queue_or_without_a_store_cannot_be_read() -> None:
    node = begun()
    (place,) = (key for key, _ in node.machine.items() if key[0] == 15)
    assert node.machine.describe(place) == f"place of a consumer 0 of channel {CONSUMER!r}"
    without = [(key, value) for key, value in node.machine.items() if key[1:5] != bytes([0, 0, 0, 1])]
    queue = [*ruled().machine.items(), (bytes([15, 0, 0, 0, 1]) + bytes(8), b"\x93\xc4\x00\x00\x00")]
    for items in (without, queue):
        with pytest.raises(Corruption):
            Machine.restore(node.index, items)
