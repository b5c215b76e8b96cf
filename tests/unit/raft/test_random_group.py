"""A group on a network that loses, repeats and reorders, with crashes that lose what was not durable, over many seeds.

Checked with every step: one leader per term, at most one vote per node and term, log matching, nothing promised before it is
durable, committed entries on a majority and in every later leader's log, the same entries applied everywhere. In the end, with
all faults healed, the group makes progress and all logs are equal. A failure names its seed.
"""

from __future__ import annotations

from random import Random

import pytest

from tests.unit.raft.harness import GROUP, MemoryLog, Node
from zmqbroker.errors import Busy
from zmqbroker.raft.config import RaftConfig
from zmqbroker.raft.membership import Membership
from zmqbroker.raft.messages import Entry, HardState, Message, MessageType, Role


class Simulation:
    """The group, the faults and the invariants."""

    def __init__(self, seed: int) -> None:
        self.random = random = Random(seed)
        self.size = random.choice((1, 3, 3, 5))
        self.options = {
            "election_ticks": 6,
            "inflight_messages_max": random.choice((1, 2, 256)),
            "message_bytes_max": random.choice((1, 100, 1 << 20)),
            "committed_bytes_max": random.choice((1, 100, 1 << 20)),
            "uncommitted_bytes_max": 200,
            "pre_vote": random.random() < 0.7,
            "check_quorum": random.random() < 0.7,
        }
        self.loss = random.choice((0.0, 0.05, 0.3))
        self.network: list[Message] = []
        self.leaders: dict[int, int] = {}  # term -> who led it
        self.votes: dict[tuple[int, int], int] = {}  # (voter, term) -> whom it promised
        self.payloads: dict[tuple[int, int], tuple[bytes, int]] = {}  # (index, term) -> data, term before
        self.chosen: dict[int, Entry] = {}  # index -> the committed entry
        self.proposed = 0
        self.nodes = {id: self.start(id, MemoryLog(), 0) for id in range(1, self.size + 1)}

    def start(self, id: int, log: MemoryLog, applied_index: int) -> Node:
        config = RaftConfig(id=id, group=GROUP, **self.options)  # type: ignore[arg-type]
        return Node(config, Membership(tuple(range(1, self.size + 1))), log, self.random.randrange(1 << 30), applied_index)

    # --- steps -----------------------------------------------------------------------------------------------------

    def step(self) -> None:
        node = self.nodes[self.random.randint(1, self.size)]
        choice = self.random.random()
        if choice < 0.25:
            node.core.tick()
        elif choice < 0.30:
            self.propose(node)
        elif choice < 0.50:
            self.ready(node)
        elif choice < 0.70:
            self.complete(node)
        elif choice < 0.998:
            self.deliver()
        else:
            self.crash(node)
        self.check_leaders()

    def propose(self, node: Node) -> None:
        if node.core.role is Role.LEADER:
            self.proposed += 1
            try:
                node.core.propose(b"%d" % self.proposed + b"." * self.random.randrange(40))
            except Busy:
                assert node.core.uncommitted_bytes > 0

    def ready(self, node: Node) -> None:
        known = len(node.committed)
        ready = node.ready()
        self.network += ready.messages
        assert all(message.sender == node.core.id and message.term > 0 for message in ready.messages)
        for entry in node.committed[known:]:
            self.check_committed(node, entry)

    def complete(self, node: Node) -> None:
        if not node.works:
            return
        work = node.works[0]
        sent = node.complete()
        for entry in work.entries:
            before = node.log.term(entry.index - 1)
            assert self.payloads.setdefault((entry.index, entry.term), (entry.data, before)) == (entry.data, before)
        for message in sent:
            self.check_promise(node, message)
        self.network += sent

    def deliver(self) -> None:
        if not self.network:
            return
        position = 0 if self.random.random() < 0.7 else self.random.randrange(len(self.network))
        message = self.network[position] if self.random.random() < 0.1 else self.network.pop(position)
        if self.random.random() >= self.loss:
            self.nodes[message.to].core.step(message)
        del self.network[:-500]

    def crash(self, node: Node) -> None:
        """Works under way are lost; the state machine had stored some part of what it applied."""
        applied = self.random.randint(0, node.core.applied_index)
        self.nodes[node.core.id] = restarted = self.start(node.core.id, node.log, applied)
        restarted.committed = node.committed[:applied]

    # --- invariants ------------------------------------------------------------------------------------------------

    def check_leaders(self) -> None:
        for node in self.nodes.values():
            if node.core.role is not Role.LEADER or self.leaders.get(node.core.term) == node.core.id:
                continue
            assert self.leaders.setdefault(node.core.term, node.core.id) == node.core.id, "two leaders in a term"
            for index, entry in self.chosen.items():
                assert node.core.term_of(index) == entry.term, "a leader without a committed entry"

    def check_committed(self, node: Node, entry: Entry) -> None:
        assert node.log.last_index() >= entry.index, "applied before it was durable"
        assert node.committed[entry.index - 1] == entry, "applied out of order"
        if entry.index not in self.chosen:
            holders = [other for other in self.nodes.values() if self.holds(other.log, entry)]
            assert 2 * len(holders) > self.size, "committed without a durable majority"
        assert self.chosen.setdefault(entry.index, entry) == entry, "another entry was committed there"

    @staticmethod
    def holds(log: MemoryLog, entry: Entry) -> bool:
        return log.last_index() >= entry.index and log.term(entry.index) == entry.term

    def check_promise(self, node: Node, message: Message) -> None:
        stored: HardState = node.log.hard_state()
        if message.type is MessageType.PRE_VOTE_RESPONSE:
            return
        assert stored.term >= message.term, "a term was shown before it was durable"
        if message.type is MessageType.REQUEST_VOTE_RESPONSE and not message.reject:
            assert self.votes.setdefault((message.sender, message.term), message.to) == message.to, "voted twice"
            assert stored.term > message.term or stored.vote == message.to, "a vote was shown before it was durable"
        elif message.type is MessageType.APPEND_ENTRIES_RESPONSE and not message.reject and stored.term == message.term:
            assert node.log.last_index() >= message.index, "acknowledged before it was durable"

    # --- the end ---------------------------------------------------------------------------------------------------

    def heal(self) -> None:
        """No faults from here on: one round is one tick everywhere, and everything arrives."""
        self.loss = 0.0
        self.network.clear()
        for _ in range(4 * 6):
            # A leader that the faults had cut off needs up to two election timeouts to notice and step down.
            self.round()
        leader = self.settled()
        for _ in range(300):
            if leader is not None:
                break
            self.round()
            leader = self.settled()
        assert leader is not None, "no agreed leader after the faults"
        leader.core.propose(b"the end")
        for _ in range(30):
            self.round()
        logs = [node.log.held for node in self.nodes.values()]
        assert logs[0][-1].data == b"the end"
        assert all(log == logs[0] for log in logs), "logs differ after the faults"
        assert all(node.committed == logs[0] for node in self.nodes.values())

    def settled(self) -> Node | None:
        """The leader that everybody follows, once nothing waits any more."""
        leaders = {(node.core.term, node.core.leader) for node in self.nodes.values()}
        [first, *others] = leaders
        leader = self.nodes.get(first[1])
        return None if others or leader is None or leader.core.uncommitted_bytes else leader

    def round(self) -> None:
        for node in self.nodes.values():
            node.core.tick()
        self.exchange()

    def exchange(self) -> None:
        for _ in range(1000):
            for node in self.nodes.values():
                while node.core.has_ready() or node.works:
                    self.ready(node)
                    self.complete(node)
            if not self.network:
                return
            message = self.network.pop(0)
            self.nodes[message.to].core.step(message)
            self.check_leaders()


@pytest.mark.parametrize("seed", range(60))
def test_group_under_faults_keeps_every_promise_and_recovers(seed: int) -> None:
    simulation = Simulation(seed)
    for _ in range(1500):
        simulation.step()
    simulation.heal()
    assert simulation.chosen
