"""Reads that wait until a majority confirms that this node still leads (ReadIndex).

Each round of heartbeats carries a counter of the leader's own, which no other node can repeat by mistake; a read is confirmed
when a majority has answered a heartbeat of its round or of a later one, begun after the read came. Answers to heartbeats of an
earlier term cannot be confused with these: their term is lower. Source: thesis §6.4; etcd/raft for the pitfalls.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from zmqbroker.raft.membership import Membership
from zmqbroker.raft.quorum import committed_index

__all__ = ["PendingRead", "PendingReads"]


@dataclass(slots=True, frozen=True)
class PendingRead:
    """One read: who asked, for which request of theirs, and what was committed when it came."""

    sender: int  # NO_NODE for this node itself
    request: int
    index: int
    round: int


class PendingReads:
    """The reads of one leadership, at most `reads_max` of them."""

    __slots__ = ("_answered", "_early", "_reads", "_reads_max", "round", "round_due")

    def __init__(self, reads_max: int) -> None:
        self._reads_max = reads_max
        self.round = 0  # of the newest read; never goes back, so that nothing late can confirm what came later
        self.round_due = False  # a read came since the last round of heartbeats
        self._reads: deque[PendingRead] = deque()  # rounds never fall
        self._early: list[tuple[int, int]] = []  # sender and request of those that came before the term's first commit
        self._answered: dict[int, int] = {}  # voter -> highest round it has answered

    @property
    def full(self) -> bool:
        """True when no more reads are taken."""
        return len(self._reads) + len(self._early) >= self._reads_max

    def clear(self) -> None:
        """Forget all: whoever asked has to ask the next leader."""
        self._reads.clear()
        self._early.clear()
        self._answered.clear()
        self.round_due = False

    def wait_for_commit(self, sender: int, request: int) -> None:
        """Keep a read until this term has committed something: before, the commit index may be behind."""
        assert not self.full
        self._early.append((sender, request))

    def take_early(self) -> list[tuple[int, int]]:
        """The reads that waited for that."""
        early, self._early = self._early, []
        return early

    def add(self, sender: int, request: int, commit_index: int) -> None:
        """Keep a read until its round is confirmed; reads that come between two rounds share the next one."""
        if not self.round_due:
            self.round += 1
            self.round_due = True
        self._reads.append(PendingRead(sender, request, commit_index, self.round))

    def answered(self, voter: int, round: int) -> None:
        """A member has answered a heartbeat of `round`."""
        self._answered[voter] = max(round, self._answered.get(voter, 0))

    def confirmed(self, own: int, membership: Membership) -> list[PendingRead]:
        """The reads that a majority, this leader `own` included, has confirmed."""
        if not self._reads:
            return []
        self._answered[own] = self.round
        round = committed_index(self._answered, membership)
        found = []
        while self._reads and self._reads[0].round <= round:
            found.append(self._reads.popleft())
        return found
