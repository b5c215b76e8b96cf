"""Sends to several destinations, routes and bindings, as both clients offer them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.unit.client.servers import FakeServer, run
from zmqbroker.client import Client, DestinationResult, SyncClient
from zmqbroker.client.idle_producers import IdleProducers, Numbers
from zmqbroker.commands import DeleteBinding, DeleteRoute, Destination, SetBinding, SetRoute
from zmqbroker.errors import (
    ChannelFull,
    DeadlineExceeded,
    InvalidChannel,
    InvalidRequest,
    LocalProtocolError,
    MessageTooLarge,
    OutOfSequence,
    RemoteProtocolError,
    RouteNotFound,
    UnknownProducer,
)
from zmqbroker.wire.frames import Reply, Request, decode_header, encode_header
from zmqbroker.wire.requests import ListBindings, ListRoutes, OpenProducers, RoutedSend, Send


def sent(server: FakeServer) -> list[RoutedSend]:
    """The requests that came."""
    return [request for request in server.node.seen if isinstance(request, RoutedSend)]


def opened(server: FakeServer) -> list[OpenProducers]:
    return [request for request in server.node.seen if isinstance(request, OpenProducers)]


def test_send_tells_what_became_of_it_at_each_destination() -> None:
    async def test(client: Client, server: FakeServer) -> None:
        await client.routes.set("r", "d;events:e")
        results = await client.send("a;events:b.1;events_store:c;routes:r", b"x")
        assert results == [
            DestinationResult("a", 1, 1),
            DestinationResult("events:b.1", subscribers=3),
            DestinationResult("events_store:c", 1, 1),
            DestinationResult("d", 1, 1),
            DestinationResult("events:e", subscribers=3),
        ]

    server = run(test)
    assert server.broker.published == [("b.1", b"x"), ("e", b"x")]
    assert server.broker.channel("events_store:c").bodies == [b"x"]
    (request,) = sent(server)
    assert isinstance(request.message, Send)
    assert (request.message.sequence, request.message.producer > 0) == (1, True)


def test_send_says_all_that_may_be_said_of_a_message() -> None:
    options: dict[str, Any] = {"id": "i", "metadata": "m", "tags": {"a": "b"}, "trace": "t", "delay_ms": 5}
    options |= {"expiry_ms": 6, "priority": 7, "group": "g"}

    async def test(client: Client, server: FakeServer) -> None:
        await client.send("a;b", b"x", expected_sequence=0, **options)

    (request,) = sent(run(test, client_id="till"))
    assert isinstance(request.message, Send)
    said = {name: getattr(request.message, name) for name in (*options, "client_id", "expected_sequence", "body")}
    assert said == {**options, "client_id": "till", "expected_sequence": 0, "body": b"x"}


def test_send_of_a_known_id_tells_what_is_stored_in_its_place() -> None:
    async def test(client: Client, server: FakeServer) -> None:
        assert [result.duplicate_of for result in await client.send("a;events:b", b"x", id="known")] == [9, 0]

    run(test)


def test_sends_to_one_list_share_a_producer_and_count_on() -> None:
    async def test(client: Client, server: FakeServer) -> None:
        for body in (b"1", b"2", b"3"):
            await client.send("a;b", body)
        await client.send("queues:a;queues:b", b"4")
        await client.send("b;a", b"5")

    server = run(test)
    assert [request.message.sequence for request in sent(server) if isinstance(request.message, Send)] == [1, 2, 3, 4, 1]
    assert len(opened(server)) == 2
    assert server.broker.channel("b").bodies == [b"1", b"2", b"3", b"4", b"5"]


def test_sends_at_the_same_time_have_producers_of_their_own() -> None:
    async def test(client: Client, server: FakeServer) -> None:
        await asyncio.gather(*(client.send("a;b", bytes([number])) for number in range(100)))
        await client.send("a;b", b"last")

    server = run(test)
    assert len(opened(server)) <= 64
    assert len(server.broker.channel("b").bodies) == 101


def test_events_alone_have_no_producer() -> None:
    async def test(client: Client, server: FakeServer) -> None:
        assert await client.send("events:a;events:b", b"x") == [
            DestinationResult("events:a", subscribers=3),
            DestinationResult("events:b", subscribers=3),
        ]

    server = run(test)
    (request,) = sent(server)
    assert isinstance(request.message, Send)
    assert (request.message.producer, opened(server)) == (0, [])


def test_refused_send_has_an_error_at_each_and_uses_no_number() -> None:
    async def test(client: Client, server: FakeServer) -> None:
        results = await client.send("a;events:b;full", b"x")
        assert [type(result.error) for result in results] == [ChannelFull] * 3
        assert [result.sequence for result in results] == [0] * 3
        await client.send("a;events:b;full", b"x")

    server = run(test)
    assert [request.message.sequence for request in sent(server) if isinstance(request.message, Send)] == [1, 1]
    assert (len(opened(server)), server.broker.published) == (1, [])


def test_route_that_is_not_there_is_an_error_and_uses_no_number() -> None:
    async def test(client: Client, server: FakeServer) -> None:
        with pytest.raises(RouteNotFound):
            await client.send("a;routes:r", b"x")
        await client.routes.set("r", "b")
        await client.send("a;routes:r", b"x")
        await client.routes.delete("r")
        with pytest.raises(RouteNotFound):
            await client.send("a;routes:r", b"x")
        await client.routes.set("r", "b")
        await client.send("a;routes:r", b"x")

    server = run(test)
    assert [request.message.sequence for request in sent(server) if isinstance(request.message, Send)] == [1, 2, 2]
    assert server.broker.channel("b").bodies == [b"x", b"x"]


def test_route_with_another_destination_gets_a_new_producer() -> None:
    async def test(client: Client, server: FakeServer) -> None:
        await client.routes.set("r", "b")
        await client.send("a;routes:r", b"1")
        await client.routes.set("r", "b;c")
        assert [result.error for result in await client.send("a;routes:r", b"2")] == [None] * 3

    server = run(test)
    assert [server.broker.channel(name).bodies for name in "abc"] == [[b"1", b"2"], [b"1", b"2"], [b"2"]]
    assert len(opened(server)) == 2


def test_numbers_that_do_not_fit_are_not_used_again() -> None:
    async def test(client: Client, server: FakeServer) -> None:
        await client.send("a;b", b"1")
        for producer in server.broker.channel("b").producers.values():
            producer.last = 0
        results = await client.send("a;b", b"2")
        assert [type(result.error) for result in results] == [OutOfSequence, OutOfSequence]
        assert [result.error for result in await client.send("a;b", b"3")] == [None, None]

    assert len(opened(run(test))) == 2


def answering(server: FakeServer, command: Request, answers: list[list[bytes] | None]) -> None:
    """Answer such requests, one after the other, so: after they were served; None: with nothing."""

    def handle(connection: Any, frames: Any) -> Any:
        served = original(connection, frames)
        if decode_header(frames[0])[0] != command or not answers:
            return served
        answer = answers.pop(0)
        return [] if answer is None else [(connection, answer)]

    original, server.node.handle = server.node.handle, handle  # type: ignore[method-assign]


def test_send_whose_answer_is_lost_is_repeated_and_stored_once() -> None:
    async def test(client: Client, server: FakeServer) -> None:
        await client.send("a;b", b"1")
        answering(server, Request.SEND, [None])
        results = await client.send("a;b", b"2")
        assert [(result.sequence, result.duplicate) for result in results] == [(2, True), (2, True)]
        await client.send("a;b", b"3")

    server = run(test)
    assert server.broker.channel("b").bodies == [b"1", b"2", b"3"]
    assert len(opened(server)) == 1


def test_send_whose_outcome_is_unknown_ends_its_producer() -> None:
    async def test(client: Client, server: FakeServer) -> None:
        await client.send("a;b", b"1")
        server.silent = True
        with pytest.raises(DeadlineExceeded) as caught:
            await client.send("a;b", b"2", timeout_ms=50)
        assert caught.value.outcome_unknown
        server.silent = False
        await client.send("a;b", b"3")

    server = run(test)
    assert len(opened(server)) == 2


def test_unknown_producer_after_a_lost_answer_is_an_unknown_outcome() -> None:
    async def test(client: Client, server: FakeServer) -> None:
        await client.send("a;b", b"1")

        def forget(connection: Any, frames: Any) -> Any:
            if decode_header(frames[0])[0] != Request.SEND:
                return original(connection, frames)
            original(connection, frames)
            for name in "ab":
                server.broker.channel(name).producers.clear()
            return []

        original, server.node.handle = server.node.handle, forget  # type: ignore[method-assign]
        task = asyncio.ensure_future(client.send("a;b", b"2"))
        while not any(isinstance(one, RoutedSend) and one.message.sequence == 2 for one in server.node.seen):  # type: ignore[union-attr]  # noqa: ASYNC110
            await asyncio.sleep(0)
        server.node.handle = original  # type: ignore[method-assign]
        with pytest.raises(UnknownProducer) as caught:
            await task
        assert caught.value.outcome_unknown

    assert run(test).broker.channel("a").bodies == [b"1", b"2"]


def test_send_that_is_cancelled_ends_its_producer() -> None:
    async def test(client: Client, server: FakeServer) -> None:
        await client.send("a;b", b"1")
        server.silent = True
        task = asyncio.ensure_future(client.send("a;b", b"2"))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        server.silent = False
        await client.send("a;b", b"3")

    assert len(opened(run(test))) == 2


def test_send_that_waits_for_others_ends_at_its_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zmqbroker.client.destinations.UNDER_WAY_MAX", 1)

    async def test(client: Client, server: FakeServer) -> None:
        server.silent = True
        first = asyncio.ensure_future(client.send("a;b", b"1", timeout_ms=60_000))
        await asyncio.sleep(0)
        with pytest.raises(DeadlineExceeded, match="a send to destinations was not sent in time") as caught:
            await client.send("a;b", b"2", timeout_ms=20)
        assert not caught.value.outcome_unknown
        first.cancel()

    run(test)


def test_send_on_a_closed_client_keeps_its_producer_idle() -> None:
    async def test(client: Client, server: FakeServer) -> None:
        await client.send("a;b", b"1")
        sends, driver = client._book.routed_sends, client._driver
        assert driver is not None
        await client.close()
        with pytest.raises(LocalProtocolError, match="closed"):
            await sends.run(driver, (Destination("queues", "a"), Destination("queues", "b")), Send("", b"2"), 1000)
        assert len(sends._idle) == 1

    run(test)


@pytest.mark.parametrize(
    ("to", "error"),
    [
        ("", InvalidChannel),
        ("a;a", InvalidRequest),
        ("a b", InvalidChannel),
        ("commands:a", InvalidRequest),
        ("a;routes:*", InvalidChannel),
    ],
)
def test_send_to_what_is_no_list_is_refused_before_anything_is_sent(to: str, error: type[Exception]) -> None:
    async def test(client: Client, server: FakeServer) -> None:
        with pytest.raises(error, match="destination"):
            await client.send(to, b"x")

    assert sent(run(test)) == []


@pytest.mark.parametrize("options", [{"priority": 10}, {"delay_ms": -1}, {"expected_sequence": -1}, {"id": "x" * 256}])
def test_send_of_what_cannot_be_is_refused_before_anything_is_sent(options: dict[str, Any]) -> None:
    async def test(client: Client, server: FakeServer) -> None:
        with pytest.raises(LocalProtocolError):
            await client.send("a;b", b"x", **options)
        with pytest.raises(MessageTooLarge):
            await client.send("a;b", bytes((64 << 20) + 1))

    assert sent(run(test)) == []


# --- routes and bindings ------------------------------------------------------------------------------------------------


def test_routes_are_set_listed_and_deleted() -> None:
    async def test(client: Client, server: FakeServer) -> None:
        assert await client.routes.set("r", "queues:a;events:b")
        assert not await client.routes.set("r", "a;events:b")
        assert await client.routes.set("s", "events_store:c")
        assert [row async for row in client.routes.list()] == [
            {"name": "r", "destinations": "a;events:b"},
            {"name": "s", "destinations": "events_store:c"},
        ]
        assert [row["name"] async for row in client.routes.list("s")] == ["s"]
        await client.routes.delete("r")
        with pytest.raises(RouteNotFound):
            await client.routes.delete("r")

    server = run(test)
    assert server.broker.managed[-1] == DeleteRoute("r")
    assert server.broker.managed[0] == SetRoute("r", "a;events:b")


def test_bindings_are_set_listed_and_deleted() -> None:
    async def test(client: Client, server: FakeServer) -> None:
        assert await client.bindings.set("events:a.*", "q;queues:r")
        assert not await client.bindings.set("events:a.*", "q;r")
        assert await client.bindings.set("events_store:>", "q")
        assert [row["source"] async for row in client.bindings.list()] == ["events:a.*", "events_store:>"]
        assert [row["queues"] async for row in client.bindings.list("a.*")] == ["q;r"]
        assert await client.bindings.delete("events:a.*")
        assert not await client.bindings.delete("events:a.*")

    server = run(test)
    assert server.broker.managed[0] == SetBinding("events:a.*", "q;r")
    assert server.broker.managed[-1] == DeleteBinding("events:a.*")


@pytest.mark.parametrize("page", [1, 2, 1000])
def test_lists_go_on_until_the_last_page(page: int) -> None:
    async def test(client: Client, server: FakeServer) -> None:
        server.broker.page = page
        for name in ("c", "a", "b"):
            await client.routes.set(name, "q")
            await client.bindings.set(f"events:{name}", "q")
        assert [row["name"] async for row in client.routes.list()] == ["a", "b", "c"]
        assert [row["source"] async for row in client.bindings.list()] == ["events:a", "events:b", "events:c"]
        assert [row async for row in client.routes.list("none")] == []

    asked = [request for request in run(test).node.seen if isinstance(request, ListRoutes | ListBindings)]
    assert all(request.forward for request in asked)


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (lambda client: client.routes.set("", "a"), "route name '' ends where a name must follow"),
        (lambda client: client.routes.set("r", "a;routes:s"), "destination 2 of 2, 'routes:s', is one of routes"),
        (lambda client: client.routes.set("r", "a;a"), "destination 2 of 2, 'a', is named before"),
        (lambda client: client.bindings.set("a", "b"), "source 'a' must begin with events: or events_store:"),
        (lambda client: client.bindings.set("events:a*", "b"), "source 'events:a\\*': pattern 'a\\*'"),
        (lambda client: client.bindings.set("events:a", "events:b"), "destination 1 of 1, 'events:b', is one of events"),
    ],
)
def test_rule_that_is_wrong_is_refused_before_anything_is_sent(
    action: Callable[[Client], Awaitable[Any]], message: str
) -> None:
    async def test(client: Client, server: FakeServer) -> None:
        with pytest.raises(InvalidRequest, match=message):
            await action(client)

    assert run(test).broker.managed == []


def test_sync_client_sends_and_has_routes_and_bindings() -> None:
    with FakeServer() as server, SyncClient(server.endpoint) as client:
        assert client.routes.set("r", "b;events:c")
        assert [result.destination for result in client.send("a;routes:r", b"x", priority=3)] == ["a", "b", "events:c"]
        assert [row["name"] for row in client.routes.list()] == ["r"]
        client.routes.delete("r")
        assert client.routes.list("r") == []
        assert client.bindings.set("events:a", "q")
        assert [row["source"] for row in client.bindings.list()] == ["events:a"]
        assert client.bindings.delete("events:a")
        assert client.bindings.list("x") == []


# --- what a node must not say --------------------------------------------------------------------------------------------

STORED = {"destination": "a", "sequence": 1, "time_unix_ns": 1, "duplicate": False}
REPLIES = {
    Request.SEND: Reply.ROUTED,
    Request.SET_ROUTE: Reply.CHANGED,
    Request.LIST_ROUTES: Reply.ROUTES,
    Request.LIST_BINDINGS: Reply.BINDINGS,
}


@pytest.mark.parametrize(
    ("fields", "action"),
    [
        ({}, lambda client: client.send("a;b", b"x")),
        ({"results": 5}, lambda client: client.send("a;b", b"x")),
        ({"results": [5]}, lambda client: client.send("a;b", b"x")),
        ({"results": [{**STORED, "destination": 5}]}, lambda client: client.send("a;b", b"x")),
        ({"results": [{**STORED, "sequence": "1"}]}, lambda client: client.send("a;b", b"x")),
        ({"results": [{"destination": "a"}]}, lambda client: client.send("a;b", b"x")),
        ({"results": [{**STORED, "duplicates": 5}]}, lambda client: client.send("a;b", b"x")),
        ({"results": [{**STORED, "duplicates": [[0, 1], [1, 1]]}]}, lambda client: client.send("a;b", b"x")),
        ({"results": [{"destination": "a", "subscribers": None, "duplicate": False}]}, lambda client: client.send("a", b"x")),
        ({}, lambda client: client.routes.set("r", "a")),
        ({"routes": [], "more": None}, lambda client: anext(client.routes.list())),
        ({"routes": ["r"], "more": False}, lambda client: anext(client.routes.list())),
        ({"routes": [{"name": ""}], "more": False}, lambda client: anext(client.routes.list())),
        ({"bindings": [{"name": "x"}], "more": False}, lambda client: anext(client.bindings.list())),
    ],
)
def test_reply_without_its_fields_is_the_nodes_fault(
    fields: dict[str, Any], action: Callable[[Client], Awaitable[Any]]
) -> None:
    async def test(client: Client, server: FakeServer) -> None:
        def handle(connection: Any, frames: Any) -> Any:
            command, request_id, _ = decode_header(frames[0])
            code = REPLIES.get(Request(command))
            return original(connection, frames) if code is None else [(connection, [encode_header(code, request_id, fields)])]

        original, server.node.handle = server.node.handle, handle  # type: ignore[method-assign]
        with pytest.raises(RemoteProtocolError):
            await action(client)

    run(test)


def test_idle_producers_give_way_to_those_that_were_used_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zmqbroker.client.idle_producers.IDLE_MAX", 2)
    idle = IdleProducers()
    for number, name in enumerate("aab"):
        idle.put_back(name, Numbers(number, 1))
    assert (idle.take("a"), idle.take("a"), idle.take("b"), idle.take("b")) == (Numbers(0, 1), None, Numbers(2, 1), None)
