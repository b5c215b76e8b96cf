"""Majority arithmetic: what index a majority holds, and how a vote stands.

Refuses an empty set of voters: it has no majority. Source: Raft §5.2 and §5.3.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import IntEnum

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


def committed_index(match_indexes: Sequence[int]) -> int:
    """The highest index that a majority of voters has reached; one match index per voter."""
    return sorted(match_indexes)[len(match_indexes) - majority(len(match_indexes))]


def vote_result(voters: Sequence[int], votes: Mapping[int, bool]) -> VoteResult:
    """WON with a majority of yes, LOST when that cannot be reached any more. Votes of others than `voters` do not count."""
    granted = sum(votes.get(voter, False) for voter in voters)
    missing = sum(voter not in votes for voter in voters)
    needed = majority(len(voters))
    if granted >= needed:
        return VoteResult.WON
    return VoteResult.PENDING if granted + missing >= needed else VoteResult.LOST
