"""Majority arithmetic: what index a majority holds, and how a vote stands.

In a joint membership every decision needs a majority of each set of voters. Refuses an empty set: it has no majority. Source:
Raft §5.2, §5.3 and §6.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import IntEnum

from zmqbroker.raft.membership import Membership

__all__ = ["VoteResult", "committed_index", "majority", "vote_result"]


class VoteResult(IntEnum):
    """How a vote stands."""

    PENDING = 0
    LOST = 1
    WON = 2


def majority(count: int) -> int:
    """The smallest number of voters out of `count` such that any two such sets share one."""
    assert count > 0, "an empty set of voters has no majority"
    return count // 2 + 1


def committed_index(match_indexes: Mapping[int, int], membership: Membership) -> int:
    """The highest index that a majority of every set of voters has reached; a voter without a match index has 0."""
    index = _committed(match_indexes, membership.voters)
    return min(index, _committed(match_indexes, membership.voters_outgoing)) if membership.voters_outgoing else index


def _committed(match_indexes: Mapping[int, int], voters: Sequence[int]) -> int:
    reached = sorted(match_indexes.get(voter, 0) for voter in voters)
    return reached[len(voters) - majority(len(voters))]


def vote_result(votes: Mapping[int, bool], membership: Membership) -> VoteResult:
    """WON with a majority of yes in every set of voters, LOST when one cannot reach it any more. Others' votes do not count."""
    if not membership.voters_outgoing:
        return _result(votes, membership.voters)
    results = (_result(votes, membership.voters), _result(votes, membership.voters_outgoing))
    if VoteResult.LOST in results:
        return VoteResult.LOST
    return VoteResult.PENDING if VoteResult.PENDING in results else VoteResult.WON


def _result(votes: Mapping[int, bool], voters: Sequence[int]) -> VoteResult:
    granted = sum(votes.get(voter, False) for voter in voters)
    missing = sum(voter not in votes for voter in voters)
    needed = majority(len(voters))
    if granted >= needed:
        return VoteResult.WON
    return VoteResult.PENDING if granted + missing >= needed else VoteResult.LOST
