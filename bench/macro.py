"""Three nodes as real processes, measured from outside.

A suite starts a cluster of its own below a directory on disk, finds the leader through PING, runs every case against it and
ends the processes, whatever happens. A change of leader in the middle ends the suite with an error instead of a figure.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import zmq

from bench.load import BenchError, Connection, build_requests, consume, end_to_end, producer_of, publish
from bench.meter import Meter
from bench.plan import Plan, PublishCase
from tests.processes import Cluster
from zmqbroker.wire.requests import OpenProducerRequest, Ping

__all__ = ["find_leader", "measure_publish", "run_broker"]

NODES = 3
#: Seconds for three interpreters to start and a cluster to be formed, on a machine that does other things too.
START_TIMEOUT_S = 30
PING_TIMEOUT_MS = 500

Context = zmq.Context[zmq.Socket[bytes]]


def run_broker(plan: Plan, volume: str, directory: Path) -> dict[str, dict[str, float]]:
    """Run every case against a new cluster; figures by the name of the case."""
    cluster = Cluster(directory, NODES, volume=volume)
    context = Context()
    try:
        for node in cluster.nodes.values():
            node.start()
        leader = find_leader(context, [node.endpoint for node in cluster.nodes.values()])
        return _run_cases(plan, context, leader, Meter(cluster_pids(cluster)))
    except BenchError as error:
        logs = "\n".join(f"--- {node.name}\n{node.log()[-2000:]}" for node in cluster.nodes.values())
        raise BenchError(f"{error}\n{logs}") from error
    finally:
        context.destroy(linger=0)
        cluster.close()


def cluster_pids(cluster: Cluster) -> list[int]:
    """The process ids of the nodes."""
    return [node.process.pid for node in cluster.nodes.values() if node.process is not None]


def _run_cases(plan: Plan, context: Context, endpoint: str, meter: Meter) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    sources = {case.name: case for case in plan.publish}
    for published in plan.publish:
        found[published.name] = measure_publish(context, endpoint, meter, published, settle=plan.settle, broker=True)
    for consumed in plan.consume:
        connection = Connection(context, endpoint)
        found[consumed.name] = consume(connection, meter, consumed, sources[consumed.source]).summary()
        connection.close()
    for delivered in plan.end_to_end:
        publisher, consumer = Connection(context, endpoint), Connection(context, endpoint)
        found[delivered.name] = end_to_end(publisher, consumer, meter, delivered).summary()
        publisher.close()
        consumer.close()
    return found


def measure_publish(
    context: Context, endpoint: str, meter: Meter, case: PublishCase, *, settle: bool, broker: bool
) -> dict[str, float]:
    """Build the requests of one case, then measure it; `broker` is False for the ceiling, which knows no producers."""
    connection = Connection(context, endpoint)
    if broker and case.sequenced:
        connection.ask(OpenProducerRequest(case.name, producer_of(case)))
    first_id = connection.take_ids(case.warmup_count + case.request_count)
    requests = build_requests(case, first_id)
    if settle:
        os.sync()
    figures = publish(connection, meter, case, requests, first_id)
    connection.close()
    return figures.summary()


def find_leader(context: Context, endpoints: list[str]) -> str:
    """The endpoint of the node that says that it leads."""
    end = time.monotonic() + START_TIMEOUT_S
    answers: dict[str, object] = {}
    while time.monotonic() < end:
        for endpoint in endpoints:
            connection = Connection(context, endpoint, PING_TIMEOUT_MS)
            try:
                answers[endpoint] = answer = connection.ask(Ping())
                if answer["role"] == "leader":
                    return endpoint
            except BenchError:
                continue  # not up yet
            finally:
                connection.close()
    raise BenchError(f"no leader in {START_TIMEOUT_S} s; the nodes said last: {answers}")
