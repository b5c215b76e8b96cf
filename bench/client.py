"""`python -m bench.client`: what the product's own Python clients send and receive, with three nodes on the same machine.

Every case runs through the public names: one `producer.send` a message, `send_batch`, a consumer that is iterated, a consumer
that takes what is there, each for asyncio and for threads. The clock stops with the last confirm, or the last confirmed ack, so
nothing that is only queued counts. Cases take turns within a round; figures are medians of the rounds. Every message must be
confirmed, and must come exactly once.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

import zmq

from bench.load import BODIES, BenchError, Figures
from bench.macro import cluster_pids, find_leader
from bench.meter import Meter
from bench.plan import SEED
from bench.single import run_single
from tests.processes import Cluster
from zmqbroker.client import Client, Message, SyncClient, SyncMessage

__all__ = ["Tally", "measure_rounds"]

NODES = 3
#: Messages of one call of `send_batch`: what a program that already has lists would hand over.
LIST_COUNT = 5_000
#: Messages that are acked with one call.
ACK_COUNT = 4_096
#: What a consumer keeps ready; the time is longer than a case takes, so that no message comes twice.
CONSUME: dict[str, Any] = {"credit": 65_536, "max_bytes": 4 << 20, "visibility_ms": 600_000}


@dataclass(slots=True)
class Tally:
    """The sequences that came; each may come once."""

    wanted: int
    seen: bytearray = field(init=False)
    count: int = 0

    def __post_init__(self) -> None:
        self.seen = bytearray(self.wanted + 1)

    def note(self, messages: Sequence[Message] | Sequence[SyncMessage]) -> bool:
        """Count messages; whether there are no more to come. Raises `BenchError` when one came before, or nobody sent it."""
        for message in messages:
            if not 0 < message.sequence <= self.wanted or self.seen[message.sequence]:
                raise BenchError(f"message {message.sequence} of {self.wanted} came twice, or was never sent")
            self.seen[message.sequence] = 1
        self.count += len(messages)
        return self.count == self.wanted


class Site:
    """A running cluster, and the bodies that are sent to it."""

    def __init__(self, url: str, meter: Meter, count: int, body_bytes: int) -> None:
        chance = Random(SEED)
        self.url = url
        self.meter = meter
        self.count = count
        self.body_bytes = body_bytes
        self.bodies = [chance.randbytes(body_bytes) for _ in range(BODIES)]
        self.lists = [
            [self.bodies[at % BODIES] for at in range(low, min(low + LIST_COUNT, count))] for low in range(0, count, LIST_COUNT)
        ]

    def figures(self) -> dict[str, float]:
        """What was measured since the meter was started, for all messages."""
        spent = self.meter.stop()
        found = Figures(self.count, self.count * self.body_bytes, spent).summary()
        found["client_cpu_us_per_message"] = round(spent.client_cpu_s * 1e6 / self.count, 3)
        return found


# --- asyncio ---------------------------------------------------------------------------------------------------------


async def _send(site: Site, client: Client, channel: str) -> None:
    async with client.queue(channel).producer() as producer:
        bodies = site.bodies
        for number in range(site.count):
            await producer.send(bodies[number % BODIES])


async def _send_batch(site: Site, client: Client, channel: str) -> None:
    async with client.queue(channel).producer() as producer:
        for bodies in site.lists:
            await producer.send_batch(bodies)


async def _iterate(site: Site, client: Client, channel: str) -> None:
    queue, tally = client.queue(channel), Tally(site.count)
    found: list[Message] = []
    async with queue.consume(**CONSUME) as consumer, asyncio.TaskGroup() as acks:
        async for message in consumer:
            found.append(message)
            if len(found) == ACK_COUNT or tally.count + len(found) == site.count:
                last = acks.create_task(queue.ack(found))
                if tally.note(found):
                    await last  # leaving the loop closes the consumer, which returns what is not acked; acks keep their order
                    break
                found = []


async def _take(site: Site, client: Client, channel: str) -> None:
    queue, tally = client.queue(channel), Tally(site.count)
    async with queue.consume(**CONSUME) as consumer, asyncio.TaskGroup() as acks:
        while messages := await consumer.take():
            acks.create_task(queue.ack(messages))
            if tally.note(messages):
                break


def _run_async(site: Site, channel: str, work: Callable[[Site, Client, str], Awaitable[None]]) -> dict[str, float]:
    async def main() -> dict[str, float]:
        async with Client(site.url) as client:
            await client.queue(f"{channel}.warm").send(b"")  # the leader is found
            site.meter.start()
            await work(site, client, channel)
            return site.figures()

    return asyncio.run(main())


# --- threads ---------------------------------------------------------------------------------------------------------


def _sync_send(site: Site, client: SyncClient, channel: str) -> None:
    with client.queue(channel).producer() as producer:
        bodies = site.bodies
        for number in range(site.count):
            producer.send(bodies[number % BODIES])


def _sync_send_batch(site: Site, client: SyncClient, channel: str) -> None:
    with client.queue(channel).producer() as producer:
        for bodies in site.lists:
            producer.send_batch(bodies)


def _sync_iterate(site: Site, client: SyncClient, channel: str) -> None:
    queue, tally = client.queue(channel), Tally(site.count)
    found: list[SyncMessage] = []
    with queue.consume(**CONSUME) as consumer:
        for message in consumer:
            found.append(message)
            if len(found) == ACK_COUNT or tally.count + len(found) == site.count:
                queue.ack(found)
                if tally.note(found):
                    break
                found = []


def _run_sync(site: Site, channel: str, work: Callable[[Site, SyncClient, str], None]) -> dict[str, float]:
    with SyncClient(site.url) as client:
        client.queue(f"{channel}.warm").send(b"")
        site.meter.start()
        work(site, client, channel)
        return site.figures()


#: In the order of their turns: what a case of sending leaves, the next one consumes.
CASES: dict[str, Callable[[Site, str], dict[str, float]]] = {
    "async-send": lambda site, channel: _run_async(site, channel, _send),
    "async-iterate": lambda site, channel: _run_async(site, channel, _iterate),
    "async-send-batch": lambda site, channel: _run_async(site, channel, _send_batch),
    "async-take": lambda site, channel: _run_async(site, channel, _take),
    "sync-send": lambda site, channel: _run_sync(site, channel, _sync_send),
    "sync-iterate": lambda site, channel: _run_sync(site, channel, _sync_iterate),
    "sync-send-batch": lambda site, channel: _run_sync(site, channel, _sync_send_batch),
}


def measure_rounds(site: Site, rounds: int, cases: Sequence[str]) -> dict[str, Any]:
    """Every case once per round, in turn: medians, and all rounds."""
    found: dict[str, list[dict[str, float]]] = {case: [] for case in cases}
    for number in range(rounds):
        channel = ""
        for case in cases:
            channel = f"{case}.{number}" if "send" in case else channel
            found[case].append(CASES[case](site, channel))
            print(f"{number + 1} {case:18} {found[case][-1]}", file=sys.stderr)
    medians = {case: {name: median(row[name] for row in rows) for name in rows[0]} for case, rows in found.items()}
    return {"medians": medians, "rounds": found}


def _measure(data: Path, options: argparse.Namespace) -> dict[str, Any]:
    cluster, context = Cluster(data, NODES, volume=options.volume), zmq.Context[zmq.Socket[bytes]]()
    try:
        for node in cluster.nodes.values():
            node.start()
        find_leader(context, [node.endpoint for node in cluster.nodes.values()])
        site = Site(cluster.url, Meter(cluster_pids(cluster)), options.count, options.body_bytes)
        return measure_rounds(site, options.rounds, options.cases.split(","))
    finally:
        context.destroy(linger=0)
        cluster.close()


def main() -> int:
    """Measure; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.client", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--count", type=int, default=500_000, help="messages per case")
    parser.add_argument("--body-bytes", type=int, default=128)
    parser.add_argument("--cases", default=",".join(CASES), help="some of them, in this order")
    parser.set_defaults(volume="ephemeral")
    return run_single("client", "the Python clients", parser, _measure)


if __name__ == "__main__":
    sys.exit(main())
