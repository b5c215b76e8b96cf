"""The raw ceiling of the machine: what the publish cases reach when nobody thinks (bench/relay.py).

As many processes as the cluster has nodes, the same sockets with the same options, the same frames in and out, the same client,
and the same writes; no broker logic. A broker in this design cannot be faster; how near it comes is the ratio in the table.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import zmq

from bench.load import BenchError
from bench.macro import NODES, measure_publish
from bench.meter import Meter
from bench.plan import Plan
from bench.relay import Settings
from tests.processes import free_ports

__all__ = ["run_ceiling"]


def run_ceiling(plan: Plan, volume: str, directory: Path) -> dict[str, dict[str, float]]:
    """Run every publish case against three new relays; figures by the name of the case."""
    context = zmq.Context[zmq.Socket[bytes]]()
    try:
        with _relays(plan.segment_bytes, directory, sync=volume == "persistent") as (endpoint, pids):
            meter = Meter(pids)
            return {
                case.name: measure_publish(context, endpoint, meter, case, settle=plan.settle, broker=False)
                for case in plan.publish
            }
    finally:
        context.destroy(linger=0)


@contextmanager
def _relays(segment_bytes: int, directory: Path, *, sync: bool) -> Iterator[tuple[str, list[int]]]:
    """Three processes; yields the leader's endpoint and their ids once all of them talk to each other."""
    client_port, *peer_ports = free_ports(NODES + 1)
    client = f"tcp://127.0.0.1:{client_port}"
    addresses = {str(number): f"127.0.0.1:{port}" for number, port in enumerate(peer_ports)}
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for number in reversed(range(NODES)):  # the leader last: the others listen by then
            settings = Settings(
                number=number,
                path=str(directory / f"relay-{number}.segment"),
                segment_bytes=segment_bytes,
                sync=sync,
                client="" if number else client,
                peer=f"tcp://{addresses[str(number)]}",
                links={"0": addresses["0"]} if number else {key: value for key, value in addresses.items() if key != "0"},
            )
            processes.append(_start(settings))
        for process in processes:
            assert process.stdout is not None
            if process.stdout.readline() != b"ready\n":
                raise BenchError("a process of the ceiling did not start")
        yield client, [process.pid for process in processes]
    finally:
        for process in processes:
            process.kill()  # they would also end when their standard input does, as it does when this process is killed
            process.communicate()


def _start(settings: Settings) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "bench.relay", json.dumps(asdict(settings))]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
