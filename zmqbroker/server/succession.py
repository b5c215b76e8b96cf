"""What a follower does about the hint that its leader's process is gone: forget it, and campaign soon.

The hint is a broken link whose port refuses (`links`). It is never more than a hint: PreVote asks a majority first, and whoever
still hears the leader does not answer. So the followers that lost it take turns within `CYCLE_S`, in the order of their ids
after the leader's, each at a random instant of the first half of its turn: two at once would split the votes, and a split costs
an election timeout. A turn passes unused while the term moves, because then an election is under way; after `ROUNDS` turns
only the election timeout is left. A leader that is heard of again is followed again. Source: DESIGN §4, "Fast failover".
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from random import Random

from zmqbroker.raft import RaftCore
from zmqbroker.raft.messages import NO_NODE

__all__ = ["CYCLE_S", "ROUNDS", "Succession", "turn_of"]

#: Everybody's turn once. A campaign takes two exchanges and one write of a vote on each side, a few milliseconds.
CYCLE_S = 0.05
#: Turns of one node after one hint: some messages of an election may be lost, and the first in line may be dead as well.
ROUNDS = 4


def turn_of(node: int, voters: tuple[int, ...], leader: int) -> tuple[int, int]:
    """The place of `node` among those who may follow `leader`, from 0, and their number: ids in a circle after the leader's."""
    others = sorted({voter for voter in voters if voter != leader} | {node}, key=lambda voter: (voter < leader, voter))
    return others.index(node), len(others)


class Succession:
    """The hints that reach one node, for all its groups."""

    def __init__(self, later: Callable[[float, Callable[[], None]], object], wake: Callable[[], None], random: Random) -> None:
        self._later = later  # call something after so many seconds
        self._wake = wake  # look at what the cores want done
        self._random = random
        self._planned: set[RaftCore] = set()  # cores that have a turn ahead

    def leader_lost(self, core: RaftCore, member: int) -> None:
        """The process of `member` seems to be gone."""
        if member in (core.id, NO_NODE) or core.leader != member:
            return
        core.forget_leader()
        self._wake()
        if core not in self._planned:
            self._planned.add(core)
            place, count = turn_of(core.id, core.membership.all_voters, member)
            delay_s = CYCLE_S / count * (place + self._random.random() / 2)
            self._later(delay_s, partial(self._turn, core, core.term, ROUNDS))

    def _turn(self, core: RaftCore, term: int, rounds: int) -> None:
        if core.leader != NO_NODE or rounds == 0:
            self._planned.discard(core)
            return
        if core.term == term:
            core.campaign()
            self._wake()
        self._later(CYCLE_S, partial(self._turn, core, core.term, rounds - 1))
