"""Smart routing at a node's desk: one request, several destinations, and what became of each."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.unit.server.harness import Site
from tests.unit.server.test_desk import Office, follower
from zmqbroker.broker.limits import MachineLimits
from zmqbroker.broker.records import Moment
from zmqbroker.broker.routes import Routes
from zmqbroker.commands import (
    ChannelSettings,
    CreateChannel,
    DeleteBinding,
    DeleteRoute,
    Destination,
    OpenProducer,
    PublishAll,
    SetBinding,
    SetRoute,
)
from zmqbroker.errors import InvalidRequest, RouteNotFound, StorageFull
from zmqbroker.server.routing import event_frame, expanded
from zmqbroker.wire import codec
from zmqbroker.wire.columns import Treatment, add_columns
from zmqbroker.wire.compression import mark_compressed
from zmqbroker.wire.destinations import read_destinations
from zmqbroker.wire.frames import Reply, decode_header
from zmqbroker.wire.peer import PeerKind
from zmqbroker.wire.requests import (
    AnyRequest,
    ListBindings,
    ListRoutes,
    ManageRequest,
    OpenProducers,
    RoutedSend,
    Send,
    SendBatch,
    decode_request,
)

__all__ = ["follower"]  # the fixture


class Published:
    """Stands for the events of a node: keeps what is published."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.refusal: Exception | None = None

    def publish(self, frame: bytes) -> tuple[int, int]:
        if self.refusal is not None:
            raise self.refusal
        self.frames.append(frame)
        return 2, 5


@pytest.fixture
def leader() -> Office:
    """The desk of a node that leads, and sends what its group answers."""
    office = Office(Site().lead())
    host, node = cast(Any, office.site.host), cast(Any, office.desk._node)
    node.reply = host.reply = office.desk.answer
    host.refuse = office.desk.refuse
    node.realtime = SimpleNamespace(events=Published())
    return office


def events_of(office: Office) -> Published:
    """What the node has published."""
    return cast(Any, office.desk._node).realtime.events  # type: ignore[no-any-return]


def served(office: Office, request: AnyRequest) -> tuple[int, dict[str, Any]]:
    """Code and fields of the answer."""
    code, fields, bodies = office.answer(request)
    assert bodies == []
    return code, fields


def to(text: str, message: Send | SendBatch | None = None) -> RoutedSend:
    return RoutedSend(read_destinations(text), message or Send("", b"body"))


def rows(fields: dict[str, Any]) -> list[tuple[str, Any]]:
    """Each destination with its sequence, its subscribers, or its code."""
    return [(row["destination"], row.get("code") or row.get("sequence", row.get("subscribers"))) for row in fields["results"]]


def test_message_goes_to_every_destination_in_order_by_one_entry(leader: Office) -> None:
    events = events_of(leader)
    code, fields = served(leader, to("a;events:b;events_store:c"))
    assert (code, rows(fields), fields["confirm"]) == (
        Reply.ROUTED,
        [("a", 1), ("events:b", 5), ("events_store:c", 1)],
        "quorum",
    )
    (command,) = leader.commands()
    assert isinstance(command, PublishAll)
    assert [batch.header.channel for batch in command.batches] == ["a", "events_store:c"]
    (frame,) = events.frames
    assert (codec.read_batch(frame).channel, codec.decode_batch(frame).bodies) == ("b", [b"body"])


def test_batch_goes_to_every_destination_whatever_its_frame_names(leader: Office) -> None:
    frame = codec.encode_batch(b"anything", [b"one", b"two"], ids=[b"i", b""])
    _, fields = served(leader, to("a;events_store:c", SendBatch(frame)))
    assert [(row["sequence"], row["count"]) for row in fields["results"]] == [(1, 2), (1, 2)]
    (command,) = leader.commands()
    assert isinstance(command, PublishAll)
    assert [list(batch.ids) for batch in command.batches] == [[b"i", b""]] * 2
    assert leader.site.machine.stats("anything") is None


