"""Routes, bindings and sends to several channels, case by case; `test_routing_model` has the random ones."""

from __future__ import annotations

import re

import msgpack
import pytest

from tests.unit.broker.builders import TINY, Node, origins, publish, ranges, receive, ruled, scheduled
from zmqbroker.broker import Machine
from zmqbroker.broker.bindings import Bindings
from zmqbroker.broker.limits import MachineLimits
from zmqbroker.broker.records import Moment
from zmqbroker.commands import (
    EVENTS,
    BindingChanged,
    ChannelSettings,
    Command,
    Counted,
    CreateChannel,
    DeleteBinding,
    DeleteRoute,
    OpenProducer,
    Origin,
    Publish,
    PublishAll,
    Published,
    PublishedAll,
    Purge,
    Redrive,
    Result,
    RouteChanged,
    SetBinding,
    SetDefaults,
    SetRoute,
)
from zmqbroker.errors import (
    Busy,
    ChannelFull,
    ChannelNotFound,
    Corruption,
    Duplicate,
    InvalidRequest,
    OutOfSequence,
    RequestError,
    RouteNotFound,
    SequenceMismatch,
    UnknownProducer,
)

STORE = "events_store:x.1"


def told(result: Result) -> dict[str, Published | RequestError]:
    assert isinstance(result, PublishedAll)
    return dict(result.results)


def all_to(*names: str, producer: int = 0, base: int = 0, expected: int | None = None) -> PublishAll:
    """One message to several channels."""
    batches = [publish(channel=name, producer=producer, base=base, expected_sequence=expected) for name in names]
    return PublishAll(tuple(batches))


def opened(node: Node, *names: str, producer: int = 7) -> None:
    node.entry(*(OpenProducer(name, producer) for name in names))


# --- all or none --------------------------------------------------------------------------------------------------------


def test_publish_all_stores_in_every_channel_in_order() -> None:
    node = Node()
    node.entry(publish(2, channel="b"))
    result = node.result(all_to("a", "b", STORE))
    stored = [(name, one.first_sequence) for name, one in told(result).items() if isinstance(one, Published)]
    assert stored == [("a", 1), ("b", 3), (STORE, 1)]


@pytest.mark.parametrize("place", [0, 1, 2])
def test_publish_all_stores_nothing_when_one_channel_is_full_and_each_says_why(place: int) -> None:
    names = ["a", "b"]
    names.insert(place, "full")
    node = ruled(channel="full", max_messages=1)
    node.entry(publish(channel="full"))
    results = told(node.result(all_to(*names)))
    assert list(results) == names
    assert all(isinstance(one, ChannelFull) for one in results.values())
    assert str(results["full"]).startswith("channel 'full' has 1 messages")
    assert str(results["a"]).startswith(
        "not stored, since channel 'full' refuses it and all are stored or none: channel 'full' has"
    )
    assert node.machine.channels() == ["full"]


def test_publish_all_to_too_many_channels_stores_nothing() -> None:
    node = Node(TINY)
    results = told(node.result(all_to("a", "b", "c")))
    assert [type(one) for one in results.values()] == [Busy, Busy, Busy]
    assert node.machine.channels() == []


def test_publish_all_with_expected_sequence_asks_every_channel() -> None:
    node = Node()
    node.entry(publish(channel="a"))
    results = told(node.result(all_to("a", "b", expected=1)))
    assert [type(one) for one in results.values()] == [SequenceMismatch, SequenceMismatch]
    error = results["b"]
    assert isinstance(error, SequenceMismatch)
    assert (error.expected, error.last_sequence) == (1, 0)
    node.entry(publish(channel="b"))
    assert all(isinstance(one, Published) for one in told(node.result(all_to("a", "b", expected=1))).values())


def test_publish_all_with_a_producer_is_stored_once_whatever_is_repeated() -> None:
    node = Node()
    opened(node, "a", "b")
    first = told(node.result(all_to("a", "b", producer=7, base=1)))
    again = told(node.result(all_to("a", "b", producer=7, base=1)))
    assert [one.duplicate for one in [*first.values(), *again.values()] if isinstance(one, Published)] == [False] * 2 + [
        True
    ] * 2
    assert (node.stats("a").depth, node.stats("b").depth) == (1, 1)


def test_publish_all_of_an_unknown_producer_is_refused_as_a_whole() -> None:
    node = Node()
    opened(node, "a")
    result = node.result(all_to("a", "b", producer=7, base=1))
    assert isinstance(result, UnknownProducer)
    assert node.stats("a").depth == 0


