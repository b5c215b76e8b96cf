"""Message groups against three nodes: one in flight per key, in order, whatever becomes of those who receive."""

from __future__ import annotations

import asyncio
import multiprocessing
import random
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

import zmqbroker
from tests.integration.wild import unique_channel
from tests.processes import Cluster

KEYS, PER_KEY = 5, 30
#: What the one that is killed holds is ready again after this.
VISIBILITY_MS = 1_500


@pytest.fixture
def client(trio: Cluster) -> Iterator[zmqbroker.SyncClient]:
    with zmqbroker.SyncClient(trio.url) as made:
        yield made


@dataclass
class Seen:
    """What all consumers of one run saw."""

    deliveries: list[tuple[str, int, int]] = field(default_factory=list)  # key, number, delivery count
    held: defaultdict[str, set[int]] = field(default_factory=lambda: defaultdict(set))  # by key: given and not given back
    faults: list[str] = field(default_factory=list)
    done: defaultdict[str, list[int]] = field(default_factory=lambda: defaultdict(list))  # by key: acked, in this order

    def take(self, message: zmqbroker.Message) -> None:
        """It is held now."""
        key, number = message.group, int(message.body)
        if self.held[key]:
            self.faults.append(f"{key}: {number} came while {self.held[key]} is held")
        if number != len(self.done[key]) + 1:
            self.faults.append(f"{key}: {number} came when {len(self.done[key])} were done")
        self.held[key].add(number)
        self.deliveries.append((key, number, message.delivery_count))

    def give(self, message: zmqbroker.Message, *, acking: bool) -> None:
        """It is about to be settled: from here on others may have it, or the next one."""
        self.held[message.group].discard(int(message.body))
        if acking:
            self.done[message.group].append(int(message.body))


async def consume(url: str, name: str, seed: int, seen: Seen) -> None:
    """Ack most messages and give others back, until all are done."""
    chance = random.Random(seed)
    async with zmqbroker.Client(url) as client:
        queue = client.queue(name)
        while sum(map(len, seen.done.values())) < KEYS * PER_KEY:
            messages = await queue.receive(3, wait_ms=300, visibility_ms=60_000)
            for message in messages:
                seen.take(message)
            for message in messages:
                await asyncio.sleep(chance.random() / 200)
                way = chance.choice(["ack", "ack", "ack", "nack", "later"])
                seen.give(message, acking=way == "ack")
                if way == "ack":
                    await message.ack()
                else:
                    await message.nack(delay_ms=0 if way == "nack" else 30)


def hold_for_ever(url: str, name: str, holding: multiprocessing.synchronize.Event) -> None:
    """In a process of its own, to be killed: holds the first message of every key."""
    with zmqbroker.SyncClient(url) as client:
        messages = client.queue(name).receive(100, min=KEYS, wait_ms=10_000, visibility_ms=VISIBILITY_MS)
        assert len(messages) == KEYS
        holding.set()
        multiprocessing.Event().wait()


def test_order_and_fairness_one_in_flight_per_key(trio: Cluster, client: zmqbroker.SyncClient) -> None:
    name = unique_channel()
    queue = client.queue(name)
    keys = [f"key-{number}" for number in range(KEYS)]
    with queue.producer() as producer:
        for number in range(1, PER_KEY + 1):
            for key in keys:
                producer.send(b"%d" % number, group=key, priority=number % 3)
    assert (queue.stats()["ready"], queue.stats()["parked"]) == (KEYS, KEYS * (PER_KEY - 1))
    context = multiprocessing.get_context("spawn")
    holding = context.Event()
    holder = context.Process(target=hold_for_ever, args=(trio.url, name, holding), daemon=True)
    holder.start()
    assert holding.wait(30)
    assert queue.receive(100) == [], "the others of each key wait while one is held"
    holder.kill()
    holder.join()
    seen = Seen()

    async def main() -> None:
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            for seed in range(4):
                group.create_task(consume(trio.url, name, seed, seen))

    asyncio.run(main())
    assert seen.faults == []
    assert dict(seen.done) == {key: list(range(1, PER_KEY + 1)) for key in keys}
    assert {count for _, number, count in seen.deliveries if number == 1} >= {2}, "what the killed one held came again"
    assert queue.stats()["depth"] == 0


def test_messages_of_other_groups_and_of_none_go_on_while_one_is_held(client: zmqbroker.SyncClient) -> None:
    queue = client.queue(unique_channel())
    for group in ("a", "a", "b", "", ""):
        queue.send(group.encode(), group=group)
    first = queue.receive(100)
    assert [(message.body, message.group) for message in first] == [(b"a", "a"), (b"b", "b"), (b"", ""), (b"", "")]
    assert [message.group for message in queue.peek(100)] == ["a", "a", "b", "", ""]
    first[0].ack()
    (second,) = queue.receive(100)
    assert (second.sequence, second.group) == (2, "a")