def test_route_stands_for_its_destinations_as_soon_as_it_is_set(leader: Office) -> None:
    assert served(leader, ManageRequest(SetRoute("r", "a;b"))) == (
        Reply.CHANGED,
        {"route": "r", "changed": True, "confirm": "quorum"},
    )
    assert rows(served(leader, to("c;routes:r;b"))[1]) == [("c", 1), ("a", 1), ("b", 1)]
    served(leader, ManageRequest(SetRoute("r", "d")))
    assert rows(served(leader, to("routes:r"))[1]) == [("d", 1)]
    served(leader, ManageRequest(DeleteRoute("r")))
    assert leader.answer(to("a;routes:r"))[1]["code"] == "ROUTE_NOT_FOUND"
    assert leader.site.machine.stats("a").depth == 1  # type: ignore[union-attr]


def test_routes_expand_once_each_and_to_no_more_than_a_list_may_have() -> None:
    routes = Routes(MachineLimits())
    for number, text in enumerate(("a;b", "b;events:c", ";".join(f"q{n}" for n in range(63)))):
        routes.change(SetRoute(f"r{number}", text), Moment(number, 0))
    found = expanded(read_destinations("routes:r0;routes:r1;c"), routes)
    assert found == read_destinations("a;b;events:c;c")
    assert len(expanded(read_destinations("routes:r2;a"), routes)) == 64
    with pytest.raises(InvalidRequest, match="'routes:r2;a;b' stands for 65 destinations, the limit is 64"):
        expanded(read_destinations("routes:r2;a;b"), routes)
    with pytest.raises(RouteNotFound, match="no route is called 'r9'"):
        expanded((Destination("routes", "r9"),), routes)


def test_event_does_not_leave_when_what_is_to_be_stored_is_refused(leader: Office) -> None:
    events = events_of(leader)
    served(leader, ManageRequest(CreateChannel("full", ChannelSettings(max_bytes=1))))
    _, fields = served(leader, to("events:b;a;full"))
    assert rows(fields) == [("events:b", "CHANNEL_FULL"), ("a", "CHANNEL_FULL"), ("full", "CHANNEL_FULL")]
    assert all(row["retryable"] and row["max_bytes"] == 1 for row in fields["results"])
    assert events.frames == []
    assert leader.site.machine.stats("a") is None


def test_event_that_is_refused_does_not_touch_what_is_stored(leader: Office) -> None:
    events_of(leader).refusal = InvalidRequest("no")
    assert rows(served(leader, to("events:b;a"))[1]) == [("events:b", "INVALID_REQUEST"), ("a", 1)]


def test_events_alone_are_published_at_once(leader: Office) -> None:
    events = events_of(leader)
    assert rows(served(leader, to("events:b;events:c"))[1]) == [("events:b", 5), ("events:c", 5)]
    assert [codec.read_batch(frame).channel for frame in events.frames] == ["b", "c"]
    assert leader.site.machine.channels() == []


def test_send_with_a_producer_is_stored_once_and_its_event_leaves_once(leader: Office) -> None:
    events = events_of(leader)
    assert leader.answer(to("a;b", Send("", b"x", 7, 1)))[1]["code"] == "UNKNOWN_PRODUCER"
    code, fields = served(leader, OpenProducers(read_destinations("a;events:e;b"), 7))
    assert (code, fields) == (Reply.PRODUCER, {"last_sequence": 0})
    request = to("a;events:e;b", Send("", b"x", 7, 1))
    first, again = served(leader, request)[1], served(leader, request)[1]
    assert [row.get("duplicate") for row in [*first["results"], *again["results"]]] == [False] * 3 + [True] * 3
    assert (len(events.frames), leader.site.machine.stats("b").depth) == (1, 1)  # type: ignore[union-attr]


def test_producer_is_opened_by_route_and_not_where_nothing_is_stored(leader: Office) -> None:
    served(leader, ManageRequest(SetRoute("r", "a;events:x;b")))
    served(leader, OpenProducers(read_destinations("routes:r"), 7))
    assert [command for command in leader.commands() if isinstance(command, OpenProducer)] == [
        OpenProducer("a", 7),
        OpenProducer("b", 7),
    ]
    assert served(leader, OpenProducers(read_destinations("events:x"), 7)) == (Reply.PRODUCER, {"last_sequence": 0})
    assert leader.answer(OpenProducers(read_destinations("routes:s"), 7))[1]["code"] == "ROUTE_NOT_FOUND"


def test_send_without_a_confirm_is_answered_by_nobody_and_its_event_leaves(leader: Office) -> None:
    events = events_of(leader)
    leader.told.clear()
    leader.ask(to("a;events:b", Send("", b"x", confirm="none")))
    assert (leader.told, len(events.frames)) == ([], 1)


