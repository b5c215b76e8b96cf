"""Producers of the asyncio client against a fake node behind a real socket."""

from __future__ import annotations

import asyncio

import pytest

from tests.unit.client.servers import FakeServer, run
from zmqbroker.client import Client, SendResult
from zmqbroker.errors import (
    LocalProtocolError,
    MessageTooLarge,
)
from zmqbroker.wire.codec import decode_batch
from zmqbroker.wire.requests import SendBatch


def test_producer_batches_and_gives_each_message_its_result() -> None:
    async def test(client: Client, server: FakeServer) -> None:
        async with client.queue("q").producer(linger_ms=50, batch_messages=100) as producer:
            futures = [await producer.send(str(number).encode()) for number in range(250)]
        assert [(await future).sequence for future in futures] == list(range(1, 251))

    server = run(test)
    counts = [decode_batch(one.batch).header.count for one in server.node.seen if isinstance(one, SendBatch)]
    assert counts == [100, 100, 50]


def test_producer_waits_for_room_and_keeps_the_order() -> None:
    async def test(client: Client, server: FakeServer) -> None:
        async with client.queue("q").producer(pending_bytes_max=2_000, linger_ms=0) as producer:

            async def send(number: int) -> SendResult:
                return await (await producer.send(b"%d" % number + bytes(500)))

            results = await asyncio.gather(*(send(number) for number in range(50)))
        assert [result.sequence for result in results] == list(range(1, 51))

    server = run(test)
    assert [int(body.rstrip(b"\0")) for body in server.broker.channel("q").bodies] == list(range(50))


def test_producer_cancelled_while_it_waits_for_room_sends_nothing() -> None:
    async def test(client: Client, server: FakeServer) -> None:
        server.silent = True
        producer = client.queue("q").producer(pending_bytes_max=100, linger_ms=0)
        first = await producer.send(bytes(90))
        waiting = asyncio.ensure_future(producer.send(b"never"))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        server.silent = False
        assert (await first).sequence == 1
        await producer.flush()

    assert run(test).broker.channel("q").bodies == [bytes(90)]


def test_producer_large_bursts_let_the_loop_work() -> None:
    async def test(client: Client, server: FakeServer) -> None:
        await client.info()
        turns = [0]

        def turn() -> None:
            turns[0] += 1
            asyncio.get_running_loop().call_soon(turn)

        turn()
        async with client.queue("q").producer() as producer:
            for _ in range(1_000):
                await producer.send(bytes(1_000))
            assert turns[0] >= 3  # one for each 256 KiB, although there was room for all

    run(test)


def test_producer_flush_raises_the_first_failure_once() -> None:
    async def test(client: Client, server: FakeServer) -> None:
        producer = client.queue("q").producer(linger_ms=0)
        await (await producer.send(b"first"))
        server.node.refusals.append(MessageTooLarge("too large", size=2, limit=1))
        future = await producer.send(b"x")
        with pytest.raises(MessageTooLarge):
            await producer.flush()
        assert isinstance(future.exception(), MessageTooLarge)
        await producer.flush()

    run(test)


def test_producer_block_left_by_an_error_does_not_wait() -> None:
    async def test(client: Client, server: FakeServer) -> None:
        server.silent = True
        with pytest.raises(KeyError):  # noqa: PT012 - the block is the subject
            async with client.queue("q").producer() as producer:
                await producer.send(b"x")
                raise KeyError

    run(test)


@pytest.mark.parametrize(
    "setting", [{"linger_ms": -1}, {"batch_bytes": 0}, {"batch_messages": 70_000}, {"window": 129}, {"window": 0}]
)
def test_producer_setting_out_of_range_is_refused(setting: dict[str, int]) -> None:
    async def test(client: Client, server: FakeServer) -> None:
        with pytest.raises(LocalProtocolError, match=next(iter(setting))):
            client.queue("q").producer(**setting)

    run(test)
