"""The state of one Raft node in one group, and the changes of role that every part of the core needs.

Holds two outboxes, so that nothing that depends on the disk can leave before it: `messages` may go at once,
`messages_after_append` only after everything this node has given to its log so far is durable. Which of the two a message
belongs to follows from its type alone. Source: Raft figure 2; etcd/raft for the outboxes.
"""

from __future__ import annotations

from random import Random

from zmqbroker.raft.config import RaftConfig
from zmqbroker.raft.log import RaftLog
from zmqbroker.raft.membership import Membership
from zmqbroker.raft.messages import NO_NODE, HardState, Message, MessageType, ReadState, Role, SoftState
from zmqbroker.raft.progress import Inflights, Progress
from zmqbroker.raft.quorum import VoteResult, vote_result
from zmqbroker.raft.reads import PendingReads
from zmqbroker.raft.trace import Trace

__all__ = ["RaftState"]

#: They promise something about this node's disk. The sender counts its own vote and its own append by the same rule. A request
#: for votes tells of a term, a vote and a log that a crash must not undo; one for pre-votes binds nobody.
_AFTER_APPEND = frozenset(
    (
        MessageType.APPEND_ENTRIES_RESPONSE,
        MessageType.REQUEST_VOTE,
        MessageType.REQUEST_VOTE_RESPONSE,
        MessageType.PRE_VOTE_RESPONSE,
    )
)
#: Where the reference's scenarios are replayed.
_AFTER_APPEND_THERE = _AFTER_APPEND - {MessageType.REQUEST_VOTE}

#: Their term is not always the sender's: a pre-vote asks about, and is granted for, a term nobody has entered yet.
_WITH_OWN_TERM = frozenset(
    (
        MessageType.REQUEST_VOTE,
        MessageType.REQUEST_VOTE_RESPONSE,
        MessageType.PRE_VOTE,
        MessageType.PRE_VOTE_RESPONSE,
    )
)

#: They travel outside of terms: what they ask for is asked of whoever leads.
_WITHOUT_TERM = frozenset((MessageType.PROPOSE, MessageType.READ_INDEX))