def test_batch_of_a_producer_without_a_confirm_is_refused(leader: Office) -> None:
    frame = codec.encode_batch(b"a", [b"x"], 7, 1)
    fields = leader.answer(to("a;b", SendBatch(frame, confirm="none")))[1]
    assert (fields["code"], fields["message"]) == (
        "INVALID_REQUEST",
        "field confirm is 'none' for a batch of producer 7, which is told how it ends",
    )


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (b"x", "MALFORMED_FRAME"),
        (codec.encode_batch(b"a", [b"body"])[:-1] + b"Y", "CHECKSUM_MISMATCH"),
        (codec.encode_batch(b"a;b", [b"body"]), "INVALID_CHANNEL"),
    ],
)
def test_bad_batch_is_refused_as_without_destinations(leader: Office, frame: bytes, code: str) -> None:
    assert leader.answer(to("a;b", SendBatch(frame)))[1]["code"] == code


def test_destinations_whose_frames_are_too_large_together_are_refused(leader: Office) -> None:
    limits = leader.desk._node.config.limits
    frame = codec.encode_batch(b"any", [bytes(limits.message_bytes_max)] * 20)
    assert rows(served(leader, to("a;b;c", SendBatch(frame)))[1]) == [("a", 1), ("b", 1), ("c", 1)]
    fields = leader.answer(to("a;bb;c;d", SendBatch(frame)))[1]
    assert (fields["code"], fields["limit"]) == ("MESSAGE_TOO_LARGE", limits.batch_bytes_max)
    assert fields["size"] == 4 * (len(frame) - len("any")) + len("abbcd")
    assert fields["message"].startswith(f"4 stored destinations make {fields['size']} bytes of one message")


def test_send_without_room_is_refused_unless_it_is_stored(leader: Office) -> None:
    node: Any = leader.desk._node
    events_of(leader)
    served(leader, OpenProducers(read_destinations("a;b"), 7))
    request = to("a;events:e;b", Send("", b"x", 7, 1))
    served(leader, request)
    full = StorageFull("full", used_bytes=1, budget_bytes=1)
    node.disks = SimpleNamespace(refusal=lambda group: full)
    assert leader.answer(to("a;b"))[1]["code"] == "STORAGE_FULL"
    code, fields, _ = leader.answer(request)
    assert (code, [row["duplicate"] for row in fields["results"]]) == (Reply.ROUTED, [True] * 3)


def test_destinations_in_several_groups_are_refused(leader: Office) -> None:
    node: Any = leader.desk._node
    node.config = SimpleNamespace(limits=node.config.limits, cluster=SimpleNamespace(groups=7))
    fields = leader.answer(to("{x}a;{x}b;c"))[1]
    assert fields["code"] == "INVALID_REQUEST"
    assert "destination 'c' is in group" in fields["message"]


def test_routes_and_bindings_are_listed_in_pages_by_any_node(leader: Office) -> None:
    for name in ("c", "a", "b"):
        served(leader, ManageRequest(SetRoute(name, "x")))
        served(leader, ManageRequest(SetBinding(f"events:{name}", "x;y")))

    def listed(request: ListRoutes | ListBindings) -> tuple[int, list[str], bool]:
        code, fields, _ = leader.answer(request)
        found = fields["routes"] if "routes" in fields else fields["bindings"]
        return code, [row.get("name") or row["source"] for row in found], fields["more"]

    assert listed(ListRoutes(count_max=2)) == (Reply.ROUTES, ["a", "b"], True)
    assert listed(ListRoutes("", "b")) == (Reply.ROUTES, ["c"], False)
    assert listed(ListRoutes("a")) == (Reply.ROUTES, ["a"], False)
    assert listed(ListBindings(count_max=2)) == (Reply.BINDINGS, ["events:a", "events:b"], True)
    assert listed(ListBindings("events:c")) == (Reply.BINDINGS, ["events:c"], False)
    assert leader.answer(ListBindings("", "events:b"))[1]["bindings"] == [
        {"source": "events:c", "queues": "x;y", "left_out": 0}
    ]
    done = {"binding": "events:c", "changed": True, "confirm": "quorum"}
    assert served(leader, ManageRequest(DeleteBinding("events:c"))) == (Reply.CHANGED, done)


