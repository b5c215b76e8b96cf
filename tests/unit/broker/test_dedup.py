"""Deduplication by message id in a window, rule by rule; the model has them all at once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.unit.broker.builders import MILLISECOND, START, TINY, Node, acked_by, describe, publish, ranges, receive, ruled
from zmqbroker.broker.dedup import window_end
from zmqbroker.broker.parts import SEEN
from zmqbroker.commands import (
    ChannelSettings,
    CreateChannel,
    DeleteChannel,
    DeleteMessages,
    OpenProducer,
    Published,
    Purge,
    Redrive,
    Reject,
    Requeue,
    Run,
    Tick,
    UpdateChannel,
)
from zmqbroker.errors import ChannelFull, InvalidRequest

WINDOW_MS = 1000


def seeing(**settings: Any) -> Node:
    """A node whose channel sees duplicates within a second."""
    return ruled(dedup_window_ms=WINDOW_MS, **settings)


def duplicates(node: Node, *ids: bytes, after_ms: int = 0, producer: int = 0, base: int = 0) -> tuple[tuple[int, int], ...]:
    """What a batch of messages with these ids is told of its duplicates."""
    result = node.result(publish(len(ids), ids=ids, producer=producer, base=base), after_ms)
    assert isinstance(result, Published)
    return result.duplicates


def test_message_whose_id_is_stored_takes_a_sequence_and_is_finished() -> None:
    node = seeing()
    assert node.result(publish(2, ids=(b"1", b"2"))) == Published(1, 2, False, START)
    again = node.result(publish(3, ids=(b"2", b"3", b"1")))
    assert again == Published(3, 3, False, START, ((0, 2), (2, 1)))
    stats = node.stats()
    assert (stats.last_sequence, stats.depth, stats.deduplicated) == (5, 3, 2)
    delivery = node.delivery(receive(10))
    assert ranges(delivery) == [(1, 2, 1), (4, 4, 1)]
    assert [piece.low for piece in delivery.pieces] == [0, 1]
    node.ack_all([delivery])
    assert node.stats().size_bytes == 0


def test_id_that_comes_twice_in_a_batch_is_stored_once() -> None:
    assert duplicates(seeing(), b"1", b"2", b"1", b"", b"", b"2") == ((2, 1), (5, 2))


def test_batch_of_duplicates_alone_stores_nothing() -> None:
    node = seeing()
    node.entry(publish(2, ids=(b"1", b"2")))
    node.ack_all([node.delivery(receive(10))])
    assert duplicates(node, b"1", b"2") == ((0, 1), (1, 2))
    assert (node.stats().depth, node.stats().last_sequence) == (0, 4)
    assert node.machine.lowest_live_index() is None


def test_batch_without_duplicates_is_one_record() -> None:
    node = seeing()
    node.entry(publish(4, ids=(b"1", b"2", b"3", b"4")))
    assert len(node.delivery(receive(10)).pieces) == 1


def test_channel_without_a_window_keeps_no_ids() -> None:
    node = ruled()
    assert duplicates(node, b"1") == duplicates(node, b"1") == ()
    assert [key for key, _ in node.machine.items() if key[0] == 10] == []


@pytest.mark.parametrize(("after_ms", "found"), [(999, ((0, 1),)), (1000, ((0, 1),)), (1015, ((0, 1),)), (1016, ())])
def test_id_is_known_until_its_window_is_over(after_ms: int, found: tuple[tuple[int, int], ...]) -> None:
    node = seeing()
    node.now_unix_ns += 5 * MILLISECOND  # its window ends between two steps of 15.625 ms
    duplicates(node, b"1")
    assert duplicates(node, b"1", after_ms=after_ms - 5) == found


def test_window_ends_a_step_late_at_most_and_never_early() -> None:
    for window_ms in (1, 9, 640, 641, 1000, 3_600_000):
        step = max(10 * MILLISECOND, window_ms * MILLISECOND // 64)
        for came in (START, START + 1, START + 7_654_321):
            late = window_end(came, window_ms) - came - window_ms * MILLISECOND
            assert 0 <= late < step
            assert window_end(came, window_ms) % step == 0
    assert window_end(2**64 - 5, 1000) == 2**64 - 1


def test_duplicate_does_not_make_the_window_longer() -> None:
    node = seeing()
    duplicates(node, b"1")
    assert duplicates(node, b"1", after_ms=900) == ((0, 1),)
    assert duplicates(node, b"1", after_ms=900) == ()


def test_ids_are_forgotten_while_nothing_is_sent_and_then_nothing_is_due() -> None:
    node = seeing()
    duplicates(node, b"1")
    duplicates(node, b"2", after_ms=500)
    looks = 0
    while (due := node.machine.next_due_unix_ns()) is not None:
        looks += 1
        node.now_unix_ns = due
        node.entry(Tick())
    assert (looks, node.now_unix_ns) == (2, window_end(START + 500 * MILLISECOND, WINDOW_MS))
    assert [key for key, _ in node.machine.items() if key[0] == 10] == []


def test_ids_are_forgotten_in_time_though_the_timetable_was_made_anew() -> None:
    node = seeing()
    duplicates(node, b"1")
    for sequence in range(2, 200):  # a dead span each, later than the end of the window
        node.entry(publish(runs=(Run(1, delay_ms=60_000),)), DeleteMessages("c", ((sequence, sequence),)))
    due = node.machine.next_due_unix_ns()
    assert due == window_end(START, WINDOW_MS)
    node.now_unix_ns = due
    node.entry(Tick())
    assert [key for key, _ in node.machine.items() if key[0] == 10] == []


def test_oldest_batch_of_ids_goes_when_there_are_too_many() -> None:
    node = Node(replace(TINY, dedup_ids_max=3))
    node.entry(CreateChannel("c", ChannelSettings(dedup_window_ms=WINDOW_MS)))
    duplicates(node, b"1", b"2")
    duplicates(node, b"3")
    assert duplicates(node, b"2") == ((0, 2),)  # three are the most
    duplicates(node, b"4")
    assert duplicates(node, b"3", b"1") == ((0, 3),)
    assert duplicates(node, b"5", b"6", b"7", b"8") == ()  # too many by themselves
    assert duplicates(node, b"5", b"1", b"3") == ()


def test_producer_that_repeats_a_batch_gets_its_first_result() -> None:
    node = seeing()
    node.entry(OpenProducer("c", 7), publish(1, ids=(b"1",)))
    batch = publish(2, ids=(b"1", b"2"), producer=7, base=1)
    first = node.result(batch)
    assert first == Published(2, 2, False, START, ((0, 1),))
    node.restart()
    assert node.result(batch, after_ms=900) == Published(2, 2, True, START, ((0, 1),))
    assert node.machine.stored(batch.header) == Published(2, 2, True, START, ((0, 1),))
    assert node.result(batch, after_ms=900) == Published(2, 2, True, START), "the window is over"
    assert node.stats().deduplicated == 1


def test_machine_forgets_nothing_over_a_restart() -> None:
    node = seeing()
    duplicates(node, b"1", b"", b"2")
    node.restart()
    assert duplicates(node, b"2", b"1") == ((0, 3), (1, 1))
    node.restart()
    assert node.machine.next_due_unix_ns() is not None
    assert duplicates(node, b"2", after_ms=1100) == ()


def test_window_that_gets_shorter_forgets_and_one_of_0_forgets_all() -> None:
    node = seeing()
    duplicates(node, b"1")
    duplicates(node, b"2", after_ms=500)
    node.entry(UpdateChannel("c", ChannelSettings(dedup_window_ms=400)))
    assert duplicates(node, b"1", b"2") == ((1, 2),)
    node.entry(UpdateChannel("c", ChannelSettings()))
    node.entry(UpdateChannel("c", ChannelSettings(dedup_window_ms=WINDOW_MS)))
    assert duplicates(node, b"1", b"2") == ()


def test_window_that_gets_longer_holds_for_ids_that_are_known() -> None:
    node = seeing()
    duplicates(node, b"1")
    node.entry(UpdateChannel("c", ChannelSettings(dedup_window_ms=2 * WINDOW_MS)))
    assert duplicates(node, b"1", after_ms=1900) == ((0, 1),)


def test_deleted_channel_knows_no_ids() -> None:
    node = seeing()
    duplicates(node, b"1")
    node.machine.changes()
    node.entry(DeleteChannel("c"))
    assert [value for key, value in node.machine.changes() if key[0] == 10] == [None]
    node.entry(CreateChannel("c", ChannelSettings(dedup_window_ms=WINDOW_MS)))
    assert duplicates(node, b"1") == ()


def test_ids_outlive_their_messages() -> None:
    node = seeing()
    duplicates(node, b"1")
    node.entry(Purge("c"))
    assert duplicates(node, b"1") == ((0, 1),)


def test_messages_that_are_moved_are_no_duplicates_and_their_ids_are_not_noted() -> None:
    node = seeing(dead_letter="dead")
    node.entry(CreateChannel("dead", ChannelSettings(dedup_window_ms=WINDOW_MS)))
    node.entry(publish(1, ids=(b"1",)), publish(1, ids=(b"1",), channel="dead"))
    delivery = node.delivery(receive())
    node.entry(Reject(delivery.key.session, "c", (delivery.pieces[0].receipt,)))
    assert node.stats("dead").depth == 2
    node.entry(Redrive("dead", "c"))
    assert (node.stats().depth, node.stats().deduplicated) == (2, 0)
    moved = node.delivery(receive(2, request=2))
    node.entry(Requeue(moved.key.session, "c", tuple(piece.receipt for piece in moved.pieces), "dead"))
    assert (node.stats("dead").depth, node.stats("dead").deduplicated) == (2, 0)


def test_duplicates_need_no_room_in_a_full_channel() -> None:
    node = seeing(max_messages=2)
    node.entry(publish(2, ids=(b"1", b"2")))
    assert duplicates(node, b"1", b"2") == ((0, 1), (1, 2))
    assert isinstance(node.result(publish(2, ids=(b"2", b"3"))), ChannelFull)
    node.entry(UpdateChannel("c", ChannelSettings(max_messages=1, dedup_window_ms=WINDOW_MS)))
    assert duplicates(node, b"2") == ((0, 2),)
    assert node.stats().last_sequence == 5, "a batch that is refused takes no sequence"


def test_refused_batch_notes_no_ids() -> None:
    node = seeing(max_messages=1)
    assert isinstance(node.result(publish(2, ids=(b"1", b"2"))), ChannelFull)
    assert duplicates(node, b"1") == ()


def test_ids_that_are_not_those_of_the_batch_are_refused() -> None:
    node = seeing()
    assert describe(node.result(publish(2, ids=(b"1",)))) == (InvalidRequest, {})
    assert node.stats().last_sequence == 0


def test_receipt_of_a_duplicate_is_of_a_finished_message() -> None:
    node = seeing()
    node.entry(publish(1, ids=(b"1",)))
    node.entry(publish(3, ids=(b"a", b"1", b"b")))
    delivery = node.delivery(receive(10))
    first, *rest = delivery.pieces
    assert [(piece.receipt.first, piece.low) for piece in rest] == [(2, 0), (4, 2)]
    assert node.result(acked_by(delivery)) is not None
    assert node.stats().depth == 0
    assert first.receipt.first == 1


def test_batch_of_duplicates_alone_is_forgotten_in_time_restarted_or_not() -> None:
    nodes = [ruled(dedup_window_ms=1000), ruled(dedup_window_ms=1000)]
    for node in nodes:
        node.entry(OpenProducer("c", 7), publish(ids=[b"1"]))
        node.entry(publish(producer=7, base=1, ids=[b"1"]), after_ms=500)
        node.entry(after_ms=700)
    nodes[0].restart()
    for node in nodes:
        assert any(key[0] == SEEN for key, _ in node.machine.items())
        assert node.machine.next_due_unix_ns() is not None
        node.entry(after_ms=700)
        assert not any(key[0] == SEEN for key, _ in node.machine.items())
    assert nodes[0].machine.items() == nodes[1].machine.items()


def test_key_of_ids_is_described() -> None:
    node = seeing()
    duplicates(node, b"1")
    (key,) = (key for key, _ in node.machine.items() if key[0] == 10)
    assert node.machine.describe(key) == "batch of ids 1 of channel 'c'"
