"""What an operator does to the members of a cluster, sensible and otherwise.

Machines come as learners or straight as voters, leave, are replaced, are demoted and promoted, in one step or through a joint
membership. A machine whose disk was wiped or damaged is replaced under a new Raft id. Never are so many voters without a good
disk that the rest has no majority: that would not be survivable, and nobody promises it.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from tests.simulation.node import SimNode
from tests.simulation.world import Chance
from zmqbroker.errors import Busy, NotLeader
from zmqbroker.raft.confchange import Change, ChangeType, ConfChange, InvalidChange, Transition, encode
from zmqbroker.raft.messages import Entry, EntryType, Membership, Message, MessageType

if TYPE_CHECKING:
    from tests.simulation.cluster import Cluster

__all__ = ["Members"]

#: Machines that may be added in one run.
_ADDED_MAX = 6
_VOTERS_MAX = 7


class Members:
    """Makes changes at a leader."""

    def __init__(self, cluster: Cluster, chance: Chance) -> None:
        self._cluster = cluster
        self._chance = chance

    # --- disks that are lost ----------------------------------------------------------------------------------------------

    def may_be_lost(self) -> SimNode | None:
        """A voter whose loss the membership survives; None while there is none, or a change is under way somewhere."""
        cluster = self._cluster
        membership = cluster.raft.membership
        if membership.joint or cluster.change_under_way():
            return None
        voters = membership.voters
        lost = [voter for voter in voters if cluster.nodes[voter].lost]
        if len(lost) + 1 > (len(voters) - 1) // 2:
            return None
        present = [cluster.nodes[voter] for voter in voters if voter not in lost]
        return self._chance.choice(present)

    # --- changes -------------------------------------------------------------------------------------------------------

    def change(self, leader: SimNode) -> bool:
        """Propose something sensible at a leader; False when nothing came of it."""
        membership = leader.core.membership
        if membership.joint and not membership.auto_leave:
            return self._propose(leader, ConfChange())
        changes = self._sensible(membership)
        if not changes or not self._survivable(membership, changes):
            return False
        transition = self._chance.choice((Transition.AUTO, Transition.JOINT_IMPLICIT, Transition.JOINT_EXPLICIT))
        return self._propose(leader, ConfChange(tuple(changes), transition))

    def _sensible(self, membership: Membership) -> list[Change]:
        chance, nodes = self._chance, self._cluster.nodes
        voters, learners = membership.voters, membership.learners
        lost = [voter for voter in (*voters, *learners) if nodes[voter].lost]
        kind = chance.below(6)
        if lost:
            # Replaced first of all, as an operator would; in one joint step, or one after the other.
            return [Change(ChangeType.REMOVE, lost[0]), *self._newcomer(ChangeType.ADD_VOTER)]
        if kind == 0:
            return self._newcomer(ChangeType.ADD_LEARNER)
        if kind == 1 and len(voters) < _VOTERS_MAX:
            return self._newcomer(ChangeType.ADD_VOTER)
        if kind == 2 and learners:
            return [Change(ChangeType.ADD_VOTER, chance.choice(learners))]
        if kind == 3:
            return [Change(ChangeType.REMOVE, chance.choice(voters))]
        if kind == 4:
            return [Change(ChangeType.REMOVE, chance.choice(voters)), *self._newcomer(ChangeType.ADD_VOTER)]
        return [Change(ChangeType.ADD_LEARNER, chance.choice(voters))]

    def _newcomer(self, kind: ChangeType) -> list[Change]:
        """A machine that is no member yet: one that was added in vain before, or a new one."""
        cluster = self._cluster
        membership = cluster.raft.membership
        strangers = [
            node.id
            for node in cluster.nodes.values()
            if not node.lost and node.id > cluster.options.nodes and node.id not in membership.all_nodes and not node.was_member
        ]
        if strangers:
            return [Change(kind, strangers[0])]
        if len(cluster.nodes) >= cluster.options.nodes + _ADDED_MAX:
            return []
        node = cluster.add_node()
        node.start()
        return [Change(kind, node.id)] if node.up else []

    def _survivable(self, membership: Membership, changes: list[Change]) -> bool:
        """True when the voters that would be left, and have disks, are a majority, and are not fewer than before by much."""
        voters = set(membership.voters)
        for kind, node in changes:
            if kind is ChangeType.ADD_VOTER:
                voters.add(node)
            elif kind is not ChangeType.UPDATE:
                voters.discard(node)
        present = [voter for voter in voters if not self._cluster.nodes[voter].lost]
        return len(voters) >= max(1, self._cluster.options.nodes - 2) and 2 * len(present) > len(voters)

    def _propose(self, leader: SimNode, change: ConfChange) -> bool:
        try:
            leader.run(partial(leader.core.propose_change, change))
        except (Busy, NotLeader, InvalidChange):
            return False
        for one in change.changes:
            self._cluster.nodes[one.node].was_member = True
        leader.pump()
        return True

    # --- changes that cannot be made -----------------------------------------------------------------------------------

    def bad_change(self, leader: SimNode) -> bool:
        """Propose what cannot be made: refused by name, or without effect when it is applied. Nobody must fall over it."""
        membership = leader.core.membership
        everybody = tuple(Change(ChangeType.REMOVE, node) for node in membership.all_nodes)
        change = self._chance.choice(
            (
                ConfChange(everybody),
                ConfChange(everybody[:1] if len(everybody) == 1 else everybody, Transition.JOINT_EXPLICIT),
                ConfChange((Change(ChangeType.UPDATE, leader.id),)),
            )
        )
        if self._chance.happens(0.5):
            return self._propose(leader, change)
        # As a faulty older version might: past the check that a proposer makes, straight into the log.
        entry = Entry(0, 0, encode(change), EntryType.CHANGE)
        message = Message(MessageType.PROPOSE, to=leader.id, sender=leader.id, group=1, entries=(entry,))
        leader.run(partial(leader.core.step_local, message))
        leader.pump()
        return True