@pytest.mark.parametrize("request_", [ListRoutes(), ListBindings()])
def test_lists_before_the_cluster_is_formed_are_empty(leader: Office, request_: AnyRequest) -> None:
    node: Any = leader.desk._node
    node.groups = {}
    fields = leader.answer(request_)[1]
    assert [value for value in fields.values() if isinstance(value, list)] == [[]]


@pytest.mark.parametrize(
    "request_",
    [
        to("a;b", Send("", b"x", forward=True)),
        OpenProducers(read_destinations("a;b"), 7, True),
        ManageRequest(SetRoute("r", "a"), True),
        ListRoutes(forward=True),
        ListBindings(forward=True),
    ],
)
def test_follower_forwards_what_is_for_the_leader(follower: Office, request_: AnyRequest) -> None:
    follower.ask(request_)
    assert [kind for kind, _, _ in follower.forwarded] == [PeerKind.FORWARD]


# --- as an event ----------------------------------------------------------------------------------------------------------


def test_event_of_a_message_has_its_headers_and_nothing_of_how_it_is_stored() -> None:
    message = Send("", b"x", 7, 1, "i", "m", {"a": "b"}, "till", "t", 5, 6, 7, group="g", expected_sequence=0)
    frame = event_frame(message, "e")
    assert frame == event_frame(Send("", b"x", id="i", metadata="m", tags={"a": "b"}, client_id="till", trace="t"), "e")
    header = codec.read_batch(frame)
    assert (header.channel, header.producer, header.columns) == ("e", 0, 3)


def test_event_of_a_batch_has_its_headers_and_nothing_of_how_it_is_stored() -> None:
    plain = codec.encode_batch(b"e", [b"x", b"yy"], ids=[b"i", b""], headers=[b"\x80", b""])
    batch = codec.encode_batch(b"q", [b"x", b"yy"], 7, 1, [b"i", b""], [b"\x80", b""])
    treated = add_columns(batch, 3, [Treatment(5, 0, 1, "g"), Treatment(0, 0, 0, "")])
    assert event_frame(SendBatch(treated), "e") == plain
    assert event_frame(SendBatch(mark_compressed(treated)), "e") == mark_compressed(plain)


# --- events to queues -----------------------------------------------------------------------------------------------------

EVENT = codec.encode_batch(b"orders.new", [b"x"])


def feed(office: Office) -> None:
    office.desk.leading.routing.feed(EVENT, codec.read_batch(EVENT))
    office.site.run()


def test_event_feeds_the_queues_bound_to_its_name_and_a_refusal_is_counted(leader: Office) -> None:
    feed(leader)
    for command in (SetBinding("events:orders.*", "a;full"), SetBinding("events_store:>", "b"), SetBinding("events:>", "a;c")):
        served(leader, ManageRequest(command))
    served(leader, ManageRequest(CreateChannel("full", ChannelSettings(max_bytes=1))))
    feed(leader)
    depths = {name: leader.site.machine.stats(name) for name in ("a", "b", "c", "full")}
    assert {name: stats and stats.depth for name, stats in depths.items()} == {"a": 1, "b": None, "c": 1, "full": 0}
    assert leader.desk.leading.routing.bound_count(EVENT) == 3
    node: Any = leader.desk._node
    node.disks = SimpleNamespace(refusal=lambda group: StorageFull("full", used_bytes=1, budget_bytes=1))
    feed(leader)
    assert node.counters["bound_events_lost"] == 3


def test_follower_sends_an_event_to_the_leader_for_the_queues(follower: Office) -> None:
    bindings = follower.site.machine.bindings
    bindings.change(SetBinding("events:orders.new", "a;b"), Moment(1, 0))
    feed(follower)
    sent = []
    for kind, _, frames in follower.forwarded:
        code, _, fields = decode_header(frames[0], from_client=True)
        request = decode_request(code, fields, frames[1:])
        assert isinstance(request, SendBatch)
        sent.append((kind, codec.read_batch(request.batch).channel, request.confirm))
    assert sent == [(PeerKind.FORWARD, "a", "none"), (PeerKind.FORWARD, "b", "none")]
    follower.peer = None
    feed(follower)
    assert follower.desk._node.counters["bound_events_lost"] == 2