def test_publish_all_repeated_with_another_destination_tells_what_is_stored() -> None:
    node = Node()
    opened(node, "a")
    node.entry(all_to("a", producer=7, base=1))
    results = told(node.result(all_to("a", "b", producer=7, base=1)))
    assert [type(one) for one in results.values()] == [Published, UnknownProducer]
    opened(node, "b")
    results = told(node.result(all_to("a", "b", producer=7, base=1)))
    assert [one.duplicate for one in results.values() if isinstance(one, Published)] == [True, False]


def test_publish_all_out_of_sequence_uses_no_number() -> None:
    node = Node()
    opened(node, "a", "b")
    node.entry(publish(channel="a", producer=7, base=1))
    results = told(node.result(all_to("a", "b", producer=7, base=2)))
    assert [type(one) for one in results.values()] == [OutOfSequence, OutOfSequence]
    assert (node.stats("a").depth, node.stats("b").depth) == (1, 0)


def test_publish_all_stored_too_long_ago_is_a_duplicate() -> None:
    node = Node(MachineLimits(results_kept=1))
    opened(node, "a", "b")
    node.entry(*(all_to("a", "b", producer=7, base=base) for base in (1, 2)))
    results = told(node.result(all_to("a", "b", producer=7, base=1)))
    assert [type(one) for one in results.values()] == [Duplicate, Duplicate]


@pytest.mark.parametrize("bad", [publish(0, channel="b"), publish(2, channel="b", ids=[b"1"]), publish(channel="a")])
def test_publish_all_that_contradicts_itself_stores_nothing(bad: Publish) -> None:
    node = Node()
    result = node.result(PublishAll((publish(channel="a"), bad)))
    refused = list(told(result).values()) if isinstance(result, PublishedAll) else [result]
    assert all(isinstance(one, InvalidRequest) for one in refused)
    assert node.machine.channels() == []


def test_publish_all_drops_what_is_oldest_where_its_channel_does_so() -> None:
    node = ruled(channel="a", max_messages=1, overflow="drop_oldest")
    node.entry(all_to("a", "b"))
    assert all(isinstance(one, Published) for one in told(node.result(all_to("a", "b"))).values())
    assert (node.stats("a").depth, node.stats("a").dropped, node.stats("b").depth) == (1, 1, 2)


def test_what_is_stored_everywhere_is_told_without_an_entry() -> None:
    node = Node()
    opened(node, "a", "b")
    command = all_to("a", "b", producer=7, base=1)
    headers = [batch.header for batch in command.batches]
    assert node.machine.stored_all(headers) is None
    node.entry(all_to("a", producer=7, base=1))
    assert node.machine.stored_all(headers) is None
    node.entry(command)
    assert node.machine.stored_all(headers) == node.result(command)
    assert node.machine.stored_all([batch.header for batch in all_to("a", "c").batches]) is None


# --- routes -------------------------------------------------------------------------------------------------------------


def test_routes_are_set_changed_and_deleted() -> None:
    node = Node()
    assert node.result(SetRoute("r", "a;b")) == RouteChanged("r", changed=True)
    assert node.result(SetRoute("r", "a;b")) == RouteChanged("r", changed=False)
    assert node.result(SetRoute("r", "events:c")) == RouteChanged("r", changed=True)
    node.restart()
    assert (list(node.machine.routes), node.machine.routes.get("r"), node.machine.routes.get("s")) == (
        [("r", "events:c")],
        "events:c",
        None,
    )
    assert node.result(DeleteRoute("r")) == RouteChanged("r", changed=True)
    assert isinstance(node.result(DeleteRoute("r")), RouteNotFound)


def test_route_to_a_route_is_refused_by_every_replica() -> None:
    refusal = Node().result(SetRoute("r", "a;routes:s"))
    assert isinstance(refusal, InvalidRequest)
    assert str(refusal) == "route 'r' names 'routes:s': a route stands for no other route"


def test_routes_are_bounded() -> None:
    node = Node(TINY)
    node.entry(SetRoute("a", "x"), SetRoute("b", "x"))
    assert isinstance(node.result(SetRoute("c", "x")), Busy)
    assert node.result(SetRoute("b", "y")) == RouteChanged("b", changed=True)


# --- bindings -----------------------------------------------------------------------------------------------------------


def bound(*bindings: tuple[str, str], limits: MachineLimits | None = None) -> Node:
    node = Node(limits)
    for source, queues in bindings:
        assert node.result(SetBinding(source, queues)) == BindingChanged(source, changed=True)
    return node


