"""A group of cores that live on from step to step and are never turned into values: the living twin of `Replica`."""

from __future__ import annotations

from collections import deque

from tests.exhaustive.replica import Replica
from tests.unit.raft.harness import MemoryLog, Node
from zmqbroker.raft.config import RaftConfig
from zmqbroker.raft.membership import Membership
from zmqbroker.raft.messages import Message, Role, StorageAppend

__all__ = ["LiveGroup"]


class LiveNode:
    """A core with its disk. Works that `Replica` leaves out as good as done are done with the one before them."""

    def __init__(self, name: int) -> None:
        config = RaftConfig(id=name, group=1, pre_vote=False, check_quorum=False, commit_at_tick=False)
        self.node = Node(config, Membership((1, 2, 3)), MemoryLog(), name)
        self.batches: deque[list[StorageAppend]] = deque()

    def settle(self, works: int) -> list[Message]:
        """Take what is ready; `works` are under way afterwards, as `Replica` counts them."""
        sent: list[Message] = []
        while self.node.core.has_ready():
            ready = self.node.ready()
            sent += ready.messages
            if ready.append is not None:
                self.batches.append([ready.append])
        while len(self.batches) > works:
            last = self.batches.pop()
            if self.batches:
                self.batches[-1] += last
            else:
                assert [message for _ in last for message in self.node.complete()] == []
        return sent

    def complete(self) -> list[Message]:
        """The disk does the oldest work."""
        return [message for _ in self.batches.popleft() for message in self.node.complete()]

    def agrees_with(self, replica: Replica, name: int) -> bool:
        """True when the value says of this core what can be seen of it."""
        core, log = self.node.core, self.node.log
        named = [0, *((name + distance - 1) % 3 + 1 for distance in range(3))]
        seen = (core.term, core.vote, core.leader, int(core.role), core.commit_index, core.applied_index)
        said = (replica.term, named[replica.vote], named[replica.leader], replica.role, replica.commit)
        terms = tuple(core.term_of(index) for index in range(1, core.last_index + 1))
        progress = [(status.match_index, status.next_index) for status in core.progress().values()]
        replicated = {named[place]: tuple(one[:2]) for place, one in enumerate(replica.progress, start=1)}
        return (
            seen == (*said, min(replica.commit, replica.offset - 1))
            and terms == replica.log
            and tuple(self.node.terms()) == replica.durable
            and (log.state.term, log.state.vote) == (replica.stored[0], named[replica.stored[1]])
            and progress == [replicated[id] for id in sorted(replicated)]
        )


class LiveGroup:
    """Three of them, and the messages under way."""

    def __init__(self) -> None:
        self.nodes = {name: LiveNode(name) for name in (1, 2, 3)}
        self.under_way: list[Message] = []

    def act(self, kind: str, name: int, works: int) -> None:
        """What a node does by itself, as `Walk` names it."""
        live = self.nodes[name]
        core = live.node.core
        if kind == "complete":
            self.under_way += live.complete()
        elif kind == "campaign":
            core.campaign()
        elif kind == "propose":
            core.propose(b"x")
        else:
            core.tick()
            assert core.role is Role.LEADER
        self.under_way += live.settle(works)

    def deliver(self, message: Message, works: int) -> None:
        """A message arrives; it is the caller's to take it out."""
        live = self.nodes[message.to]
        assert live.node.core.step(message) is None
        self.under_way += live.settle(works)
