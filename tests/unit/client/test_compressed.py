"""What is sent compressed, and what receivers get of it, with fake nodes behind real sockets."""

from __future__ import annotations

import random
import zlib

import pytest

from tests.unit.client.servers import FakeServer, run
from zmqbroker.client import Client, SyncClient
from zmqbroker.errors import LocalProtocolError, UnreadableBody

LONG, NOISE = b"the same words again, " * 50, random.Random(1).randbytes(1_000)


def test_producer_compresses_bodies_and_receivers_get_them_as_they_were() -> None:
    async def test(client: Client, server: FakeServer) -> None:
        queue, bodies = client.queue("q"), [LONG, b"", NOISE[:20], LONG * 2]
        async with queue.producer(compression="zlib") as producer:
            await producer.send(bodies[0], id="one", priority=5)
            await producer.send_batch(bodies[1:])
        stored = server.broker.channel("q").bodies
        assert [zlib.decompress(body) for body in stored] == bodies
        assert len(stored[0]) < len(LONG) / 10
        assert [message.body for message in await queue.peek(10)] == bodies
        messages = await queue.receive(10)
        assert [(message.body, message.compressed) for message in messages] == [(body, True) for body in bodies]
        assert (messages[0].id, messages[0].raw_body) == ("one", stored[0])

    run(test)


def test_batch_that_would_grow_is_sent_as_it_is() -> None:
    async def test(client: Client, server: FakeServer) -> None:
        queue = client.queue("q")
        async with queue.producer(compression="zlib") as producer:
            await producer.send(NOISE)
        [message] = await queue.receive()
        assert (message.body, message.compressed, message.raw_body) == (NOISE, False, NOISE)

    run(test)


def test_send_compresses_when_it_is_asked_to_and_else_not() -> None:
    async def test(client: Client, server: FakeServer) -> None:
        queue = client.queue("q")
        await queue.send(LONG)
        await queue.send(LONG, compression="zlib")
        with pytest.raises(LocalProtocolError, match="compression is 'lzma'"):
            await queue.send(LONG, compression="lzma")  # type: ignore[call-overload]
        plain, packed = await queue.receive(10)
        assert (plain.compressed, packed.compressed) == (False, True)
        assert (plain.body, packed.body) == (LONG, LONG)

    run(test)


def test_sync_client_compresses_too() -> None:
    with FakeServer() as server, SyncClient(server.endpoint) as client:
        queue = client.queue("q")
        queue.send(LONG, compression="zlib")
        with queue.producer(compression="zlib") as producer:
            producer.send(LONG)
        assert [zlib.decompress(body) for body in server.broker.channel("q").bodies] == [LONG, LONG]
        assert [message.body for message in queue.receive(10)] == [LONG, LONG]


def test_body_over_the_nodes_limit_is_refused_by_its_own_name_and_the_consumer_goes_on() -> None:
    async def test(client: Client, server: FakeServer) -> None:
        server.node.hello_fields["message_bytes_max"] = 2_000
        queue = client.queue("q")
        async with queue.producer(compression="zlib", linger_ms=0) as producer:
            await producer.send(bytes(1_999))  # before the client knows the limit
            await producer.send(bytes(5_000))
            await producer.send(LONG)
        readable, refused = [], []
        async with queue.consume() as consumer:
            async for message in consumer:
                try:
                    readable.append(message.body)
                except UnreadableBody as error:
                    refused.append(str(error))
                await message.ack()
                if len(readable) + len(refused) == 3:
                    break
        assert readable == [bytes(1_999), LONG]
        assert refused == [
            "the body of message 2 of 'q' cannot be read: it holds more than 2000 bytes, the most a body may have"
        ]

    run(test)
