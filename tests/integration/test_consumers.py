"""Consumers of one queue: priority, one at a time, and what is told of them, through the clients against three nodes."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

import zmqbroker
from tests.integration.test_cli import run
from tests.integration.wild import unique_channel
from tests.processes import Cluster, cluster
from zmqbroker.client.held import Message
from zmqbroker.client.queue import Queue

WAIT_MS = 10_000


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three nodes, one of which a test kills at the end."""
    with cluster(tmp_path_factory.mktemp("consumers")) as running:
        yield running


def play(own: Cluster, body: Callable[[list[zmqbroker.Client], str], Awaitable[None]], **settings: Any) -> None:
    """Run a coroutine with four clients and a channel that has these settings."""

    async def main() -> None:
        clients = [zmqbroker.Client(own.url, client_id=f"client-{number}") for number in range(4)]
        async with asyncio.timeout(60), clients[0], clients[1], clients[2], clients[3]:
            name = unique_channel("consumers")
            await clients[0].channels.create(name, **settings)
            await body(clients, name)

    asyncio.run(main())


async def until(queue: Queue, **expected: Any) -> dict[str, Any]:
    """The counters once they are these."""
    stats: dict[str, Any] = {}
    for _ in range(1000):
        stats = await queue.stats()
        if all(stats[name] == value for name, value in expected.items()):
            return stats
        await asyncio.sleep(0.01)
    raise AssertionError(f"{expected} is never so: {stats}")


def test_consumers_of_a_higher_priority_are_served_first(own: Cluster) -> None:
    async def body(clients: list[zmqbroker.Client], name: str) -> None:
        low, high, handled, sender = (client.queue(name) for client in clients)
        by_handler: list[bytes] = []

        async def handler(message: Message) -> None:
            by_handler.append(message.body)

        receiving = asyncio.ensure_future(low.receive(wait_ms=WAIT_MS))
        await until(sender, waiting_receives=1)
        waiting = asyncio.ensure_future(high.receive(wait_ms=WAIT_MS, consumer_priority=4))
        working = asyncio.ensure_future(handled.handle(handler, concurrency=1, priority=9))
        await until(sender, waiting_receives=3)
        await sender.send(b"first")
        await until(sender, acked=1, waiting_receives=3)
        await clients[2].drain()
        await working
        await sender.send(b"second")
        (second,) = await waiting
        async with high.consume(credit=1, priority=1) as consumer:
            coming = asyncio.ensure_future(anext(aiter(consumer)))
            await until(sender, waiting_receives=2)
            await sender.send(b"third")
            third = await coming
        await sender.send(b"fourth")
        (fourth,) = await receiving
        assert by_handler == [b"first"]
        assert (second.body, third.body) == (b"second", b"third")
        assert fourth.body == b"third", "it came back when its consumer closed"

    play(own, body)


def test_single_active_consumer_gets_all_messages_and_the_next_by_priority_takes_over(own: Cluster) -> None:
    async def body(clients: list[zmqbroker.Client], name: str) -> None:
        first, second, third, sender = (client.queue(name) for client in clients)
        consumer = first.consume(credit=8)
        taking = aiter(consumer)
        head = asyncio.ensure_future(anext(taking))
        await until(sender, waiting_receives=2)
        others = [
            asyncio.ensure_future(second.receive(9, wait_ms=WAIT_MS)),
            asyncio.ensure_future(third.receive(9, wait_ms=WAIT_MS, consumer_priority=3)),
        ]
        await until(sender, waiting_receives=4, consumers=3)
        for number in range(6):
            await sender.send(b"%d" % number)
        messages = [await head, *[await anext(taking) for _ in range(5)]]
        assert [message.body for message in messages] == [b"%d" % number for number in range(6)]
        await first.ack(messages[:4])
        stats = await sender.stats()
        assert (stats["active"]["client_id"], stats["in_flight"]) in (("client-0", 2), ("", 2))
        assert not any(other.done() for other in others)
        await consumer.close()
        again = await others[1]
        assert [(message.body, message.delivery_count) for message in again] == [(b"4", 2), (b"5", 2)]
        stats = await sender.stats()
        assert stats["active"]["client_id"] in ("client-2", ""), "told by the node that its client is connected to"
        await third.ack(again)
        await clients[2].close()
        await sender.send(b"6")
        assert [message.body for message in await others[0]] == [b"6"]

    play(own, body, single_active=True)


def test_single_active_worker_and_receive_keep_their_turn_from_message_to_message(own: Cluster) -> None:
    async def body(clients: list[zmqbroker.Client], name: str) -> None:
        by_worker: list[bytes] = []
        by_receive: list[bytes] = []

        async def handler(message: Message) -> None:
            by_worker.append(message.body)

        working = asyncio.ensure_future(clients[0].queue(name).handle(handler, concurrency=2))
        sender = clients[3].queue(name)
        await until(sender, waiting_receives=1)
        other = asyncio.ensure_future(clients[1].queue(name).receive(wait_ms=WAIT_MS))
        await until(sender, waiting_receives=2)
        for number in range(10):
            await sender.send(b"%d" % number)
        await until(sender, acked=10)
        assert not other.done()
        await clients[0].drain()
        await working
        for number in range(10, 15):
            await sender.send(b"%d" % number)
        messages = await other
        for _ in range(5):
            await clients[1].queue(name).ack(messages)
            by_receive += [message.body for message in messages]
            messages = await clients[1].queue(name).receive()
        assert by_worker == [b"%d" % number for number in range(10)]
        assert by_receive == [b"%d" % number for number in range(10, 15)]

    play(own, body, single_active=True)


