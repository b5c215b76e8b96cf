"""The random group, with members that come and go, transfers, reads, compaction and snapshots.

Besides what is checked there: a read is never answered with less than what was committed when it was asked, and a node that
installs a snapshot goes on as if it had applied everything. A failure names its seed.
"""

from __future__ import annotations

import pytest

from tests.unit.raft.harness import Node
from tests.unit.raft.random_group import RandomGroup
from zmqbroker.errors import Busy, NotLeader
from zmqbroker.raft.confchange import Change, ChangeType, ConfChange, InvalidChange, Transition
from zmqbroker.raft.messages import Role, Snapshot

NODES = 5
STEPS = 2500


class ChangingGroup(RandomGroup):
    """Every node is there from the beginning; who takes part changes."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed, voters=(1, 3, 3, 5)[seed % 4], nodes_max=NODES)
        self.questions: dict[int, int] = {}  # read -> highest committed index when it was asked
        self.disturbances = (
            self.change,
            self.transfer,
            self.read,
            self.compact,
            self.lose_contact,
            lambda node: node.core.forget_leader(),
        )

    # --- steps -----------------------------------------------------------------------------------------------------

    def step(self) -> None:
        if self.random.random() < 0.03:
            node = self.any_node()
            before = node.core.membership
            self.random.choice(self.disturbances)(node)
            self.check_leader(node, before)
        super().step()

    def change(self, node: Node) -> None:
        kinds, transitions = list(ChangeType), list(Transition)
        count = self.random.randint(0, 3)
        changes = tuple(Change(self.random.choice(kinds), self.random.randint(1, NODES)) for _ in range(count))
        try:
            node.core.propose_change(ConfChange(changes, self.random.choice(transitions)))
        except (Busy, NotLeader, InvalidChange):
            return

    def transfer(self, node: Node) -> None:
        to = self.random.randint(1, NODES)
        if node.core.role is Role.LEADER and to != node.core.id and node.core.membership.is_voter(to):
            node.core.transfer_leader(to)

    def read(self, node: Node) -> None:
        request = len(self.questions)
        try:
            node.core.read_index(request)
        except (Busy, NotLeader):
            return
        self.questions[request] = max(self.chosen, default=0)

    def compact(self, node: Node) -> None:
        """Make a snapshot of what is applied, and drop some of the log before it."""
        index = node.core.applied_index
        if index > node.log.base:
            node.log.newest = Snapshot(index, node.log.term(index), node.core.membership)
            node.log.compact(self.random.randint(node.log.base + 1, index))

    def lose_contact(self, node: Node) -> None:
        other = self.random.randint(1, NODES)
        node.core.report_unreachable(other)
        node.core.report_snapshot(other, ok=self.random.random() < 0.5)

    def ready(self, node: Node) -> None:
        super().ready(node)
        for answer in node.read_states:
            assert answer.index >= self.questions[answer.request], "a read would miss what was committed before it"
        node.read_states.clear()

    # --- the end ---------------------------------------------------------------------------------------------------

    def heal(self) -> None:
        """Whoever sends snapshots notices that those under way were lost, and has new ones."""
        for node in self.nodes.values():
            for other in self.nodes:
                node.core.report_snapshot(other, ok=False)
        super().heal()

    def round(self) -> None:
        super().round()
        for node in self.nodes.values():
            # A member that came after the last snapshot can only be brought up by a newer one.
            self.compact(node)


@pytest.mark.parametrize("seed", range(60))
def test_group_whose_members_change_keeps_every_promise_and_recovers(seed: int) -> None:
    group = ChangingGroup(seed)
    for _ in range(STEPS):
        group.step()
    group.heal()
    assert group.chosen
