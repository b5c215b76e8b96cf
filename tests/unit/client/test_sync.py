"""The client for threads against fake nodes behind real sockets."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.unit.client.servers import FakeServer
from zmqbroker.client import SyncClient, SyncMessage
from zmqbroker.errors import (
    ChannelNotFound,
    ConfigError,
    DeadlineExceeded,
    InvalidChannel,
    LocalProtocolError,
    MessageTooLarge,
    StaleReceipt,
)
from zmqbroker.wire.requests import Hello, ReceiveRequest


def test_sync_client_send_receive_ack_goes_round() -> None:
    with FakeServer() as server, SyncClient(server.endpoint) as client:
        orders = client.queue("orders")
        assert client.queue("orders") is orders
        assert orders.send(b"hello", id="one", metadata="m", tags={"a": "b"}).sequence == 1
        [message] = orders.receive(wait_ms=1_000)
        assert isinstance(message, SyncMessage)
        assert (message.body, message.id, message.metadata, message.tags) == (b"hello", "one", "m", {"a": "b"})
        message.ack()
        assert orders.stats() == {"channel": "orders", "ready": 0, "in_flight": 0, "settings": {}}
        assert client.info()["node"]["name"] == server.endpoint
    assert server.broker.channel("orders").acked == {1}


def test_sync_client_errors_come_as_their_classes() -> None:
    with FakeServer() as server, SyncClient(server.endpoint) as client:
        with pytest.raises(ChannelNotFound):
            client.queue("nobody").stats()
        with pytest.raises(InvalidChannel):
            client.queue("not good")
        server.silent = True
        with pytest.raises(DeadlineExceeded):
            client.queue("q").send(b"x", timeout_ms=50)
    with pytest.raises(ConfigError):
        SyncClient("http://localhost")


def test_sync_client_options_are_those_of_the_client() -> None:
    with FakeServer() as server, SyncClient(server.endpoint, client_id="ann", timeout_ms=5_000) as client:
        client.info()
        assert server.node.seen[0].client_id == "ann"  # type: ignore[union-attr]


def test_sync_producer_gives_futures_for_threads() -> None:
    with FakeServer() as server, SyncClient(server.endpoint) as client:
        with client.queue("q").producer(batch_messages=10) as producer:
            futures = [producer.send(str(number).encode()) for number in range(50)]
            producer.flush()
            assert [future.result().sequence for future in futures] == list(range(1, 51))
        server.node.refusals.append(MessageTooLarge("too large", size=2, limit=1))
        with pytest.raises(MessageTooLarge), client.queue("q").producer() as producer:
            future = producer.send(b"x")
        assert isinstance(future.exception(), MessageTooLarge)


def test_sync_consumer_iterates_and_returns_what_was_not_acked() -> None:
    with FakeServer() as server, SyncClient(server.endpoint) as client:
        orders = client.queue("q")
        for number in range(10):
            orders.send(str(number).encode())
        bodies = []
        with orders.consume(credit=4) as consumer:
            for message in consumer:
                bodies.append(int(message.body))
                if len(bodies) == 8:
                    break
                message.ack()
        assert bodies == list(range(8))
        assert orders.stats() == {"channel": "q", "ready": 3, "in_flight": 0, "settings": {}}
        orders.ack(orders.receive(3))
        assert orders.stats()["in_flight"] == 0


def test_sync_receive_passes_its_options_on() -> None:
    with FakeServer() as server, SyncClient(server.endpoint) as client:
        client.queue("q").receive(7, min=2, visibility_ms=500, max_bytes=99)
    seen = [request for request in server.node.seen if isinstance(request, ReceiveRequest)]
    assert seen == [ReceiveRequest("q", 2, 7, 99, 0, 500, 1)]


def test_sync_client_used_by_many_threads_stores_everything_once() -> None:
    with FakeServer() as server, SyncClient(server.endpoint) as client, ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda number: client.queue("q").send(str(number).encode()).sequence, range(200)))
        assert sorted(results) == list(range(1, 201))
    assert sorted(int(body) for body in server.broker.channel("q").bodies) == list(range(200))


def test_sync_client_closed_refuses_use_and_ends_its_thread() -> None:
    with FakeServer() as server:
        client = SyncClient(server.endpoint)
        orders = client.queue("q")
        orders.send(b"x")
        client.close()
        client.close()
        with pytest.raises(LocalProtocolError, match="closed"):
            orders.send(b"y")
        assert "zmqbroker-client" not in [thread.name for thread in threading.enumerate()]


def test_sync_client_closed_while_threads_wait_ends_them() -> None:
    with FakeServer() as server, ThreadPoolExecutor(2) as pool:
        client = SyncClient(server.endpoint)
        asked = threading.Event()
        server.before = lambda one, frames: asked.set()
        consuming = pool.submit(lambda: list(client.queue("q").consume()))
        receiving = pool.submit(lambda: client.queue("q").receive(wait_ms=60_000))
        assert asked.wait(10)
        while len(server.broker.waiting) < 3:
            client.info()
        client.close()
        assert consuming.result(10) == []
        with pytest.raises((DeadlineExceeded, LocalProtocolError)):
            receiving.result(10)


def test_sync_client_drain_finishes_and_closes() -> None:
    with FakeServer() as server:
        client = SyncClient(server.endpoint)
        future = client.queue("q").producer(linger_ms=60_000).send(b"late")
        client.drain()
        assert future.result().sequence == 1
        with pytest.raises(LocalProtocolError):
            client.info()


def test_sync_client_closed_ends_what_still_runs_in_its_loop() -> None:
    with FakeServer() as server, ThreadPoolExecutor(1) as pool:
        client, running = SyncClient(server.endpoint), threading.Event()

        async def last_for_ever() -> None:
            running.set()
            await asyncio.Event().wait()

        waiting = pool.submit(lambda: client.run(last_for_ever()))
        assert running.wait(10)
        client.close()
        with pytest.raises(LocalProtocolError, match="closed"):
            waiting.result(10)


def succeeds_in_a_forked_child(action: Callable[[], object]) -> bool:
    """Whether an action ends well in a forked child of this process."""
    child = os.fork()
    if child == 0:  # pragma: no cover - another process
        status = 1
        try:
            action()
            status = 0
        finally:
            os._exit(status)
    return os.waitpid(child, 0)[1] == 0


def test_sync_client_closed_in_a_forked_child_is_closed_there_only() -> None:
    with FakeServer() as server, SyncClient(server.endpoint) as client:

        def in_child() -> None:
            client.close()
            for action in (client.info, lambda: client.queue("q")):
                with pytest.raises(LocalProtocolError, match="closed"):
                    action()

        assert succeeds_in_a_forked_child(in_child)
        client.info()


def test_sync_client_in_a_forked_child_gets_a_session_of_its_own() -> None:
    with FakeServer() as server, SyncClient(server.endpoint) as client:
        queue = client.queue("q")
        queue.send(b"parent")

        def in_child() -> None:
            """Another thread first: the child's first use may come from several at once."""
            with ThreadPoolExecutor(4) as pool:
                assert len(list(pool.map(lambda number: queue.send(b"%d" % number), range(4)))) == 4
            [message] = queue.receive()
            message.ack()
            assert [row["channel"] for row in client.channels.list()] == ["q"]
            client.close()

        assert succeeds_in_a_forked_child(in_child)
        queue.send(b"parent again")
        hellos = {request.session for request in server.node.seen if isinstance(request, Hello)}
    assert len(hellos) == 2
    bodies = server.broker.channel("q").bodies
    assert (bodies[0], sorted(bodies[1:5]), bodies[5]) == (b"parent", [b"0", b"1", b"2", b"3"], b"parent again")
    assert server.broker.channel("q").acked == {1}


def test_sync_consumer_of_the_parent_is_refused_in_a_forked_child() -> None:
    with FakeServer() as server, SyncClient(server.endpoint) as client:
        for number in range(4):
            client.queue("q").send(b"%d" % number)
        with client.queue("q").consume(credit=8) as consumer:
            messages = iter(consumer)
            first = next(messages)

            def in_child() -> None:
                with consumer, pytest.raises(LocalProtocolError, match="belongs to process"):
                    next(iter(consumer))
                with pytest.raises(StaleReceipt):
                    first.ack()

            assert succeeds_in_a_forked_child(in_child)
            first.ack()
    assert server.broker.channel("q").acked == {1}
