"""The asyncio client against fake nodes behind real sockets."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from tests.unit.client.fakes import FakeBroker, busy
from tests.unit.client.servers import FakeServer
from zmqbroker.client import Client, Message, SendResult
from zmqbroker.client import aio as aio_module
from zmqbroker.errors import (
    Busy,
    ChannelNotFound,
    ConfigError,
    DeadlineExceeded,
    InvalidChannel,
    InvalidRequest,
    LocalProtocolError,
    MessageTooLarge,
    RequestError,
    StaleReceipt,
)
from zmqbroker.wire.codec import decode_batch
from zmqbroker.wire.requests import CloseRequest, Hello, ReceiveRequest, SendBatch


def run(test: Callable[[Client, FakeServer], Awaitable[None]], **options: Any) -> FakeServer:
    """Run a test with one node and a client for it; the node, stopped."""

    async def main(server: FakeServer) -> None:
        async with Client(server.endpoint, **options) as client:
            await test(client, server)

    with FakeServer() as server:
        asyncio.run(main(server))
    return server


async def until(condition: Callable[[], object]) -> None:
    """Let the loop work until a condition holds; the test's own time limit ends it otherwise."""
    while not condition():  # noqa: ASYNC110 - what it waits for happens in the fake node's thread
        await asyncio.sleep(0)


def test_client_send_receive_ack_goes_round() -> None:
    async def test(client: Client, server: FakeServer) -> None:
        orders = client.queue("orders")
        assert client.queue("orders") is orders
        result = await orders.send(b"hello", id="one", metadata="meta", tags={"a": "b"})
        assert result == SendResult(1, 1, False, "quorum")
        [message] = await orders.receive(wait_ms=1_000)
        assert isinstance(message, Message)
        assert (message.body, message.sequence, message.delivery_count) == (b"hello", 1, 1)
        assert (message.id, message.metadata, message.tags) == ("one", "meta", {"a": "b"})
        assert (message.channel, message.time_unix_ns) == ("orders", 1)
        assert repr(message) == "<Message 1 of 'orders': 5 bytes>"
        await message.ack()
        assert (await orders.stats())["in_flight"] == 0
        assert await orders.receive() == []

    assert run(test).broker.channel("orders").acked == {1}


def test_client_info_and_client_id_travel() -> None:
    async def test(client: Client, server: FakeServer) -> None:
        assert (await client.info())["node"]["name"] == server.endpoint

    hello = run(test, client_id="ann").node.seen[0]
    assert isinstance(hello, Hello)
    assert hello.client_id == "ann"
    assert hello.session is not None
    assert len(hello.session) == 16


def test_client_url_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeServer() as server:
        monkeypatch.setenv("ZMQBROKER_URL", server.endpoint)

        async def main() -> None:
            async with Client() as client:
                assert (await client.info())["node"]["name"] == server.endpoint

        asyncio.run(main())


def test_client_bad_url_is_a_config_error() -> None:
    with pytest.raises(ConfigError):
        Client("http://localhost")


def test_client_over_ipc(tmp_path: Path) -> None:
    with FakeServer(address=f"ipc://{tmp_path}/z") as server:

        async def main() -> None:
            async with Client(server.endpoint) as client:
                await client.queue("q").send(b"x")

        asyncio.run(main())
        assert server.broker.channel("q").bodies == [b"x"]


def test_client_resolves_names(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    original = socket.getaddrinfo

    def getaddrinfo(host: str, port: int, *rest: Any, **options: Any) -> Any:
        asked.append(host)
        return original("127.0.0.1" if host == "broker.invalid" else host, port, *rest, **options)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    with FakeServer() as server:
        port = server.endpoint.rpartition(":")[2]

        async def main() -> None:
            async with Client(f"tcp://broker.invalid:{port}") as client:
                await client.info()

        asyncio.run(main())
    assert asked[0] == "broker.invalid"


def test_client_name_that_nobody_knows_ends_as_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    def getaddrinfo(*arguments: Any, **options: Any) -> Any:
        raise socket.gaierror("no such host")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)

    async def main() -> None:
        async with Client("tcp://broker.invalid:1", timeout_ms=150) as client:
            with pytest.raises(DeadlineExceeded) as caught:
                await client.info()
            assert not caught.value.outcome_unknown

    asyncio.run(main())


def test_client_address_that_cannot_be_used_ends_as_not_sent() -> None:
    async def main() -> None:
        async with Client("tcp://[fe80::1%nowhere]:1", timeout_ms=100) as client:
            with pytest.raises(DeadlineExceeded):
                await client.info()

    asyncio.run(main())


def test_client_node_comes_late_is_found() -> None:
    server = FakeServer()
    server.stop()

    async def main() -> None:
        async with Client(server.endpoint) as client:
            sending = asyncio.ensure_future(client.queue("q").send(b"x"))
            await asyncio.sleep(0)
            server.start()
            assert (await sending).sequence == 1

    with server:
        asyncio.run(main())