def test_store_feeds_queues_in_the_same_entry_with_its_name_as_origin() -> None:
    node = bound(("events_store:x.*", "a;b"), ("events_store:>", "b;c"), ("events_store:y", "d"))
    node.entry(publish(2, channel=STORE))
    delivery = node.delivery(receive(5, channel="b"))
    assert (ranges(delivery), origins(delivery)) == ([(1, 2, 1)], [Origin(STORE, 1, 0, "binding")])
    (piece,) = delivery.pieces
    assert (piece.index, piece.position, piece.low) == (4, 16, 0)
    assert node.machine.channels() == ["a", "b", "c", STORE]


def test_consumer_that_waits_gets_what_a_store_takes() -> None:
    node = bound(("events_store:>", "a"))
    node.entry(receive(channel="a", wait_ms=1000))
    assert ranges(node.delivery(publish(channel=STORE))) == [(1, 1, 1)]


@pytest.mark.parametrize("command", [publish(channel="x"), publish(channel="events_store.x")])
def test_queue_feeds_nothing(command: Publish) -> None:
    node = bound(("events_store:>", "a"))
    node.entry(command)
    assert node.machine.stats("a") is None


def test_repeat_of_a_publish_feeds_nothing_again() -> None:
    node = bound(("events_store:>", "a"))
    opened(node, STORE)
    node.entry(publish(channel=STORE, producer=7, base=1), publish(channel=STORE, producer=7, base=1))
    assert node.stats("a").depth == 1


@pytest.mark.parametrize("window_ms", [0, 1000])
def test_message_that_its_store_knows_feeds_nothing_again(window_ms: int) -> None:
    node = bound(("events_store:>", "a"))
    node.entry(CreateChannel(STORE, ChannelSettings(dedup_window_ms=1000)))
    node.entry(CreateChannel("a", ChannelSettings(dedup_window_ms=window_ms)))
    node.entry(publish(channel=STORE, ids=[b"1"]), publish(channel=STORE, ids=[b"1"]))
    node.entry(publish(3, channel=STORE, ids=[b"2", b"1", b""]))
    delivery = node.delivery(receive(9, channel="a"))
    assert [origin and origin.sequence for origin in origins(delivery)] == [1, 3, 5]
    stats = node.stats("a")
    assert (stats.depth, stats.deduplicated, stats.last_sequence) == (3, 1, 4)
    assert told(node.result(PublishAll((publish(channel=STORE, ids=[b"2"]), publish(channel="b", ids=[b"2"])))))[STORE] == (
        Published(6, 1, False, node.now_unix_ns, ((0, 3),))
    )
    assert node.stats("a").depth == 3


def test_schedule_of_a_store_feeds_queues_from_its_own_entry() -> None:
    node = bound(("events_store:>", "a"))
    node.entry(scheduled(channel=STORE, every_ms=1000))
    node.entry(after_ms=1000)
    (piece,) = node.delivery(receive(channel="a")).pieces
    assert piece.index == 2


def test_full_queue_keeps_nobody_from_publishing_and_is_counted() -> None:
    node = bound(("events_store:>", "a"))
    node.entry(CreateChannel("a", ChannelSettings(max_messages=1)))
    assert isinstance(node.result(publish(channel=STORE)), Published)
    assert isinstance(node.result(publish(2, channel=STORE)), Published)
    assert (node.stats("a").depth, node.stats(STORE).depth) == (1, 3)
    node.restart()
    assert [(one.source, one.queues, one.left_out) for one in node.machine.bindings] == [("events_store:>", ("a",), 2)]


def test_full_queue_with_a_dead_letter_channel_loses_nothing() -> None:
    node = bound(("events_store:>", "a"))
    node.entry(CreateChannel("a", ChannelSettings(max_messages=1, dead_letter="dead")))
    node.entry(publish(channel=STORE), publish(channel=STORE))
    assert origins(node.delivery(receive(channel="dead", visibility_ms=0))) == [Origin("a", 2, 0, "overflow")]
    node.entry(Purge("a"))
    assert node.result(Redrive("dead")) == Counted(1)
    assert node.stats("a").depth == 1
    assert [one.left_out for one in node.machine.bindings] == [0]


def test_redrive_brings_nothing_back_to_a_store() -> None:
    node = bound(("events_store:>", "a"))
    node.entry(publish(channel=STORE))
    assert node.result(Redrive("a")) == Counted(0)
    assert node.result(Redrive("a", "b")) == Counted(1)
    assert node.stats(STORE).last_sequence == 1


