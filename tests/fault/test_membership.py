"""Members change under load: no client sees an error, nothing is lost, and no publish waits long while leadership moves.

Four producers and four consumers work while a node is added, a lost one is replaced by an empty one, leadership is handed
around, and the leader is removed. The longest wait of a publish during the handovers is printed.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

from tests.fault.conftest import Note
from tests.fault.dev import dev_cluster
from tests.fault.history import History, check
from tests.fault.load import Load
from tests.fault.operator import change, command, newcomer, until_heard, verified_cluster, verify
from tests.fault.test_failover import depth, last_sequence
from tests.processes import Cluster, free_ports, wait_until

CHANNEL = "failover"
RATE = 300  # a second and producer: clients and nodes share two cores, and waits are to be those of the handover
PATIENCE_S = 60.0
CONFIRMS = 500


class Run:
    """A cluster under load whose members change."""

    def __init__(self, nodes: Cluster, producers: Load) -> None:
        self.nodes, self.producers = nodes, producers
        self.handovers: list[tuple[int, int]] = []  # begin and end on the monotonic clock

    def work(self) -> None:
        """Let some messages be confirmed."""
        target = self.producers.done + CONFIRMS
        wait_until(lambda: self.producers.done >= target, PATIENCE_S, f"{CONFIRMS} confirms")

    def add(self, name: str) -> None:
        """Take in a fourth node."""
        client_port, peer_port = free_ports(2)
        node = newcomer(self.nodes, name, client_port, peer_port, self.nodes.leader())
        node.start()
        until_heard(node)
        assert sorted(change(self.nodes, "add", name)) == sorted(self.nodes.nodes)
        self.work()

    def replace(self) -> None:
        """A follower loses its disk, and is replaced by itself with an empty one."""
        leader = self.nodes.leader()
        lost = next(node for node in self.nodes.nodes.values() if node is not leader)
        lost.kill()
        self.work()
        shutil.rmtree(lost.environment["ZMQBROKER_NODE_DATA_DIR"])
        lost.start()
        until_heard(lost)
        assert sorted(change(self.nodes, "replace", lost.name)) == sorted(self.nodes.nodes)
        wait_until(lambda: self.nodes.caught_up(lost), PATIENCE_S, f"{lost.name} to catch up")
        self.work()

    def hand_over(self) -> None:
        """Somebody else leads."""
        self.work()
        begin_ns = time.monotonic_ns()
        command(self.nodes, "cluster", "transfer")
        self.work()
        self.handovers.append((begin_ns, time.monotonic_ns()))

    def remove_leader(self) -> None:
        """The leader is removed, and ends by itself."""
        leader = self.nodes.leader()
        assert leader.name not in change(self.nodes, "remove", leader.name)
        wait_until(lambda: not leader.running, PATIENCE_S, f"{leader.name} to end by itself")
        assert f"has removed {leader.name}" in leader.log()
        self.nodes.nodes.pop(leader.name).close()
        self.work()

    def longest_wait_ms(self, history: History) -> list[float]:
        """Of each handover, the longest that a publish of its time waited for its confirm."""
        return [
            max((send.complete_ns - send.invoke_ns) / 1e6 for send in history.confirmed if begin < send.complete_ns < end)
            for begin, end in self.handovers
        ]


def go_through_changes(nodes: Cluster, directory: Path, note: Note, handovers: int) -> None:
    """Every change once, handovers several times, then the verdict of the checker."""
    with (
        Load("produce", nodes.url, CHANNEL, directory / "produce", rate=RATE) as producers,
        Load("consume", nodes.url, CHANNEL, directory / "consume") as consumers,
    ):
        run = Run(nodes, producers)
        run.work()
        run.add("node-4")
        run.replace()
        for _ in range(handovers):
            run.hand_over()
        run.remove_leader()
        sent = producers.finish()
        wait_until(lambda: depth(nodes) == 0, PATIENCE_S, "an empty queue")
        history = sent + consumers.finish()
    assert len(history.confirmed) == len(history.sends), "an error that a retrying client sees"
    assert check(history, last_sequence(nodes)) == []
    verify(nodes)
    waits = run.longest_wait_ms(history)
    note(f"longest wait of a publish in {handovers} handovers, ms: {', '.join(f'{wait:.0f}' for wait in sorted(waits))}")


HANDOVERS = [pytest.param(5, id="short"), pytest.param(50, id="long", marks=pytest.mark.long)]


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("handovers", HANDOVERS)
def test_members_of_zmqbroker_dev_change_without_an_error(tmp_path: Path, note: Note, handovers: int) -> None:
    with dev_cluster(tmp_path) as nodes:
        go_through_changes(nodes, tmp_path, note, handovers)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("handovers", HANDOVERS)
def test_members_of_persistent_nodes_change_without_an_error(tmp_path: Path, note: Note, handovers: int) -> None:
    with verified_cluster(tmp_path, volume="persistent") as nodes:
        go_through_changes(nodes, tmp_path, note, handovers)
