"""NATS's side: three servers, each row on a new stream, in every way that may be its best."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from pathlib import Path

from bench.compare.ours import Figures, paced_figures
from bench.compare.plan import CONSUMED, PAST_BUDGET, ComparePlan, Publishing
from bench.meter import Meter
from bench.peers.nats_load import FastSender, Sender, WindowedSender, publish, publish_one_by_one
from bench.peers.nats_paced import open_loop, saturated_rate
from bench.peers.nats_pull import publish_and_pull, pull_all
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
            if item.row + CONSUMED in rows:
                found[item.row + CONSUMED] = _publish_consumed(cluster, meter, item, settle=plan.settle)
            if item.row + PAST_BUDGET in rows:  # it knows no budget: the same as without
                found[item.row + PAST_BUDGET] = found.get(item.row) or _publish(cluster, meter, item, settle=plan.settle)
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


def _senders(cluster: NatsCluster, item: Publishing, *, settle: bool) -> Iterator[tuple[str, Sender]]:
    """Every way to publish, each to a new stream that is made when its turn comes."""
    port = _new_stream(cluster, settle=settle)
    yield "publish", WindowedSender(port, item.body_bytes, window=item.peer_window, burst=item.peer_burst)
    if item.peer_flow:
        port = _new_stream(cluster, settle=settle, batched=True)
        yield "fast-ingest", FastSender(port, item.body_bytes, item.peer_counts, flow=item.peer_flow)


def _publish(cluster: NatsCluster, meter: Meter, item: Publishing, *, settle: bool) -> Figures:
    return {
        way: publish(sender, meter, item.body_bytes, item.peer_counts).summary()
        for way, sender in _senders(cluster, item, settle=settle)
    }


def _publish_consumed(cluster: NatsCluster, meter: Meter, item: Publishing, *, settle: bool) -> Figures:
    found: Figures = {}
    for way, sender in _senders(cluster, item, settle=settle):
        cluster.new_consumer(sender.connection.port, "K")
        found[way] = publish_and_pull(sender, meter, "K", item.body_bytes, item.peer_counts).summary()
    return found


def _consume(cluster: NatsCluster, meter: Meter, item: Publishing, *, settle: bool) -> dict[str, float]:
    """Pull what was published just before."""
    port = _new_stream(cluster, settle=False)
    sender = WindowedSender(port, item.body_bytes, window=item.peer_window, burst=item.peer_burst)
    publish(sender, meter, item.body_bytes, item.peer_counts)
    cluster.new_consumer(port, "C")
    if settle:
        os.sync()
    return pull_all(port, meter, "C", item.body_bytes, sum(item.peer_counts)).summary()


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
