"""`handle`: a callback for every message, against three nodes, for asyncio and for threads."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

import zmqbroker
from tests.integration.wild import unique_channel
from tests.processes import Cluster, wait_until
from zmqbroker.client.held import Message
from zmqbroker.client.queue import Queue
from zmqbroker.client.worker import WorkerSettings
from zmqbroker.errors import LocalProtocolError

Body = Callable[[zmqbroker.Client, Queue], Awaitable[None]]


def run(trio: Cluster, body: Body, **settings: Any) -> None:
    """Run a coroutine with a client and a queue of its own, whose channel has these settings."""

    async def main() -> None:
        async with asyncio.timeout(60), zmqbroker.Client(trio.url) as client:
            name = unique_channel()
            await client.channels.create(name, **settings)
            await body(client, client.queue(name))

    asyncio.run(main())


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait for something."""
    for _ in range(3000):
        if await condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it does not come about")


def test_handler_that_returns_acks_and_drain_ends_it(trio: Cluster) -> None:
    async def body(client: zmqbroker.Client, queue: Queue) -> None:
        seen: list[bytes] = []
        at_once, most = 0, 0

        async def handler(message: Message) -> None:
            nonlocal at_once, most
            at_once += 1
            most = max(most, at_once)
            await asyncio.sleep(0.01)
            at_once -= 1
            seen.append(message.body)

        working = asyncio.create_task(queue.handle(handler, concurrency=3))
        for number in range(20):
            await queue.send(b"%d" % number)

        async def all_acked() -> bool:
            return bool((await queue.stats())["acked"] == 20)

        await until(all_acked)
        assert sorted(seen, key=int) == [b"%d" % number for number in range(20)]
        assert 1 < most <= 3
        await client.drain()
        await working

    run(trio, body)


def test_handler_that_raises_gets_the_message_again_after_a_delay(trio: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    async def body(client: zmqbroker.Client, queue: Queue) -> None:
        counts: list[int] = []
        done = asyncio.Event()

        async def handler(message: Message) -> None:
            counts.append(message.delivery_count)
            if message.delivery_count < 3:
                raise ValueError("not yet")
            done.set()

        working = asyncio.create_task(queue.handle(handler, backoff_ms=20))
        await queue.send(b"x")
        await done.wait()
        await client.drain()
        await working
        assert counts == [1, 2, 3]

    run(trio, body)
    assert sum("the handler of message 1 failed" in record.getMessage() for record in caplog.records) == 2


def test_handler_that_rejects_moves_the_message(trio: Cluster) -> None:
    dead = unique_channel()

    async def body(client: zmqbroker.Client, queue: Queue) -> None:
        async def handler(message: Message) -> None:
            raise zmqbroker.Rejected("no such customer")

        working = asyncio.create_task(queue.handle(handler))
        await queue.send(b"x")
        (message,) = await client.queue(dead).receive(wait_ms=10_000)
        assert message.origin is not None
        assert message.origin.reason == "no such customer"
        await message.ack()
        await client.drain()
        await working

    run(trio, body, dead_letter=dead)


def test_message_is_held_while_its_handler_works_but_not_for_ever(trio: Cluster) -> None:
    async def body(client: zmqbroker.Client, queue: Queue) -> None:
        counts: list[int] = []
        done = asyncio.Event()

        async def handler(message: Message) -> None:
            counts.append(message.delivery_count)
            if message.body == b"long":
                await asyncio.sleep(1.0)  # several times its visibility, and within max_hold_ms
            elif message.delivery_count == 1:
                await asyncio.sleep(30)  # beyond max_hold_ms: others get it
            else:
                done.set()

        working = asyncio.create_task(queue.handle(handler, visibility_ms=200, max_hold_ms=2000, concurrency=2))
        await queue.send(b"long")

        async def acked() -> bool:
            return bool((await queue.stats())["acked"] == 1)

        await until(acked)
        assert counts == [1]
        await queue.send(b"stuck")
        await done.wait()
        assert counts == [1, 1, 2]
        working.cancel()
        with pytest.raises(asyncio.CancelledError):
            await working

    run(trio, body)


def test_cancelled_handlers_give_their_messages_back(trio: Cluster) -> None:
    async def body(client: zmqbroker.Client, queue: Queue) -> None:
        started = asyncio.Event()

        async def handler(message: Message) -> None:
            started.set()
            await asyncio.sleep(60)

        working = asyncio.create_task(queue.handle(handler))
        await queue.send(b"x")
        await started.wait()
        working.cancel()
        with pytest.raises(asyncio.CancelledError):
            await working
        (message,) = await queue.receive(wait_ms=5_000)
        assert message.delivery_count == 2
        await message.ack()

    run(trio, body)


def test_handler_that_settles_its_message_itself_is_left_alone(trio: Cluster) -> None:
    async def body(client: zmqbroker.Client, queue: Queue) -> None:
        done = asyncio.Event()

        async def handler(message: Message) -> None:
            if message.delivery_count == 1:
                await message.nack()
            else:
                await message.ack()
                done.set()

        working = asyncio.create_task(queue.handle(handler))
        await queue.send(b"x")
        await done.wait()
        await client.drain()
        await working

    run(trio, body)


def test_handlers_in_threads(trio: Cluster) -> None:
    with zmqbroker.SyncClient(trio.url) as client:
        queue = client.queue(unique_channel())
        threads: set[str] = set()
        met = threading.Barrier(2, timeout=30)

        def handler(message: Any) -> None:
            met.wait()  # two at a time, or never
            threads.add(threading.current_thread().name)

        working = threading.Thread(target=queue.handle, args=(handler,), kwargs={"concurrency": 2})
        working.start()
        for number in range(4):
            queue.send(b"%d" % number)
        wait_until(lambda: queue.stats()["acked"] == 4, 30, "all messages to be handled")
        assert len(threads) == 2
        client.drain()
        working.join(30)
        assert not working.is_alive()


def test_backoff_doubles_up_to_its_limit() -> None:
    settings = WorkerSettings(backoff_ms=10, backoff_max_ms=35)
    assert [settings.delay_ms(count) for count in (1, 2, 3, 1000)] == [10, 20, 35, 35]


def test_concurrency_of_nobody_is_refused(trio: Cluster) -> None:
    async def body(client: zmqbroker.Client, queue: Queue) -> None:
        async def handler(message: Message) -> None: ...

        with pytest.raises(LocalProtocolError, match="concurrency is 0"):
            await queue.handle(handler, concurrency=0)

    run(trio, body)
