"""NATS's side: three servers, each row on a new stream, in every way that may be its best."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

from bench.compare.ours import Figures, paced_figures
from bench.compare.plan import ComparePlan, Publishing
from bench.meter import Meter
from bench.peers.nats_load import publish_fast, publish_one_by_one, publish_windowed, pull_all
from bench.peers.nats_paced import open_loop, saturated_rate
from bench.peers.nats_server import NatsCluster, nats_cluster

__all__ = ["measure_nats"]

#: Messages under way when the rate from sender to handler is sought.
SATURATED_WINDOW = 5000


def measure_nats(
    binary: str, plan: ComparePlan, volume: str, rows: Collection[str], rate: int, directory: Path
) -> tuple[dict[str, Figures], int]:
    """Every row against a new cluster: figures by row, and the rate of the open loop, which is found when `rate` is 0."""
    with nats_cluster(binary, directory, sync=volume == "persistent") as cluster:
        meter, found = Meter(cluster.pids), dict[str, Figures]()
        for item in plan.publishing:
            if item.row in rows:
                found[item.row] = _publish(cluster, meter, item, settle=plan.settle)
        if plan.single.row in rows:
            counts = plan.single.peer_warmup_count, plan.single.peer_count
            port = _new_stream(cluster, settle=plan.settle)
            found[plan.single.row] = {"publish": publish_one_by_one(port, meter, plan.single.body_bytes, counts).summary()}
        if "consume-ack-128B" in rows:
            found["consume-ack-128B"] = {"pull": _consume(cluster, meter, plan.publishing[0], settle=plan.settle)}
        if "send-to-handler-128B" in rows:
            rate = rate or _half_load(cluster, plan)
            found["send-to-handler-128B"] = {"publish": _paced(cluster, meter, plan, rate)}
    return found, rate


def _new_stream(cluster: NatsCluster, *, settle: bool, batched: bool = False) -> int:
    port = cluster.new_stream(batched=batched)
    if settle:
        os.sync()
    return port


def _publish(cluster: NatsCluster, meter: Meter, item: Publishing, *, settle: bool) -> Figures:
    counts = item.peer_warmup_count, item.peer_count
    port = _new_stream(cluster, settle=settle)
    windowed = publish_windowed(port, meter, item.body_bytes, counts, window=item.peer_window, burst=item.peer_burst)
    found = {"publish": windowed.summary()}
    if item.peer_flow:
        port = _new_stream(cluster, settle=settle, batched=True)
        found["fast-ingest"] = publish_fast(port, meter, item.body_bytes, counts, flow=item.peer_flow).summary()
    return found


def _consume(cluster: NatsCluster, meter: Meter, item: Publishing, *, settle: bool) -> dict[str, float]:
    """Pull what was published just before."""
    counts = item.peer_warmup_count, item.peer_count
    port = _new_stream(cluster, settle=False)
    publish_windowed(port, meter, item.body_bytes, counts, window=item.peer_window, burst=item.peer_burst)
    cluster.new_consumer(port, "C")
    if settle:
        os.sync()
    return pull_all(port, meter, "C", item.body_bytes, sum(counts)).summary()


def _half_load(cluster: NatsCluster, plan: ComparePlan) -> int:
    """Half of the rate that NATS keeps up with from sender to handler, in whole hundreds."""
    port = _new_stream(cluster, settle=plan.settle)
    cluster.new_consumer(port, "R")
    rate = saturated_rate(port, "R", 128, plan.saturated_count, SATURATED_WINDOW)
    return max(100, round(rate / 200) * 100)


def _paced(cluster: NatsCluster, meter: Meter, plan: ComparePlan, rate: int) -> dict[str, float]:
    port = _new_stream(cluster, settle=plan.settle)
    cluster.new_consumer(port, "P")
    warmup_s, measured_s = plan.paced_s
    meter.start()
    paced = open_loop(port, "P", 128, rate, (int(rate * warmup_s), int(rate * measured_s)))
    return paced_figures(paced, rate, meter)
