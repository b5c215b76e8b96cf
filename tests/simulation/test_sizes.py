"""The table of sizes: with as many nodes down as a cluster tolerates it works, with one more it confirms nothing, and goes on
when one returns. For every size from 1 to 9, whichever nodes they are; the leader is always among them.
"""

from __future__ import annotations

import pytest

from tests.simulation.cluster import Cluster
from tests.simulation.desk import Answer
from tests.simulation.node import SimNode
from tests.simulation.options import Options
from tests.simulation.trace import Trace
from tests.simulation.world import MILLISECOND, SECOND
from zmqbroker.raft.messages import Role
from zmqbroker.wire.frames import Reply

CONFIRMS = (Reply.SENT, Reply.ACKED, Reply.PRODUCER, Reply.CLOSED)


class Confirms:
    """When each confirm left a node."""

    def __init__(self, cluster: Cluster) -> None:
        self._world, self._answer = cluster.world, cluster.answer
        self.times_ns: list[int] = []
        cluster.answer = self.answer  # type: ignore[method-assign]

    def answer(self, client: int, answer: Answer) -> None:
        """Note it, and let it go."""
        if answer.code in CONFIRMS:
            self.times_ns.append(self._world.now_ns)
        self._answer(client, answer)

    def since(self, time_ns: int) -> int:
        """Confirms since then."""
        return sum(left_ns >= time_ns for left_ns in self.times_ns)


def run_for(cluster: Cluster, duration_ns: int) -> None:
    """Let so much time pass."""
    end_ns = cluster.world.now_ns + duration_ns
    while cluster.world.now_ns < end_ns:
        cluster.world.step()


def leader_of(cluster: Cluster) -> SimNode:
    """The node that leads."""
    leaders = [node for node in cluster.live() if node.core.role is Role.LEADER]
    assert leaders
    return max(leaders, key=lambda node: node.core.term)


def take_down(cluster: Cluster, count: int) -> list[SimNode]:
    """The leader, and others, lose power."""
    victims: list[SimNode] = []
    for _ in range(count):
        victim = leader_of(cluster) if not victims else cluster.chance.choice(cluster.live())
        victim.crash(power=True)
        victims.append(victim)
    return victims


@pytest.mark.parametrize("nodes", range(1, 10))
def test_cluster_tolerates_exactly_a_minority(nodes: int) -> None:
    cluster = Cluster(Options(seed=nodes, nodes=nodes, producers=2, consumers=1), Trace(), "pytest")
    cluster.boot()
    confirms = Confirms(cluster)
    run_for(cluster, SECOND)
    assert confirms.since(0) > 10

    down = take_down(cluster, (nodes - 1) // 2)
    run_for(cluster, 2 * SECOND)
    assert confirms.since(cluster.world.now_ns - SECOND // 2) > 10

    leader = leader_of(cluster)
    down.insert(0, leader)
    leader.crash(power=True)
    commit_index, lost_ns = cluster.raft.commit_index, cluster.world.now_ns
    run_for(cluster, 3 * SECOND)
    assert cluster.raft.commit_index == commit_index
    assert confirms.since(lost_ns + MILLISECOND) == 0

    down.pop().start()
    run_for(cluster, 2 * SECOND)
    assert cluster.raft.commit_index > commit_index
    assert confirms.since(cluster.world.now_ns - SECOND // 2) > 10
