"""`python -m bench.growth`: the rate of publishing with many of something: channels, clients, messages that wait, nodes.

Every point runs `--rounds` times on a cluster that is new for its axis (for its point, where nodes are counted); the table has
medians, and each rate by that of the axis's first point. What is under way in all is the same at every point where it can be.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import zmq

from bench.flow import Publisher, batch_frame, run
from bench.load import Connection
from bench.macro import Context, cluster_pids, find_leader
from bench.meter import Meter
from bench.single import run_single
from tests.processes import Cluster

__all__ = ["AXES", "POINTS", "measure", "table"]

#: Axis -> its points.
POINTS = {
    "channels": (1, 10, 100, 1_000),
    "clients": (1, 10, 100, 1_000),
    "waiting": (0, 1_000_000, 10_000_000),
    "nodes": (3, 5, 7, 9),
}
AXES = tuple(POINTS)
BODY_BYTES = 128
#: Small enough that a thousand clients with one each have no more under way than one client with a window.
BATCH_BYTES, WINDOW = 16 << 10, 64
#: Batches of a thousand bodies fill a channel.
FILL_BYTES = 128 << 10
NODES = 3

Row = dict[str, Any]


class Site:
    """A running cluster."""

    def __init__(self, context: Context, cluster: Cluster) -> None:
        self._context, self._cluster = context, cluster
        self._leader = find_leader(context, [node.endpoint for node in cluster.nodes.values()])

    def publish(self, channels: Sequence[str], clients: int, count: int, batch_bytes: int = BATCH_BYTES) -> Row:
        """Publish about `count` messages after a warm-up that meets every channel; a client's batches go round the channels."""
        batches = [batch_frame(channel, BODY_BYTES, batch_bytes) for channel in channels]
        publishers = []
        for number in range(clients):
            start = number * len(batches) // clients
            window = max(1, WINDOW // clients)
            connection = Connection(self._context, self._leader)
            publishers.append(Publisher(connection, batches[start:] + batches[:start], window))
        warmup_count = batches[0][1] * max(len(batches), WINDOW, clients)
        _publish(publishers, warmup_count)
        before, meter = sum(publisher.confirmed for publisher in publishers), Meter(cluster_pids(self._cluster))
        _publish(publishers, before + count)
        spent = meter.stop()
        sent = sum(publisher.confirmed for publisher in publishers) - before
        run(publishers, lambda: all(publisher.idle for publisher in publishers))
        for publisher in publishers:
            publisher.connection.close()
        return {
            "messages_per_s": round(sent / spent.seconds),
            "server_cpu_us_per_message": round(spent.server_cpu_s * 1e6 / sent, 3),
            "server_cores": round(spent.server_cpu_s / spent.seconds, 2),
            "client_cores": round(spent.client_cpu_s / spent.seconds, 2),
            "refused": sum(sum(publisher.refused.values()) for publisher in publishers),
        }


def _publish(publishers: Sequence[Publisher], until: int) -> None:
    """Let all publish until so many messages are confirmed in all, and start nothing new then."""
    for publisher in publishers:
        publisher.held = False

    def done() -> bool:
        if sum(publisher.confirmed for publisher in publishers) < until:
            return False
        for publisher in publishers:
            publisher.held = True
        return True

    run(publishers, done)


@contextmanager
def _site(directory: Path, volume: str, nodes: int) -> Iterator[Site]:
    directory.mkdir()
    context = Context()
    context.set(zmq.MAX_SOCKETS, 4 * max(POINTS["clients"]))
    cluster = Cluster(directory, nodes, volume=volume)
    try:
        for node in cluster.nodes.values():
            node.start()
        yield Site(context, cluster)
    finally:
        context.destroy(linger=0)
        cluster.close()


def _names(axis: str, count: int) -> list[str]:
    return [f"{axis}-{count}-{number}" for number in range(count)]


def measure(directory: Path, chosen: argparse.Namespace) -> Row:
    """All points of the chosen axes. Raises `BenchError`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # the nodes inherit it
    found: list[Row] = []
    try:
        for axis in chosen.axes or AXES:
            points = [point for point in POINTS[axis] if point <= (chosen.most or point)]
            sizes = points if axis == "nodes" else [NODES]
            for size in sizes:
                with _site(directory / f"{axis}-{size}", chosen.volume, size) as site:
                    for point in [size] if axis == "nodes" else points:
                        found.append(_point(site, axis, point, chosen))
                        print(found[-1], file=sys.stderr, flush=True)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return {"points": table(found)}


def _point(site: Site, axis: str, point: int, chosen: argparse.Namespace) -> Row:
    channels, clients = [axis], 1
    if axis == "channels":
        channels = _names(axis, point)
    elif axis == "clients":
        clients = point
    elif axis == "waiting" and point:
        site.publish(channels, 1, point, FILL_BYTES)  # what earlier points left is on top
    rounds = []
    for _ in range(chosen.rounds):
        if chosen.settle:
            os.sync()  # else a point pays for what those before it left in the page cache
        rounds.append(site.publish(channels, clients, chosen.messages))
    return {"axis": axis, "point": point, **{name: median(row[name] for row in rounds) for name in rounds[0]}}


def table(points: Sequence[Row]) -> list[Row]:
    """The points with each rate by that of its axis's first point."""
    first: dict[str, float] = {}
    for point in points:
        first.setdefault(point["axis"], point["messages_per_s"])
    return [{**point, "to_first": round(point["messages_per_s"] / first[point["axis"]], 3)} for point in points]


def main() -> int:
    """Run it, print the result and write it to bench/results."""
    parser = argparse.ArgumentParser(prog="python -m bench.growth", description="Rates with many of something.")
    parser.add_argument("--axes", nargs="+", choices=AXES, help="only these")
    parser.add_argument("--most", type=int, default=0, help="no point above this (default: all)")
    parser.add_argument("--messages", type=int, default=1_000_000, help="of one measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--settle", action=argparse.BooleanOptionalAction, default=True, help="wait for the disk before each")
    return run_single("growth", "rates with many of something", parser, measure)


if __name__ == "__main__":
    sys.exit(main())
