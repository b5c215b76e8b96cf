"""The end of a run: a majority is healed, the rest is left as it is, and the cluster must work (I22).

Within some election timeouts a send that is begun now must be confirmed; then the producers stop, every queue is emptied, and
the healed nodes must hold the same state.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from tests.simulation.node import STALL_MAX_NS, SimNode
from tests.simulation.routed import BOUND, ROUTED
from tests.simulation.world import SECOND
from zmqbroker.raft.messages import Role

if TYPE_CHECKING:
    from tests.simulation.cluster import Cluster

__all__ = ["Ending"]

#: Shortest election timeouts until a send must be confirmed. Two are needed to notice that a leader is gone or cut off, and
#: each split vote costs up to two more; slow disks and waiting clients are in it too.
RECOVERY_ELECTIONS = 40
#: Until all is confirmed, consumed and equal everywhere: longer than any session, visibility timeout or client's patience.
DRAIN_NS = 30 * SECOND


class Ending:
    """Heals, waits, and complains."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._chance = cluster.world.chance(8)
        self.recovery_ns = 0
        self._goal = 0  # index that all healed members must apply

    def run(self) -> None:
        """Raises `Violation` when the cluster does not recover."""
        cluster = self._cluster
        self._core = self._choose()
        stalled = any(node.sync_delay_factor > 1 for node in cluster.nodes.values())
        self._heal()
        if stalled:
            # What a slow disk has begun it still has to end.
            self._until(self._later(STALL_MAX_NS), 2 * STALL_MAX_NS, "time stands still")
        began_ns = cluster.world.now_ns
        cluster.last_confirmed_ns = 0
        limit_ns = RECOVERY_ELECTIONS * cluster.options.election_ns + self._backlog_ns()
        self._until(lambda: cluster.last_confirmed_ns >= began_ns, limit_ns, "no send was confirmed")
        self.recovery_ns = cluster.world.now_ns - began_ns
        for producer in cluster.producers:
            producer.stopped = True
        for consumer in cluster.consumers:
            consumer.careful = True
        self._until(self._drained, DRAIN_NS, "sends are not confirmed or queues not emptied")
        self._until(self._equal, DRAIN_NS, "nodes do not hold the same")

    # --- healing -------------------------------------------------------------------------------------------------------

    def _choose(self) -> list[SimNode]:
        """A random majority of the voters, and whoever else has luck; everybody while the membership is changing."""
        cluster, chance = self._cluster, self._chance
        present = [node for node in cluster.nodes.values() if not node.lost]
        membership = cluster.raft.membership
        if cluster.change_under_way() or membership.joint:
            return present
        voters = [cluster.nodes[voter] for voter in membership.voters if not cluster.nodes[voter].lost]
        needed = len(membership.voters) // 2 + 1
        assert len(voters) >= needed, "the nemesis destroyed the disks of a majority"
        chosen = chance.some(voters, chance.between(needed, len(voters)))
        return [node for node in present if node in chosen or (node not in voters and chance.happens(0.5))]

    def _heal(self) -> None:
        cluster = self._cluster
        network = cluster.network
        network.client_loss = 0.0
        network.heal([node.id for node in self._core])
        for node in self._core:
            node.device.repair()
            node.sync_delay_factor = 1
            node.resume()
            cluster.start(node)
        for node in cluster.nodes.values():
            # A leader that is heard and cannot write holds up everybody; that is known, and not what is tested here.
            node.sync_delay_factor = 1
        rest = [node for node in cluster.nodes.values() if node not in self._core]
        for node in rest:
            self._leave_broken(node)
        cluster.note(f"healed: {[node.id for node in self._core]}, left: {[node.id for node in rest]}")
        cluster.known_to_clients([node.id for node in self._core])

    def _leave_broken(self, node: SimNode) -> None:
        """One that is not healed: cut off, heard but deaf, deaf but talking, or as it was."""
        network, kind = self._cluster.network, self._chance.below(4)
        for other in self._core:
            if kind in (0, 1):
                network.block(node.id, other.id)
            if kind in (0, 2):
                network.block(other.id, node.id)

    # --- waiting -------------------------------------------------------------------------------------------------------

    def _until(self, reached: Callable[[], bool], limit_ns: int, otherwise: str) -> None:
        cluster, world = self._cluster, self._cluster.world
        end_ns = world.now_ns + limit_ns
        while not reached():
            if world.now_ns > end_ns:
                self._complain(otherwise, limit_ns)
            for _ in range(50):
                world.step()
        cluster.note("reached")

    def _backlog_ns(self) -> int:
        """What the slowest setting takes for what waits to be replicated: one entry for every way there and back."""
        options, raft = self._cluster.options, self._cluster.raft
        last_index = max((node.core.last_index for node in self._cluster.live()), default=raft.commit_index)
        return max(last_index - raft.commit_index, 0) * 4 * (options.delay_ns + options.sync_delay_ns)

    def _later(self, delay_ns: int) -> Callable[[], bool]:
        world, end_ns = self._cluster.world, self._cluster.world.now_ns + delay_ns
        return lambda: world.now_ns >= end_ns

    def _complain(self, otherwise: str, limit_ns: int) -> None:
        cluster = self._cluster
        nodes = "; ".join(node.describe() for node in cluster.nodes.values())
        text = f"{otherwise} within {limit_ns / SECOND:.1f} s after healing {[node.id for node in self._core]}: {nodes}"
        cluster.raft.fail("I22", f"{text}; membership {cluster.raft.membership}")

    def _drained(self) -> bool:
        cluster = self._cluster
        if not all(producer.idle for producer in cluster.producers) or not cluster.machines.line.is_read:
            return False
        routed = (ROUTED, BOUND) if cluster.options.routed else ()
        return not any(cluster.machines.messages.channel(channel).live for channel in (*cluster.channels, *routed))

    def _members(self) -> list[SimNode]:
        membership = self._cluster.raft.membership
        return [node for node in self._core if node.up and node.id in membership.all_nodes]

    def _equal(self) -> bool:
        """True when every healed member that can hear the leader has applied what was committed when this was first asked.

        Nothing is asked of the others where somebody leads who was not healed: it need not reach all of them.
        """
        self._goal = self._goal or self._cluster.raft.commit_index
        leaders = [node for node in self._cluster.live() if node.core.role is Role.LEADER]
        leader = max(leaders, key=lambda node: node.core.term, default=None)
        if leader is None:
            return False
        members = self._members() if leader in self._core else [leader]
        return all(node.group.machine.applied_index >= self._goal for node in members)
