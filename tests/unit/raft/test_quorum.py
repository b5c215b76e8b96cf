"""Majority arithmetic against slow twins that count."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zmqbroker.raft.quorum import VoteResult, committed_index, majority, vote_result


@pytest.mark.parametrize(("count", "needed"), [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3), (6, 4), (7, 4), (8, 5), (9, 5)])
def test_majority_of_each_size_is_more_than_half(count: int, needed: int) -> None:
    assert majority(count) == needed


def test_majority_of_nobody_is_refused() -> None:
    with pytest.raises(AssertionError):
        majority(0)


@settings(max_examples=150)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=9))
def test_committed_index_equals_slow_twin(matches: list[int]) -> None:
    slow = max(index for index in range(10) if 2 * sum(match >= index for match in matches) > len(matches))
    assert committed_index(matches) == slow


@settings(max_examples=150)
@given(st.integers(1, 9), st.dictionaries(st.integers(1, 11), st.booleans()))
def test_vote_result_equals_slow_twin(size: int, votes: dict[int, bool]) -> None:
    voters = range(1, size + 1)
    open_votes = [voter for voter in voters if voter not in votes]

    def wins(rest: bool) -> bool:
        return 2 * sum(votes.get(voter, rest) for voter in voters) > size

    slow = VoteResult.WON if wins(False) else VoteResult.PENDING if open_votes and wins(True) else VoteResult.LOST
    assert vote_result(voters, votes) is slow
