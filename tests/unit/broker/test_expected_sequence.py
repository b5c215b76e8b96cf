"""Compare and send: a batch that is stored only behind a certain message."""

from __future__ import annotations

import pytest

from tests.unit.broker.builders import START, Node, describe, publish, receive, ruled
from zmqbroker.commands import CreateChannel, OpenProducer, Published
from zmqbroker.errors import SequenceMismatch, UnknownProducer


def mismatch(expected: int, last_sequence: int) -> object:
    return (SequenceMismatch, {"expected": expected, "last_sequence": last_sequence})


def test_send_behind_the_last_message_is_stored() -> None:
    node = Node()
    assert node.result(publish(2, expected_sequence=0)) == Published(1, 2, False, START)
    assert node.result(publish(1, expected_sequence=2)) == Published(3, 1, False, START)


@pytest.mark.parametrize("expected", [0, 1, 3, 2**64 - 1])
def test_send_behind_another_message_is_refused_and_changes_nothing(expected: int) -> None:
    node = Node()
    node.entry(publish(2))
    before = node.machine.items()
    result = node.result(publish(1, expected_sequence=expected))
    assert describe(result) == mismatch(expected, 2)
    assert isinstance(result, SequenceMismatch)
    assert (result.retryable, str(result)) == (False, f"the last sequence of channel 'c' is 2 and not {expected}")
    assert node.machine.items() == before


def test_send_that_is_refused_makes_no_channel() -> None:
    node = Node()
    assert describe(node.result(publish(1, expected_sequence=5))) == mismatch(5, 0)
    assert node.machine.channels() == []
    node.entry(CreateChannel("c"))
    assert describe(node.result(publish(1, expected_sequence=5))) == mismatch(5, 0)


def test_of_two_that_expect_the_same_one_is_stored() -> None:
    node = Node()
    results = node.entry(publish(1, expected_sequence=0), publish(1, expected_sequence=0)).results
    assert describe(results[1]) == mismatch(0, 1)
    assert node.stats().depth == 1


def test_last_sequence_counts_what_is_gone() -> None:
    node = Node()
    node.entry(publish(3))
    node.ack_all([node.delivery(receive(3))])
    assert node.result(publish(1, expected_sequence=3)) == Published(4, 1, False, START)


def test_producer_that_repeats_gets_the_first_result_and_a_mismatch_takes_no_number() -> None:
    node = Node()
    node.entry(OpenProducer("c", 7))
    batch = publish(1, producer=7, base=1, expected_sequence=0)
    assert node.result(batch) == Published(1, 1, False, START)
    node.entry(publish(4))
    assert node.result(batch) == Published(1, 1, True, START)
    assert describe(node.result(publish(1, producer=7, base=2, expected_sequence=1))) == mismatch(1, 5)
    assert node.result(publish(1, producer=7, base=2, expected_sequence=5)) == Published(6, 1, False, START)


def test_producer_of_a_channel_that_is_gone_is_told_that_it_is_not_known() -> None:
    assert isinstance(Node().result(publish(1, producer=7, base=2, expected_sequence=1)), UnknownProducer)


def test_duplicates_come_behind_the_comparison() -> None:
    node = ruled(dedup_window_ms=1000)
    node.entry(publish(1, ids=(b"1",)))
    assert describe(node.result(publish(1, ids=(b"1",), expected_sequence=0))) == mismatch(0, 1)
    assert node.result(publish(1, ids=(b"1",), expected_sequence=1)) == Published(2, 1, False, START, ((0, 1),))
