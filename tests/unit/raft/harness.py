"""What the Raft tests share: a durable log in memory, one core with its log, and a small group with a network of lists."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from zmqbroker.errors import Compacted
from zmqbroker.raft.config import RaftConfig
from zmqbroker.raft.core import RaftCore
from zmqbroker.raft.membership import Membership
from zmqbroker.raft.messages import (
    Entry,
    EntryType,
    HardState,
    Message,
    MessageType,
    ReadState,
    Ready,
    Role,
    Snapshot,
    StorageAppend,
)

GROUP = 7


def entries_of(terms: Sequence[int], first: int = 1) -> tuple[Entry, ...]:
    """Entries with these terms; the payload tells index and term."""
    return tuple(Entry(first + n, term, f"{first + n}/{term}".encode()) for n, term in enumerate(terms))


class MemoryLog:
    """A `LogView` that holds what was written to it."""

    def __init__(self, terms: Sequence[int] = (), hard_state: HardState | None = None) -> None:
        self.held = list(entries_of(terms))
        self.base = 0  # entries up to here were dropped
        self.base_term = 0
        self.state = hard_state or HardState(term=max(terms, default=0))
        self.newest: Snapshot | None = None  # what `snapshot` answers

    def hard_state(self) -> HardState:
        return self.state

    def first_index(self) -> int:
        return self.base + 1

    def last_index(self) -> int:
        return self.base + len(self.held)

    def term(self, index: int) -> int:
        if index < self.base:
            raise Compacted(f"{index}")
        assert index <= self.last_index()
        return self.base_term if index == self.base else self.held[index - self.base - 1].term

    def entries(self, low: int, high: int, size_max: int) -> tuple[Entry, ...]:
        if low <= self.base:
            raise Compacted(f"{low}")
        found: list[Entry] = []
        for entry in self.held[low - self.base - 1 : high - self.base - 1]:
            found.append(entry)
            if sum(len(one.data) for one in found) >= size_max:
                break
        return tuple(found)

    def compact(self, index: int) -> None:
        self.base_term = self.term(index)
        del self.held[: index - self.base]
        self.base = index

    def snapshot(self) -> Snapshot | None:
        return self.newest

    def write(self, work: StorageAppend) -> None:
        if work.snapshot is not None:
            self.base, self.base_term, self.held = work.snapshot.index, work.snapshot.term, []
            self.newest = work.snapshot
        if work.entries:
            first = work.entries[0].index
            assert self.base < first <= self.last_index() + 1, "a gap in the durable log"
            del self.held[first - self.base - 1 :]
            self.held.extend(work.entries)
        if work.hard_state is not None:
            self.state = work.hard_state


class Node:
    """One core, its durable log, and the works that its disk has not done yet."""

    def __init__(
        self, config: RaftConfig, membership: Membership, log: MemoryLog, seed: int = 1, applied_index: int = 0
    ) -> None:
        self.lines: list[str] = []
        self.log = log
        self.core = RaftCore(config, membership, log, Random(seed), applied_index, trace=self.lines.append)
        self.works: deque[StorageAppend] = deque()
        self.committed: list[Entry] = []
        self.memberships: dict[int, Membership] = {}  # index -> what its change made of the membership
        self.read_states: list[ReadState] = []

    def ready(self) -> Ready:
        """Take a Ready and apply at once; its work waits."""
        ready = self.core.ready()
        if ready.append is not None:
            self.works.append(ready.append)
        if ready.committed:
            self.committed += ready.committed
            for entry in ready.committed:
                if entry.type is not EntryType.NORMAL:
                    self.memberships[entry.index] = self.core.apply_change(entry.data)
            self.core.applied_to(ready.committed[-1].index)
        self.read_states += ready.read_states
        return ready

    def complete(self) -> list[Message]:
        """The disk does the oldest work."""
        work = self.works.popleft()
        self.log.write(work)
        return self.core.advance(work)

    def settle(self) -> list[Message]:
        """Do everything there is to do; what was sent."""
        sent: list[Message] = []
        while self.core.has_ready() or self.works:
            sent += self.ready().messages
            if self.works:
                sent += self.complete()
        return sent

    def say(self, kind: MessageType, sender: int, term: int, **fields: Any) -> list[Message]:
        """Step one message and settle; what was sent."""
        self.core.step(Message(kind, to=self.core.id, sender=sender, group=GROUP, term=term, **fields))
        return self.settle()

    def terms(self) -> list[int]:
        """The terms of the durable log."""
        return [entry.term for entry in self.log.held]


def make_node(id: int = 1, size: int = 3, terms: Sequence[int] = (), hard: HardState | None = None, **options: Any) -> Node:
    """A node with a log of entries of these terms; without PreVote and CheckQuorum unless asked for."""
    options = {"pre_vote": False, "check_quorum": False, "membership": Membership(tuple(range(1, size + 1))), **options}
    membership = options.pop("membership")
    return Node(RaftConfig(id=id, group=GROUP, **options), membership, MemoryLog(terms, hard), seed=id)


def make_leader(size: int = 3, terms: Sequence[int] = (), **options: Any) -> Node:
    """Node 1, elected by 2 (and 3, ...) with its first entry durable; nobody has answered an append yet."""
    node = make_node(1, size, terms, **options)
    node.core.campaign()
    node.settle()
    for voter in range(2, size // 2 + 2):
        if node.core.role is Role.PRE_CANDIDATE:
            node.say(MessageType.PRE_VOTE_RESPONSE, voter, node.core.term + 1)
    for voter in range(2, size // 2 + 2):
        node.say(MessageType.REQUEST_VOTE_RESPONSE, voter, node.core.term)
    assert node.core.role is Role.LEADER
    return node


def of_type(messages: Sequence[Message], kind: MessageType) -> list[Message]:
    """Those of one type, in order."""
    return [message for message in messages if message.type is kind]


class Group:
    """A group whose messages arrive in order, at once; links may be cut, both ways."""

    def __init__(self, logs: Sequence[Sequence[int]], **options: Any) -> None:
        self.nodes = {n: make_node(n, len(logs), terms, **options) for n, terms in enumerate(logs, start=1)}
        self.cut: set[frozenset[int]] = set()
        self.seen: Callable[[Message], None] = lambda message: None

    def isolate(self, *ids: int) -> None:
        """Cut `ids` from the others."""
        self.cut = {frozenset((one, other)) for one in ids for other in self.nodes if other not in ids}

    def deliver(self) -> None:
        """Run until nobody has anything to say."""
        for _ in range(1000):
            sent = [message for node in self.nodes.values() for message in node.settle()]
            if not sent:
                return
            for message in sent:
                if frozenset((message.sender, message.to)) not in self.cut:
                    self.seen(message)
                    self.nodes[message.to].core.step(message)
        raise AssertionError("the group does not come to rest")

    def elect(self, id: int) -> Node:
        """Let one campaign; it must win."""
        self.nodes[id].core.campaign()
        self.deliver()
        assert self.nodes[id].core.role is Role.LEADER
        return self.nodes[id]

    def tick(self, count: int = 1) -> None:
        """Let time pass for all."""
        for _ in range(count):
            for node in self.nodes.values():
                node.core.tick()
            self.deliver()

    def leader(self) -> Node | None:
        """The leader of the highest term, if there is one."""
        leaders = [node for node in self.nodes.values() if node.core.role is Role.LEADER]
        return max(leaders, key=lambda node: node.core.term, default=None)
