"""Our publish lines under what they meet in life: with a consumer that keeps up, and as a backlog that has outgrown the log.

The other side's figure is its publishing without either. Refusals that a client library absorbs (BUSY, STORAGE_FULL) are
absorbed here too, and counted.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection
from pathlib import Path

from bench.compare.plan import BACKLOG_ROW, CONSUMED, ComparePlan, Publishing
from bench.flow import Consumer, Part, Publisher, batch_frame, run
from bench.load import Connection
from bench.macro import NODES, Context, find_leader
from tests.processes import Cluster

__all__ = ["measure_backlog", "measure_consumed"]

RECEIVE_BYTES, RECEIVES = 1 << 20, 8

Figures = dict[str, dict[str, float]]


def measure_consumed(plan: ComparePlan, rows: Collection[str], context: Context, leader: str) -> dict[str, Figures]:
    """Every batched row of `rows` that asks for it, against a running cluster."""
    found: dict[str, Figures] = {}
    for item in plan.publishing:
        row = item.row + CONSUMED
        if row in rows:
            if plan.settle:
                os.sync()
            connections = Connection(context, leader), Connection(context, leader)
            publisher = _publisher(connections[0], row, item)
            consumer = Consumer(connections[1], row, window=RECEIVES, receive_bytes=RECEIVE_BYTES)
            found[row] = {"batch": _measure(publisher, [publisher, consumer], item, item.count)}
            for connection in connections:
                connection.close()
    return found


def measure_backlog(plan: ComparePlan, volume: str, directory: Path) -> dict[str, Figures]:
    """1 KiB that nobody reads, eight times what the log may hold, against a new cluster with a small log."""
    item = next(item for item in plan.publishing if item.row == "batched-1KiB")
    environment = {"ZMQBROKER_STORAGE_LOG_BUDGET_BYTES": str(plan.backlog_budget_bytes)}
    cluster, context = Cluster(directory, NODES, volume=volume, environment=environment), Context()
    try:
        for node in cluster.nodes.values():
            node.start()
        connection = Connection(context, find_leader(context, [node.endpoint for node in cluster.nodes.values()]))
        publisher = _publisher(connection, BACKLOG_ROW, item)
        count = 8 * plan.backlog_budget_bytes // item.body_bytes
        return {BACKLOG_ROW: {"batch": _measure(publisher, [publisher], item, count)}}
    finally:
        context.destroy(linger=0)
        cluster.close()


def _publisher(connection: Connection, channel: str, item: Publishing) -> Publisher:
    return Publisher(connection, [batch_frame(channel, item.body_bytes, item.batch_bytes)], item.window)


def _measure(publisher: Publisher, parts: list[Part], item: Publishing, count: int) -> dict[str, float]:
    """The rate of `count` confirms, after a warm-up."""
    run(parts, lambda: publisher.confirmed >= item.warmup_count)
    before, began_s = publisher.confirmed, time.perf_counter()
    run(parts, lambda: publisher.confirmed >= before + count)
    seconds, sent = time.perf_counter() - began_s, publisher.confirmed - before
    publisher.held = True
    run(parts, lambda: publisher.idle)
    return {
        "seconds": round(seconds, 4),
        "messages_per_s": round(sent / seconds, 1),
        "mb_per_s": round(sent * item.body_bytes / seconds / 1e6, 3),
        "refused": publisher.refused.total(),
    }
