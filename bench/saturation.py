"""`python -m bench.saturation`: three nodes as fast as they go for minutes, with a consumer that keeps up.

What a short run cannot show: whether memory grows, whether a node that is busy all the time loses its leader, whether requests
are refused. The publisher is held while more than `--backlog` messages wait, so the nodes are bound by publishing and
consuming together and not by their log's budget. A row per `--sample-s`.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import zmq

from bench.flow import Consumer, Publisher, batch_frame, run
from bench.load import BenchError, Connection
from bench.macro import NODES, find_leader
from bench.meter import cpu_s
from bench.single import run_single
from bench.soak_samples import memory
from tests.processes import Cluster

__all__ = ["grown", "measure"]

CHANNEL = "saturation"
BATCH_BYTES, WINDOW = 64 << 10, 32
RECEIVE_BYTES, RECEIVES = 1 << 20, 8
INFO_TIMEOUT_MS = 5_000

Row = dict[str, Any]


class Samples:
    """A row per stretch of time: rates of the client, memory and processor time of each node, who leads."""

    def __init__(self, cluster: Cluster, publisher: Publisher, consumer: Consumer) -> None:
        self._cluster, self._publisher, self._consumer = cluster, publisher, consumer
        self.rows: list[Row] = []
        self._began_s = time.perf_counter()
        self._leader, self.leader_changes = "", -1  # the first leader is no change
        self._last = self._counts()

    def take(self) -> None:
        """Add the row of the time since the one before."""
        now, last = self._counts(), self._last
        seconds = now["at_s"] - last["at_s"]
        nodes = {
            name: {"anonymous_bytes": node["anonymous_bytes"], "cores": round((node["cpu_s"] - old["cpu_s"]) / seconds, 3)}
            for (name, node), old in zip(now["nodes"].items(), last["nodes"].values(), strict=True)
        }
        row = {
            "at_s": round(now["at_s"], 1),
            "published_per_s": round((now["confirmed"] - last["confirmed"]) / seconds),
            "received_per_s": round((now["received"] - last["received"]) / seconds),
            "waiting": now["confirmed"] - now["received"],
            "refused": {code: count - last["refused"].get(code, 0) for code, count in now["refused"].items()},
            "leader": self._ask_leader(),
            "nodes": nodes,
        }
        print(row, file=sys.stderr, flush=True)
        self.rows.append(row)
        self._last = self._counts()

    def _counts(self) -> Row:
        nodes = {}
        for node in self._cluster.nodes.values():
            if node.process is None or not node.running:
                raise BenchError(f"{node.name} has ended\n{node.log()[-2000:]}")
            pid = node.process.pid
            nodes[node.name] = {**memory(pid), "cpu_s": cpu_s(Path(f"/proc/{pid}/stat"))}
        return {
            "at_s": time.perf_counter() - self._began_s,
            "confirmed": self._publisher.confirmed,
            "received": self._consumer.received,
            "refused": dict(self._publisher.refused),
            "nodes": nodes,
        }

    def _ask_leader(self) -> str:
        for name in self._cluster.nodes:
            info = self._cluster.info(name, timeout_ms=INFO_TIMEOUT_MS)
            if info and any(group["role"] == "leader" for group in info["groups"]):
                if name != self._leader:
                    self._leader, self.leader_changes = name, self.leader_changes + 1
                return name
        return ""


def measure(directory: Path, chosen: argparse.Namespace) -> Row:
    """Run it against a new cluster below `directory`. Raises `BenchError`."""
    cluster, context = Cluster(directory, NODES, volume=chosen.volume), zmq.Context[zmq.Socket[bytes]]()
    try:
        for node in cluster.nodes.values():
            node.start()
        endpoint = find_leader(context, [node.endpoint for node in cluster.nodes.values()])
        batch = batch_frame(CHANNEL, chosen.body_bytes, BATCH_BYTES)
        publisher = Publisher(Connection(context, endpoint), [batch], WINDOW)
        consumer = Consumer(Connection(context, endpoint), CHANNEL, window=RECEIVES, receive_bytes=RECEIVE_BYTES)
        samples = Samples(cluster, publisher, consumer)
        _saturate(publisher, consumer, samples, chosen)
        return _result(publisher, consumer, samples)
    finally:
        context.destroy(linger=0)
        cluster.close()


def _saturate(publisher: Publisher, consumer: Consumer, samples: Samples, chosen: argparse.Namespace) -> None:
    """Until the time is over, then until everything is received and acked."""
    began_s = time.monotonic()
    end_s = began_s + 60 * chosen.minutes

    def done() -> bool:
        now_s = time.monotonic()
        publisher.held = now_s >= end_s or publisher.confirmed - consumer.received > chosen.backlog
        if now_s >= began_s + chosen.sample_s * (len(samples.rows) + 1):
            samples.take()
        return now_s >= end_s and publisher.idle and consumer.acked == publisher.confirmed

    run([publisher, consumer], done)


def _result(publisher: Publisher, consumer: Consumer, samples: Samples) -> Row:
    if not samples.rows:
        raise BenchError("no row: --minutes is less than --sample-s")
    return {
        "published": publisher.confirmed,
        "received_and_acked": consumer.acked,
        "refused": dict(publisher.refused),
        "leader_changes": samples.leader_changes,
        "anonymous_last_to_first": grown(samples.rows),
        "rows": samples.rows,
    }


def grown(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Anonymous memory of each node in the last row by that in the first: near 1, or something grows."""
    first, last = rows[0]["nodes"], rows[-1]["nodes"]
    return {name: round(last[name]["anonymous_bytes"] / first[name]["anonymous_bytes"], 3) for name in first}


def main() -> int:
    """Run it, print the result and write it to bench/results."""
    parser = argparse.ArgumentParser(prog="python -m bench.saturation", description="As fast as it goes, for minutes.")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--sample-s", type=float, default=60, help="seconds of a row (default: 60)")
    parser.add_argument("--body-bytes", type=int, default=1024)
    parser.add_argument("--backlog", type=int, default=200_000, help="messages that may wait before the publisher is held")
    return run_single("saturation", "saturation with a consumer", parser, measure)


if __name__ == "__main__":
    sys.exit(main())
