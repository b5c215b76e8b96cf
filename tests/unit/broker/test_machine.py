"""Entries, time, channels and what the node may ask."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.broker.builders import ALICE, BOB, START, TINY, Node, describe, publish, receive
from zmqbroker.broker import Applied, Machine, MachineLimits
from zmqbroker.commands import (
    Ack,
    BatchHeader,
    ChannelSettings,
    Close,
    Command,
    CreateChannel,
    DeleteChannel,
    DeleteMessages,
    Extend,
    Nack,
    OpenProducer,
    Publish,
    Published,
    Purge,
    Receipt,
    Receive,
    ReceiveKey,
    Redrive,
    Reject,
    Requeue,
    Run,
    Tick,
    Trim,
    UpdateChannel,
    Waiting,
)
from zmqbroker.errors import Busy, ChannelNotFound


def test_machine_empty_entry_moves_the_index_only() -> None:
    machine = Machine()
    assert machine.apply(4, 0, ()) == Applied([], [])
    assert (machine.applied_index, machine.now_unix_ns) == (4, 0)


def test_machine_time_never_goes_back() -> None:
    machine = Machine()
    machine.apply(1, 500, [Tick()])
    assert machine.apply(2, 400, [publish()]).results == [Published(1, 1, False, 500)]
    assert machine.now_unix_ns == 500


@pytest.mark.parametrize("index", [3, 2])
def test_machine_entry_applied_twice_trips_an_assert(index: int) -> None:
    machine = Machine()
    machine.apply(3, 0, ())
    with pytest.raises(AssertionError):
        machine.apply(index, 0, ())


def test_machine_results_are_in_the_order_of_commands() -> None:
    results = Node().entry(publish(2), Tick(), receive(), publish(1), Trim(1)).results
    assert results == [Published(1, 2, False, START), None, Waiting(), Published(3, 1, False, START), None]


def test_machine_trim_never_goes_back() -> None:
    node = Node()
    node.entry(Trim(7), Trim(5))
    assert node.machine.trimmed_index == 7


def test_channel_is_created_by_its_first_use() -> None:
    node = Node()
    node.entry(publish(channel="b"))
    node.entry(receive(channel="a"), OpenProducer("c", 1))
    assert node.machine.channels() == ["a", "b", "c"]
    assert [node.stats(name).incarnation for name in "abc"] == [2, 1, 2]
    assert node.machine.stats("d") is None


def test_channel_of_another_incarnation_is_not_found() -> None:
    node = Node()
    node.entry(publish())
    assert isinstance(node.result(publish(incarnation=2)), ChannelNotFound)
    assert node.published(publish(incarnation=1)).first_sequence == 2
    assert isinstance(node.result(publish(channel="d", incarnation=1)), ChannelNotFound)
    assert node.machine.channels() == ["c"]


def test_channel_beyond_the_bound_is_busy() -> None:
    node = Node(TINY)
    results = node.entry(publish(channel="a"), publish(channel="b"), publish(channel="c"), publish(channel="a")).results
    assert describe(results[2]) == (Busy, {"retry_ms": TINY.retry_ms})
    assert isinstance(results[3], Published)
    assert node.machine.channels() == ["a", "b"]


def test_sessions_are_those_that_wait_or_hold() -> None:
    node = Node()
    node.entry(publish(), receive(session=ALICE), receive(session=BOB, wait_ms=100))
    machine = node.machine
    assert set(machine.sessions()) == {ALICE, BOB}
    assert [(machine.holds(s), machine.waits(s)) for s in (ALICE, BOB, b"x")] == [(True, False), (True, True), (False, False)]


def test_lowest_live_index_is_over_all_channels() -> None:
    node = Node()
    node.entry(publish(channel="a"), publish(channel="b"))
    node.entry(publish(channel="b"))
    for channel, lowest in (("a", 1), ("b", 2), ("b", None)):
        receipt = node.delivery(receive(channel=channel, request=node.index)).pieces[0].receipt
        node.entry(Ack(ALICE, channel, (receipt,)))
        assert node.machine.lowest_live_index() == lowest


def test_digest_differs_when_index_or_state_differs() -> None:
    machines = [Machine() for _ in range(4)]
    machines[0].apply(1, 9, [publish(2)])
    machines[1].apply(1, 9, [publish(3)])
    machines[2].apply(2, 9, [publish(2)])
    machines[3].apply(1, 9, [publish(2)])
    digests = [machine.digest() for machine in machines]
    assert digests[0] == digests[3]
    assert len(set(digests)) == 3


# --- no decoded command raises ----------------------------------------------------------------------------------------

u32, u64 = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)
wide = st.one_of(st.integers(0, 3), u64, st.integers(-(2**63), -1))
channels, sessions = st.sampled_from(["c", "d", ""]), st.sampled_from([ALICE, BOB, b""])
headers = st.builds(
    BatchHeader, channels, st.one_of(st.integers(0, 2), u64), st.one_of(st.integers(0, 2), u64), u32, u64, u32, u32
)
rules = st.builds(
    ChannelSettings,
    wide,
    channels,
    wide,
    wide,
    wide,
    wide,
    st.sampled_from(["reject", "drop_oldest", "dead_letter", ""]),
    wide,
)
receipts = st.lists(st.builds(Receipt, wide, wide, wide), max_size=3).map(tuple)
sequences = st.lists(st.tuples(wide, wide), max_size=3).map(tuple)


def with_runs(header: BatchHeader, runs: tuple[Run, ...]) -> Publish:
    """A batch whose columns may say something of other messages than it has."""
    return Publish(replace(header, producer=0, count=3), 0, 9, runs=runs)


commands: st.SearchStrategy[Command] = st.one_of(
    st.builds(Publish, headers, u32, u32, st.one_of(st.just(0), u64)),
    st.builds(with_runs, headers, st.lists(st.builds(Run, st.integers(-1, 3), wide, wide, wide), max_size=3).map(tuple)),
    st.builds(OpenProducer, channels, wide, st.one_of(st.just(0), wide)),
    st.builds(
        Receive,
        st.builds(ReceiveKey, sessions, wide, wide),
        channels,
        wide,
        wide,
        wide,
        wide,
        wide,
        st.one_of(st.just(0), wide),
    ),
    st.builds(Ack, sessions, channels, receipts),
    st.builds(Nack, sessions, channels, receipts, wide, st.booleans()),
    st.builds(Reject, sessions, channels, receipts),
    st.builds(Requeue, sessions, channels, receipts, channels),
    st.builds(Extend, sessions, channels, receipts, wide),
    st.builds(Purge, channels, st.booleans()),
    st.builds(DeleteMessages, channels, sequences),
    st.builds(Redrive, channels, channels, channels, wide),
    st.builds(CreateChannel, channels, rules),
    st.builds(UpdateChannel, channels, rules),
    st.builds(DeleteChannel, channels),
    st.builds(Close, sessions, st.one_of(st.none(), wide)),
    st.just(Tick()),
    st.builds(Trim, wide),
)


@settings(max_examples=250, deadline=None)
@given(st.lists(st.tuples(u64, st.lists(commands, max_size=4)), max_size=8))
def test_machine_arbitrary_commands_never_raise(entries: list[tuple[int, list[Command]]]) -> None:
    limits = MachineLimits(results_kept=1, producers_max=1, channels_max=2, waiting_max=2)
    machine = Machine(limits)
    for index, (time_unix_ns, entry) in enumerate(entries, start=1):
        assert len(machine.apply(index, time_unix_ns, entry).results) == len(entry)
    items = machine.items()
    assert Machine.restore(machine.applied_index, items, limits).items() == items
