"""Defects of membership changes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest

from zmqbroker.raft import proposals, quorum
from zmqbroker.raft.confchange import change_membership, decode
from zmqbroker.raft.log import RaftLog
from zmqbroker.raft.membership import Membership
from zmqbroker.raft.quorum import VoteResult
from zmqbroker.raft.state import RaftState

__all__ = [
    "campaign_unaware",
    "change_while_changing",
    "count_learners",
    "count_newer_voters",
    "fall_over_bad_change",
]


def change_while_changing(patch: pytest.MonkeyPatch) -> None:
    """M11a: a leader does not remember that a change is under way."""
    forgetful = property(lambda state: 0, lambda state, index: None)
    patch.setattr(RaftState, "pending_change_index", forgetful)


def _count_as(patch: pytest.MonkeyPatch, counted: Callable[[Membership], Membership]) -> None:
    """Let every decision be made by the majorities of another membership."""

    def committed_index(match_indexes: Mapping[int, int], membership: Membership) -> int:
        return quorum.committed_index(match_indexes, counted(membership))

    def vote_result(votes: Mapping[int, bool], membership: Membership) -> VoteResult:
        return quorum.vote_result(votes, counted(membership))

    for module in ("replication", "reads"):
        patch.setattr(f"zmqbroker.raft.{module}.committed_index", committed_index)
    for module in ("election", "state"):
        patch.setattr(f"zmqbroker.raft.{module}.vote_result", vote_result)


def count_newer_voters(patch: pytest.MonkeyPatch) -> None:
    """M11b: the older voters of a joint membership are not asked."""
    _count_as(patch, lambda membership: replace(membership, voters_outgoing=(), learners_next=(), auto_leave=False))


def count_learners(patch: pytest.MonkeyPatch) -> None:
    """M12."""

    def counted(membership: Membership) -> Membership:
        voters = tuple(sorted({*membership.voters, *membership.learners}))
        return replace(membership, voters=voters, learners=())

    _count_as(patch, counted)


def fall_over_bad_change(patch: pytest.MonkeyPatch) -> None:
    """A committed change that cannot be made ends the node, and every node."""

    def apply_change(state: RaftState, payload: bytes) -> None:
        membership, fresh = change_membership(state.membership, decode(payload))
        proposals.enter(state, membership, fresh)

    patch.setattr("zmqbroker.raft.proposals.apply_change", apply_change)


def campaign_unaware(patch: pytest.MonkeyPatch) -> None:
    """A node campaigns in a membership of which it knows that it was replaced."""
    patch.setattr(RaftLog, "has_unapplied_change", lambda log: False)
