"""A group on a network that loses, repeats and reorders, with crashes that lose what was not durable: one seed, one history.

Checked with every step: one leader per term, at most one vote per node and term, log matching, nothing promised before it is
durable, what a leader commits on a durable majority of every set of voters, committed entries in every later leader's log, the
same entries and memberships applied everywhere. In the end, with all faults healed, the group makes progress and all agree.
"""

from __future__ import annotations

from random import Random

from tests.unit.raft.harness import GROUP, MemoryLog, Node
from zmqbroker.errors import Busy, NotLeader
from zmqbroker.raft.config import RaftConfig
from zmqbroker.raft.membership import Membership
from zmqbroker.raft.messages import Entry, Message, MessageType, Role
from zmqbroker.raft.quorum import VoteResult, vote_result

__all__ = ["ELECTION_TICKS", "RandomGroup"]

ELECTION_TICKS = 6
#: A leader that the faults had cut off needs up to two election timeouts to notice and step down; then others campaign.
HEAL_ROUNDS = 4 * ELECTION_TICKS
#: Rounds of campaigns until somebody wins; split votes repeat, ever more rarely.
ELECTION_ROUNDS = 600
#: Enough for one entry to get everywhere, through one snapshot and one entry a message.
SETTLE_ROUNDS = 60


class RandomGroup:
    """The group, the faults and the invariants. `nodes_max` nodes there are, of which `voters` begin as members."""

    def __init__(self, seed: int, voters: int, nodes_max: int) -> None:
        self.random = random = Random(seed)
        self.options = {
            "election_ticks": ELECTION_TICKS,
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
        self.memberships = {0: Membership(tuple(range(1, voters + 1)))}  # index -> as of there, wherever it changed
        self.committed_to: dict[int, tuple[int, int]] = {}  # leader -> its term and commit index as last looked at
        self.proposed = 0
        self.nodes = {id: self.start(id, MemoryLog(), 0) for id in range(1, nodes_max + 1)}

    def start(self, id: int, log: MemoryLog, applied_index: int) -> Node:
        """A node that has applied so much; the state machine comes with it."""
        config = RaftConfig(id=id, group=GROUP, **self.options)  # type: ignore[arg-type]
        node = Node(config, self.membership_at(applied_index), log, self.random.randrange(1 << 30), applied_index)
        node.committed = [self.chosen[index] for index in range(1, applied_index + 1)]
        return node

    def membership_at(self, index: int) -> Membership:
        return self.memberships[max(changed for changed in self.memberships if changed <= index)]

    def any_node(self) -> Node:
        return self.nodes[self.random.randint(1, len(self.nodes))]

    # --- steps -----------------------------------------------------------------------------------------------------

    def step(self) -> None:
        node = self.any_node()
        before = node.core.membership
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
            node = self.deliver() or node
            before = node.core.membership
        else:
            self.crash(node)
            return
        self.check_leader(node, before)

    def propose(self, node: Node) -> None:
        if node.core.role is not Role.LEADER:
            return
        self.proposed += 1
        try:
            node.core.propose(b"%d" % self.proposed + b"." * self.random.randrange(40))
        except Busy:
            assert node.core.uncommitted_bytes > 0 or node.core.transferee
        except NotLeader:
            assert node.core.id not in node.core.membership.all_nodes

    def ready(self, node: Node) -> None:
        known = len(node.committed)
        ready = node.ready()
        self.network += ready.messages
        assert all(message.sender == node.core.id for message in ready.messages)
        assert all(message.term > 0 or message.type is MessageType.READ_INDEX for message in ready.messages)
        for index, membership in node.memberships.items():
            assert self.memberships.setdefault(index, membership) == membership, "another membership was applied there"
        for entry in node.committed[known:]:
            self.check_applied(node, entry)

    def complete(self, node: Node) -> None:
        if not node.works:
            return
        work = node.works[0]
        sent = node.complete()
        if work.snapshot is not None:
            # The state comes with the snapshot.
            assert work.snapshot.membership == self.membership_at(work.snapshot.index)
            installed = range(len(node.committed) + 1, work.snapshot.index + 1)
            node.committed += [self.chosen[index] for index in installed]
        for entry in work.entries:
            before = node.log.term(entry.index - 1)
            assert self.payloads.setdefault((entry.index, entry.term), (entry.data, before)) == (entry.data, before)
        for message in sent:
            self.check_promise(node, message)
        self.network += sent

    def deliver(self) -> Node | None:
        """Deliver one message, mostly the oldest; to whom it came, if it did."""
        if not self.network:
            return None
        position = 0 if self.random.random() < 0.7 else self.random.randrange(len(self.network))
        message = self.network[position] if self.random.random() < 0.1 else self.network.pop(position)
        del self.network[:-500]
        if self.random.random() < self.loss:
            return None
        receiver = self.nodes[message.to]
        receiver.core.step(message)
        return receiver

    def crash(self, node: Node) -> None:
        """Works under way are lost; the state machine had stored some part of what it applied."""
        stored = node.log.base
        applied = self.random.randint(stored, max(stored, node.core.applied_index))
        self.nodes[node.core.id] = self.start(node.core.id, node.log, applied)

    # --- invariants ------------------------------------------------------------------------------------------------

    def check_leader(self, node: Node, before: Membership) -> None:
        """`node` has done something, and was a member of `before` until then."""
        core = node.core
        if core.role is not Role.LEADER:
            return
        if self.leaders.get(core.term) != core.id:
            assert self.leaders.setdefault(core.term, core.id) == core.id, "two leaders in a term"
            for index, entry in self.chosen.items():
                compacted = index <= node.log.base
                assert compacted or core.term_of(index) == entry.term, "a leader without a committed entry"
        term, known = self.committed_to.get(core.id, (0, 0))
        self.committed_to[core.id] = (core.term, core.commit_index)
        if term == core.term and known < core.commit_index:
            log_term = core.term_of(core.commit_index)
            holders = {id: self.holds(other.log, core.commit_index, log_term) for id, other in self.nodes.items()}
            wins = [vote_result(holders, membership) is VoteResult.WON for membership in (before, core.membership)]
            assert log_term == core.term, "an entry of an earlier term was committed by counting"
            assert any(wins), "committed without a durable majority"

    @staticmethod
    def holds(log: MemoryLog, index: int, term: int | None) -> bool:
        return index <= log.base or (index <= log.last_index() and log.term(index) == term)

    def check_applied(self, node: Node, entry: Entry) -> None:
        assert self.holds(node.log, entry.index, entry.term), "applied before it was durable"
        assert node.committed[entry.index - 1] == entry, "applied out of order"
        assert self.chosen.setdefault(entry.index, entry) == entry, "another entry was committed there"

    def check_promise(self, node: Node, message: Message) -> None:
        """What has just left `node` rests on what is durable there."""
        stored = node.log.hard_state()
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
        for _ in range(HEAL_ROUNDS):
            self.round()
        leader = self.leading()
        for _ in range(ELECTION_ROUNDS):
            if leader is not None:
                break
            self.round()
            leader = self.leading()
        assert leader is not None, "no agreed leader after the faults"
        leader.core.propose(b"the end")
        for _ in range(SETTLE_ROUNDS):
            self.round()
        members = [self.nodes[id] for id in leader.core.membership.all_nodes]
        assert any(entry.data == b"the end" for entry in leader.committed)
        assert all(node.committed == leader.committed for node in members), "states differ after the faults"
        assert all(node.core.last_index == node.core.applied_index == len(leader.committed) for node in members)
        assert all(node.core.membership == leader.core.membership for node in members)

    def leading(self) -> Node | None:
        """The leader that all its members follow, when it has applied all that it has and hands nothing over."""
        for node in self.nodes.values():
            members = node.core.membership.all_nodes
            following = all(self.nodes[id].core.leader == node.core.id for id in members)
            idle = node.core.applied_index == node.core.last_index and not node.core.transferee
            if node.core.role is Role.LEADER and following and idle:
                return node
        return None

    def round(self) -> None:
        for node in self.nodes.values():
            node.core.tick()
        for _ in range(1000):
            for node in self.nodes.values():
                before = node.core.membership
                while node.core.has_ready() or node.works:
                    self.ready(node)
                    self.complete(node)
                self.check_leader(node, before)
            if not self.network:
                return
            message = self.network.pop(0)
            self.nodes[message.to].core.step(message)
        raise AssertionError("the group does not come to rest")
