"""Channels that are full, and how many messages may be in flight."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.unit.broker.builders import (
    ALICE,
    BOB,
    acked_by,
    describe,
    named,
    origins,
    publish,
    ranges,
    receipts_of,
    receive,
    ruled,
    settings_of,
)
from zmqbroker.broker import MachineLimits
from zmqbroker.commands import (
    ChannelSettings,
    Command,
    Extend,
    Nack,
    OpenProducer,
    Origin,
    Published,
    Purge,
    Reject,
    Requeue,
    Result,
    Run,
    Tick,
    UpdateChannel,
)
from zmqbroker.errors import ChannelFull


def is_full(result: Result, **fields: int) -> bool:
    return describe(result) == (ChannelFull, {"depth": 0, "size_bytes": 0, "max_messages": 0, "max_bytes": 0} | fields)


# --- reject -----------------------------------------------------------------------------------------------------------


def test_full_channel_refuses_the_whole_batch() -> None:
    node = ruled(max_messages=5)
    node.entry(publish(4))
    assert is_full(node.result(publish(2)), depth=4, size_bytes=1000, max_messages=5)
    assert node.published(publish(1)).first_sequence == 5
    assert node.stats().last_sequence == 5


def test_full_channel_in_bytes_refuses() -> None:
    node = ruled(max_bytes=2500)
    node.entry(publish(4), publish(4))
    assert is_full(node.result(publish(1)), depth=8, size_bytes=2000, max_bytes=2500)
    assert isinstance(node.result(publish(1, size=500)), Published)


def test_full_channel_has_room_again_when_messages_are_acked() -> None:
    node = ruled(max_messages=4)
    node.entry(publish(4))
    delivery = node.delivery(receive(2))
    assert isinstance(node.result(publish(1)), ChannelFull), "what is in flight counts"
    node.entry(acked_by(delivery))
    assert isinstance(node.result(publish(2)), Published)


def test_refused_batch_of_a_producer_may_be_sent_again() -> None:
    node = ruled(max_messages=2)
    node.entry(OpenProducer("c", 7))
    assert isinstance(node.result(publish(2, producer=7, base=1)), Published)
    assert isinstance(node.result(publish(1, producer=7, base=3)), ChannelFull)
    node.ack_all([node.delivery(receive(1))])
    assert describe(node.result(publish(1, producer=7, base=3))) == Published(3, 1, False, node.now_unix_ns)


def test_repeat_of_a_stored_batch_is_answered_by_a_full_channel() -> None:
    node = ruled(max_messages=2)
    node.entry(OpenProducer("c", 7), publish(2, producer=7, base=1))
    assert node.result(publish(2, producer=7, base=1)) == Published(1, 2, True, node.now_unix_ns)


def test_full_counts_delayed_messages() -> None:
    node = ruled(max_messages=2)
    node.entry(publish(2, runs=(Run(2, delay_ms=10),)))
    assert is_full(node.result(publish(1)), depth=2, size_bytes=1000, max_messages=2)


# --- drop_oldest ------------------------------------------------------------------------------------------------------


def test_drop_oldest_drops_as_many_as_needed() -> None:
    node = ruled(max_messages=5, overflow="drop_oldest")
    node.entry(publish(4))
    assert node.published(publish(3)).first_sequence == 5
    assert (node.stats().depth, node.stats().dropped) == (5, 2)
    assert ranges(node.delivery(receive(9))) == [(3, 4, 1), (5, 7, 1)]


def test_drop_oldest_in_bytes_drops_whole_batches() -> None:
    node = ruled(max_bytes=2500, overflow="drop_oldest")
    node.entry(publish(4), publish(4))
    node.entry(publish(4))
    assert (node.stats().depth, node.stats().size_bytes, node.stats().dropped) == (8, 2000, 4)


def test_drop_oldest_drops_nothing_that_is_in_flight_or_delayed_and_nothing_for_what_does_not_fit_beside_it() -> None:
    node = ruled(max_messages=4, overflow="drop_oldest")
    node.entry(publish(4, runs=(Run(3), Run(1, delay_ms=1000))))
    node.delivery(receive(2))
    assert is_full(node.result(publish(2)), depth=4, size_bytes=node.stats().size_bytes, max_messages=4)
    assert (node.stats().in_flight, node.stats().delayed, node.stats().ready, node.stats().dropped) == (2, 1, 1, 0)
    node.published(publish(1))
    assert (node.stats().in_flight, node.stats().delayed, node.stats().ready, node.stats().dropped) == (2, 1, 1, 1)


def test_drop_oldest_leaves_a_delayed_message_where_it_is_between_ready_ones() -> None:
    node = ruled(max_messages=3, overflow="drop_oldest")
    node.entry(publish(3))
    (receipt,) = receipts_of(node.delivery(receive(2)))
    middle = (replace(receipt, first=2),)
    node.entry(Nack(ALICE, "c", middle, delay_ms=1000))
    node.close(ALICE)
    node.entry(publish(2))
    assert (node.stats().dropped, node.stats().ready, node.stats().delayed) == (2, 2, 1)


def test_bytes_that_messages_in_flight_take_are_refused_and_not_exceeded() -> None:
    node = ruled(max_bytes=1000, overflow="drop_oldest")
    node.entry(publish(1, size=600))
    node.delivery(receive(1))
    assert is_full(node.result(publish(1, size=500)), depth=1, size_bytes=600, max_bytes=1000)
    node.published(publish(1, size=400))


def test_drop_oldest_drops_by_age_and_not_by_priority() -> None:
    node = ruled(max_messages=2, overflow="drop_oldest")
    node.entry(publish(2, runs=(Run(1, priority=9), Run(1))))
    node.entry(publish(1))
    assert ranges(node.delivery(receive(9))) == [(2, 2, 1), (3, 3, 1)]


@pytest.mark.parametrize("overflow", ["drop_oldest", "dead_letter"])
@pytest.mark.parametrize("bound", [{"max_messages": 3}, {"max_bytes": 999}])
def test_batch_that_can_never_fit_is_refused_and_nothing_gives_way(overflow: str, bound: dict[str, Any]) -> None:
    node = ruled(overflow=overflow, dead_letter="dead", **bound)
    node.entry(publish(2, size=500))
    assert is_full(node.result(publish(4)), depth=2, size_bytes=500, **bound)
    assert (node.stats().depth, node.stats().dropped, node.machine.channels()) == (2, 0, ["c"])


@pytest.mark.parametrize("overflow", ["drop_oldest", "dead_letter"])
@pytest.mark.parametrize("bound", [{"max_messages": 4}, {"max_bytes": 1000}])
def test_batch_that_fits_exactly_takes_the_place_of_all(overflow: str, bound: dict[str, Any]) -> None:
    node = ruled(overflow=overflow, dead_letter="dead", **bound)
    node.entry(publish(2, size=500))
    assert node.published(publish(4, size=1000)).first_sequence == 3
    assert (node.stats().depth, node.stats().dropped + node.stats().dead_lettered) == (4, 2)


# --- dead_letter ------------------------------------------------------------------------------------------------------


def test_overflow_to_the_dead_letter_channel_moves_the_oldest() -> None:
    node = ruled(max_messages=5, overflow="dead_letter", dead_letter="dead")
    node.entry(publish(4))
    node.entry(publish(3))
    assert (node.stats().depth, node.stats().dead_lettered, node.stats().dropped) == (5, 2, 0)
    dead = node.delivery(receive(9, channel="dead"))
    assert (ranges(dead), origins(dead)) == ([(1, 2, 1)], [Origin("c", 1, 0, "overflow")])


def test_refused_batch_that_has_dead_lettered_others_serves_who_waits_for_them() -> None:
    node = ruled(max_bytes=1000, overflow="dead_letter", dead_letter="dead")
    node.entry(publish(2, size=900))
    node.entry(receive(1), receive(1, session=BOB, channel="dead", wait_ms=1_000))
    applied = node.entry(publish(1, size=500))
    assert is_full(applied.results[0], depth=1, size_bytes=900, max_bytes=1000)
    assert [(delivery.key.session, ranges(delivery)) for delivery in applied.deliveries] == [(BOB, [(1, 1, 1)])]


def test_overflow_to_the_dead_letter_channel_serves_who_waits_on_either() -> None:
    node = ruled(max_messages=2, overflow="dead_letter", dead_letter="dead")
    node.entry(publish(2))
    node.entry(receive(session=BOB, channel="dead", wait_ms=1000))
    node.entry(receive(3, count_min=3, wait_ms=1000))
    delivery = node.delivery(publish(1))
    assert (delivery.channel, ranges(delivery)) == ("dead", [(1, 1, 1)])


def test_overflow_that_moves_some_and_refuses_all_the_same_serves_who_waits_for_what_moved() -> None:
    node = ruled(max_bytes=12, overflow="dead_letter", dead_letter="dead")
    node.entry(publish(size=9))
    node.entry(receive(), publish(size=3))
    node.entry(receive(channel="dead", wait_ms=1000, session=BOB))
    applied = node.entry(publish(size=9))
    assert isinstance(applied.results[0], ChannelFull)
    assert [ranges(delivery) for delivery in applied.deliveries] == [[(1, 1, 1)]]


def test_overflow_refuses_where_no_dead_letter_channel_can_be_made() -> None:
    node = ruled(MachineLimits(channels_max=1), max_messages=2, overflow="dead_letter", dead_letter="dead")
    node.entry(publish(2))
    assert is_full(node.result(publish(1)), depth=2, size_bytes=1000, max_messages=2)
    assert ranges(node.delivery(receive(9))) == [(1, 2, 1)]


def test_bounds_lower_than_what_is_there_take_nothing_away() -> None:
    node = ruled()
    node.entry(publish(9))
    node.entry(UpdateChannel("c", ChannelSettings(max_messages=3)))
    assert node.stats().depth == 9
    assert isinstance(node.result(publish()), ChannelFull)


def test_what_comes_from_other_channels_is_never_refused() -> None:
    node = ruled(channel="d", max_messages=1)
    node.entry(publish(3))
    node.entry(Requeue(*named(node.delivery(receive(3))), to="d"))
    assert node.stats("d").depth == 3


def test_bounds_survive_a_restart() -> None:
    node = ruled(max_messages=1, overflow="drop_oldest")
    node.restart()
    assert settings_of(node.machine) == ChannelSettings(max_messages=1, overflow="drop_oldest")
    node.entry(publish(), publish())
    assert node.stats().depth == 1


# --- max_in_flight ----------------------------------------------------------------------------------------------------


def test_max_in_flight_bounds_what_all_receivers_hold_together() -> None:
    node = ruled(max_in_flight=3)
    node.entry(publish(9))
    assert ranges(node.delivery(receive(2))) == [(1, 2, 1)]
    assert ranges(node.delivery(receive(9, session=BOB))) == [(3, 3, 1)]
    assert ranges(node.delivery(receive(9, session=BOB, request=2))) == []
    assert (node.stats().in_flight, node.stats().ready) == (3, 6)


@pytest.mark.parametrize("how", ["ack", "nack", "nack later", "reject", "requeue", "purge", "close", "timeout", "update"])
def test_max_in_flight_serves_who_waits_as_soon_as_there_is_room(how: str) -> None:
    node = ruled(max_in_flight=1, dead_letter="dead")
    node.entry(publish(2))
    delivery = node.delivery(receive(visibility_ms=100))
    assert node.entry(receive(session=BOB, wait_ms=10_000)).deliveries == []
    if how == "close":
        (given,) = node.close(ALICE).deliveries
    elif how == "purge":
        assert node.entry(Purge("c", in_flight=True)).deliveries == []
        (given,) = node.entry(publish()).deliveries
    else:
        commands: dict[str, Command] = {
            "ack": acked_by(delivery),
            "nack": Nack(*named(delivery)),
            "nack later": Nack(*named(delivery), delay_ms=1000),
            "reject": Reject(*named(delivery)),
            "requeue": Requeue(*named(delivery), to="d"),
            "timeout": Tick(),
            "update": UpdateChannel("c", ChannelSettings(max_in_flight=2)),
        }
        given = node.delivery(commands[how], after_ms=100 if how == "timeout" else 0)
    assert given.key.session == BOB
    assert len(given.pieces) == 1


def test_max_in_flight_counts_what_was_extended() -> None:
    node = ruled(max_in_flight=1)
    node.entry(publish(2))
    node.entry(Extend(*named(node.delivery(receive())), visibility_ms=1000))
    assert ranges(node.delivery(receive(session=BOB))) == []


def test_max_in_flight_below_what_is_held_takes_nothing_away() -> None:
    node = ruled()
    node.entry(publish(4))
    delivery = node.delivery(receive(3))
    node.entry(UpdateChannel("c", ChannelSettings(max_in_flight=1)))
    assert ranges(node.delivery(receive(session=BOB))) == []
    node.entry(acked_by(delivery))
    assert ranges(node.delivery(receive(session=BOB, request=2))) == [(4, 4, 1)]


def test_max_in_flight_below_the_count_that_a_receive_needs_ends_its_wait_with_what_may_be_held() -> None:
    node = ruled(max_in_flight=2)
    node.entry(publish(5))
    assert node.entry(receive(5, count_min=5, wait_ms=20)).deliveries == []
    assert ranges(node.delivery(Tick(), after_ms=20)) == [(1, 2, 1)]
