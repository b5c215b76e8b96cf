"""RabbitMQ's side: three servers, each row on a new quorum queue."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

from bench.compare.ours import Figures
from bench.compare.rivals import RivalPlan
from bench.meter import Meter
from bench.peers.rabbitmq_load import consume, publish, publish_one_by_one
from bench.peers.rabbitmq_server import RabbitmqCluster, rabbitmq_cluster

__all__ = ["measure_rabbitmq"]


def measure_rabbitmq(
    script: str, plan: RivalPlan, rows: Collection[str], directory: Path, *, settle: bool
) -> dict[str, Figures]:
    """Every row that it has, against a new cluster: figures by row."""
    with rabbitmq_cluster(script, directory) as cluster:
        meter, found = Meter(cluster.pids), dict[str, Figures]()
        for item in plan.publishing:
            for window in item.windows if item.row in rows else ():
                port = _new_queue(cluster, settle=settle)
                measured = publish(port, meter, item.body_bytes, item.counts, item.burst, window)
                found.setdefault(item.row, {})[f"publish-{window}"] = measured.summary()
        if plan.single.row in rows:
            port = _new_queue(cluster, settle=settle)
            measured = publish_one_by_one(port, meter, plan.single.body_bytes, plan.single.counts)
            found[plan.single.row] = {"publish": measured.summary()}
        if "consume-ack-128B" in rows:
            first, port = plan.publishing[0], _new_queue(cluster, settle=False)
            publish(port, meter, first.body_bytes, first.counts, first.burst, first.windows[0])
            if settle:
                os.sync()
            measured = consume(port, meter, first.body_bytes, sum(first.counts))
            found["consume-ack-128B"] = {"consume": measured.summary()}
    return found


def _new_queue(cluster: RabbitmqCluster, *, settle: bool) -> int:
    port = cluster.new_queue()
    if settle:
        os.sync()
    return port
