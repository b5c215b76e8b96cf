"""Defects of linearizable reads."""

from __future__ import annotations

from functools import partial

import pytest

from tests.simulation import node
from zmqbroker.raft import RaftConfig, reading
from zmqbroker.raft.reads import PendingRead, PendingReads
from zmqbroker.raft.state import RaftState

__all__ = ["confirm_by_old_round", "read_at_once", "read_before_commit", "read_by_lease"]


def read_before_commit(patch: pytest.MonkeyPatch) -> None:
    """M13: a new leader answers with the commit index that it has heard of."""

    def take(state: RaftState, sender: int, request: int) -> None:
        if state.membership.all_voters == (state.id,):
            reading._answer(state, sender, request, state.log.commit_index)
        else:
            state.reads.add(sender, request, state.log.commit_index)

    patch.setattr(reading, "_take", take)


def confirm_by_old_round(patch: pytest.MonkeyPatch) -> None:
    """M14: every round of heartbeats carries the same number, so that answers to earlier ones confirm later reads."""

    def add(reads: PendingReads, sender: int, request: int, commit_index: int) -> None:
        reads.round = 1
        reads.round_due = True
        reads._reads.append(PendingRead(sender, request, commit_index, 1))

    patch.setattr(PendingReads, "add", add)


def read_by_lease(patch: pytest.MonkeyPatch) -> None:
    """M23: the reference's option; a leader that stood still answers as if no time had passed."""
    patch.setattr(node, "RaftConfig", partial(RaftConfig, lease_reads=True))


def read_at_once(patch: pytest.MonkeyPatch) -> None:
    """Whoever believes to lead answers."""

    def take(state: RaftState, sender: int, request: int) -> None:
        reading._answer(state, sender, request, state.log.commit_index)

    patch.setattr(reading, "_take", take)
