"""Message groups: one message of each at a time, in order; docs/PROTOCOL.md §3."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgpack
import pytest

from tests.unit.broker.builders import (
    ALICE,
    BOB,
    MILLISECOND,
    START,
    Node,
    acked_by,
    named,
    publish,
    ranges,
    receipts_of,
    receive,
    ruled,
)
from zmqbroker.broker import Machine, MachineLimits
from zmqbroker.broker.groups import joined
from zmqbroker.broker.peeking import peek
from zmqbroker.broker.ranges import Range
from zmqbroker.commands import (
    Ack,
    Command,
    Counted,
    DeleteChannel,
    DeleteMessages,
    Delivery,
    Extend,
    Nack,
    Purge,
    QueueStats,
    Redrive,
    Reject,
    Requeue,
    Run,
    Tick,
)
from zmqbroker.errors import ChannelFull, Corruption, StaleReceipt

G = Run(1, group="g")


def counts(stats: QueueStats) -> tuple[int, int, int, int]:
    """Ready, in flight, delayed, parked."""
    assert stats.depth == stats.ready + stats.in_flight + stats.delayed + stats.parked
    return stats.ready, stats.in_flight, stats.delayed, stats.parked


def given(node: Node, **wanted: Any) -> list[int]:
    """Receive all that can be; the sequences."""
    pieces = node.delivery(receive(100, request=node.index + 1, **wanted)).pieces
    return [sequence for piece in pieces for sequence in range(piece.receipt.first, piece.receipt.last + 1)]


def grouped(count: int = 3, **run: Any) -> Node:
    """A channel `c` with so many messages of one group, in one batch."""
    node = ruled(dead_letter="dead", delivery_limit=2)
    node.entry(publish(count, runs=(Run(count, group="g", **run),)))
    return node


# --- order ------------------------------------------------------------------------------------------------------------


def test_one_message_of_a_group_is_given_out_at_a_time_in_order() -> None:
    node = grouped(3)
    for sequence in (1, 2, 3):
        delivery = node.delivery(receive(10, request=sequence))
        assert ranges(delivery) == [(sequence, sequence, 1)]
        assert node.delivery(receive(10, session=BOB, request=sequence)).pieces == ()
        assert counts(node.stats()) == (0, 1, 0, 3 - sequence)
        node.entry(acked_by(delivery))
    assert node.stats().depth == 0


def test_groups_and_messages_without_one_do_not_wait_for_each_other() -> None:
    node = ruled()
    node.entry(publish(6, runs=(Run(2, group="g"), Run(2), Run(1, group="h"), Run(1, group="g"))))
    assert given(node) == [1, 3, 4, 5]
    assert counts(node.stats()) == (0, 4, 0, 2)


def test_messages_of_a_later_batch_wait_for_those_of_an_earlier_one() -> None:
    node = grouped(1)
    node.entry(publish(runs=(G,)), publish())
    delivery = node.delivery(receive(10))
    assert ranges(delivery) == [(1, 1, 1), (3, 3, 1)]
    node.entry(Ack(ALICE, "c", receipts_of(delivery)[:1]))
    assert given(node) == [2]


def test_group_that_was_emptied_begins_anew() -> None:
    node = grouped(1)
    node.entry(acked_by(node.delivery(receive())))
    node.entry(publish(runs=(G,)))
    assert given(node) == [2]


def test_priority_chooses_among_the_current_messages_and_not_within_a_group() -> None:
    node = ruled()
    node.entry(publish(3, runs=(Run(1, group="g"), Run(1, group="g", priority=9), Run(1, group="h", priority=5))))
    first = node.delivery(receive(2, request=1))
    assert ranges(first) == [(3, 3, 1), (1, 1, 1)]
    node.entry(acked_by(first), publish(runs=(Run(1, priority=8),)))
    assert ranges(node.delivery(receive(2, request=2))) == [(2, 2, 1), (4, 4, 1)]


# --- what keeps the others waiting ------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["nack", "timeout", "close", "extend"])
def test_message_that_returns_or_is_kept_comes_before_the_next_of_its_group(how: str) -> None:
    node = grouped(2)
    delivery = node.delivery(receive(visibility_ms=100))
    commands: dict[str, Command] = {
        "nack": Nack(*named(delivery)),
        "timeout": Tick(),
        "extend": Extend(*named(delivery), visibility_ms=1000),
    }
    if how == "close":
        node.close(ALICE)
    else:
        node.entry(commands[how], after_ms=100 if how == "timeout" else 0)
    assert given(node, session=BOB) == ([] if how == "extend" else [1])


def test_nack_with_a_delay_holds_the_group_back_until_then_and_over_a_restart() -> None:
    node = grouped(3)
    node.entry(Nack(*named(node.delivery(receive())), delay_ms=50))
    assert counts(node.stats()) == (0, 0, 1, 2)
    node.restart()
    node.entry(publish(2, runs=(G, Run(1))))
    assert given(node) == [5]
    node.entry(Tick(), after_ms=50)
    assert given(node) == [1]


def test_message_that_was_sent_with_a_delay_holds_nobody_back_and_enters_when_it_is_due() -> None:
    node = ruled()
    node.entry(publish(3, runs=(Run(1, delay_ms=50, group="g"), Run(2, group="g"))))
    delivery = node.delivery(receive())
    assert ranges(delivery) == [(2, 2, 1)]
    node.entry(Tick(), after_ms=50)
    assert counts(node.stats()) == (0, 1, 0, 2)
    node.entry(acked_by(delivery))
    assert given(node) == [1]


def test_messages_that_are_due_at_once_enter_by_sequence_and_not_by_the_instant_that_they_wanted() -> None:
    node = ruled()
    node.entry(publish(2, runs=(Run(1, delay_ms=30, group="g"), Run(1, delay_ms=20, group="g"))))
    node.entry(Tick(), after_ms=100)
    assert given(node) == [1]


# --- what lets the next one in ----------------------------------------------------------------------------------------


WAYS_ON = ["ack", "reject", "requeue", "behind", "limit", "purge in flight", "delete", "expiry", "expiry in flight", "redrive"]


@pytest.mark.parametrize("how", WAYS_ON)
def test_next_message_is_ready_and_given_to_who_waits_when_the_current_one_is_done(how: str) -> None:
    node = ruled(dead_letter="dead", delivery_limit=1 if how == "limit" else 0)
    node.entry(publish(2, runs=(Run(1, group="g", expiry_ms=50 if "expiry" in how else 0), G)))
    delivery = None if how == "expiry" else node.delivery(receive(visibility_ms=20))
    if how in ("delete", "redrive"):  # the current one is delayed: nobody holds it, and it is not ready
        assert delivery is not None
        node.entry(Nack(*named(delivery), delay_ms=10_000))
    expected = 2
    if how == "expiry":  # while nobody waits it is ready
        node.entry(Tick(), after_ms=50)
        assert (given(node, session=BOB), node.stats().expired) == ([2], 1)
        return
    assert node.entry(receive(session=BOB, wait_ms=10_000)).deliveries == []
    assert delivery is not None
    commands: dict[str, Command] = {
        "ack": acked_by(delivery),
        "reject": Reject(*named(delivery)),
        "requeue": Requeue(*named(delivery), to="d"),
        "behind": Nack(*named(delivery), behind=True),
        "limit": Nack(*named(delivery)),
        "purge in flight": Purge("c", in_flight=True),
        "delete": DeleteMessages("c", ((1, 1),)),
        "expiry in flight": Tick(),
        "redrive": Redrive("c", "d", "", 1),
    }
    if how == "purge in flight":
        assert node.entry(commands[how]).deliveries == []
        node.entry(publish(runs=(G,)))
        assert node.stats().in_flight == 1
        return
    answer = node.delivery(commands[how], after_ms=50 if "expiry" in how else 0)
    assert answer.key.session == BOB
    assert ranges(answer) == [(expected, expected, 1)]


def test_next_message_is_given_to_who_waits_within_the_ack() -> None:
    node = grouped(3)
    delivery = node.delivery(receive(10))
    waits = [receive(10, session=BOB, request=request, wait_ms=1000) for request in (1, 2)]
    assert node.entry(*waits).deliveries == []
    (answer,) = node.entry(acked_by(delivery)).deliveries
    assert (answer.key.request, ranges(answer)) == (1, [(2, 2, 1)])
    assert answer.pieces[0].receipt.assigning == node.index << 16


def test_messages_behind_all_others_keep_their_deliveries_and_wait_for_their_turn() -> None:
    node = grouped(2)
    node.entry(Nack(*named(node.delivery(receive())), behind=True))
    second = node.delivery(receive(10, request=2))
    assert ranges(second) == [(2, 2, 1)]
    node.restart()
    assert counts(node.stats()) == (0, 1, 0, 1)
    node.entry(acked_by(second))
    assert ranges(node.delivery(receive(10, request=3))) == [(3, 3, 2)]


def test_only_message_of_a_group_may_be_put_behind_all_others_after_a_delay() -> None:
    node = grouped(1)
    node.entry(Nack(*named(node.delivery(receive())), behind=True, delay_ms=50))
    node.entry(publish(runs=(G,)))
    delivery = node.delivery(receive(10, request=2))
    assert ranges(delivery) == [(3, 3, 1)]  # the other one is in its group when it is due
    node.entry(Tick(), after_ms=50)
    assert counts(node.stats()) == (0, 1, 0, 1)
    node.entry(acked_by(delivery))
    assert ranges(node.delivery(receive(request=3))) == [(2, 2, 2)]


def test_receipt_of_a_parked_message_is_stale() -> None:
    node = grouped(3)
    session, channel, (receipt,) = named(node.delivery(receive()))
    wide = replace(receipt, last=2)
    for command in (Ack(session, channel, (wide,)), Nack(session, channel, (wide,))):
        assert isinstance(node.result(command), StaleReceipt)
    assert counts(node.stats()) == (0, 1, 0, 2)


# --- messages that nobody holds ---------------------------------------------------------------------------------------


def test_parked_messages_can_be_purged_deleted_and_looked_at() -> None:
    node = grouped(5)
    queue = node.machine.channel("c")
    assert queue is not None
    delivery = node.delivery(receive())
    seen = peek(queue, 1, 0, 100, 1 << 20)
    assert [(piece.receipt.first, piece.receipt.last, piece.delivery_count) for piece in seen] == [(1, 1, 1), (2, 5, 0)]
    assert node.result(DeleteMessages("c", ((2, 2), (4, 4)))) == Counted(2)
    node.entry(acked_by(delivery))
    second = node.delivery(receive(request=2))
    assert ranges(second) == [(3, 3, 1)]
    assert node.result(Purge("c")) == Counted(1)
    assert counts(node.stats()) == (0, 1, 0, 0)
    node.entry(acked_by(second), publish(runs=(G,)))
    assert given(node) == [6]


def test_parked_messages_expire() -> None:
    node = ruled()
    node.entry(publish(4, runs=(G, Run(2, group="g", expiry_ms=50), G)))
    delivery = node.delivery(receive())
    node.entry(Tick(), after_ms=50)
    assert (node.stats().expired, counts(node.stats())) == (2, (0, 1, 0, 1))
    node.entry(acked_by(delivery))
    assert given(node) == [4]


def test_messages_keep_their_group_where_they_move_to() -> None:
    node = grouped(3)
    for _ in range(2):
        node.entry(Reject(*named(node.delivery(receive(request=node.index)))))
    assert counts(node.stats("dead")) == (1, 0, 0, 1)
    assert counts(node.stats()) == (1, 0, 0, 0)
    assert node.result(Redrive("dead", "", "", 0)) == Counted(2)
    assert counts(node.stats()) == (1, 0, 0, 2)
    assert given(node) == [3]


def test_redrive_takes_the_oldest_in_whatever_state_and_neighbours_together() -> None:
    node = ruled()
    node.entry(publish(4, runs=(Run(4, group="g"),)))
    assert node.result(Redrive("c", "d", "", 3)) == Counted(3)
    assert (counts(node.stats()), counts(node.stats("d"))) == ((1, 0, 0, 0), (1, 0, 0, 2))
    assert sum(key[0] == 2 for key, _ in node.machine.items()) == 2  # records


def test_overflow_drops_parked_messages_by_age_like_ready_ones() -> None:
    node = ruled(max_messages=4, overflow="drop_oldest")
    node.entry(publish(4, runs=(Run(1), Run(3, group="g"))))
    delivery = node.delivery(receive(10))
    node.entry(publish(2))
    assert (node.stats().dropped, counts(node.stats())) == (2, (2, 2, 0, 0))
    node.entry(acked_by(delivery), publish(3, runs=(Run(3, group="g"),)))
    assert (node.stats().dropped, counts(node.stats())) == (3, (2, 0, 0, 2))


def test_overflow_takes_ready_and_parked_neighbours_as_one() -> None:
    node = ruled(max_messages=4, overflow="dead_letter", dead_letter="dead")
    node.entry(publish(4, runs=(Run(4, group="g"),)), publish(3))
    assert (counts(node.stats()), counts(node.stats("dead"))) == ((4, 0, 0, 0), (1, 0, 0, 2))
    assert sum(key[0] == 2 and key[4] == 2 for key, _ in node.machine.items()) == 1  # records


def test_overflow_takes_neighbours_with_other_delivery_counts_by_themselves() -> None:
    node = ruled(max_messages=4, overflow="dead_letter", dead_letter="dead")
    node.entry(publish(4, runs=(Run(4, group="g"),)))
    node.entry(Nack(*named(node.delivery(receive()))))
    node.entry(publish(3))
    origins = [value[11] for value in values_of(node, 2) if len(value) > 11 and value[11]]
    assert origins == [["c", 1, 1, "overflow"], ["c", 2, 0, "overflow"]]


def test_overflow_that_can_go_nowhere_leaves_the_group_as_it_was() -> None:
    node = ruled(MachineLimits(channels_max=1), max_messages=3, overflow="dead_letter", dead_letter="dead")
    node.entry(publish(3, runs=(Run(3, group="g"),)))
    assert isinstance(node.result(publish(2)), ChannelFull)
    assert counts(node.stats()) == (1, 0, 0, 2)
    assert given(node) == [1]


def test_message_that_was_delivered_too_often_and_can_go_nowhere_stays_the_current_one() -> None:
    node = ruled(MachineLimits(channels_max=1), delivery_limit=1, dead_letter="dead")
    node.entry(publish(2, runs=(Run(2, group="g"),)))
    node.entry(Nack(*named(node.delivery(receive()))))
    assert given(node) == [1]


def test_channel_that_is_deleted_and_made_again_knows_no_group() -> None:
    node = grouped(3)
    node.entry(receive())
    node.entry(DeleteChannel("c"), publish(runs=(G,)))
    assert given(node) == [1]


@pytest.mark.parametrize("lost", [2, 3])
def test_losing_messages_lets_the_next_of_their_group_in(lost: int) -> None:
    node = Node()
    node.entry(publish())
    node.entry(publish(2, runs=(Run(2, group="g"),)))
    node.entry(publish(2, runs=(Run(2, group="g"),)))
    delivery = node.delivery(receive(10))
    assert node.machine.lose(lambda index: index == lost) == 2
    assert counts(node.stats()) == ((1, 1, 0, 1) if lost == 2 else (0, 2, 0, 1))
    node.entry(acked_by(delivery))
    assert given(node) == ([4] if lost == 2 else [3])


# --- storing ----------------------------------------------------------------------------------------------------------


def values_of(node: Node, kind: int) -> list[Any]:
    return [msgpack.unpackb(value) for key, value in node.machine.items() if key[0] == kind]


def stored() -> Node:
    """One of each state: in flight, delayed after a nack, ready; and parked behind each."""
    node = Node()
    groups = [Run(1, group=name) for name in "fdr"]
    node.entry(publish(6, runs=(*groups, *groups)))
    delivery = node.delivery(receive(2))
    node.entry(Nack(ALICE, "c", (receipts_of(delivery)[1],), delay_ms=100))
    return node


def test_values_never_change_their_bytes() -> None:
    node = stored()
    assert values_of(node, 2)[0] == [1, 1, 16, 1000, 10, 10, START, 0, 166, 0, 0, None, "f"]
    assert values_of(node, 8) == [[2, START + 100 * MILLISECOND, 1, True]]
    assert values_of(node, 9) == [[6, 0]]
    whole = grouped(3)
    assert values_of(whole, 2) == [[3, 2, 16, 1000, 30, 10, START, 0, 1000, 0, 0, None, "g"]]


def test_only_messages_of_a_group_are_stored_as_current_while_they_are_delayed() -> None:
    node = Node()
    node.entry(publish(2, runs=(Run(1), G)))
    node.entry(Nack(*named(node.delivery(receive(2))), delay_ms=100))
    due = START + 100 * MILLISECOND
    assert values_of(node, 8) == [[1, due, 1], [2, due, 1, True]]


def test_channel_is_grouped_while_a_message_has_a_group() -> None:
    node = grouped(1)
    queue = node.machine.channel("c")
    assert queue is not None
    assert queue.is_grouped
    node.entry(Purge("c"), publish())
    assert not queue.is_grouped


def test_one_group_is_one_range_whatever_the_number_of_its_messages() -> None:
    assert [value for kind in (2, 3, 9) for value in values_of(grouped(60_000), kind)][1:] == [[1, 0], [60_000, 0]]


def test_restored_groups_go_on_in_order() -> None:
    node = stored()
    node.restart()
    assert counts(node.stats()) == (1, 1, 1, 3)
    assert given(node) == [3]
    node.entry(Tick(), after_ms=100)
    assert given(node, session=BOB) == [2]
    node.close(ALICE)
    node.entry(Purge("c"))
    assert counts(node.stats()) == (0, 1, 0, 0)


def refusal(node: Node, *, drop: tuple[int, int] | None = None, change: dict[tuple[int, int], list[Any]] | None = None) -> str:
    """What restoring says when keys (kind, first) are missing or have other values."""
    items = {key: value for key, value in node.machine.items() if (key[0], int.from_bytes(key[5:], "big")) != drop}
    for (kind, first), values in (change or {}).items():
        items[bytes([kind]) + (1).to_bytes(4, "big") + first.to_bytes(8, "big")] = msgpack.packb(values)
    with pytest.raises(Corruption) as caught:
        Machine.restore(node.index, sorted(items.items()))
    return str(caught.value)


def test_restore_of_parked_messages_behind_none_is_refused() -> None:
    text = "groups and their messages do not fit"
    due = START + 100 * MILLISECOND
    assert text in refusal(stored(), change={(8, 2): [2, due, 1]})
    assert text in refusal(grouped(3), drop=(3, 1), change={(9, 2): [3, 0], (8, 1): [1, due, 0]})


def test_restore_of_two_current_messages_of_a_group_is_refused() -> None:
    assert "groups and their messages do not fit" in refusal(grouped(3), drop=(9, 2), change={(3, 1): [3, 0]})
    apart: dict[tuple[int, int], list[Any]] = {(3, 1): [1, 0], (3, 3): [3, 1], (9, 2): [2, 0]}
    assert "groups and their messages do not fit" in refusal(grouped(3), drop=(9, 2), change=apart)


def test_restore_of_parked_messages_without_a_group_is_refused() -> None:
    node = Node()
    node.entry(publish(2))
    assert "groups and their messages do not fit" in refusal(node, drop=(3, 1), change={(9, 1): [2, 0]})


@pytest.mark.parametrize(
    ("place", "values"),
    [
        ((2, 1), [3, 2, 16, 1000, 30, 10, START, 0, 1000, 0, 0, None, ""]),
        ((2, 1), [3, 2, 16, 1000, 30, 10, START, 0, 1000, 0, 0, None, 5]),
        ((2, 1), [3, 2, 16, 1000, 30, 10, START, 0, 1000, 0, 0, None, "g", "h"]),
        ((8, 1), [1, START, 0, False]),
        ((8, 1), [1, START, 0, True, True]),
        ((9, 2), [3]),
        ((9, 2), [3, 0, 0]),
    ],
)
def test_restore_of_a_malformed_value_is_refused(place: tuple[int, int], values: list[Any]) -> None:
    assert "cannot be read" in refusal(grouped(3), change={place: values})


def test_describe_names_a_parked_range() -> None:
    node = grouped(3)
    (key,) = [key for key, _ in node.machine.items() if key[0] == 9]
    assert node.machine.describe(key) == "parked range 2 of channel 'c'"


def test_joined_joins_neighbours_of_equal_values_only() -> None:
    parts = [Range(1, 1, 0), Range(2, 3, 0), Range(4, 4, 1), Range(6, 6, 1), Range(7, 9, 1)]
    assert joined(parts) == [Range(1, 3, 0), Range(4, 4, 1), Range(6, 9, 1)]
    assert joined([]) == []


# --- many -------------------------------------------------------------------------------------------------------------


def test_parked_messages_of_many_records_are_found_in_order() -> None:
    node = Node()
    node.entry(*(publish(4, runs=(Run(1, group="g"), Run(1, group="h"), Run(2, group="g"))) for _ in range(400)))
    node.entry(DeleteMessages("c", ((5, 700),)))
    wanted = {"g": [1, 3, 4], "h": [2]}
    for first in range(701, 1600, 4):
        wanted["g"] += [first, first + 2, first + 3]
        wanted["h"].append(first + 1)
    taken: list[int] = []
    delivery: Delivery = node.delivery(receive(2))
    while delivery.pieces:
        taken += [piece.receipt.first for piece in delivery.pieces]
        node.entry(acked_by(delivery))
        delivery = node.delivery(receive(2, request=node.index))
    assert [sequence for sequence in taken if sequence % 4 == 2] == wanted["h"]
    assert [sequence for sequence in taken if sequence % 4 != 2] == wanted["g"]
    assert node.stats().depth == 0
