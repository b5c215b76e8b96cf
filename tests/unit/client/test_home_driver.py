"""The home connection over sockets: it stands, breaks and comes back, and nobody waits for ever."""

from __future__ import annotations

import asyncio
import os
import threading

import pytest

import zmqbroker
from tests.unit.client.servers import FakeServer, run, until
from zmqbroker.client import Client, SyncClient
from zmqbroker.errors import Busy, DeadlineExceeded, LocalProtocolError
from zmqbroker.wire.requests import StatsRequest, UnsubscribeRequest

NOWHERE = "tcp://127.0.0.1:9"  # the discard service, which nobody runs


def test_events_go_through_a_node_and_the_subscription_ends_with_its_block() -> None:
    async def test(client: Client, server: FakeServer) -> None:
        source = client.events("orders")
        assert client.events("orders") is source
        async with source.subscribe(credit=2) as subscription:
            assert await source.publish(b"1", confirm=True) == (1, 1)
            await source.publish(b"2")
            got = [(await anext(subscription)).body for _ in range(2)]
            assert got == [b"1", b"2"]
            await source.publish(b"3")
            assert [event.body for event in await subscription.take()] == [b"3"]
        await until(lambda: any(isinstance(request, UnsubscribeRequest) for request in server.node.seen))
        assert await source.publish(b"4", confirm=True) == (1, 0)

    server = run(test)
    assert [(grant.subscription, grant.credit) for grant in server.node.events.grants][:1] == [(1, 3)]


def test_subscription_stands_again_after_the_connection_broke() -> None:
    async def test(client: Client, server: FakeServer) -> None:
        source = client.events("orders")
        async with source.subscribe() as subscription:
            await source.publish(b"1")
            assert (await anext(subscription)).body == b"1"
            await asyncio.to_thread(server.stop)
            server.node.events.subscriptions.clear()
            await asyncio.to_thread(server.start)
            await until(lambda: server.node.events.subscriptions)
            await source.publish(b"2")
            assert (await anext(subscription)).body == b"2"

    run(test)


def test_request_under_way_on_a_connection_that_breaks_is_not_sent_again() -> None:
    async def test(client: Client, server: FakeServer) -> None:
        home = client._running().home
        await client.events("a").publish(b"1", confirm=True)
        came = threading.Event()
        server.silent, server.before = True, lambda _server, _frames: came.set()
        asked = asyncio.create_task(home.ask(StatsRequest("q"), 30_000))
        await until(came.is_set)
        await asyncio.to_thread(server.stop)
        with pytest.raises(DeadlineExceeded) as caught:
            await asked
        assert caught.value.outcome_unknown

    run(test)


def test_request_that_nobody_waits_for_ends_without_a_word() -> None:
    async def test(client: Client, server: FakeServer) -> None:
        home = client._running().home
        server.silent = True
        asked = asyncio.create_task(home.ask(StatsRequest("q"), 30_000))
        await asyncio.sleep(0)
        asked.cancel()
        server.silent = False
        await client.events("a").publish(b"1", confirm=True)
        assert home.node == ""  # the fake does not tell

    run(test)


def test_without_a_node_everything_ends_in_time_and_is_known_not_to_have_happened() -> None:
    async def test() -> None:
        async with Client(NOWHERE, timeout_ms=100) as client:
            for confirm in (False, True):
                with pytest.raises(DeadlineExceeded) as caught:
                    await client.events("a").publish(b"1", confirm=confirm)
                assert not caught.value.outcome_unknown
            with pytest.raises(DeadlineExceeded):
                await client.events("a").subscribe().wait_ready()
            with pytest.raises(DeadlineExceeded, match="no node took the subscription in time"):
                await client.command("a").respond(lambda request: b"")

    asyncio.run(test())


def test_host_that_nobody_knows_is_tried_again() -> None:
    async def test() -> None:
        async with Client("tcp://host.invalid:5590", timeout_ms=300) as client:
            with pytest.raises(DeadlineExceeded):
                await client.events("a").publish(b"1")

    asyncio.run(test())


def test_refused_subscription_raises_what_the_node_said() -> None:
    async def test(client: Client, server: FakeServer) -> None:
        server.node.events.full.append(Busy("a node has at most 100000 subscriptions"))
        with pytest.raises(Busy, match="at most 100000"):
            await client.events("a").subscribe().wait_ready()

    run(test)


