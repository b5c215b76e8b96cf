"""Receiving, consuming and acking against a fake node behind a real socket."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.unit.client.fakes import busy
from tests.unit.client.servers import FakeServer, run, until
from zmqbroker.client import Client, Message
from zmqbroker.client import consumer as consumer_module
from zmqbroker.client.message import Messages, Piece
from zmqbroker.errors import (
    DeadlineExceeded,
    InvalidRequest,
    LocalProtocolError,
    RequestError,
    StaleReceipt,
)
from zmqbroker.wire.codec import decode_batch, encode_batch
from zmqbroker.wire.requests import ReceiveRequest

BATCH = decode_batch(encode_batch(b"q", [b""]))


def test_receive_cancelled_gives_its_messages_back() -> None:
    async def test(client: Client, server: FakeServer) -> None:
        orders = client.queue("q")
        receiving = asyncio.ensure_future(orders.receive(wait_ms=60_000))
        await until(lambda: server.broker.waiting)
        receiving.cancel()
        await asyncio.gather(receiving, return_exceptions=True)
        await until(lambda: not server.broker.waiting)
        await orders.send(b"x")
        [message] = await orders.receive(wait_ms=1_000)
        assert message.delivery_count == 1
        asked = [type(request) for request in server.node.seen].count(ReceiveRequest)
        await asyncio.to_thread(server.stop)
        server.start()
        await client.info()
        assert [type(request) for request in server.node.seen].count(ReceiveRequest) == asked == 2

    assert len(run(test).broker.closed_consumers) == 2


def test_receive_past_its_deadline_gives_its_messages_back() -> None:
    async def test(client: Client, server: FakeServer) -> None:
        await client.info()
        server.silent = True
        with pytest.raises(DeadlineExceeded):
            await client.queue("q").receive(timeout_ms=50)
        server.silent = False
        await client.queue("q").send(b"x")

    assert run(test).broker.closed_consumers[0] == 1


def test_receive_error_of_the_node_is_raised() -> None:
    async def test(client: Client, server: FakeServer) -> None:
        server.node.refusals += [busy(1), InvalidRequest("no")]
        with pytest.raises(InvalidRequest):
            await client.queue("q").receive()

    run(test)


def test_receive_passes_its_options_on() -> None:
    async def test(client: Client, server: FakeServer) -> None:
        await client.queue("q").receive(7, min=2, wait_ms=0, visibility_ms=500, max_bytes=99)

    seen = [request for request in run(test).node.seen if isinstance(request, ReceiveRequest)]
    assert seen == [ReceiveRequest("q", 2, 7, 99, 0, 500, 1)]


def test_consume_gets_everything_in_order_and_refills() -> None:
    async def test(client: Client, server: FakeServer) -> None:
        orders = client.queue("q")
        async with orders.producer() as producer:
            for number in range(100):
                await producer.send(str(number).encode())
        bodies = []
        async with orders.consume(credit=8) as consumer:
            async for message in consumer:
                bodies.append(int(message.body))
                await message.ack()
                if len(bodies) == 100:
                    break
        assert bodies == list(range(100))

    server = run(test)
    asked = [request for request in server.node.seen if isinstance(request, ReceiveRequest)]
    assert {request.count_max for request in asked} == {4}
    assert len({request.consumer for request in asked}) == 1
    assert len(server.broker.channel("q").acked) == 100


def test_consume_waits_for_messages_to_come() -> None:
    async def test(client: Client, server: FakeServer) -> None:
        orders = client.queue("q")
        consumer = orders.consume(credit=1)
        next_one = asyncio.ensure_future(anext(aiter(consumer)))
        await until(lambda: server.broker.waiting)
        await orders.send(b"x")
        assert (await next_one).body == b"x"
        await consumer.close()
        await consumer.close()

    run(test)


def test_consume_left_returns_what_was_not_acked() -> None:
    async def test(client: Client, server: FakeServer) -> None:
        orders = client.queue("q")
        for number in range(6):
            await orders.send(str(number).encode())
        async with orders.consume(credit=4) as consumer:
            async for message in consumer:
                await message.ack()
                break
        assert (await orders.stats()) == {"channel": "q", "ready": 5, "in_flight": 0, "settings": {}}

    run(test)


def test_consume_take_brings_one_half_at_a_time() -> None:
    async def test(client: Client, server: FakeServer) -> None:
        orders = client.queue("q")
        for number in range(4):
            await orders.send(str(number).encode())
        consumer = orders.consume(credit=4)
        taken = [await consumer.take() for _ in range(2)]
        assert [[int(message.body) for message in messages] for messages in taken] == [[0, 1], [2, 3]]
        assert all(isinstance(messages, Messages) for messages in taken)  # none was made before it was looked at
        consumer.stop()
        assert await consumer.take() == []
        await consumer.close()

    run(test)


def test_consume_take_brings_what_an_iteration_has_left() -> None:
    async def test(client: Client, server: FakeServer) -> None:
        orders = client.queue("q")
        async with orders.producer() as producer:
            await producer.send_batch([b"%d" % number for number in range(8)])
        consumer = orders.consume(credit=8)
        messages = aiter(consumer)
        first = [await anext(messages) for _ in range(2)]
        rest = [*await consumer.take(), *await consumer.take()]
        assert [int(message.body) for message in [*first, *rest]] == list(range(8))
        await orders.ack(rest)
        await consumer.close()
        assert (await orders.stats())["ready"] == 2

    run(test)


def test_consume_halves_are_merged_by_sequence() -> None:
    async def test(client: Client, server: FakeServer) -> None:
        orders = client.queue("q")
        async with orders.producer() as producer:
            await producer.send_batch([b"%d" % number for number in range(4)])
        consumer = orders.consume(credit=4)
        messages = aiter(consumer)
        found = [await anext(messages)]
        await until(lambda: consumer._lanes[1].head is not None)
        lanes = [
            Messages[Message]([(Piece(orders, "q", [1, at, at, 1, 1], BATCH), [b""]) for at in sequences], Message)
            for sequences in ((2, 3, 5), (3, 4, 6))
        ]
        for lane, brought in zip(consumer._lanes, lanes, strict=True):
            lane.put(brought)
        found += [await anext(messages) for _ in range(6)]
        assert [message.sequence for message in found] == [1, 2, 3, 3, 4, 5, 6]
        await consumer.close()

    run(test)


def test_consume_receive_that_brings_nothing_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumer_module, "_WAIT_MS", 0)  # the node answers at once

    async def test(client: Client, server: FakeServer) -> None:
        orders = client.queue("q")
        taking = asyncio.ensure_future(orders.consume(credit=2).take())
        await until(lambda: sum(isinstance(request, ReceiveRequest) for request in server.node.seen) > 4)
        await orders.send(b"x")
        assert [message.body for message in await taking] == [b"x"]

    run(test)


def test_consume_error_ends_the_iteration_after_what_is_here() -> None:
    async def test(client: Client, server: FakeServer) -> None:
        orders = client.queue("q")
        await orders.send(b"x")
        messages = aiter(orders.consume(credit=4))
        assert (await anext(messages)).body == b"x"
        await until(lambda: server.broker.waiting)
        fields = {"code": "INVALID_REQUEST", "message": "no"}
        server.before = lambda one, frames: None

        def refuse(connection: Any, frames: Any) -> Any:
            from zmqbroker.wire.frames import Reply, decode_header, encode_header

            _, request_id, _ = decode_header(frames[0])
            waiting, server.broker.waiting = server.broker.waiting, []
            answers = [(one.reply_to, [encode_header(Reply.ERROR, one.request_id, fields)]) for one in waiting]
            return [*answers, (connection, [encode_header(Reply.NODE, request_id, {})])]

        original, server.node.handle = server.node.handle, refuse  # type: ignore[method-assign]
        await client.info()
        server.node.handle = original  # type: ignore[method-assign]
        with pytest.raises(RequestError, match="no"):
            await anext(messages)

    run(test)


def test_consume_credit_out_of_range_is_refused() -> None:
    async def test(client: Client, server: FakeServer) -> None:
        with pytest.raises(LocalProtocolError, match="credit"):
            client.queue("q").consume(credit=0)

    run(test)


def test_ack_of_what_is_not_held_names_only_that() -> None:
    async def test(client: Client, server: FakeServer) -> None:
        orders = client.queue("q")
        for number in range(4):
            await orders.send(str(number).encode())
        messages = await orders.receive(4)
        server.broker.channel("q").in_flight[2] = (99, b"other", 0)
        with pytest.raises(StaleReceipt) as caught:
            await orders.ack(messages)
        assert caught.value.fields == {"stale": [[messages[1].assigning, 2, 2]], "count": 3}
        await orders.ack([])

    assert run(test).broker.channel("q").acked == {1, 3, 4}
