"""Majority arithmetic against slow twins that count."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zmqbroker.raft.membership import Membership
from zmqbroker.raft.quorum import VoteResult, committed_index, majority, vote_result


@pytest.mark.parametrize(("count", "needed"), [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3), (6, 4), (7, 4), (8, 5), (9, 5)])
def test_majority_of_each_size_is_more_than_half(count: int, needed: int) -> None:
    assert majority(count) == needed


def test_majority_of_nobody_is_refused() -> None:
    with pytest.raises(AssertionError):
        majority(0)


VOTER_SETS = st.sets(st.integers(1, 9), min_size=1, max_size=9)
MEMBERSHIPS = st.builds(
    lambda incoming, outgoing: Membership(tuple(sorted(incoming)), tuple(sorted(outgoing))),
    VOTER_SETS,
    st.sets(st.integers(1, 9), max_size=9),
)


def holds_majority(nodes: set[int], membership: Membership) -> bool:
    """The slow twin: more than half of every set of voters that is in force."""
    sets = [voters for voters in (membership.voters, membership.voters_outgoing) if voters]
    return all(2 * len(nodes & set(voters)) > len(voters) for voters in sets)


@settings(max_examples=200)
@given(MEMBERSHIPS, st.dictionaries(st.integers(1, 9), st.integers(0, 9)))
def test_committed_index_equals_slow_twin(membership: Membership, matches: dict[int, int]) -> None:
    def reached(index: int) -> set[int]:
        return {node for node in range(1, 10) if matches.get(node, 0) >= index}

    slow = max(index for index in range(10) if holds_majority(reached(index), membership))
    assert committed_index(matches, membership) == slow


@settings(max_examples=200)
@given(MEMBERSHIPS, st.dictionaries(st.integers(1, 11), st.booleans()))
def test_vote_result_equals_slow_twin(membership: Membership, votes: dict[int, bool]) -> None:
    def wins(rest: bool) -> bool:
        return holds_majority({node for node in range(1, 10) if votes.get(node, rest)}, membership)

    slow = VoteResult.WON if wins(False) else VoteResult.PENDING if wins(True) else VoteResult.LOST
    assert vote_result(votes, membership) is slow