def test_single_active_is_switched_on_and_off_with_consumers_under_way(own: Cluster) -> None:
    async def body(clients: list[zmqbroker.Client], name: str) -> None:
        first, second, _, sender = (client.queue(name) for client in clients)
        await sender.send(b"held")
        (held,) = await second.receive()
        receives = [asyncio.ensure_future(queue.receive(wait_ms=WAIT_MS)) for queue in (first,)]
        await until(sender, waiting_receives=1)
        await clients[3].channels.update(name, single_active=True)
        receives.append(asyncio.ensure_future(second.receive(wait_ms=WAIT_MS)))
        await until(sender, waiting_receives=2)
        await held.ack()
        await sender.send(b"one")
        assert [message.body for message in await receives[0]] == [b"one"]
        await sender.send(b"two")
        assert (await until(sender, ready=1))["waiting_receives"] == 1
        await clients[3].channels.update(name, single_active=False)
        assert [message.body for message in await receives[1]] == [b"two"]
        assert (await sender.stats())["active"] is None

    play(own, body)


def test_stats_count_both_directions_and_rates_are_told_from_the_second_answer_on(own: Cluster) -> None:
    with zmqbroker.SyncClient(own.url) as client:
        queue = client.queue(unique_channel("consumers"))
        queue.send(b"x" * 100)
        before = queue.stats()
        for _ in range(9):
            queue.send(b"x" * 100)
        queue.ack(queue.receive(4))
        queue.receive(2)
        time.sleep(0.6)
        after = queue.stats()
        assert (before["rate_window_ms"], before["sent_per_s"]) == (0, 0)
        assert [after[name] for name in ("sent", "delivered", "acked", "consumers")] == [10, 6, 4, 1]
        assert after["delivered_bytes"] == after["sent_bytes"] * 6 // 10
        assert after["rate_window_ms"] >= 500
        for name, count in (("sent_per_s", 9), ("delivered_per_s", 6)):
            assert abs(after[name] - count * 1000 / after["rate_window_ms"]) <= 1
        (row,) = client.channels.list(queue.name)
        assert (row["consumers"], row["sent"]) == (1, 10)
    told = run("queue", "stats", queue.name, "--watch", "1", "--times", "2", "--json", url=own.url).stdout
    assert [json.loads(line)["rate_window_ms"] > 0 for line in told.splitlines()] == [True, True]
    assert b"in/s" in run("queue", "stats", queue.name, "--watch", "1", "--times", "1", url=own.url).stdout


def test_peek_tells_the_state_of_each_message(own: Cluster) -> None:
    with zmqbroker.SyncClient(own.url) as client:
        queue = client.queue(unique_channel("consumers"))
        queue.send(b"held")
        queue.receive()
        later = queue.send(b"later", delay_ms=60_000)
        queue.send(b"now")
        found = queue.peek(9)
        assert [(message.body, message.state) for message in found] == [
            (b"held", "in_flight"),
            (b"later", "delayed"),
            (b"now", "ready"),
        ]
        assert found[0].due_unix_ns == found[2].due_unix_ns == 0
        assert 0 <= found[1].due_unix_ns - later.time_unix_ns - 60_000_000_000 < 10_000_000
    told = run("queue", "peek", queue.name, "--max", "9", "--json", url=own.url).stdout
    assert [json.loads(line)["state"] for line in told.splitlines()][1] == "delayed"


def test_single_active_consumer_stays_so_through_a_failover(own: Cluster) -> None:
    """The last one: it takes a node away."""

    async def body(clients: list[zmqbroker.Client], name: str) -> None:
        first, second, _, sender = (client.queue(name) for client in clients)
        await sender.send(b"0")
        (held,) = await first.receive()
        other = asyncio.ensure_future(second.receive(wait_ms=WAIT_MS))
        await until(sender, waiting_receives=1)
        active = (await sender.stats())["active"]
        await asyncio.to_thread(own.leader().kill)
        await sender.send(b"1")
        stats = await sender.stats()
        assert (stats["active"]["session"], stats["active"]["consumer"]) == (active["session"], active["consumer"])
        assert (stats["ready"], stats["in_flight"], stats["sent"]) == (1, 1, 2)
        await held.ack()
        (message,) = await first.receive()
        assert (message.body, other.done()) == (b"1", False)
        await clients[0].close()
        (again,) = await other
        assert (again.body, again.delivery_count) == (b"1", 2)

    play(own, body, single_active=True)
