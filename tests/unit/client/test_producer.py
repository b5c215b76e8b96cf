"""Producers of the asyncio client against a fake node behind a real socket."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.unit.client.servers import FakeServer, run
from zmqbroker.client import Client, SendResult
from zmqbroker.client.parcel import OVERHEAD_BYTES
from zmqbroker.errors import DeadlineExceeded, LocalProtocolError, MessageTooLarge
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


def test_producer_small_message_does_not_overtake_one_that_waits_for_room() -> None:
    async def test(client: Client, server: FakeServer) -> None:
        producer = client.queue("q").producer(pending_bytes_max=1_000, linger_ms=0)
        # All three in one pass of the loop, in which the first one's parcel is open.
        await asyncio.gather(*(producer.send(body) for body in (bytes(100), bytes(950), b"x")))
        await producer.flush()

    assert [len(body) for body in run(test).broker.channel("q").bodies] == [100, 950, 1]


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


def test_producer_flush_cancelled_disturbs_nothing() -> None:
    async def test(client: Client, server: FakeServer) -> None:
        producer = client.queue("q").producer(linger_ms=0)
        server.silent = True
        confirm = await producer.send(b"x", timeout_ms=500)
        flushing = asyncio.ensure_future(producer.flush())
        await asyncio.sleep(0)
        flushing.cancel()
        with pytest.raises(DeadlineExceeded):
            await confirm
        with pytest.raises(DeadlineExceeded):
            await producer.flush()
        assert flushing.cancelled()

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
    "setting",
    [
        {"linger_ms": -1},
        {"batch_bytes": 0},
        {"batch_messages": 70_000},
        {"window": 129},
        {"window": 0},
        {"compression": "gzip"},
    ],
)
def test_producer_setting_out_of_range_is_refused(setting: dict[str, Any]) -> None:
    async def test(client: Client, server: FakeServer) -> None:
        with pytest.raises(LocalProtocolError, match=next(iter(setting))):
            client.queue("q").producer(**setting)

    run(test)


def test_producer_passes_of_one_loop_share_parcels_and_batches() -> None:
    async def test(client: Client, server: FakeServer) -> None:
        producer = client.queue("q").producer(linger_ms=50, batch_messages=100)
        first = [await producer.send(b"%d" % number) for number in range(30)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        second = [await producer.send(b"%d" % number, id="x" if number % 2 else None) for number in range(30, 150)]
        await producer.flush()
        assert [confirm.result().sequence for confirm in first + second] == list(range(1, 151))

    server = run(test)
    assert [int(message.body) for message in server.broker.channel("q").messages] == list(range(150))
    assert [message.id for message in server.broker.channel("q").messages] == [b""] * 30 + [b"", b"x"] * 60
    counts = [decode_batch(one.batch).header.count for one in server.node.seen if isinstance(one, SendBatch)]
    assert counts == [100, 50]


def test_producer_message_with_its_own_time_limit_ends_by_itself() -> None:
    async def test(client: Client, server: FakeServer) -> None:
        producer = client.queue("q").producer(linger_ms=0)
        await (await producer.send(b"first"))
        server.silent = True
        confirms = [await producer.send(b"x", timeout_ms=timeout_ms) for timeout_ms in (None, 60, None)]
        with pytest.raises(DeadlineExceeded):
            await confirms[1]
        assert [confirm.done() for confirm in confirms] == [False, True, False]

    run(test)


@pytest.mark.parametrize("body", [bytearray(b"abc"), memoryview(b"abc")])
def test_producer_body_is_what_it_was_when_it_was_sent(body: bytearray | memoryview) -> None:
    async def test(client: Client, server: FakeServer) -> None:
        async with client.queue("q").producer(linger_ms=20) as producer:
            await producer.send(b"first")
            await producer.send(body)
            if isinstance(body, bytearray):
                body[:] = b"xyz"

    assert run(test).broker.channel("q").bodies == [b"first", b"abc"]


def test_producer_body_over_the_limit_is_refused_beside_others() -> None:
    async def test(client: Client, server: FakeServer) -> None:
        server.node.hello_fields["message_bytes_max"] = 1000
        await client.info()
        async with client.queue("q").producer(linger_ms=20) as producer:
            await producer.send(b"first")
            with pytest.raises(MessageTooLarge):
                await producer.send(bytes(1001))
            await producer.send(bytes(1000))

    assert run(test).broker.channel("q").bodies == [b"first", bytes(1000)]


def test_producer_memory_is_bounded_while_nothing_is_answered() -> None:
    async def test(client: Client, server: FakeServer) -> None:
        await client.info()
        server.silent = True
        producer = client.queue("q").producer(pending_bytes_max=10_000, linger_ms=0)
        sent = []

        async def send() -> None:
            for number in range(1_000):
                await producer.send(bytes(100 - OVERHEAD_BYTES))
                sent.append(number)

        sending = asyncio.ensure_future(send())
        for _ in range(100):
            await asyncio.sleep(0)
        assert len(sent) == 100
        sending.cancel()

    run(test)


def test_producer_send_batch_is_stored_in_order_with_a_confirm_each() -> None:
    async def test(client: Client, server: FakeServer) -> None:
        async with client.queue("q").producer(batch_messages=40, pending_bytes_max=1_000, linger_ms=0) as producer:
            await producer.send(b"0")
            confirm = await producer.send_batch([b"%d" % number for number in range(1, 100)])
            await producer.send(b"100")
        assert [result.sequence for result in await confirm] == list(range(2, 101))
        assert confirm[98].result().sequence == 100

    server = run(test)
    assert [int(body) for body in server.broker.channel("q").bodies] == list(range(101))


def test_producer_send_batch_with_one_that_cannot_be_sent_sends_none() -> None:
    async def test(client: Client, server: FakeServer) -> None:
        async with client.queue("q").producer() as producer:
            with pytest.raises(LocalProtocolError, match="str"):
                await producer.send_batch([b"a", "b"])  # type: ignore[list-item]
            await producer.send_batch([])

    assert run(test).broker.channel("q").bodies == []


def test_producer_parts_of_a_send_batch_fail_by_themselves() -> None:
    async def test(client: Client, server: FakeServer) -> None:
        producer = client.queue("q").producer(batch_messages=2, linger_ms=0, window=1)
        await (await producer.send(b"first"))
        server.node.refusals.append(MessageTooLarge("too large", size=2, limit=1))
        confirm = await producer.send_batch([b"a", b"b", b"c"])
        with pytest.raises(MessageTooLarge):
            await producer.flush()
        assert [type(one.exception()) for one in confirm] == [MessageTooLarge, MessageTooLarge, type(None)]

    assert run(test).broker.channel("q").bodies == [b"first", b"c"]
