"""Smart routing through three nodes: lists of destinations, routes, bindings; `docs/GUARANTEES.md` links these row by row.

The last tests kill the leader.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

import zmqbroker
from tests.integration.wild import Wild, batch, unique_channel
from tests.processes import Cluster, Node, wait_until
from tests.raw import Raw
from zmqbroker.errors import ChannelFull, InvalidRequest, RouteNotFound, SequenceMismatch
from zmqbroker.wire.frames import Reply, Request


@pytest.fixture
def client(trio: Cluster) -> Iterator[zmqbroker.SyncClient]:
    with zmqbroker.SyncClient(trio.url) as made:
        yield made


def follower(trio: Cluster) -> Node:
    """A node that does not lead."""
    leader = trio.leader()
    return next(node for node in trio.nodes.values() if node is not leader)


def bodies(client: zmqbroker.SyncClient, name: str) -> list[bytes]:
    """What can be received now; it is acked."""
    queue = client.queue(name)
    messages = queue.receive(1000)
    queue.ack(messages)
    return [message.body for message in messages]


def last_sequence(client: zmqbroker.SyncClient, name: str) -> int:
    """How many messages a channel has had."""
    return int(client.channels.describe(name)["last_sequence"])


class Listener:
    """Subscriptions to events at one node, with bodies as they are."""

    def __init__(self, node: Node, pattern: str) -> None:
        self._raw = Raw(node.endpoint)
        told = self._raw.ask(Request.SUBSCRIBE, {"subscription": 1, "pattern": pattern, "plain": True})
        assert told.command == Reply.SUBSCRIBED

    def heard(self) -> list[bytes]:
        """The next events."""
        answer = self._raw.receive(15_000)
        assert answer is not None
        assert answer.command == Reply.EVENTS
        return answer.bodies

    def silent(self) -> bool:
        """Whether nothing has come: a request to the same connection is answered behind all that was sent before."""
        return self._raw.ask(Request.PING).command == Reply.PONG and self._raw.receive(50) is None

    def __enter__(self) -> Listener:
        return self

    def __exit__(self, *_: object) -> None:
        self._raw.__exit__(None, None, None)


# --- destinations --------------------------------------------------------------------------------------------------------


def test_list_of_destinations_reaches_queue_events_store_and_route(trio: Cluster, client: zmqbroker.SyncClient) -> None:
    name = unique_channel()
    client.routes.set(f"{name}.r", f"{name}.audit;events_store:{name}.log")
    with Listener(follower(trio), f"{name}.*") as listener:
        wait_until(lambda: subscribers(trio.leader(), f"{name}.x"), 10, "the leader to hear of the subscription")
        assert listener.heard() == [b"looking"]
        results = client.send(f"{name};events:{name}.1;events_store:{name};routes:{name}.r", b"x", metadata="m")
        assert listener.heard() == [b"x"]
    assert [(result.destination, result.sequence, result.error) for result in results] == [
        (name, 1, None),
        (f"events:{name}.1", 0, None),
        (f"events_store:{name}", 1, None),
        (f"{name}.audit", 1, None),
        (f"events_store:{name}.log", 1, None),
    ]
    assert results[1].subscribers == 1
    (message,) = client.queue(f"{name}.audit").receive()
    assert (message.body, message.metadata) == (b"x", "m")
    assert bodies(client, name) == [b"x"]


def subscribers(node: Node, name: str) -> int:
    """Who would get an event, by publishing one."""
    with Raw(node.endpoint) as raw:
        frame = batch(name, b"looking")
        return int(raw.ask(Request.PUBLISH, {"confirm": True}, [frame]).fields["subscribers"])


def test_stored_destinations_are_atomic_and_the_result_says_what_happened(client: zmqbroker.SyncClient) -> None:
    name = unique_channel()
    client.channels.create(f"{name}.full", max_messages=1)
    client.queue(f"{name}.full").send(b"first")
    results = client.send(f"{name}.a;events:{name};{name}.full;events_store:{name}", b"x")
    assert [type(result.error) for result in results] == [ChannelFull] * 4
    assert f"channel '{name}.full' has 1 messages" in str(results[2].error)
    assert str(results[0].error).startswith(f"not stored, since channel '{name}.full' refuses it")
    assert (last_sequence(client, f"{name}.a"), last_sequence(client, f"events_store:{name}")) == (0, 0)
    assert bodies(client, f"{name}.full") == [b"first"]
    assert [result.error for result in client.send(f"{name}.a;{name}.full", b"y")] == [None, None]
    refused = client.send(f"{name}.a;{name}.b", b"z", expected_sequence=1)
    assert [type(result.error) for result in refused] == [SequenceMismatch, SequenceMismatch]
    assert bodies(client, f"{name}.a") == [b"y"]


def test_batch_and_simple_client_use_destinations_at_any_node(trio: Cluster, client: zmqbroker.SyncClient) -> None:
    name = unique_channel()
    to = {"to": f"{name}.a;{name}.b", "forward": True}
    with Raw(follower(trio).endpoint) as raw:
        answer = raw.ask(Request.SEND_BATCH, to, [batch("anything", b"1", b"2")])
        assert answer.command == Reply.ROUTED
        assert [(row["sequence"], row["count"]) for row in answer.fields["results"]] == [(1, 2), (1, 2)]
        told = raw.ask(Request.SEND, {**to, "id": "i", "explain": True}, [b"3"]).fields
        assert (told["results"][1]["sequence"], "applied" in told["explain"]) == (3, True)
        raw.send(Request.SEND, {**to, "confirm": "none"}, [b"4"])
        assert raw.ask(Request.SEND, to, [b"5"]).fields["results"][1]["sequence"] == 5
    assert bodies(client, f"{name}.a") == bodies(client, f"{name}.b") == [b"1", b"2", b"3", b"4", b"5"]


BAD_LISTS = ["", "a;", "a b", "a;a", "a;queues:a", "a.*", "commands:a", "queries:a", "events_store:a>b", "a;routes:"]


@pytest.mark.parametrize("to", BAD_LISTS)
def test_list_that_is_none_is_refused_with_the_part(trio: Cluster, to: str) -> None:
    with Wild(trio.leader().endpoint) as wild:
        for request, more, frames in (
            (Request.SEND, {}, [b"x"]),
            (Request.SEND_BATCH, {}, [batch("a", b"x")]),
            (Request.OPEN_PRODUCER, {"producer": 5}, []),
        ):
            answer = wild.ask(request, {"to": to, **more}, frames)
            assert answer.code in ("INVALID_REQUEST", "INVALID_CHANNEL")
            assert answer.fields["message"].startswith("destination ")


# --- routes --------------------------------------------------------------------------------------------------------------


def test_route_is_set_changed_deleted_and_listed_by_every_node(trio: Cluster, client: zmqbroker.SyncClient) -> None:
    name = unique_channel()
    assert client.routes.set(name, f"queues:{name}.a")
    assert not client.routes.set(name, f"{name}.a")
    client.send(f"routes:{name}", b"1")
    assert client.routes.set(name, f"{name}.b;{name}.c")
    client.send(f"routes:{name}", b"2")
    assert [bodies(client, f"{name}.{letter}") for letter in "abc"] == [[b"1"], [b"2"], [b"2"]]
    for node in trio.nodes.values():
        wait_until(partial(is_listed, node, Request.LIST_ROUTES, name, [f"{name}.b;{name}.c"]), 10, "the route")
    client.routes.delete(name)
    for action in (lambda: client.send(f"{name}.a;routes:{name}", b"3"), lambda: client.routes.delete(name)):
        with pytest.raises(RouteNotFound):
            action()
    assert bodies(client, f"{name}.a") == []


def listed(node: Node, request: Request, search: str) -> list[str]:
    """What the node itself tells: of routes their destinations, of bindings their queues."""
    with Raw(node.endpoint) as raw:
        fields = raw.ask(request, {"search": search}).fields
    return [row.get("destinations") or row["queues"] for row in fields.get("routes") or fields.get("bindings") or []]


def is_listed(node: Node, request: Request, search: str, rows: list[str]) -> bool:
    """Whether the node itself tells just that."""
    return listed(node, request, search) == rows


def test_route_to_a_route_is_refused(client: zmqbroker.SyncClient, trio: Cluster) -> None:
    with pytest.raises(InvalidRequest, match="destination 2 of 2, 'routes:r', is one of routes"):
        client.routes.set(unique_channel(), "a;routes:r")
    with Wild(trio.leader().endpoint) as wild:
        fields = {"name": "r", "destinations": "routes:s"}
        assert wild.ask(Request.SET_ROUTE, fields).code == "INVALID_REQUEST"


# --- bindings ------------------------------------------------------------------------------------------------------------


def test_store_feeds_queues_that_are_bound_to_it_in_the_same_step(client: zmqbroker.SyncClient, trio: Cluster) -> None:
    name = unique_channel()
    client.bindings.set(f"events_store:{name}.*", f"{name}.q;{name}.full")
    client.bindings.set(f"events_store:{name}.1", f"{name}.q;{name}.other")
    client.channels.create(f"{name}.full", max_messages=1, dead_letter=f"{name}.dead")
    for body in (b"1", b"2"):
        client.send(f"events_store:{name}.1;{name}.beside", body)
    (message, second) = client.queue(f"{name}.q").receive(2)
    origin = message.origin
    assert origin is not None
    assert (message.body, origin.channel, origin.sequence, origin.reason) == (b"1", f"events_store:{name}.1", 1, "binding")
    assert second.body == b"2"
    assert (bodies(client, f"{name}.full"), bodies(client, f"{name}.dead")) == ([b"1"], [b"2"])
    assert bodies(client, f"{name}.other") == bodies(client, f"{name}.beside") == [b"1", b"2"]
    for node in trio.nodes.values():
        queues = [f"{name}.q;{name}.full", f"{name}.q;{name}.other"]
        wait_until(partial(is_listed, node, Request.LIST_BINDINGS, name, queues), 10, "the bindings")
    assert client.bindings.delete(f"events_store:{name}.1")
    client.send(f"events_store:{name}.1", b"3")
    assert bodies(client, f"{name}.other") == []


@pytest.mark.parametrize("leads", [True, False])
def test_event_feeds_queues_that_are_bound_to_its_name_from_any_node(
    client: zmqbroker.SyncClient, trio: Cluster, leads: bool
) -> None:
    name = unique_channel()
    client.bindings.set(f"events:{name}.*", f"{name}.a;{name}.b")
    node = trio.leader() if leads else follower(trio)
    wait_until(lambda: listed(node, Request.LIST_BINDINGS, name), 10, "the node to know the binding")
    with Raw(node.endpoint) as raw:
        told = raw.ask(Request.PUBLISH, {"confirm": True}, [batch(f"{name}.new", b"1", b"2")])
        assert told.fields == {"nodes": 0, "subscribers": 0, "queues": 2}
    client.send(f"events:{name}.new", b"3")
    for letter in "ab":
        queue = client.queue(f"{name}.{letter}")
        assert [message.body for message in queue.receive(3, min=3, wait_ms=15_000)] == [b"1", b"2", b"3"]


# --- with a leader that dies ---------------------------------------------------------------------------------------------


def test_routed_sends_are_stored_once_in_every_destination_through_the_death_of_leaders(
    client: zmqbroker.SyncClient, trio: Cluster
) -> None:
    name = unique_channel()
    client.routes.set(name, f"{name}.b;events_store:{name}")
    client.bindings.set(f"events_store:{name}", f"{name}.bound")
    sent: list[bytes] = []
    failures: list[Any] = []
    stop = threading.Event()

    def send() -> None:
        for number in itertools.count():
            if stop.is_set():
                return
            body = str(number).encode()
            results = client.send(f"{name}.a;routes:{name}", body)
            failures.extend(result for result in results if result.error is not None)
            sent.append(body)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        for _ in range(2):
            wait_for_more(sent)
            killed = trio.leader()
            killed.kill()
            wait_for_more(sent)
            killed.start()
            wait_until(partial(trio.caught_up, killed), 30, "the killed node to catch up")
    finally:
        stop.set()
        thread.join(60)
    assert (failures, thread.is_alive()) == ([], False)
    for channel in (f"{name}.a", f"{name}.b", f"{name}.bound"):
        assert all_bodies(client, channel) == sent
    assert last_sequence(client, f"events_store:{name}") == len(sent)


def wait_for_more(sent: list[bytes]) -> None:
    """Some more messages are confirmed."""
    wanted = len(sent) + 20
    wait_until(lambda: len(sent) >= wanted, 30, "more confirms")


def all_bodies(client: zmqbroker.SyncClient, name: str) -> list[bytes]:
    found: list[bytes] = []
    while more := bodies(client, name):
        found += more
    return found
