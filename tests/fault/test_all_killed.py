"""Every node dies at the same moment, under load: after the restart everything that was acknowledged is there.

SIGKILL ends processes and not machines: what ephemeral nodes had given to the kernel survives it. That persistent nodes had it
on disk is shown by test_durability_trace.py.
"""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from tests.fault.conftest import Note
from tests.fault.history import check
from tests.fault.load import Load
from tests.fault.operator import verified_cluster
from tests.processes import Cluster, wait_until
from tests.raw import Raw
from zmqbroker.wire.frames import Request

CHANNEL = "all-killed"
RATE = 1_500  # a second and producer
#: Done between two crashes, so that each of them hits a log that has grown.
WORK = 6_000
PATIENCE_S = 60.0

ROUNDS = [pytest.param(1, id="short"), pytest.param(10, id="long", marks=pytest.mark.long)]


def kill_all_and_restart(nodes: Cluster) -> None:
    """SIGKILL to every node before anything else happens, then start them again."""
    for node in nodes.nodes.values():
        node.signal(signal.SIGKILL)
    for node in nodes.nodes.values():
        node.kill()
    nodes.start()


def stats(nodes: Cluster) -> dict[str, int]:
    """The queue's counters, as the leader knows them."""
    with Raw(nodes.leader().endpoint) as raw:
        return raw.ask(Request.STATS, {"channel": CHANNEL}).fields


def work(load: Load, what: str) -> None:
    """Let a load get on."""
    goal = load.done + WORK
    wait_until(lambda: load.done >= goal, PATIENCE_S, what)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("rounds", ROUNDS)
@pytest.mark.parametrize("volume", ["ephemeral", "persistent"])
def test_all_nodes_killed_at_once_lose_nothing_acknowledged(tmp_path: Path, note: Note, volume: str, rounds: int) -> None:
    """First with nobody receiving, so that all is still in the queue, then between deliveries and acks."""
    with (
        verified_cluster(tmp_path, volume=volume) as nodes,
        Load("produce", nodes.url, CHANNEL, tmp_path / "produce", rate=RATE) as producers,
    ):
        killed_ns = []
        work(producers, "confirms before the first crash")
        killed_ns.append(time.monotonic_ns())
        kill_all_and_restart(nodes)
        work(producers, "confirms after the first crash")
        assert stats(nodes)["depth"] >= 2 * WORK
        with Load("consume", nodes.url, CHANNEL, tmp_path / "consume") as consumers:
            for _ in range(rounds):
                work(consumers, "acks before a crash")
                killed_ns.append(time.monotonic_ns())
                kill_all_and_restart(nodes)
            work(producers, "confirms after the last crash")
            history = producers.finish()
            wait_until(lambda: stats(nodes)["depth"] == 0, PATIENCE_S, "an empty queue")
            history += consumers.finish()
        assert check(history, stats(nodes)["last_sequence"]) == []
    note(f"{len(history.confirmed)} confirmed, {len(history.deliveries) - len(history.confirmed)} delivered more than once")
    for number, at_ns in enumerate(killed_ns, start=1):
        after_ns = min(send.complete_ns for send in history.confirmed if send.invoke_ns > at_ns) - at_ns
        note(f"crash {number}: next confirm {after_ns / 1e6:.0f} ms after it, start of three nodes included")
