"""How clients end: close, drain, forked children."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Coroutine
from typing import Any

import pytest

from tests.unit.client.servers import FakeServer, run, until
from zmqbroker.client import Client
from zmqbroker.client import aio as aio_module
from zmqbroker.errors import (
    DeadlineExceeded,
    LocalProtocolError,
)
from zmqbroker.wire.requests import CloseRequest


def test_close_ends_what_is_under_way_and_refuses_more() -> None:
    async def test(client: Client, server: FakeServer) -> None:
        await client.info()
        server.silent = True
        orders = client.queue("q")
        producer = orders.producer(pending_bytes_max=100)
        first = await producer.send(bytes(90))
        waiting = asyncio.ensure_future(producer.send(b"waits for room"))
        flushing = asyncio.ensure_future(producer.flush())
        asking = asyncio.ensure_future(client.info())
        await asyncio.sleep(0)
        await client.close()
        await client.close()
        assert isinstance(first.exception(), DeadlineExceeded)
        with pytest.raises(LocalProtocolError):
            await waiting
        with pytest.raises(DeadlineExceeded):
            await flushing
        with pytest.raises(DeadlineExceeded):
            await asking
        for action in (client.info(), orders.send(b"x"), orders.receive(), producer.send(b"x")):
            with pytest.raises(LocalProtocolError, match="closed"):
                await action

    run(test)


def test_close_before_use_refuses_use() -> None:
    async def main() -> None:
        client = Client("tcp://127.0.0.1:1")
        await client.close()
        with pytest.raises(LocalProtocolError):
            client.queue("q")

    asyncio.run(main())


def test_close_returns_messages_through_close_of_the_session() -> None:
    async def test(client: Client, server: FakeServer) -> None:
        await client.queue("q").send(b"x")
        await client.queue("q").receive()

    server = run(test)
    assert server.node.seen[-1] == CloseRequest()
    assert list(server.broker.channel("q").ready) == [1]


def test_close_without_an_answer_closes_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aio_module, "_FAREWELL_MS", 20)

    async def test(client: Client, server: FakeServer) -> None:
        await client.queue("q").receive()
        server.silent = True
        await client.close()
        with pytest.raises(LocalProtocolError):
            await client.info()

    run(test)


def test_close_while_a_name_is_resolved_waits_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()

    def getaddrinfo(*arguments: Any, **options: Any) -> Any:
        release.wait(10)
        raise socket.gaierror("too late")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)

    async def main() -> None:
        async with Client("tcp://broker.invalid:1") as client:
            asking = asyncio.ensure_future(client.info())
            await asyncio.sleep(0)
        with pytest.raises(DeadlineExceeded):
            await asking
        release.set()

    asyncio.run(main())


def test_close_in_a_forked_child_leaves_the_sockets_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main(server: FakeServer) -> None:
        client = Client(server.endpoint)
        await client.info()
        driver = client._driver
        assert driver is not None
        with monkeypatch.context() as patch:
            parent = os.getpid()
            patch.setattr(os, "getpid", lambda: parent + 1)
            await client.close()
        assert not driver._context.closed
        driver.closed = False
        await driver.close()
        assert driver._context.closed

    with FakeServer() as server:
        asyncio.run(main(server))


def test_close_while_a_consumer_waits_ends_its_iteration() -> None:
    async def test(client: Client, server: FakeServer) -> None:
        async def handle() -> int:
            return len([message async for message in client.queue("q").consume()])

        handling = asyncio.ensure_future(handle())
        await until(lambda: server.broker.waiting)
        await client.close()
        assert await handling == 0

    run(test)


def test_drain_lets_the_handler_finish_and_sends_everything() -> None:
    handled: list[bytes] = []

    async def test(client: Client, server: FakeServer) -> None:
        orders, release, started = client.queue("q"), asyncio.Event(), asyncio.Event()
        await orders.send(b"a")
        await orders.send(b"b")

        async def handle() -> None:
            async for message in orders.consume():
                started.set()
                await release.wait()
                await message.ack()
                handled.append(message.body)

        handling = asyncio.ensure_future(handle())
        await started.wait()
        producer = await client.queue("out").producer(linger_ms=60_000).__aenter__()
        future = await producer.send(b"late")
        draining = asyncio.ensure_future(client.drain())
        await asyncio.sleep(0)
        release.set()
        await draining
        await handling
        assert (await future).sequence == 1

    server = run(test)
    assert handled == [b"a"]
    assert list(server.broker.channel("q").ready) == [2]
    assert server.broker.channel("out").bodies == [b"late"]


def test_drain_that_takes_too_long_closes() -> None:
    async def test(client: Client, server: FakeServer) -> None:
        orders = client.queue("q")
        await orders.send(b"a")
        messages = aiter(orders.consume())
        await anext(messages)
        await client.drain(timeout_ms=50)
        with pytest.raises(LocalProtocolError):
            await client.info()

    run(test)


def test_forked_child_is_told_to_make_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(client: Client, server: FakeServer) -> None:
        await client.info()
        with monkeypatch.context() as patch:
            parent = os.getpid()
            patch.setattr(os, "getpid", lambda: parent + 1)
            with pytest.raises(LocalProtocolError, match="forked"):
                await client.info()
        await client.info()

    run(test)


def test_client_leaves_no_task_behind() -> None:
    async def main(server: FakeServer) -> None:
        async with Client(server.endpoint) as client:
            await client.queue("q").send(b"x")
        assert asyncio.all_tasks() == {asyncio.current_task()}

    with FakeServer() as server:
        asyncio.run(main(server))


def test_client_works_under_uvloop() -> None:
    uvloop = pytest.importorskip("uvloop")

    async def main(server: FakeServer) -> None:
        async with Client(server.endpoint) as client:
            orders = client.queue("q")
            results = await asyncio.gather(*(orders.send(b"x") for _ in range(200)))
            assert results[-1].sequence == 200

    def start(server: FakeServer, action: Coroutine[Any, Any, None]) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(action)

    with FakeServer() as server:
        start(server, main(server))