def test_client_node_restarts_sends_again_and_stores_once() -> None:
    async def test(client: Client, server: FakeServer) -> None:
        orders = client.queue("q")
        await orders.send(b"0")
        server.silent = True
        sending = [asyncio.ensure_future(orders.send(str(number).encode())) for number in range(1, 20)]
        seen = [0]

        def count(_: FakeServer, frames: Any) -> None:
            seen[0] += 1

        server.before = count
        await until(lambda: seen[0] >= 1)
        await asyncio.to_thread(server.stop)
        server.silent = False
        server.start()
        results = await asyncio.gather(*sending)
        assert [result.sequence for result in results] == list(range(2, 21))

    server = run(test)
    assert server.broker.channel("q").bodies == [str(number).encode() for number in range(20)]
    assert [type(request) for request in server.node.seen].count(Hello) == 2


def test_client_leader_dies_goes_on_at_the_next() -> None:
    broker = FakeBroker()
    with FakeServer(broker) as first, FakeServer(broker) as second:

        def lead(server: FakeServer, term: int) -> None:
            for one in (first, second):
                one.node.leader, one.node.leader_term = server.endpoint, term

        async def main() -> None:
            lead(first, 1)
            hosts = ",".join(server.endpoint.removeprefix("tcp://") for server in (first, second))
            async with Client(f"zmqbroker://{hosts}") as client:
                orders = client.queue("q")
                await orders.send(b"a")
                consumer = orders.consume(credit=4)
                messages = aiter(consumer)
                assert (await anext(messages)).body == b"a"
                await asyncio.to_thread(first.stop)
                sending = asyncio.ensure_future(orders.send(b"b"))
                lead(second, 2)
                assert (await sending).sequence == 2
                assert (await anext(messages)).body == b"b"
                await consumer.close()

        asyncio.run(main())
    assert broker.channel("q").bodies == [b"a", b"b"]


def test_client_garbage_from_a_node_is_ignored() -> None:
    async def test(client: Client, server: FakeServer) -> None:
        original = server.node.handle

        def handle(connection: Any, frames: Any) -> Any:
            return [(connection, [b"garbage"]), (connection, [b""]), *original(connection, frames)]

        server.node.handle = handle  # type: ignore[method-assign]
        assert (await client.queue("q").send(b"x")).sequence == 1

    run(test)


def test_client_errors_come_as_their_classes() -> None:
    async def test(client: Client, server: FakeServer) -> None:
        with pytest.raises(ChannelNotFound):
            await client.queue("nobody").stats()
        with pytest.raises(InvalidChannel):
            client.queue("not good")
        with pytest.raises(LocalProtocolError):
            await client.queue("q").send("text")  # type: ignore[arg-type]
        with pytest.raises(LocalProtocolError):
            await client.queue("q").send(b"", id="x" * 256)
        with pytest.raises(LocalProtocolError):
            await client.queue("q").send(b"", metadata="x" * 70_000)
        await client.info()
        with pytest.raises(MessageTooLarge) as caught:
            await client.queue("q").send(bytes((1 << 20) + 1))
        assert caught.value.fields == {"size": (1 << 20) + 1, "limit": 1 << 20}

    run(test)


def test_client_too_many_queues_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aio_module, "_QUEUES_MAX", 1)

    async def test(client: Client, server: FakeServer) -> None:
        client.queue("a")
        with pytest.raises(Busy):
            client.queue("b")

    run(test)


def test_client_concurrent_sends_keep_their_order_and_share_batches() -> None:
    async def test(client: Client, server: FakeServer) -> None:
        orders = client.queue("q")
        results = await asyncio.gather(*(orders.send(str(number).encode()) for number in range(500)))
        assert [result.sequence for result in results] == list(range(1, 501))

    server = run(test)
    assert server.broker.channel("q").bodies == [str(number).encode() for number in range(500)]
    assert [type(request) for request in server.node.seen].count(SendBatch) < 100


@pytest.mark.parametrize("body", [b"bytes", bytearray(b"bytes"), memoryview(b"bytes")])
def test_client_body_may_be_any_bytes(body: bytes) -> None:
    async def test(client: Client, server: FakeServer) -> None:
        await client.queue("q").send(body)

    assert run(test).broker.channel("q").bodies == [b"bytes"]


# --- producers -------------------------------------------------------------------------------------------------------


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


# --- receiving -------------------------------------------------------------------------------------------------------


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
    assert len({request.consumer for request in asked}) == 2
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
        assert (await orders.stats()) == {"channel": "q", "ready": 5, "in_flight": 0}

    run(test)


def test_consume_take_brings_one_half_at_a_time() -> None:
    async def test(client: Client, server: FakeServer) -> None:
        orders = client.queue("q")
        for number in range(4):
            await orders.send(str(number).encode())
        consumer = orders.consume(credit=4)
        taken = [[int(message.body) for message in await consumer.take()] for _ in range(2)]
        assert taken == [[0, 1], [2, 3]]
        consumer.stop()
        assert await consumer.take() == []
        await consumer.close()

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


# --- the end ---------------------------------------------------------------------------------------------------------


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
