"""`python -m bench.channels`: what channels cost: many with traffic, many more that nobody uses, memory, idle processor time.

Three nodes. One channel and the busy ones are probed in turn (A B A B); then the idle ones are made, and the same is probed
again. The idle share is the processor time of each node while nobody asks anything of it: ticks, heartbeats, housekeeping.
It answers what somebody asks who wants a channel for each of a hundred thousand devices.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from bench.flow import Publisher, batch_frame, run
from bench.load import Connection
from bench.macro import Context, cluster_pids, find_leader
from bench.meter import Meter
from bench.single import run_single
from bench.soak_samples import memory
from tests.processes import Cluster
from zmqbroker.commands import CreateChannel
from zmqbroker.wire.requests import ManageRequest, StatsRequest

NODES = 3
BODY_BYTES, BATCH_BYTES, WINDOW = 128, 16 << 10, 64
#: Creations under way at once: fewer than a connection may have.
CREATE_WINDOW = 500

Row = dict[str, Any]


class Site:
    """A running cluster and a connection to its leader."""

    def __init__(self, context: Context, cluster: Cluster) -> None:
        self.cluster = cluster
        self.leader = Connection(context, find_leader(context, [node.endpoint for node in cluster.nodes.values()]))

    def publish(self, channels: Sequence[str], count: int) -> Row:
        """Publish about `count` messages, batch by batch round the channels, each of which was met before."""
        batches = [batch_frame(channel, BODY_BYTES, BATCH_BYTES) for channel in channels]
        publisher = Publisher(self.leader, batches, WINDOW)
        _until(publisher, batches[0][1] * max(len(batches), WINDOW))
        before, meter = publisher.confirmed, Meter(cluster_pids(self.cluster))
        _until(publisher, before + count)
        spent, sent = meter.stop(), publisher.confirmed - before
        run([publisher], lambda: publisher.idle)
        return {
            "messages_per_s": round(sent / spent.seconds),
            "server_cpu_us_per_message": round(spent.server_cpu_s * 1e6 / sent, 3),
        }

    def create(self, names: Sequence[str]) -> Row:
        """Make channels; how many in a second."""
        started = time.perf_counter()
        for number, name in enumerate(names):
            self.leader.post(ManageRequest(CreateChannel(name)))
            if number >= CREATE_WINDOW:
                self.leader.receive()
        for _ in range(min(CREATE_WINDOW, len(names))):
            self.leader.receive()
        return {"created_per_s": round(len(names) / (time.perf_counter() - started))}

    def state(self, idle_s: float) -> Row:
        """Memory of each node, and the share of a core that each takes while nothing happens."""
        meters = [Meter([pid]) for pid in cluster_pids(self.cluster)]
        time.sleep(idle_s)
        shares = [round(spent.server_cpu_s / spent.seconds, 4) for spent in (meter.stop() for meter in meters)]
        anonymous = [memory(pid)["anonymous_bytes"] for pid in cluster_pids(self.cluster)]
        return {"memory_mb": [round(size / 1e6, 1) for size in anonymous], "idle_cores": shares}

    def stats_ms(self, channel: str, count: int = 200) -> float:
        """The median time of a question about one channel."""
        found = []
        for _ in range(count):
            started = time.perf_counter()
            self.leader.ask(StatsRequest(channel))
            found.append(time.perf_counter() - started)
        return round(median(found) * 1e3, 3)


def _until(publisher: Publisher, count: int) -> None:
    """Let it publish until so many are confirmed, and start nothing new then."""
    publisher.held = False

    def done() -> bool:
        publisher.held = publisher.confirmed >= count
        return publisher.held

    run([publisher], done)


def measure(directory: Path, chosen: argparse.Namespace) -> Row:
    """Everything against a new cluster below `directory`. Raises `BenchError`."""
    context = Context()
    cluster = Cluster(directory, NODES, volume=chosen.volume)
    busy = [f"busy.{number}" for number in range(chosen.busy)]
    try:
        for node in cluster.nodes.values():
            node.start()
        site = Site(context, cluster)
        found: Row = {"empty": site.state(chosen.idle_s)}
        found["one_and_busy"] = _probe(site, busy, chosen)
        found["with_busy"] = site.state(chosen.idle_s) | {"stats_ms": site.stats_ms(busy[0])}
        found["idle_made"] = site.create([f"idle.{number}" for number in range(chosen.idle)])
        found["one_and_busy_beside_idle"] = _probe(site, busy, chosen)
        found["with_idle"] = site.state(chosen.idle_s) | {"stats_ms": site.stats_ms(busy[0])}
        for name in ("one_and_busy", "one_and_busy_beside_idle"):
            rates = [round_["busy"]["messages_per_s"] / round_["one"]["messages_per_s"] for round_ in found[name]]
            found[f"{name}_ratio"] = round(median(rates), 3)
        return found
    finally:
        context.destroy(linger=0)
        cluster.close()


def _probe(site: Site, busy: Sequence[str], chosen: argparse.Namespace) -> list[Row]:
    return [
        {"one": site.publish(["one"], chosen.messages), "busy": site.publish(busy, chosen.messages)}
        for _ in range(chosen.rounds)
    ]


def main() -> int:
    """Run it, print the result and write it to bench/results."""
    parser = argparse.ArgumentParser(prog="python -m bench.channels", description="What channels cost.")
    parser.add_argument("--busy", type=int, default=10_000, help="channels with traffic")
    parser.add_argument("--idle", type=int, default=100_000, help="channels without")
    parser.add_argument("--messages", type=int, default=1_000_000, help="of one measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--idle-s", type=float, default=20, help="seconds of doing nothing that are looked at")
    return run_single("channels", "what channels cost", parser, measure)


if __name__ == "__main__":
    sys.exit(main())
