"""`python -m bench.backlog`: what a long queue costs: rates beside it, memory, and a restart.

Three nodes. A channel is filled; then an empty channel and the long one are probed in turn (A B A B); then every node is killed
at once and started again. It answers what an operator with ten million waiting messages asks: is it slower, does it fit, how
long is it gone.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import zmq

from bench.load import BenchError, Connection, build_requests, publish
from bench.macro import cluster_pids, find_leader
from bench.meter import Meter
from bench.plan import PublishCase
from bench.single import run_single
from bench.soak_samples import memory
from tests.processes import Cluster
from zmqbroker.commands import Receipt
from zmqbroker.wire.frames import decode_header
from zmqbroker.wire.requests import AckRequest, CloseRequest, ReceiveRequest, Send

NODES = 3
BATCH_BYTES = 64 << 10
#: Messages of one probe: about a second of either direction.
PROBE_COUNT = 256_000
#: Messages whose frames are built and sent at a time while the channel is filled.
CHUNK_COUNT = 1_024_000
SEND_WINDOW, RECEIVE_WINDOW = 32, 8
RECEIVE_BYTES = 1 << 20
LONG = "long"


@dataclass(slots=True)
class Site:
    """A running cluster and a connection to its leader."""

    cluster: Cluster
    leader: Connection
    body_bytes: int

    def send(self, channel: str, count: int) -> float:
        """Put about `count` messages into a channel; messages per second."""
        case = PublishCase(
            name=channel,
            body_bytes=self.body_bytes,
            batch_bytes=BATCH_BYTES,
            request_count=max(1, count * self.body_bytes // BATCH_BYTES),
            warmup_count=0,
            window=SEND_WINDOW,
            sequenced=False,
        )
        first_id = self.leader.take_ids(case.request_count)
        requests = build_requests(case, first_id)
        return publish(self.leader, Meter([]), case, requests, first_id).summary()["messages_per_s"]

    def receive(self, channel: str, count: int, consumer: int) -> float:
        """Receive and ack about `count` messages from the head of a channel, in order; messages per second."""
        request = ReceiveRequest(channel, count_max=65_535, size_max=RECEIVE_BYTES, wait_ms=5_000, consumer=consumer)
        replies = max(RECEIVE_WINDOW, count * self.body_bytes // RECEIVE_BYTES)  # each of them full
        started, received, acked, asked = time.perf_counter(), 0, 0, 0
        while asked < RECEIVE_WINDOW:
            self.leader.post(request)
            asked += 1
        under_way = asked
        while under_way or acked < received:
            fields = decode_header(self.leader.receive()[0])[2]
            if "pieces" not in fields:
                acked += fields["count"]
                continue
            under_way -= 1
            receipts = tuple(Receipt(*piece[:3]) for piece in fields["pieces"])
            if not receipts:
                raise BenchError(f"nothing came from {channel} after {received} messages")
            received += sum(receipt.last - receipt.first + 1 for receipt in receipts)
            self.leader.post(AckRequest(channel, receipts))
            if asked < replies:
                self.leader.post(request)
                asked, under_way = asked + 1, under_way + 1
        rate = acked / (time.perf_counter() - started)
        self.leader.ask(CloseRequest(consumer))
        return rate

    def memory_bytes(self) -> list[int]:
        """Anonymous resident memory of each node."""
        return [memory(pid)["anonymous_bytes"] for pid in cluster_pids(self.cluster)]


def _fill(site: Site, count: int) -> list[float]:
    rates = []
    for start in range(0, count, CHUNK_COUNT):
        rates.append(site.send(LONG, min(CHUNK_COUNT, count - start)))
        print(f"{start + CHUNK_COUNT:,} messages, {rates[-1]:,.0f} messages/s", file=sys.stderr, flush=True)
    return rates


def _probe(site: Site, rounds: int) -> Iterator[dict[str, float]]:
    for number in range(1, rounds + 1):
        empty = f"empty-{number}"
        yield {
            "send_empty": site.send(empty, PROBE_COUNT),
            "send_long": site.send(LONG, PROBE_COUNT),
            "receive_empty": site.receive(empty, PROBE_COUNT * 3 // 4, 2 * number),
            "receive_long": site.receive(LONG, PROBE_COUNT * 3 // 4, 2 * number + 1),
        }


def _restart(context: zmq.Context[zmq.Socket[bytes]], cluster: Cluster) -> dict[str, float]:
    """Kill all nodes at once; seconds from their start to a leader, and to the first confirm."""
    for node in cluster.nodes.values():
        node.kill()
    started = time.perf_counter()
    for node in cluster.nodes.values():
        node.start()
    endpoint = find_leader(context, [node.endpoint for node in cluster.nodes.values()])
    led = time.perf_counter() - started
    connection = Connection(context, endpoint)
    connection.ask(Send(LONG, b"after the restart"))
    found = {"leader_s": round(led, 2), "confirm_s": round(time.perf_counter() - started, 2)}
    connection.close()
    return found


def measure(directory: Path, volume: str, count: int, body_bytes: int, rounds: int) -> dict[str, Any]:
    """Run everything against a new cluster below `directory`. Raises `BenchError`."""
    cluster = Cluster(directory, NODES, volume=volume)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    try:
        for node in cluster.nodes.values():
            node.start()
        endpoint = find_leader(context, [node.endpoint for node in cluster.nodes.values()])
        site = Site(cluster, Connection(context, endpoint), body_bytes)
        found: dict[str, Any] = {"memory_empty": site.memory_bytes(), "fill": _fill(site, count)}
        found["memory_filled"] = site.memory_bytes()
        found["probes"] = list(_probe(site, rounds))
        for way in ("send", "receive"):
            ratios = [probe[f"{way}_long"] / probe[f"{way}_empty"] for probe in found["probes"]]
            found[f"{way}_ratio"] = round(median(ratios), 3)
        site.leader.close()
        found["restart"] = _restart(context, cluster)
        found["memory_restarted"] = site.memory_bytes()
        return found
    finally:
        context.destroy(linger=0)
        cluster.close()


def main() -> int:
    """Run it, print the result and write it to bench/results."""
    parser = argparse.ArgumentParser(prog="python -m bench.backlog", description="What a long queue costs.")
    parser.add_argument("--messages", type=int, default=10_000_000)
    parser.add_argument("--body-bytes", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    return run_single(
        "backlog",
        "a long queue",
        parser,
        lambda directory, chosen: measure(directory, chosen.volume, chosen.messages, chosen.body_bytes, chosen.rounds),
    )


if __name__ == "__main__":
    sys.exit(main())
