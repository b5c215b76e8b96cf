"""Producers' sessions, PROTOCOL §4 rule by rule: what thesis §6.3 asks of client sessions, so that a retry is not done twice.

A repeat is answered with its first result, from state that every node has alike; a session that was dropped is refused, not
begun anew; which one is dropped follows from the log alone.
"""

from __future__ import annotations

import pytest

from tests.unit.broker.builders import START, TINY, Node, describe, publish
from zmqbroker.broker import Machine, MachineLimits
from zmqbroker.commands import OpenProducer, ProducerOpened, Published, Result
from zmqbroker.errors import ChannelNotFound, Duplicate, InvalidRequest, OutOfSequence, UnknownProducer


def opened(limits: MachineLimits | None = None, *batches: int) -> Node:
    """A node with producer 7 open on channel c and batches of these sizes stored."""
    node = Node(limits)
    assert node.result(OpenProducer("c", 7)) == ProducerOpened(0)
    base = 1
    for count in batches:
        node.published(publish(count, producer=7, base=base))
        base += count
    return node


def out_of_sequence(expected: int) -> object:
    return (OutOfSequence, {"expected": expected})


def test_producer_batches_in_order_are_stored() -> None:
    node = opened()
    assert node.result(publish(3, producer=7, base=1)) == Published(1, 3, False, START)
    assert node.result(publish(2, producer=7, base=4), after_ms=1) == Published(4, 2, False, START + 1_000_000)
    assert node.result(OpenProducer("c", 7)) == ProducerOpened(5)


def test_producer_repeat_with_same_boundaries_answers_the_first_result() -> None:
    node = opened(None, 3)
    assert node.result(publish(3, producer=7, base=1), after_ms=5) == Published(1, 3, True, START)
    assert node.stats().depth == 3


@pytest.mark.parametrize(
    ("base", "count"),
    [(7, 1), (0, 1), (1, 2), (1, 4), (2, 1), (3, 2), (5, 2)],
    ids=["gap", "base 0", "shorter", "longer", "inside", "from inside", "over the end"],
)
def test_producer_gap_or_other_boundaries_are_out_of_sequence(base: int, count: int) -> None:
    node = opened(None, 3, 2)
    result = node.result(publish(count, producer=7, base=base))
    assert describe(result) == out_of_sequence(6)
    assert isinstance(result, OutOfSequence)
    assert result.expected == 6
    assert node.stats().depth == 5


def test_producer_repeat_beyond_the_kept_results_is_duplicate() -> None:
    node = opened(TINY, 3, 2, 2)
    assert isinstance(node.result(publish(3, producer=7, base=1)), Duplicate)
    assert describe(node.result(publish(4, producer=7, base=1))) == out_of_sequence(8)
    assert node.result(publish(2, producer=7, base=4)) == Published(4, 2, True, START)


def test_producer_never_opened_is_unknown() -> None:
    node = Node()
    assert isinstance(node.result(publish(producer=9, base=1)), UnknownProducer)
    assert node.stats().depth == 0


def test_producer_of_another_channel_is_unknown() -> None:
    node = opened()
    assert isinstance(node.result(publish(producer=7, base=1, channel="d")), UnknownProducer)


def test_stored_answers_a_repeat_as_apply_would_and_changes_nothing() -> None:
    node = opened(None, 3, 2)
    before = node.machine.items()

    def stored(count: int, base: int, *, producer: int = 7, channel: str = "c") -> Published | None:
        return node.machine.stored(publish(count, producer=producer, base=base, channel=channel).header)

    assert stored(3, 1) == Published(1, 3, True, START)
    assert stored(2, 4) == Published(4, 2, True, START)
    assert [stored(2, 1), stored(1, 6), stored(3, 1, producer=8), stored(3, 1, producer=0), stored(3, 1, channel="d")] == [
        None
    ] * 5
    assert node.machine.items() == before


def test_producer_zero_is_not_checked() -> None:
    node = Node()
    for first in (1, 2, 3):
        assert node.published(publish(base=first * 10)).first_sequence == first


def test_producer_least_recently_used_one_gives_way() -> None:
    node = opened(TINY, 1)
    node.result(OpenProducer("c", 8))
    node.result(publish(producer=7, base=1))  # a repeat is a use too: 8 is the older one now
    node.result(OpenProducer("c", 9))
    assert isinstance(node.result(publish(producer=8, base=1)), UnknownProducer)
    assert node.published(publish(producer=7, base=2)).first_sequence == 2
    assert node.result(OpenProducer("c", 8)) == ProducerOpened(0)
    assert isinstance(node.result(publish(producer=9, base=1)), UnknownProducer)


def test_producer_eviction_order_survives_a_restore() -> None:
    node = Node(TINY)
    for command in (OpenProducer("c", 7), OpenProducer("c", 8), publish(producer=7, base=1)):
        node.result(command)
    node.machine = Machine.restore(node.index, node.machine.items(), TINY)
    node.result(OpenProducer("c", 9))
    assert isinstance(node.result(publish(producer=8, base=1)), UnknownProducer)
    assert node.result(publish(producer=7, base=1)) == Published(1, 1, True, START)


@pytest.mark.parametrize("producer", [0, -1])
def test_open_producer_below_one_is_refused(producer: int) -> None:
    node = Node()
    assert isinstance(node.result(OpenProducer("c", producer)), InvalidRequest)
    assert node.machine.channels() == []


def test_open_producer_of_another_incarnation_is_refused() -> None:
    result: Result = opened().result(OpenProducer("c", 8, incarnation=5))
    assert isinstance(result, ChannelNotFound)
