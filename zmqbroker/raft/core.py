"""`RaftCore`: one node of one Raft group as a function of what happens to it.

It has no clock, no socket and no file: time enters as ticks, chance as a seeded generator, and what is to be done leaves as a
`Ready`. The shell does, as often as it likes: `step`, `tick`, `propose`; then `ready`; then it sends `messages`, gives
`append` to its log, applies `committed` and calls `applied_to`; and when the log has made a work durable, `advance(work)`.
Invariants: works are advanced in the order they were handed out; applied <= commit <= last index; a message that promises
something about this node's disk leaves through `advance` only. Source: Raft figure 2; etcd/raft with asynchronous storage.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from random import Random

from zmqbroker.errors import NotLeader
from zmqbroker.raft import election, replication
from zmqbroker.raft.config import RaftConfig
from zmqbroker.raft.log import RaftLog
from zmqbroker.raft.messages import NO_NODE, HardState, Message, MessageType, Ready, Role, StorageAppend
from zmqbroker.raft.progress import ProgressStatus
from zmqbroker.raft.state import RaftState
from zmqbroker.raft.trace import MESSAGE_NAMES, Trace
from zmqbroker.raft.view import LogView

__all__ = ["RaftCore"]

_LOCAL = frozenset((MessageType.HUP, MessageType.STORAGE_APPEND_RESPONSE))
_RESPONSES = frozenset(
    (
        MessageType.APPEND_ENTRIES_RESPONSE,
        MessageType.REQUEST_VOTE_RESPONSE,
        MessageType.PRE_VOTE_RESPONSE,
        MessageType.HEARTBEAT_RESPONSE,
    )
)
_VOTE_RESPONSE_OF = {
    Role.CANDIDATE: MessageType.REQUEST_VOTE_RESPONSE,
    Role.PRE_CANDIDATE: MessageType.PRE_VOTE_RESPONSE,
}


class RaftCore:
    """One node of one group. `applied_index` is what the state machine already contains of the durable log."""

    __slots__ = ("_previous_hard_state", "_previous_soft_state", "_state", "_works")

    def __init__(
        self,
        config: RaftConfig,
        log: LogView,
        random: Random,
        applied_index: int = 0,
        trace: Callable[[str], None] | None = None,
    ) -> None:
        note = Trace(trace)
        hard_state = log.hard_state()
        raft_log = RaftLog(log, hard_state.commit, applied_index, config.committed_bytes_max, note)
        self._state = state = RaftState(config, raft_log, hard_state, random, note)
        text = "INFO newRaft %x [peers: [%s], term: %d, commit: %d, applied: %d, lastindex: %d, lastterm: %d]"
        peers = ",".join(f"{voter:x}" for voter in state.voters)
        indexes = (raft_log.commit_index, applied_index, raft_log.last_index, raft_log.last_term)
        note(text, state.id, peers, state.term, *indexes)
        self._previous_hard_state = hard_state  # as last given to the log
        self._previous_soft_state = state.soft_state  # as last given to the shell
        self._works: deque[StorageAppend] = deque()  # given to the log and not durable yet, oldest first

    # --- what happens to it ----------------------------------------------------------------------------------------

    def tick(self) -> None:
        """One unit of time has passed."""
        state = self._state
        state.election_elapsed += 1
        if state.role is Role.LEADER:
            self._tick_leader()
        elif state.election_elapsed >= state.election_timeout:
            state.election_elapsed = 0
            election.start_election(state)

    def _tick_leader(self) -> None:
        state = self._state
        if state.election_elapsed >= state.config.election_ticks:
            state.election_elapsed = 0
            if state.config.check_quorum and not self._check_quorum():
                return
        state.heartbeat_elapsed += 1
        if state.heartbeat_elapsed >= state.config.heartbeat_ticks:
            state.heartbeat_elapsed = 0
            replication.broadcast_heartbeat(state)

    def _check_quorum(self) -> bool:
        """Step down when no majority was heard from for an election timeout (thesis §6.2); False then."""
        state = self._state
        if not state.quorum_active():
            state.trace("WARN %x stepped down to follower since quorum is not active", state.id)
            state.become_follower(state.term, NO_NODE)
            return False
        for voter in state.voters:
            state.progress[voter].recent_active = voter == state.id
        return True

    def campaign(self) -> None:
        """Start an election now, as if the timeout had passed; nothing at a leader."""
        election.start_election(self._state)

    def step(self, message: Message) -> None:
        """A message from another node has come. What no peer of this group can have sent is ignored."""
        state = self._state
        stray = message.group != state.config.group or message.to != state.id or message.sender == state.id
        stray = stray or message.type in _LOCAL or message.term < 1
        if stray or (message.type in _RESPONSES and message.sender not in state.voters):
            state.trace("WARN %x ignored a stray %s from %x", state.id, MESSAGE_NAMES[message.type], message.sender)
            return
        self._dispatch(message)

    def _dispatch(self, message: Message) -> None:
        state = self._state
        if not election.accept_term(state, message):
            return
        kind = message.type
        if kind in (MessageType.APPEND_ENTRIES, MessageType.HEARTBEAT):
            self._hear_leader(message)
        elif kind in (MessageType.APPEND_ENTRIES_RESPONSE, MessageType.HEARTBEAT_RESPONSE):
            self._hear_follower(message)
        elif kind is MessageType.STORAGE_APPEND_RESPONSE:
            state.log.unstable.stable_to(message.index, message.log_term)
        elif kind in (MessageType.REQUEST_VOTE, MessageType.PRE_VOTE):
            election.handle_vote_request(state, message)
        elif kind is _VOTE_RESPONSE_OF.get(state.role):
            election.handle_vote_response(state, message)
        self._check()

    def _hear_leader(self, message: Message) -> None:
        state = self._state
        if state.role is Role.LEADER:
            # A term has one leader: this cannot be another one's.
            return
        if state.role is Role.FOLLOWER:
            state.election_elapsed = 0
            state.leader = message.sender
        else:
            state.become_follower(message.term, message.sender)
        if message.type is MessageType.HEARTBEAT:
            replication.handle_heartbeat(state, message)
        else:
            replication.handle_append_entries(state, message)

    def _hear_follower(self, message: Message) -> None:
        state = self._state
        if state.role is not Role.LEADER:
            return
        if message.type is MessageType.HEARTBEAT_RESPONSE:
            replication.handle_heartbeat_response(state, message)
        else:
            replication.handle_append_response(state, message)

    def propose(self, data: bytes) -> int:
        """Append `data` to the log of the group; its index, to be looked for under the present term.

        Raises `NotLeader`, or `Busy` when more than `uncommitted_bytes_max` would wait for being applied.
        """
        state = self._state
        if state.role is not Role.LEADER:
            raise NotLeader(f"node {state.id} does not lead group {state.config.group} at term {state.term}", leader=None)
        return replication.propose(state, data)

    # --- what it wants done ----------------------------------------------------------------------------------------

    def has_ready(self) -> bool:
        """True when `ready` has anything to say."""
        state, log = self._state, self._state.log
        return bool(
            state.messages
            or state.messages_after_append
            or log.unstable.in_progress <= log.last_index
            or log.has_committed
            or state.hard_state != self._previous_hard_state
            or state.soft_state != self._previous_soft_state
        )

    def ready(self) -> Ready:
        """Everything to be done now; it is handed out once, so do all of it."""
        state = self._state
        ready = Ready(messages=state.messages, append=self._next_work(), committed=state.log.next_committed())
        state.messages = []
        if state.soft_state != self._previous_soft_state:
            ready.soft_state = self._previous_soft_state = state.soft_state
        self._check()
        return ready

    def _next_work(self) -> StorageAppend | None:
        state, unstable = self._state, self._state.log.unstable
        entries = unstable.next_entries()
        hard_state = self._changed_hard_state()
        if not entries and hard_state is None and not state.messages_after_append:
            return None
        previous = self._previous_hard_state
        changed = hard_state is not None and (hard_state.term, hard_state.vote) != (previous.term, previous.vote)
        work = StorageAppend(state.config.group, entries, hard_state, must_sync=bool(entries) or changed)
        work.responses = state.messages_after_append
        state.messages_after_append = []
        if unstable.entries:
            # All unstable entries will be durable with this work or were in an earlier one; the answer says up to where.
            log = state.log
            done = Message(MessageType.STORAGE_APPEND_RESPONSE, to=state.id, sender=state.id, term=state.term)
            done.group, done.index, done.log_term = state.config.group, log.last_index, log.last_term
            work.responses.append(done)
        unstable.accept()
        if hard_state is not None:
            self._previous_hard_state = hard_state
        self._works.append(work)
        return work

    def _changed_hard_state(self) -> HardState | None:
        hard_state = self._state.hard_state
        return None if hard_state == self._previous_hard_state else hard_state

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
        state.uncommitted_bytes = max(0, state.uncommitted_bytes - finished)

    def _check(self) -> None:
        log = self._state.log
        assert log.applied_index <= log.applying_index <= log.commit_index <= log.last_index

    # --- what can be read of it ------------------------------------------------------------------------------------

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
        """Every voter as this leader sees it, by id in ascending order; empty at any other node."""
        state = self._state
        if state.role is not Role.LEADER:
            return {}
        return {voter: state.progress[voter].status() for voter in state.voters}

    def matched_by_all(self) -> int:
        """The last index that is durable on every voter, at a leader; 0 at any other node."""
        state = self._state
        if state.role is not Role.LEADER:
            return 0
        return min(state.log.stable_index, *(state.progress[voter].match_index for voter in state.voters))
