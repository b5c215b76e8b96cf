"""Redis's side: a primary with two replicas, each row on a new stream, in every way that may be its best."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

from bench.compare.ours import Figures
from bench.compare.rivals import RivalLoad, RivalPlan
from bench.meter import Meter
from bench.peers.redis_load import consume, publish, publish_one_by_one
from bench.peers.redis_server import RedisCluster, redis_cluster

__all__ = ["measure_redis"]


def measure_redis(
    binary: str, plan: RivalPlan, volume: str, rows: Collection[str], directory: Path, *, settle: bool
) -> dict[str, Figures]:
    """Every row that it has, against a new cluster: figures by row."""
    with redis_cluster(binary, directory, sync=volume == "persistent") as cluster:
        meter, found = Meter(cluster.pids), dict[str, Figures]()
        for item in plan.publishing:
            if item.row in rows:
                found[item.row] = _publish(cluster, meter, item, settle=settle)
        if plan.single.row in rows:
            port = _new_stream(cluster, settle=settle)
            measured = publish_one_by_one(port, meter, plan.single.body_bytes, plan.single.counts)
            found[plan.single.row] = {"xadd": measured.summary()}
        if "consume-ack-128B" in rows:
            first = plan.publishing[0]
            publish(_new_stream(cluster, settle=False), meter, first.body_bytes, first.counts, first.burst, pipelines=1)
            if settle:
                os.sync()
            measured = consume(cluster.port, meter, first.body_bytes, sum(first.counts))
            found["consume-ack-128B"] = {"xreadgroup": measured.summary()}
    return found


def _new_stream(cluster: RedisCluster, *, settle: bool) -> int:
    port = cluster.new_stream()
    if settle:
        os.sync()
    return port


def _publish(cluster: RedisCluster, meter: Meter, item: RivalLoad, *, settle: bool) -> Figures:
    found: Figures = {}
    for window in item.windows:
        port, pipelines = _new_stream(cluster, settle=settle), window // item.burst
        measured = publish(port, meter, item.body_bytes, item.counts, item.burst, pipelines)
        found[f"xadd-{pipelines}-pipelined"] = measured.summary()
    return found