def test_closed_client_ends_subscriptions_and_publishers() -> None:
    async def test() -> None:
        with FakeServer() as server:
            client = Client(server.endpoint)
            source = client.events("a")
            subscription = await source.subscribe().wait_ready()
            waiting = asyncio.create_task(subscription.take())
            other = Client(NOWHERE)
            unsent = [asyncio.create_task(other.events("a").publish(b"1", confirm=confirm)) for confirm in (False, True)]
            await asyncio.sleep(0)  # all of them begin
            await client.close()
            await other.close()
            assert await waiting == []
            for task in unsent:
                with pytest.raises(LocalProtocolError, match="closed"):
                    await task
            with pytest.raises(LocalProtocolError, match="closed"):
                await source.publish(b"2")
            await subscription.close()

    asyncio.run(test())


def test_node_has_what_was_said_last_when_the_client_is_closed() -> None:
    async def test() -> None:
        with FakeServer() as server:
            async with Client(server.endpoint) as client, client.events("a").subscribe():
                pass
            assert UnsubscribeRequest in [type(request) for request in server.node.seen]

    asyncio.run(test())


def test_client_of_a_node_that_is_silent_or_gone_is_closed_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(gone: bool) -> None:
        with FakeServer() as server:
            client = Client(server.endpoint)
            subscription = await client.events("a").subscribe().wait_ready()
            server.silent = True
            subscription.stop()
            if gone:
                await asyncio.to_thread(server.stop)
            await client.close()

    monkeypatch.setattr("zmqbroker.client.home_driver._FAREWELL_MS", 20)
    for gone in (False, True):
        asyncio.run(test(gone))


def test_drained_client_has_published_all_and_ends_iterations() -> None:
    async def test(client: Client, server: FakeServer) -> None:
        source = client.events("a")
        subscription = await source.subscribe().wait_ready()
        never_used = source.subscribe()
        await source.publish(b"1")
        assert (await anext(subscription)).body == b"1"
        publishing = [asyncio.create_task(source.publish(b"2")) for _ in range(3)]
        await asyncio.sleep(0)  # they begin
        await client.drain()
        assert await asyncio.gather(*publishing) == [None] * 3
        assert [event.body async for event in subscription if event.body != b"2"] == []
        with pytest.raises(LocalProtocolError):
            await anext(never_used)

    run(test)


def test_forked_child_must_make_its_own_client(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(client: Client, server: FakeServer) -> None:
        source = client.events("a")
        with monkeypatch.context() as patched:
            patched.setattr(os, "getpid", lambda: 1)
            with pytest.raises(LocalProtocolError, match=r"a forked process \(1\) must make its own"):
                await source.publish(b"1")

    run(test)


def test_number_of_names_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(client: Client, server: FakeServer) -> None:
        monkeypatch.setattr("zmqbroker.client.aio._QUEUES_MAX", 1)
        client.events("a")
        with pytest.raises(Busy, match="this client uses 1 names of events"):
            client.events("b")

    run(test)


def test_full_pipe_makes_publishers_wait() -> None:
    async def test(client: Client, server: FakeServer) -> None:
        source = client.events("a")
        await source.publish(b"first", confirm=True)
        connection = client._running().home._connection
        assert connection is not None
        refused = 0
        offer = connection.offer

        def full(frames: object) -> bool:
            nonlocal refused
            refused += 1
            return refused > 3 and offer(frames)  # type: ignore[arg-type]

        connection.offer = full  # type: ignore[method-assign]
        await asyncio.gather(*(client.events(name).publish(b"1") for name in ("a", "b")))
        assert refused > 3

    run(test)


def test_threads_publish_and_subscribe() -> None:
    with FakeServer() as server, SyncClient(server.endpoint) as client:
        source = client.events("orders")
        with source.subscribe(credit=10) as subscription:
            assert source.publish(b"1", confirm=True) == zmqbroker.client.PublishResult(1, 1)
            threads = [threading.Thread(target=source.publish, args=(body,)) for body in (b"2", b"3")]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            got: list[bytes] = []
            for event in subscription:
                got.append(event.body)
                if len(got) == 3:
                    break
            assert sorted(got) == [b"1", b"2", b"3"]
            assert subscription.missed == 0
        assert subscription.take(wait_ms=1) == []
        subscription._process_id = os.getpid() + 1
        with pytest.raises(LocalProtocolError, match="a forked process must make its own"):
            subscription.take()
        subscription.close()