def test_queue_that_use_does_not_make_is_left_out_and_counted() -> None:
    node = bound(("events_store:>", "a"))
    node.entry(SetDefaults("a", {"create_on_use": False}))
    assert isinstance(node.result(publish(3, channel=STORE)), Published)
    assert [one.left_out for one in node.machine.bindings] == [3]
    assert isinstance(node.result(publish(channel="a")), ChannelNotFound)


def test_bindings_are_changed_and_deleted() -> None:
    node = bound(("events:a", "q"))
    assert node.result(SetBinding("events:a", "q")) == BindingChanged("events:a", changed=False)
    assert node.result(SetBinding("events:a", "q;r")) == BindingChanged("events:a", changed=True)
    assert list(node.machine.bindings.fed(EVENTS, "a")) == ["q", "r"]
    assert (list(node.machine.bindings.fed(EVENTS, "b")), len(node.machine.bindings)) == ([], 1)
    assert node.result(DeleteBinding("events:a")) == BindingChanged("events:a", changed=True)
    assert node.result(DeleteBinding("events:a")) == BindingChanged("events:a", changed=False)
    assert node.machine.bindings.fed(EVENTS, "a") == {}


def test_bindings_and_their_queues_are_bounded() -> None:
    node = bound(("events:a", "q"), ("events:b", "q"), limits=TINY)
    assert isinstance(node.result(SetBinding("events:c", "q")), Busy)
    assert node.result(SetBinding("events:b", "q;r")) == BindingChanged("events:b", changed=True)
    refusal = node.result(SetBinding("events:a", "q;r"))
    assert isinstance(refusal, Busy)
    assert str(refusal).startswith("bindings would name 4 queues, all of them together may name 3")
    node.entry(DeleteBinding("events:b"))
    assert node.result(SetBinding("events:a", "q;r;s")) == BindingChanged("events:a", changed=True)


# --- as they are stored -------------------------------------------------------------------------------------------------


def rules() -> Node:
    node = Node()
    node.entry(SetRoute("r", "a;b"), SetBinding("events:a", "q"))
    return node


def test_routes_and_bindings_are_described() -> None:
    keys = [key for key, _ in rules().machine.items() if key[0] in (17, 18)]
    assert [rules().machine.describe(key) for key in keys] == [f"route {1 << 16}", f"binding {(1 << 16) + 1}"]


def test_changes_of_routes_and_bindings_are_what_a_store_needs() -> None:
    node, stored = rules(), dict[bytes, bytes]()
    entries: list[list[Command]] = [
        [],
        [SetRoute("r", "c"), SetBinding("events:a", "p")],
        [SetRoute("s", "c"), DeleteRoute("r"), DeleteBinding("events:a")],
    ]
    for commands in entries:
        node.entry(*commands)
        for key, value in node.machine.changes():
            if value is None:
                del stored[key]
            else:
                stored[key] = value
        assert sorted(stored.items()) == node.machine.items()


@pytest.mark.parametrize("kind", [17, 18])
@pytest.mark.parametrize(
    "value",
    [[], ["a"], ["a", 5], [5, "a"], ["a", "b", "c"], ["events:a", ["q"], "1"], ["events:a", [5], 0], ["queues:a", ["q"], 0]],
)
def test_damaged_rule_is_refused(kind: int, value: list[object]) -> None:
    items = [*rules().machine.items(), (bytes([kind, 1] + [9] * 7), msgpack.packb(value))]
    with pytest.raises(Corruption, match="cannot be read"):
        Machine.restore(1, sorted(items))


def test_two_rules_of_one_name_are_refused() -> None:
    items = rules().machine.items()
    for kind, said in ((17, "route 'r' twice"), (18, "binding 'events:a' twice")):
        (value,) = [value for key, value in items if key[0] == kind]
        with pytest.raises(Corruption, match=re.escape(said)):
            Machine.restore(1, sorted([*items, (bytes([kind, 1] + [9] * 7), value)]))


def test_ten_thousand_bindings_of_other_names_cost_a_look_nothing() -> None:
    bindings = Bindings(MachineLimits(bindings_max=10_000, bound_queues_max=10_000))
    for number in range(10_000):
        bindings.change(SetBinding(f"events:n{number}.*", "q"), Moment(number + 1, 0))
    looked_at = 0

    class Counting(dict[str, object]):
        def __contains__(self, token: object) -> bool:
            nonlocal looked_at
            looked_at += 1
            return super().__contains__(token)

    root = bindings._trees[EVENTS]._root
    root.next = Counting(root.next)  # type: ignore[assignment]
    assert list(bindings.fed(EVENTS, "n7.x")) == ["q"]
    assert looked_at <= 4
