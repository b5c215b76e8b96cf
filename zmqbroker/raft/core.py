"""`RaftCore`: one node of one Raft group as a function of what happens to it.

It has no clock, no socket and no file: time enters as ticks, chance as a seeded generator, and what is to be done leaves as a
`Ready`. The shell does, as often as it likes: `step`, `tick`, `propose`; then `ready`; then it sends `messages`, gives
`append` to its log, applies `committed` (membership changes through `apply_change`) and calls `applied_to`; and when the log
has made a work durable, `advance(work)`.
Invariants: works are advanced in the order they were handed out; applied <= commit <= last index; a message that promises
something about this node's disk leaves through `advance` only. Source: Raft figure 2; etcd/raft with asynchronous storage.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from random import Random

from zmqbroker.errors import InvalidRequest, NotLeader
from zmqbroker.raft import belief, election, proposals, reading, replication, snapshots, transfer
from zmqbroker.raft.confchange import ConfChange
from zmqbroker.raft.config import RaftConfig
from zmqbroker.raft.log import RaftLog
from zmqbroker.raft.membership import Membership
from zmqbroker.raft.messages import (
    NO_NODE,
    DropReason,
    EntryType,
    Message,
    MessageType,
    Ready,
    Role,
    Snapshot,
    StorageAppend,
)
from zmqbroker.raft.state import RaftState
from zmqbroker.raft.status import RaftStatus
from zmqbroker.raft.trace import Trace
from zmqbroker.raft.view import LogView

__all__ = ["RaftCore"]

_FROM_LEADER = frozenset((MessageType.APPEND_ENTRIES, MessageType.HEARTBEAT, MessageType.INSTALL_SNAPSHOT))
_FROM_MEMBER = frozenset((MessageType.APPEND_ENTRIES_RESPONSE, MessageType.HEARTBEAT_RESPONSE))
_VOTE_REQUESTS = frozenset((MessageType.REQUEST_VOTE, MessageType.PRE_VOTE))
_VOTE_RESPONSES = frozenset((MessageType.REQUEST_VOTE_RESPONSE, MessageType.PRE_VOTE_RESPONSE))
_VOTE_RESPONSE_OF = {
    Role.CANDIDATE: MessageType.REQUEST_VOTE_RESPONSE,
    Role.PRE_CANDIDATE: MessageType.PRE_VOTE_RESPONSE,
}


class RaftCore(RaftStatus):
    """One node of one group.

    `applied_index` is what the state machine already contains of the log, `membership` who takes part as of it.
    """

    __slots__ = ("_commit_due", "_previous_hard_state", "_previous_soft_state", "_works")

    def __init__(
        self,
        config: RaftConfig,
        membership: Membership,
        log: LogView,
        random: Random,
        applied_index: int = 0,
        trace: Callable[[str], None] | None = None,
    ) -> None:
        faults = membership.faults()
        assert not faults, faults
        note = Trace(trace)
        hard_state = log.hard_state()
        raft_log = RaftLog(
            log, hard_state.commit, applied_index, config.committed_bytes_max, note, apply_unstable=config.apply_unstable
        )
        state = RaftState(config, raft_log, hard_state, random, note)
        super().__init__(state)
        state.set_membership(membership, frozenset())
        state.become_follower(state.term, NO_NODE)
        text = "INFO newRaft %x [peers: [%s], term: %d, commit: %d, applied: %d, lastindex: %d, lastterm: %d]"
        peers = ",".join(f"{voter:x}" for voter in membership.all_voters)
        indexes = (raft_log.commit_index, applied_index, raft_log.last_index, raft_log.last_term)
        note(text, state.id, peers, state.term, *indexes)
        self._previous_hard_state = state.hard_state  # as last given to the log
        self._previous_soft_state = state.soft_state  # as last given to the shell
        self._works: deque[StorageAppend] = deque()  # given to the log and not durable yet, oldest first
        self._commit_due = False  # True from a tick on: a commit is written though nothing carries it

    # --- what happens to it ----------------------------------------------------------------------------------------

    def tick(self) -> None:
        """One unit of time has passed."""
        state = self._state
        self._commit_due = True
        state.election_elapsed += 1
        if state.role is Role.LEADER:
            self._tick_leader()
        elif state.election_elapsed >= state.election_timeout:
            if state.promotable:
                state.election_elapsed = 0
                election.start_election(state)
            elif state.config.share_commit_in_votes:
                election.tell_commit(state)

    def _tick_leader(self) -> None:
        state = self._state
        state.heartbeat_elapsed += 1
        if state.election_elapsed >= state.config.election_ticks:
            state.election_elapsed = 0
            if state.config.check_quorum and not self._check_quorum():
                return
            # Whoever was to lead did not make it in time: this leader goes on.
            state.transferee = NO_NODE
        if state.heartbeat_elapsed >= state.config.heartbeat_ticks:
            state.heartbeat_elapsed = 0
            replication.broadcast_heartbeat(state)
        if state.config.commit_at_tick:
            replication.tell_commit(state)

    def _check_quorum(self) -> bool:
        """Step down when no majority was heard from for an election timeout (thesis §6.2); False then."""
        state = self._state
        active = state.quorum_active()
        if not active:
            state.trace("WARN %x stepped down to follower since quorum is not active", state.id)
            state.become_follower(state.term, NO_NODE)
        for node, progress in state.progress.items():
            progress.recent_active = progress.recent_active and node == state.id
        return active

    def campaign(self) -> None:
        """Start an election now, as if the timeout had passed; nothing at a leader or a learner."""
        election.start_election(self._state)

    def step(self, message: Message) -> DropReason | None:
        """A message from another node has come; why it was not believed, if it was not."""
        return belief.judge(self._state, message) or self._dispatch(message)

    def step_local(self, message: Message) -> DropReason | None:
        """A message of this node's own shell: what its storage answers, a proposal, or a wish for another leader.

        In production `advance` delivers the first, `propose` and `transfer_leader` are the others.
        """
        if message.type in _FROM_MEMBER and message.sender not in self._state.progress:
            return DropReason.UNKNOWN_SENDER
        return self._dispatch(message)

    def _dispatch(self, message: Message) -> DropReason | None:
        state, kind = self._state, message.type
        if message.term and not election.accept_term(state, message):
            return None
        if kind in _VOTE_RESPONSES and message.reject:
            election.learn_commit(state, message)
        if kind in _FROM_LEADER:
            self._hear_leader(message)
        elif kind in _FROM_MEMBER:
            self._hear_member(message)
        elif kind is MessageType.STORAGE_APPEND_RESPONSE:
            self._hear_storage(message)
        elif kind in _VOTE_REQUESTS:
            election.learn_commit(state, message)
            election.handle_vote_request(state, message)
        elif kind is _VOTE_RESPONSE_OF.get(state.role):
            election.handle_vote_response(state, message)
        elif kind is MessageType.PROPOSE:
            return proposals.handle_propose(state, message)
        elif kind is MessageType.TRANSFER_LEADER:
            transfer.handle_transfer(state, message.sender)
        elif kind is MessageType.TIMEOUT_NOW:
            transfer.handle_timeout_now(state, message)
        elif kind is MessageType.READ_INDEX:
            reading.handle_read_index(state, message)
        elif kind is MessageType.READ_INDEX_RESPONSE:
            reading.handle_read_index_response(state, message)
        self._check()
        return None

    def _hear_leader(self, message: Message) -> None:
        state = self._state
        if state.role is Role.FOLLOWER:
            state.election_elapsed = 0
            state.leader = message.sender
        else:
            state.become_follower(message.term, message.sender)
        if message.type is MessageType.APPEND_ENTRIES:
            replication.handle_append_entries(state, message)
        elif message.type is MessageType.HEARTBEAT:
            replication.handle_heartbeat(state, message)
        else:
            snapshots.handle_install_snapshot(state, message)

    def _hear_member(self, message: Message) -> None:
        state = self._state
        if state.role is not Role.LEADER:
            return
        if message.sender not in state.progress:
            state.trace("DEBUG %x no progress available for %x", state.id, message.sender)
        elif message.type is MessageType.HEARTBEAT_RESPONSE:
            replication.handle_heartbeat_response(state, message)
            reading.release_reads(state, message)
        else:
            commit_index = state.log.commit_index
            if replication.handle_append_response(state, message):
                if state.log.commit_index > commit_index:
                    reading.release_early(state)
                transfer.continue_transfer(state, message.sender)

    def _hear_storage(self, message: Message) -> None:
        log = self._state.log
        if message.index:
            log.unstable.stable_to(message.index, message.log_term)
        if message.snapshot is not None:
            log.snapshot_installed(message.snapshot)

    def propose(self, data: bytes, data_crc: int | None = None) -> int:
        """Append `data` to the log of the group; its index, to be looked for under the present term.

        `data_crc` is the crc32c of `data` if it is known: see `Entry`.

        Raises `NotLeader`, or `Busy` when more than `uncommitted_bytes_max` would wait for being applied, or while leadership
        is being handed over.
        """
        return proposals.propose(self._state, EntryType.NORMAL, data, data_crc)

    def propose_change(self, change: ConfChange) -> int:
        """Append a membership change; its index. Raises `NotLeader`, `Busy`, or `InvalidChange` when it cannot be made."""
        return proposals.propose_change(self._state, change)

    def apply_change(self, payload: bytes) -> Membership:
        """An entry that changes the membership is being applied here; who takes part now.

        A payload that is no change, and a change that cannot be made, change nothing, on every node alike.
        """
        proposals.apply_change(self._state, payload)
        return self._state.membership

    def read_index(self, request: int) -> None:
        """Ask what index makes a read linearizable; answered by a `ReadState` with this `request`, or never after a change of
        leader. No number is used twice, not even after a restart: a late answer to the first request would pass for one to the
        second. Raises `NotLeader` when no leader is known, or `Busy`.
        """
        reading.read_index(self._state, request)

    def transfer_leader(self, to: int) -> None:
        """Hand leadership to a voter. Raises `NotLeader`, or `InvalidRequest` when `to` is no other voter."""
        state = self._state
        if state.role is not Role.LEADER:
            raise NotLeader(f"node {state.id} does not lead group {state.config.group} at term {state.term}", leader=None)
        if to == state.id or not state.membership.is_voter(to):
            raise InvalidRequest(f"node {to} is no other voter of {state.membership}")
        transfer.handle_transfer(state, to)

    def forget_leader(self) -> None:
        """Stop to believe that the leader is there; it is followed again when it is heard of. A hint, never unsafe."""
        election.forget_leader(self._state)

    def report_unreachable(self, node: int) -> None:
        """What was sent to `node` last may not have arrived."""
        replication.report_unreachable(self._state, node)

    def report_snapshot(self, node: int, *, ok: bool) -> None:
        """The bytes of the snapshot under way to `node` have arrived, or never will."""
        snapshots.report_snapshot(self._state, node, ok=ok)

    # --- what it wants done ----------------------------------------------------------------------------------------

    def has_ready(self) -> bool:
        """True when `ready` has anything to say."""
        state, log = self._state, self._state.log
        return bool(
            state.messages
            or state.messages_after_append
            or state.read_states
            or state.reads.round_due
            or log.unstable.in_progress <= log.last_index
            or log.unstable.next_snapshot is not None
            or log.has_committed
            or self._is_hard_state_due()
            or self._is_soft_state_new()
        )

    def ready(self) -> Ready:
        """Everything to be done now; it is handed out once, so do all of it."""
        state = self._state
        if state.reads.round_due:
            replication.broadcast_heartbeat(state)
        # In the reference's order: what a synchronous shell applies may include what it is only now given to write.
        committed = state.log.next_committed()
        ready = Ready(messages=state.messages, append=self._next_work(), committed=committed, read_states=state.read_states)
        state.messages, state.read_states = [], []
        if self._is_soft_state_new():
            ready.soft_state = self._previous_soft_state = state.soft_state
        self._check()
        return ready

    def _next_work(self) -> StorageAppend | None:
        state, unstable = self._state, self._state.log.unstable
        entries, snapshot = unstable.next_entries(), unstable.next_snapshot
        if not entries and snapshot is None and not state.messages_after_append and not self._is_hard_state_due():
            return None
        previous = self._previous_hard_state
        changed = (state.term, state.vote) != (previous.term, previous.vote)
        hard_state = state.hard_state if changed or state.log.commit_index != previous.commit else None
        work = StorageAppend(state.config.group, entries, hard_state, bool(entries) or changed, snapshot=snapshot)
        work.responses = state.messages_after_append
        state.messages_after_append = []
        if unstable.entries or snapshot is not None:
            work.responses.append(self._stored(snapshot))
        unstable.accept()
        if hard_state is not None:
            self._previous_hard_state, self._commit_due = hard_state, False
        self._works.append(work)
        return work

    def _stored(self, snapshot: Snapshot | None) -> Message:
        """What the log answers: all unstable entries will be durable with this work or were in an earlier one."""
        state, log = self._state, self._state.log
        done = Message(MessageType.STORAGE_APPEND_RESPONSE, to=state.id, sender=state.id, term=state.term, snapshot=snapshot)
        done.group = state.config.group
        if log.unstable.entries:
            done.index, done.log_term = log.last_index, log.last_term
        return done

    def _is_hard_state_due(self) -> bool:
        """True when the hard state must be written now: a commit alone can wait for what comes next, or for a tick."""
        state, previous = self._state, self._previous_hard_state
        if (state.term, state.vote) != (previous.term, previous.vote):
            return True
        return state.log.commit_index != previous.commit and (self._commit_due or not state.config.commit_at_tick)

    def _is_soft_state_new(self) -> bool:
        state, previous = self._state, self._previous_soft_state
        return state.leader != previous.leader or state.role is not previous.role

    # --- what was done ---------------------------------------------------------------------------------------------

    def advance(self, work: StorageAppend) -> list[Message]:
        """`work` is durable, and all before it; returns the messages that may leave now that it is."""
        oldest = self._works.popleft() if self._works else None
        assert oldest is work, "works are advanced once, in the order they were handed out"
        messages = []
        for message in work.responses:
            if message.to == self._state.id:
                self._dispatch(message)
            else:
                messages.append(message)
        return messages

    def applied_to(self, index: int) -> None:
        """The state machine has applied all committed entries up to `index`."""
        state = self._state
        finished = state.log.applied_to(index)
        proposals.leave_joint(state)
        state.uncommitted_bytes = max(0, state.uncommitted_bytes - finished)

    def _check(self) -> None:
        log = self._state.log
        assert log.applied_index <= log.applying_index <= log.commit_index <= log.last_index
