"""What can be read of a Raft core: roles, indexes, members and how far they are. Changes nothing."""

from __future__ import annotations

from collections.abc import Container, Mapping

from zmqbroker.raft.membership import Membership
from zmqbroker.raft.messages import Role
from zmqbroker.raft.progress import ProgressStatus
from zmqbroker.raft.state import RaftState

__all__ = ["RaftStatus"]


class RaftStatus:
    """The readable side of one core."""

    __slots__ = ("_state",)

    def __init__(self, state: RaftState) -> None:
        self._state = state

    @property
    def id(self) -> int:
        """This node."""
        return self._state.id

    @property
    def term(self) -> int:
        """The current term."""
        return self._state.term

    @property
    def vote(self) -> int:
        """Whom this node voted for in `term`; NO_NODE for nobody."""
        return self._state.vote

    @property
    def role(self) -> Role:
        """What this node is in `term`."""
        return self._state.role

    @property
    def leader(self) -> int:
        """The leader of `term`; NO_NODE while unknown."""
        return self._state.leader

    @property
    def membership(self) -> Membership:
        """Who takes part, as of the last applied change or snapshot."""
        return self._state.membership

    @property
    def transferee(self) -> int:
        """Whom leadership is being handed to; NO_NODE for nobody."""
        return self._state.transferee

    @property
    def commit_index(self) -> int:
        """The last index known to be committed."""
        return self._state.log.commit_index

    @property
    def applied_index(self) -> int:
        """The last index that the state machine has applied."""
        return self._state.log.applied_index

    @property
    def last_index(self) -> int:
        """The last index of the log, durable or not."""
        return self._state.log.last_index

    @property
    def uncommitted_bytes(self) -> int:
        """Payloads proposed by this leader and not applied yet."""
        return self._state.uncommitted_bytes

    @property
    def compacted_probes(self) -> int:
        """How often a follower could not be sent to because it needs entries that the log no longer holds."""
        return self._state.compacted_probes

    def term_of(self, index: int) -> int | None:
        """Term of the entry at `index`; None when the log no longer, or not yet, holds it."""
        return self._state.log.term_or_none(index)

    def progress(self) -> Mapping[int, ProgressStatus]:
        """Every member as this leader sees it, by id in ascending order; empty at any other node."""
        state = self._state
        if state.role is not Role.LEADER:
            return {}
        return {node: progress.status() for node, progress in state.progress.items()}

    def matched_by_all(self, but: Container[int] = ()) -> int:
        """The last index that is durable on every member, `but` some, at a leader; 0 at any other node.

        A member that is being sent a snapshot counts as far as that brings it.
        """
        state = self._state
        if state.role is not Role.LEADER:
            return 0
        counted = [progress for node, progress in state.progress.items() if node not in but]
        reached = [max(progress.match_index, progress.pending_snapshot) for progress in counted]
        return min([state.log.stable_index, *reached])
