"""Handing over: acks and sends that happen together or not at all, once; what refuses one, and that nothing changed then."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.unit.broker.builders import (
    ALICE,
    BOB,
    START,
    TINY,
    Node,
    acked_by,
    describe,
    handed,
    named,
    origins,
    publish,
    ranges,
    receive,
    ruled,
)
from zmqbroker.commands import (
    Ack,
    Acked,
    ChannelSettings,
    Command,
    CreateChannel,
    DeleteChannel,
    Delivery,
    HandedOver,
    HandOver,
    Nack,
    OpenProducer,
    Origin,
    Publish,
    Receipt,
    Requeue,
    Result,
    Run,
    SetDefaults,
    UpdateChannel,
)
from zmqbroker.errors import (
    Busy,
    ChannelFull,
    ChannelNotFound,
    Duplicate,
    InvalidRequest,
    OutOfSequence,
    StaleReceipt,
    UnknownProducer,
)

MANY = replace(TINY, channels_max=5, producers_max=5)


def holding(count: int = 3, *, node: Node | None = None) -> tuple[Node, Delivery]:
    """A node whose channel c has `count` messages, all held by Alice."""
    node = Node(MANY) if node is None else node
    node.entry(publish(count))
    return node, node.delivery(receive(count))


def refused(node: Node, command: HandOver) -> Result:
    """The refusal of a hand-over; but for the index and the time, it has changed nothing."""
    before = node.machine.items()[2:]
    result = node.result(command)
    assert node.machine.items()[2:] == before
    assert not isinstance(result, HandedOver)
    return result


# --- done ------------------------------------------------------------------------------------------------------------


def test_hand_over_acks_and_stores_in_one_entry() -> None:
    node, delivery = holding()
    waiting = receive(5, session=BOB, channel="d", wait_ms=1000)
    node.entry(waiting)
    applied = node.entry(handed(delivery, publish(2, channel="d"), publish(1, channel="e")))
    assert applied.results == [HandedOver(3, (("d", 1, 2), ("e", 1, 1)), False, node.now_unix_ns)]
    assert (node.stats().depth, node.stats().acked) == (0, 3)
    (got,) = applied.deliveries
    assert (got.key, ranges(got)) == (waiting.key, [(1, 2, 1)])
    assert node.stats("e").ready == 1


def test_hand_over_of_a_part_leaves_the_rest_held() -> None:
    node, delivery = holding()
    assigning = delivery.pieces[0].receipt.assigning
    result = node.result(HandOver(ALICE, "c", (Receipt(assigning, 3, 3), Receipt(assigning, 1, 1)), (publish(channel="d"),)))
    assert result == HandedOver(2, (("d", 1, 1),), False, node.now_unix_ns)
    assert node.stats().in_flight == 1
    assert node.result(acked_by(delivery)) == Acked(3)


def test_hand_over_batches_of_one_channel_keep_their_order_and_tell_their_places() -> None:
    node, delivery = holding()
    node.entry(publish(channel="d"))
    result = node.result(handed(delivery, publish(2, channel="d"), publish(1, channel="e"), publish(3, channel="d")))
    assert isinstance(result, HandedOver)
    assert result.sent == (("d", 2, 2), ("e", 1, 1), ("d", 4, 3))


def test_hand_over_treats_messages_as_their_columns_say() -> None:
    node, delivery = holding()
    node.entry(handed(delivery, publish(2, channel="d", runs=(Run(1, delay_ms=10), Run(1, priority=5)))))
    assert (node.stats("d").ready, node.stats("d").delayed) == (1, 1)


def test_hand_over_lets_others_receive_where_the_channel_bounds_what_is_in_flight() -> None:
    node = ruled(MANY, max_in_flight=2)
    node.entry(publish(3))
    delivery = node.delivery(receive(2))
    node.entry(receive(1, session=BOB, wait_ms=1000))
    (got,) = node.entry(handed(delivery, publish(channel="d"))).deliveries
    assert (got.key.session, ranges(got)) == (BOB, [(3, 3, 1)])


# --- once ------------------------------------------------------------------------------------------------------------


def with_producers(*producers: tuple[str, int]) -> tuple[Node, Delivery]:
    node = Node(MANY)
    node.entry(*(OpenProducer(channel, producer) for channel, producer in producers))
    return holding(node=node)


def test_hand_over_repeated_gets_the_first_answer_and_changes_nothing() -> None:
    node, delivery = with_producers(("d", 7), ("e", 8))
    command = handed(delivery, publish(2, channel="d", producer=7, base=1), publish(channel="e", producer=8, base=1))
    first = node.result(command)
    assert first == HandedOver(3, (("d", 1, 2), ("e", 1, 1)), False, START)
    node.restart()
    before = node.machine.items()[2:]
    assert node.result(command, after_ms=5) == replace(first, duplicate=True)
    headers = [batch.header for batch in command.batches]
    assert node.machine.handed_over("c", command.receipts, headers) == replace(first, duplicate=True)
    assert node.machine.items()[2:] == before


def test_hand_over_repeated_without_producers_is_stale_and_sends_nothing() -> None:
    node, delivery = holding()
    command = handed(delivery, publish(channel="d"))
    assert isinstance(node.result(command), HandedOver)
    stale = [[delivery.pieces[0].receipt.assigning, 1, 3]]
    assert describe(refused(node, command)) == (StaleReceipt, {"stale": stale, "count": 0})
    assert node.machine.handed_over("c", command.receipts, [batch.header for batch in command.batches]) is None


def test_hand_over_whose_results_are_not_kept_any_more_is_stale() -> None:
    node, delivery = with_producers(("d", 7))
    command = handed(delivery, publish(channel="d", producer=7, base=1))
    assert isinstance(node.result(command), HandedOver)
    node.entry(*(publish(channel="d", producer=7, base=base) for base in (2, 3)))
    assert isinstance(refused(node, command), StaleReceipt)


@pytest.mark.parametrize("command", ["ack", "nack", "requeue"])
def test_hand_over_of_what_was_settled_before_is_stale(command: str) -> None:
    node, delivery = with_producers(("d", 7))
    held = named(delivery)
    settles: dict[str, Command] = {"ack": Ack(*held), "nack": Nack(*held), "requeue": Requeue(*held, "e")}
    node.entry(settles[command])
    assert isinstance(refused(node, handed(delivery, publish(channel="d", producer=7, base=1))), StaleReceipt)


def test_hand_over_of_one_message_that_was_acked_takes_no_other() -> None:
    node, delivery = holding()
    assigning = delivery.pieces[0].receipt.assigning
    node.entry(Ack(ALICE, "c", (Receipt(assigning, 2, 2),)))
    assert isinstance(refused(node, handed(delivery, publish(channel="d"))), StaleReceipt)
    assert node.stats().in_flight == 2


def test_hand_over_of_what_another_session_holds_is_stale() -> None:
    node, delivery = holding()
    command = replace(handed(delivery, publish(channel="d")), session=BOB)
    assert isinstance(refused(node, command), StaleReceipt)


def test_hand_over_names_every_stale_receipt() -> None:
    node, delivery = holding()
    assigning = delivery.pieces[0].receipt.assigning
    good, wrong = Receipt(assigning, 1, 1), (Receipt(assigning + 1, 2, 2), Receipt(assigning, 3, 4), Receipt(assigning, 9, 8))
    result = refused(node, HandOver(ALICE, "c", (good, *wrong), (publish(channel="d"),)))
    assert describe(result) == (StaleReceipt, {"stale": [[r.assigning, r.first, r.last] for r in wrong], "count": 0})


def test_hand_over_after_the_channel_was_made_anew_is_no_repeat() -> None:
    node, delivery = with_producers(("d", 7))
    command = handed(delivery, publish(channel="d", producer=7, base=1))
    node.entry(command)
    node.entry(DeleteChannel("c"))
    assert isinstance(refused(node, command), ChannelNotFound)
    node.entry(publish(3))
    assert isinstance(refused(node, command), StaleReceipt)
    node.delivery(receive(3))
    assert isinstance(refused(node, command), StaleReceipt)


def test_hand_over_that_names_more_than_was_handed_over_is_no_repeat() -> None:
    node, delivery = with_producers(("d", 7))
    command = handed(delivery, publish(channel="d", producer=7, base=1))
    node.entry(command)
    (receipt,) = command.receipts
    for more in (replace(receipt, last=4), replace(receipt, first=0), replace(receipt, first=3, last=2)):
        assert isinstance(refused(node, replace(command, receipts=(more,))), StaleReceipt)


@pytest.mark.parametrize("delay_ms", [0, 50])
def test_hand_over_is_no_repeat_while_its_messages_are_to_be_received(delay_ms: int) -> None:
    """Somebody has used the numbers for other sends: nothing is told as done that was not."""
    node, delivery = with_producers(("d", 7))
    batch = publish(channel="d", producer=7, base=1)
    node.entry(batch, Nack(*named(delivery), delay_ms))
    assert isinstance(refused(node, handed(delivery, batch)), StaleReceipt)


# --- refused ---------------------------------------------------------------------------------------------------------


def test_hand_over_of_batches_that_were_sent_otherwise_is_a_duplicate() -> None:
    node, delivery = with_producers(("d", 7))
    batch = publish(channel="d", producer=7, base=1)
    node.entry(batch)
    result = refused(node, handed(delivery, batch))
    assert isinstance(result, Duplicate)
    assert str(result) == "sequences 1 to 1 of producer 7 are stored, and not by this hand-over"


@pytest.mark.parametrize(
    ("bases", "expected"), [((2,), 1), ((1, 4), 3), ((1, 1), 3), ((1, 2), 3)], ids=["gap", "gap behind", "twice", "inside"]
)
def test_hand_over_out_of_sequence_says_what_is_expected(bases: tuple[int, ...], expected: int) -> None:
    node, delivery = with_producers(("d", 7))
    result = refused(node, handed(delivery, *(publish(2, channel="d", producer=7, base=base) for base in bases)))
    assert describe(result) == (OutOfSequence, {"expected": expected})
    good = handed(delivery, *(publish(2, channel="d", producer=7, base=base) for base in (1, 3)))
    assert isinstance(node.result(good), HandedOver)


@pytest.mark.parametrize("channel", ["d", "new"])
def test_hand_over_of_a_producer_that_is_not_open_is_refused(channel: str) -> None:
    node, delivery = with_producers(("d", 7), ("e", 8))
    batches = publish(channel="d", producer=7, base=1), publish(channel=channel, producer=9, base=1)
    result = refused(node, handed(delivery, *batches))
    assert str(result) == f"producer 9 is not open on channel '{channel}'"
    assert isinstance(result, UnknownProducer)


def test_hand_over_of_a_channel_that_is_not_there_is_refused() -> None:
    node = Node()
    assert isinstance(node.result(HandOver(ALICE, "c", (Receipt(1, 1, 1),), (publish(),))), ChannelNotFound)
    assert node.machine.channels() == []


def test_hand_over_that_cannot_be_is_an_invalid_request() -> None:
    node, delivery = holding()
    (receipt,) = [piece.receipt for piece in delivery.pieces]
    batch = publish(channel="d")
    faults = {
        "has receipts and batches, this one 1 and 0": ((receipt,), ()),
        "has receipts and batches, this one 0 and 1": ((), (batch,)),
        "a batch has at least 1 message, this one 0": ((receipt,), (publish(0, channel="d"),)),
        "the columns do not say something of each": ((receipt,), (batch, publish(2, channel="d", runs=(Run(1),)))),
        "name message 2 twice": ((replace(receipt, last=2), replace(receipt, first=2)), (batch,)),
        "name message 1 twice": ((receipt, receipt), (batch,)),
    }
    for text, (receipts, batches) in faults.items():
        result = refused(node, HandOver(ALICE, "c", receipts, batches))
        assert isinstance(result, InvalidRequest)
        assert text in str(result)


def test_hand_over_that_needs_too_many_channels_is_busy_and_makes_none() -> None:
    node, delivery = holding(node=Node(replace(TINY, channels_max=3)))
    names = ("d", "e", "f")
    result = refused(node, handed(delivery, *(publish(channel=name) for name in names)))
    assert describe(result) == (Busy, {"retry_ms": TINY.retry_ms})
    assert node.machine.channels() == ["c"]
    assert isinstance(node.result(handed(delivery, *(publish(channel=name) for name in ("d", "e", "d")))), HandedOver)


# --- channels that are full -------------------------------------------------------------------------------------------


def full(node: Node, channel: str = "d", held: int = 0, *, count: int = 4, size: int = 1000, **settings: Any) -> None:
    """A channel with these settings and `count` messages, a batch each, of which Bob holds `held`."""
    made = ChannelSettings(**settings)
    node.entry(CreateChannel(channel, made), *(publish(channel=channel, size=size) for _ in range(count)))
    if held:
        node.entry(receive(held, session=BOB, channel=channel))


def test_hand_over_to_a_full_channel_is_refused_and_acks_nothing() -> None:
    node, delivery = holding()
    full(node, max_messages=5)
    batches = publish(channel="e"), publish(1, channel="d"), publish(1, channel="d")
    result = refused(node, handed(delivery, *batches))
    assert describe(result) == (ChannelFull, {"depth": 4, "size_bytes": 4000, "max_messages": 5, "max_bytes": 0})
    assert isinstance(node.result(handed(delivery, *batches[:2])), HandedOver)


@pytest.mark.parametrize("bounds", [{"max_messages": 4}, {"max_bytes": 4000}], ids=str)
def test_hand_over_drops_the_oldest_where_the_channel_says_so(bounds: dict[str, Any]) -> None:
    node, delivery = holding()
    full(node, overflow="drop_oldest", **bounds)
    result = node.result(handed(delivery, publish(channel="d"), publish(channel="d")))
    assert isinstance(result, HandedOver)
    assert ranges(node.delivery(receive(9, channel="d"))) == [(number, number, 1) for number in (3, 4, 5, 6)]
    assert node.stats("d").dropped == 2


@pytest.mark.parametrize("bounds", [{"max_messages": 4}, {"max_bytes": 4000}], ids=str)
def test_hand_over_that_dropping_all_would_not_help_drops_nothing(bounds: dict[str, Any]) -> None:
    node, delivery = holding()
    full(node, overflow="drop_oldest", held=2, **bounds)
    batches = [publish(channel="d") for _ in range(3)]
    assert isinstance(refused(node, handed(delivery, *batches)), ChannelFull)
    assert isinstance(node.result(handed(delivery, *batches[:2])), HandedOver)
    assert (node.stats("d").dropped, node.stats("d").depth) == (2, 4)


def test_hand_over_knows_that_batches_with_a_held_or_delayed_message_free_no_bytes() -> None:
    node, delivery = holding()
    node.entry(
        CreateChannel("d", ChannelSettings(max_bytes=3000, overflow="drop_oldest")),
        *(publish(count, channel="d") for count in (5, 2, 1)),
    )
    node.entry(receive(6, session=BOB, channel="d"))
    assigning = node.index << 16
    node.entry(Nack(BOB, "d", (Receipt(assigning, 2, 5),)), Nack(BOB, "d", (Receipt(assigning, 6, 6),), 1000))
    assert (node.stats("d").in_flight, node.stats("d").delayed, node.stats("d").ready) == (1, 1, 6)
    assert isinstance(refused(node, handed(delivery, publish(channel="d", size=1001))), ChannelFull)
    assert isinstance(node.result(handed(delivery, publish(channel="d", size=1000))), HandedOver)


def test_hand_over_to_its_own_channel_counts_what_leaves_it() -> None:
    node, delivery = holding(node=ruled(MANY, max_messages=3))
    assert isinstance(refused(node, handed(delivery, publish(4))), ChannelFull)
    assert node.result(handed(delivery, publish(3))) == HandedOver(3, (("c", 4, 3),), False, START)
    assert (node.stats().depth, node.stats().ready) == (3, 3)


def test_hand_over_to_its_own_full_channel_drops_no_more_than_it_must() -> None:
    node = ruled(MANY, max_messages=4, overflow="drop_oldest")
    node.entry(publish(4))
    delivery = node.delivery(receive(1))
    assert isinstance(node.result(handed(delivery, publish(2))), HandedOver)
    assert (node.stats().dropped, node.stats().depth) == (1, 4)
    assert isinstance(node.result(handed(node.delivery(receive(2)), publish(2))), HandedOver)
    assert node.stats().dropped == 1


def test_hand_over_moves_the_oldest_to_the_dead_letter_channel() -> None:
    node, delivery = holding()
    full(node, max_messages=4, overflow="dead_letter", dead_letter="dead")
    assert isinstance(node.result(handed(delivery, publish(channel="d"))), HandedOver)
    assert origins(node.delivery(receive(9, channel="dead"))) == [Origin("d", 1, 0, "overflow")]


def test_hand_over_that_needs_a_dead_letter_channel_too_many_is_busy() -> None:
    node, delivery = holding(node=Node(replace(TINY, channels_max=2)))
    full(node, max_messages=4, overflow="dead_letter", dead_letter="dead")
    assert isinstance(refused(node, handed(delivery, publish(channel="d"))), Busy)
    node.entry(UpdateChannel("d", ChannelSettings(max_messages=5, overflow="dead_letter", dead_letter="dead")))
    assert isinstance(node.result(handed(delivery, publish(channel="d"))), HandedOver)


@pytest.mark.parametrize("order", [("d", "dead"), ("dead", "d")], ids=str)
def test_hand_over_is_done_where_dead_letters_go_to_a_full_channel_of_it(order: tuple[str, str]) -> None:
    """No bound keeps moved messages out, so who has room before the hand-over has it."""
    node, delivery = holding()
    full(node, max_messages=4, overflow="dead_letter", dead_letter="dead")
    full(node, "dead", count=3, max_messages=4)
    assert isinstance(node.result(handed(delivery, *(publish(channel=name) for name in order))), HandedOver)
    assert (node.stats("d").depth, node.stats("dead").depth) == (4, 5)


def test_hand_over_is_done_where_two_full_channels_are_each_others_dead_letter_channel() -> None:
    node, delivery = holding()
    full(node, "d", max_messages=4, overflow="dead_letter", dead_letter="e")
    full(node, "e", max_messages=4, overflow="dead_letter", dead_letter="d")
    result = node.result(handed(delivery, publish(channel="d"), publish(channel="e")))
    assert result == HandedOver(3, (("d", 5, 1), ("e", 6, 1)), False, START)
    assert (node.stats("d").depth, node.stats("e").depth) == (6, 4)


def test_hand_over_and_publish_of_the_same_batches_store_the_same() -> None:
    batches: list[Publish] = [
        publish(3, channel="d", position=200, size=90, runs=(Run(2, priority=3), Run(1, expiry_ms=70))),
        publish(1, channel="d", position=300),
    ]
    node, delivery = holding()
    node.entry(handed(delivery, *batches))
    other, _ = holding()
    other.entry(*batches)
    given = [n.delivery(receive(9, channel="d")).pieces for n in (node, other)]
    assert given[0] == given[1]


def test_hand_over_to_a_channel_that_use_does_not_make_is_refused() -> None:
    node, delivery = holding()
    node.entry(SetDefaults("d", {"create_on_use": False}))
    assert isinstance(refused(node, handed(delivery, publish(1, channel="d"))), ChannelNotFound)


@pytest.mark.parametrize("bound", [{"max_messages": 1}, {"max_bytes": 1999}])
def test_hand_over_that_a_new_channel_could_never_take_is_refused(bound: dict[str, Any]) -> None:
    node, delivery = holding()
    node.entry(SetDefaults("d", {**bound, "overflow": "drop_oldest"}))
    result = refused(node, handed(delivery, publish(1, channel="d"), publish(1, channel="d")))
    assert describe(result) == (ChannelFull, {"depth": 0, "size_bytes": 0, "max_messages": 0, "max_bytes": 0} | bound)


def test_hand_over_whose_dead_letters_nobody_can_take_is_refused() -> None:
    node, delivery = holding()
    node.entry(SetDefaults("dead", {"create_on_use": False}))
    node.entry(CreateChannel("d", ChannelSettings(max_messages=1, overflow="dead_letter", dead_letter="dead")))
    node.entry(publish(1, channel="d"))
    assert isinstance(refused(node, handed(delivery, publish(1, channel="d"))), ChannelFull)


def test_hand_over_makes_room_by_a_batch_in_two_parts_and_the_one_behind_it() -> None:
    node, delivery = holding()
    node.entry(publish(3, channel="d"), publish(1, channel="d"))
    first = node.delivery(receive(1, channel="d"))
    node.entry(Nack(first.key.session, "d", (first.pieces[0].receipt,)))  # delivered once, so apart from its neighbours
    node.entry(UpdateChannel("d", ChannelSettings(max_bytes=1500, overflow="drop_oldest")))
    assert isinstance(node.result(handed(delivery, publish(1, channel="d"))), HandedOver)
    assert (node.stats("d").depth, node.stats("d").dropped) == (1, 4)
