"""The asyncio client against fake nodes behind real sockets: connecting, failing over, errors."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

import pytest

from tests.unit.client.fakes import FakeBroker
from tests.unit.client.servers import FakeServer, run, until
from zmqbroker.client import Client, Message, SendResult
from zmqbroker.client import aio as aio_module
from zmqbroker.errors import (
    CODES,
    Busy,
    ChannelNotFound,
    ConfigError,
    DeadlineExceeded,
    InvalidChannel,
    LocalProtocolError,
    MessageTooLarge,
    RequestError,
)
from zmqbroker.wire.requests import Hello, SendBatch


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
            await client.queue("q").send("text")  # type: ignore[call-overload]
        with pytest.raises(LocalProtocolError):
            await client.queue("q").send(b"", id="x" * 256)
        with pytest.raises(LocalProtocolError):
            await client.queue("q").send(b"", metadata="x" * 70_000)
        await client.info()
        with pytest.raises(MessageTooLarge) as caught:
            await client.queue("q").send(bytes((1 << 20) + 1))
        assert caught.value.fields == {"size": (1 << 20) + 1, "limit": 1 << 20}

    run(test)


@pytest.mark.parametrize("kind", CODES.values(), ids=lambda kind: kind.code)
def test_client_every_error_of_a_node_comes_as_its_class_with_its_fields(kind: type[RequestError]) -> None:
    fields = {
        "leader": None,
        "retry_ms": 60,  # so that it waits, and nothing is under way, when the time is over
        "differing": ["delay_ms"],
        "expected": 4,
        "stale": [[1, 1, 1]],
        "size": 5,
        "limit": 4,
    }

    async def test(client: Client, server: FakeServer) -> None:
        server.node.refusals += [kind("as the node says", outcome_unknown=False, **fields)] * 500  # some are asked again
        with pytest.raises(kind, match="as the node says") as caught:
            await client.channels.create("q")
        assert type(caught.value) is kind
        assert (caught.value.fields, caught.value.outcome_unknown) == (fields, False)
        server.node.refusals.clear()

    run(test, timeout_ms=200)


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
