"""Channels created, changed and deleted by command."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.broker.builders import (
    ALICE,
    BOB,
    MILLISECOND,
    TINY,
    Node,
    acked_by,
    describe,
    publish,
    ranges,
    receive,
    ruled,
    settings_of,
)
from zmqbroker.broker import Machine, channels
from zmqbroker.commands import (
    ChannelChanged,
    ChannelSettings,
    CreateChannel,
    DeleteChannel,
    Delivery,
    Manage,
    OpenProducer,
    Run,
    UpdateChannel,
)
from zmqbroker.errors import (
    Busy,
    ChannelExists,
    ChannelNotFound,
    InvalidRequest,
    OutOfSequence,
    StaleReceipt,
    UnknownProducer,
)

LIMITED = ChannelSettings(delivery_limit=3, dead_letter="dead", max_messages=9)

# --- create -----------------------------------------------------------------------------------------------------------


def test_create_makes_a_channel_with_its_settings() -> None:
    node = Node()
    assert node.result(CreateChannel("c", LIMITED)) == ChannelChanged("c", changed=True)
    assert (node.machine.channels(), settings_of(node.machine)) == (["c"], LIMITED)
    assert node.stats().incarnation == 1


def test_create_again_with_the_same_settings_is_fine() -> None:
    node = Node()
    node.entry(CreateChannel("c", LIMITED), publish(3))
    assert node.result(CreateChannel("c", LIMITED)) == ChannelChanged("c", changed=False)
    assert node.stats().depth == 3


def test_create_of_a_channel_that_was_used_before_with_default_settings_is_fine() -> None:
    node = Node()
    node.entry(publish())
    assert node.result(CreateChannel("c")) == ChannelChanged("c", changed=False)


def test_create_with_other_settings_names_the_keys_that_differ_and_changes_nothing() -> None:
    node = ruled(delivery_limit=3, max_messages=9)
    refusal = node.result(CreateChannel("c", ChannelSettings(delivery_limit=5, max_messages=9, overflow="drop_oldest")))
    assert isinstance(refusal, ChannelExists)
    assert refusal.differing == ["delivery_limit", "overflow"]
    assert "delivery_limit is 3 and not 5, overflow is 'reject' and not 'drop_oldest'" in refusal.message
    assert settings_of(node.machine) == ChannelSettings(delivery_limit=3, max_messages=9)


def test_create_beyond_the_bound_is_busy() -> None:
    node = Node(TINY)
    results = node.entry(*(CreateChannel(name) for name in "abc")).results
    assert describe(results[2]) == (Busy, {"retry_ms": TINY.retry_ms})
    assert node.machine.channels() == ["a", "b"]


NAMES = st.text("abz.ä", min_size=1, max_size=3)


@given(st.sets(NAMES, max_size=30), st.sets(NAMES, max_size=10), NAMES | st.just(""), NAMES | st.just(""), st.integers(1, 5))
def test_pages_of_channels_are_what_sorting_all_of_them_gives(
    made: set[str], deleted: set[str], search: str, after: str, count: int
) -> None:
    node = Node()
    node.entry(*map(CreateChannel, made), *map(DeleteChannel, deleted))
    there = sorted(made - deleted)
    for machine in (node.machine, Machine.restore(node.index, node.machine.items())):
        assert machine.channels() == there
        expected = [name for name in there if name > after and search in name]
        assert machine.page(search, after, 100) == (expected, None)
        goes_on = expected[count - 1] if len(expected) > count else None
        assert machine.page(search, after, count) == (expected[:count], goes_on)


def test_page_of_channels_looks_at_some_names_and_says_how_far_it_came(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channels, "_LOOKED_AT", 600)
    monkeypatch.setattr("zmqbroker.broker.ranges.CHUNK_MAX", 100)
    node = Node()
    node.entry(*(CreateChannel(f"c{number:04d}") for number in range(2_000)))
    found, steps, after = list[str](), 0, ""
    while True:
        names, goes_on = node.machine.page("9", after, 1_000)
        found += names
        steps += 1
        if goes_on is None:
            break
        assert goes_on > after
        after = goes_on
    assert found == [name for name in node.machine.channels() if "9" in name]
    assert steps == 4


def test_settings_of_no_channel_are_none() -> None:
    assert settings_of(Machine()) is None


def test_settings_of_a_channel_that_was_just_used_are_the_defaults() -> None:
    node = Node()
    node.entry(publish())
    assert settings_of(node.machine) == ChannelSettings()


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        (ChannelSettings(dead_letter="c"), "setting dead_letter is 'c', which is the channel itself"),
        (
            ChannelSettings(dead_letter="c", overflow="dead_letter", max_messages=1),
            "setting dead_letter is 'c', which is the channel itself",
        ),
        (ChannelSettings(overflow="dead_letter", max_messages=1), "and setting dead_letter names no channel"),
    ],
)
@pytest.mark.parametrize("is_there", [False, True])
def test_settings_that_contradict_themselves_are_refused(settings: ChannelSettings, text: str, is_there: bool) -> None:
    node = ruled() if is_there else Node()
    for command in (CreateChannel("c", settings), UpdateChannel("c", settings)):
        refusal = node.result(command)
        assert isinstance(refusal, InvalidRequest)
        assert text in refusal.message
    assert settings_of(node.machine) == (ChannelSettings() if is_there else None)


# --- update -----------------------------------------------------------------------------------------------------------


def test_update_replaces_all_settings_and_says_whether_they_differ() -> None:
    node = ruled(delay_ms=10)
    assert node.result(UpdateChannel("c", LIMITED)) == ChannelChanged("c", changed=True)
    assert settings_of(node.machine) == LIMITED
    assert node.result(UpdateChannel("c", LIMITED)) == ChannelChanged("c", changed=False)


@pytest.mark.parametrize("command", [UpdateChannel("c", LIMITED), DeleteChannel("c")])
def test_change_of_a_channel_that_is_not_there_is_refused(command: Manage) -> None:
    node = Node()
    assert isinstance(node.result(command), ChannelNotFound)
    assert node.machine.channels() == []


def test_update_holds_for_what_comes_from_now_on() -> None:
    node = Node()
    node.entry(publish())
    node.entry(UpdateChannel("c", ChannelSettings(delay_ms=20)), publish())
    assert (node.stats().ready, node.stats().delayed) == (1, 1)


# --- delete -----------------------------------------------------------------------------------------------------------


def test_delete_takes_everything_along() -> None:
    node = Node()
    node.entry(OpenProducer("c", 7), publish(3, producer=7, base=1), publish(3, runs=(Run(3, 100, 200, 5),)))
    node.delivery(receive(2))
    assert node.result(DeleteChannel("c")) == ChannelChanged("c", changed=True, deleted=True)
    machine = node.machine
    assert (machine.channels(), machine.stats("c"), settings_of(machine)) == ([], None, None)
    assert (machine.lowest_live_index(), machine.next_due_unix_ns(), list(machine.sessions())) == (None, None, [])


def test_delete_answers_those_who_wait_with_nothing() -> None:
    node = Node()
    node.entry(*(receive(session=session, wait_ms=1000) for session in (ALICE, BOB)))
    deliveries = node.entry(DeleteChannel("c")).deliveries
    assert deliveries == [Delivery(receive(session=session).key, "c", ()) for session in (ALICE, BOB)]
    assert not node.machine.waits(ALICE)


def test_delete_leaves_other_channels_alone() -> None:
    node = Node()
    node.entry(publish(2), publish(2, channel="d", runs=(Run(2, delay_ms=10),)))
    due = node.machine.next_due_unix_ns()
    node.entry(DeleteChannel("c"))
    assert (node.stats("d").delayed, node.machine.next_due_unix_ns(), node.machine.lowest_live_index()) == (2, due, 1)


def test_channel_created_anew_has_nothing_of_the_deleted_one() -> None:
    node = ruled(delivery_limit=1)
    node.entry(OpenProducer("c", 7), publish(3, producer=7, base=1))
    delivery = node.delivery(receive(3))
    node.entry(DeleteChannel("c"))
    assert node.published(publish(1)).first_sequence == 1
    assert (settings_of(node.machine), node.stats().incarnation) == (ChannelSettings(), 5)
    assert isinstance(node.result(publish(1, incarnation=1)), ChannelNotFound)
    assert isinstance(node.result(publish(1, producer=7, base=4)), UnknownProducer)
    assert isinstance(node.result(acked_by(delivery)), StaleReceipt)
    assert ranges(node.delivery(receive(3))) == [(1, 1, 1)], "the same request is a new receive"


def test_producer_opened_anew_begins_anew() -> None:
    node = Node()
    node.entry(OpenProducer("c", 7), publish(3, producer=7, base=1))
    node.entry(DeleteChannel("c"), OpenProducer("c", 7))
    assert isinstance(node.result(publish(1, producer=7, base=4)), OutOfSequence)
    assert node.published(publish(1, producer=7, base=1)).first_sequence == 1


def test_deleted_channel_makes_room_for_another() -> None:
    node = Node(TINY)
    node.entry(*(CreateChannel(name) for name in "ab"))
    node.entry(DeleteChannel("a"))
    assert node.result(CreateChannel("c")) == ChannelChanged("c", changed=True)


def test_number_of_a_deleted_channel_is_never_given_again_not_even_after_a_restart() -> None:
    node = Node()
    node.entry(publish(channel="a"), publish(channel="b"))
    node.entry(DeleteChannel("b"))
    node.restart()
    node.entry(publish(channel="d"))
    numbers = {key[1:5] for key, _ in node.machine.items() if key[0] == 1}
    assert numbers == {bytes([0, 0, 0, number]) for number in (1, 3)}


def test_delete_of_what_was_stored_removes_every_key_and_of_what_was_not_none() -> None:
    node = Node()
    node.entry(OpenProducer("c", 7), publish(3, producer=7, base=1), publish(3, runs=(Run(3, 100),)))
    node.entry(receive(2), receive(count_min=9, request=2, wait_ms=1000))
    stored = dict(node.machine.changes())
    assert {key[0] for key in stored} >= {1, 2, 3, 4, 5, 6, 8}
    node.entry(publish(channel="d"), DeleteChannel("c"), DeleteChannel("d"), after_ms=1)
    changes = dict(node.machine.changes())
    assert {key for key, value in changes.items() if value is None} == {key for key in stored if key[0] not in (0, 7)}
    assert [key[0] for key, value in changes.items() if value is not None] == [0]
    assert [key[0] for key, _ in node.machine.items()] == [0, 7]


def test_channel_deleted_and_created_in_one_entry_is_stored_under_its_new_number() -> None:
    node = ruled()
    node.machine.changes()
    node.entry(DeleteChannel("c"), CreateChannel("c", LIMITED))
    assert [(key, value is None) for key, value in node.machine.changes() if key[0] == 1] == [
        (b"\x01\x00\x00\x00\x01", True),
        (b"\x01\x00\x00\x00\x02", False),
    ]


def test_oldest_message_of_a_channel_is_told_by_when_it_was_stored() -> None:
    node = Node()
    node.entry(publish(1), after_ms=5)
    first = node.now_unix_ns
    node.entry(publish(1), after_ms=5)
    assert node.stats().oldest_unix_ns == first
    node.ack_all([node.delivery(receive())])
    assert node.stats().oldest_unix_ns == first + 5 * MILLISECOND
    node.ack_all([node.delivery(receive())])
    assert node.stats().oldest_unix_ns == 0