class RaftState:
    """Everything that one node remembers of one group; the functions of the modules beside this one work on it."""

    __slots__ = (
        "_after_append",
        "compacted_probes",
        "config",
        "election_elapsed",
        "election_timeout",
        "heartbeat_elapsed",
        "id",
        "leader",
        "log",
        "membership",
        "messages",
        "messages_after_append",
        "others",
        "pending_change_index",
        "progress",
        "random",
        "read_states",
        "reads",
        "role",
        "term",
        "trace",
        "transferee",
        "uncommitted_bytes",
        "vote",
        "votes",
    )

    def __init__(self, config: RaftConfig, log: RaftLog, hard_state: HardState, random: Random, trace: Trace) -> None:
        self.config = config
        self.id = config.id
        self.log = log
        self.random = random
        self.trace = trace
        self.term = hard_state.term  # never goes back
        self.vote = hard_state.vote  # given in `term`; changes once per term, from NO_NODE
        self.leader = NO_NODE  # of `term`, as far as this node knows
        self.role = Role.FOLLOWER
        self.votes: dict[int, bool] = {}  # answers in this campaign
        self.membership = Membership()  # as of the last applied change or snapshot
        self.others: tuple[int, ...] = ()  # everybody else who gets the log, in the order in which they are written to
        self.progress: dict[int, Progress] = {}  # every member, this node included; means something at a leader only
        self.pending_change_index = 0  # of the last membership change proposed; another waits until this one is applied
        self.transferee = NO_NODE  # whom leadership is being handed to; no proposals meanwhile
        self.reads = PendingReads(config.reads_max)
        self.read_states: list[ReadState] = []  # to be handed out
        self.election_elapsed = 0  # ticks since the leader was heard of; at a leader, since the last CheckQuorum
        self.heartbeat_elapsed = 0  # ticks since the last heartbeat; at a leader only
        self.election_timeout = 0  # election_ticks .. 2 * election_ticks - 1, drawn anew with every change
        self.uncommitted_bytes = 0  # payloads proposed here in this term and not applied yet
        self.compacted_probes = 0  # sends that failed because the log no longer held the entries
        self._after_append = _AFTER_APPEND_THERE if config.campaign_before_durable else _AFTER_APPEND
        self.messages: list[Message] = []
        self.messages_after_append: list[Message] = []

    def set_membership(self, membership: Membership, fresh: frozenset[int]) -> None:
        """Know who takes part from now on; the progress of the `fresh` begins anew."""
        self.membership = membership
        self.others = tuple(node for node in membership.all_nodes if node != self.id)
        known = self.progress
        self.progress = {}
        for node in membership.all_nodes:
            progress = known.get(node) if node not in fresh else None
            if progress is None:
                # Probed from the end; counted as active, so that a leader does not step down before it could answer.
                progress = self._new_progress(match_index=0, next_index=max(self.log.last_index, 1))
                progress.recent_active = True
            progress.learner = node in membership.learners
            self.progress[node] = progress
        self.trace("INFO %x switched to configuration %s", self.id, membership)

    def _new_progress(self, *, match_index: int, next_index: int) -> Progress:
        inflights = Inflights(self.config.inflight_messages_max, self.config.inflight_bytes_max)
        return Progress(match_index=match_index, next_index=next_index, inflights=inflights)

    @property
    def promotable(self) -> bool:
        """True for a node that may campaign: a voter, whose log is not being replaced."""
        return self.membership.is_voter(self.id) and self.log.unstable.snapshot is None

    def send(self, message: Message) -> None:
        """Address `message` and put it into the outbox of its type."""
        if message.sender == NO_NODE:
            message.sender = self.id
        message.group = self.config.group
        if message.type in _WITHOUT_TERM:
            message.term = 0
        elif message.type not in _WITH_OWN_TERM:
            message.term = self.term
        assert message.term > 0 or message.type in _WITHOUT_TERM, "nothing is said before the first term"
        if message.type in self._after_append:
            self.messages_after_append.append(message)
        else:
            assert message.to != self.id
            self.messages.append(message)

    def _reset(self, term: int) -> None:
        assert term >= self.term, "terms never go back"
        if term != self.term:
            self.term = term
            self.vote = NO_NODE
        self.leader = NO_NODE
        self.election_elapsed = 0
        self.heartbeat_elapsed = 0
        self.election_timeout = self.config.election_ticks + self.random.randrange(self.config.election_ticks)
        self.votes = {}
        self.uncommitted_bytes = 0
        self.transferee = NO_NODE
        self.pending_change_index = 0
        self.reads.clear()
        last_index = self.log.last_index
        for node, old in self.progress.items():
            match_index = last_index if node == self.id else 0
            progress = self._new_progress(match_index=match_index, next_index=last_index + 1)
            progress.learner = old.learner
            self.progress[node] = progress

    def become_follower(self, term: int, leader: int) -> None:
        """Follow `leader`, which may not be known yet, in `term`."""
        self._reset(term)
        self.leader = leader
        self.role = Role.FOLLOWER
        self.trace("INFO %x became follower at term %d", self.id, self.term)

    def become_pre_candidate(self) -> None:
        """Ask whether an election could be won, changing neither term nor vote."""
        assert self.role is not Role.LEADER
        self.votes = {}
        self.leader = NO_NODE
        self.role = Role.PRE_CANDIDATE
        self.trace("INFO %x became pre-candidate at term %d", self.id, self.term)

    def become_candidate(self) -> None:
        """Enter the next term and vote for itself; the vote counts when it is durable."""
        assert self.role is not Role.LEADER
        self._reset(self.term + 1)
        self.vote = self.id
        self.role = Role.CANDIDATE
        self.trace("INFO %x became candidate at term %d", self.id, self.term)

    def become_leader(self) -> None:
        """Lead `term`. The caller appends and sends the term's first, empty entry."""
        assert self.role is Role.CANDIDATE
        self._reset(self.term)
        self.leader = self.id
        self.role = Role.LEADER
        own = self.progress[self.id]
        own.become_replicate()
        own.recent_active = True  # and stays so: a leader always hears itself
        # A change may wait among what earlier terms left: none is proposed before that is applied.
        self.pending_change_index = self.log.last_index
        self.trace("INFO %x became leader at term %d", self.id, self.term)

    def quorum_active(self) -> bool:
        """True when a majority was heard from since the last CheckQuorum."""
        active = {node: progress.recent_active for node, progress in self.progress.items()}
        return vote_result(active, self.membership) is VoteResult.WON

    @property
    def soft_state(self) -> SoftState:
        """Leader and role."""
        return SoftState(self.leader, self.role)

    @property
    def hard_state(self) -> HardState:
        """Term, vote and commit index as they have to become durable."""
        return HardState(self.term, self.vote, self.log.commit_index)
