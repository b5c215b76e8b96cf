"""The state of one Raft node in one group, and the changes of role that every part of the core needs.

Holds two outboxes, so that nothing that depends on the disk can leave before it: `messages` may go at once,
`messages_after_append` only after everything this node has given to its log so far is durable. Which of the two a message
belongs to follows from its type alone. Source: Raft figure 2; etcd/raft for the outboxes.
"""

from __future__ import annotations

from random import Random

from zmqbroker.raft.config import RaftConfig
from zmqbroker.raft.log import RaftLog
from zmqbroker.raft.messages import NO_NODE, HardState, Message, MessageType, Role, SoftState
from zmqbroker.raft.progress import Inflights, Progress
from zmqbroker.raft.quorum import VoteResult, vote_result
from zmqbroker.raft.trace import Trace

__all__ = ["RaftState"]

#: They promise something about this node's disk. The sender counts its own vote and its own append by the same rule.
_AFTER_APPEND = frozenset(
    (MessageType.APPEND_ENTRIES_RESPONSE, MessageType.REQUEST_VOTE_RESPONSE, MessageType.PRE_VOTE_RESPONSE)
)

#: Their term is not always the sender's: a pre-vote asks about, and is granted for, a term nobody has entered yet.
_WITH_OWN_TERM = frozenset(
    (
        MessageType.REQUEST_VOTE,
        MessageType.REQUEST_VOTE_RESPONSE,
        MessageType.PRE_VOTE,
        MessageType.PRE_VOTE_RESPONSE,
    )
)


class RaftState:
    """Everything that one node remembers of one group; the functions of `election` and `replication` work on it."""

    __slots__ = (
        "compacted_probes",
        "config",
        "election_elapsed",
        "election_timeout",
        "heartbeat_elapsed",
        "id",
        "leader",
        "log",
        "messages",
        "messages_after_append",
        "progress",
        "random",
        "role",
        "term",
        "trace",
        "uncommitted_bytes",
        "vote",
        "voters",
        "votes",
    )

    def __init__(self, config: RaftConfig, log: RaftLog, hard_state: HardState, random: Random, trace: Trace) -> None:
        self.config = config
        self.id = config.id
        self.voters = tuple(sorted(config.voters))  # the order in which they are written to
        self.log = log
        self.random = random
        self.trace = trace
        self.term = hard_state.term  # never goes back
        self.vote = hard_state.vote  # given in `term`; changes once per term, from NO_NODE
        self.leader = NO_NODE  # of `term`, as far as this node knows
        self.role = Role.FOLLOWER
        self.votes: dict[int, bool] = {}  # answers in this campaign
        self.progress: dict[int, Progress] = {}  # every voter, this node included; means something at a leader only
        self.election_elapsed = 0  # ticks since the leader was heard of; at a leader, since the last CheckQuorum
        self.heartbeat_elapsed = 0  # ticks since the last heartbeat; at a leader only
        self.election_timeout = 0  # election_ticks .. 2 * election_ticks - 1, drawn anew with every change
        self.uncommitted_bytes = 0  # payloads proposed here in this term and not applied yet
        self.compacted_probes = 0  # sends that failed because the log no longer held the entries
        self.messages: list[Message] = []
        self.messages_after_append: list[Message] = []
        self.become_follower(self.term, NO_NODE)

    def send(self, message: Message) -> None:
        """Address `message` and put it into the outbox of its type."""
        message.sender = self.id
        message.group = self.config.group
        if message.type not in _WITH_OWN_TERM:
            message.term = self.term
        assert message.term > 0, "nothing is said before the first term"
        if message.type in _AFTER_APPEND:
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
        last_index = self.log.last_index
        for voter in self.voters:
            inflights = Inflights(self.config.inflight_messages_max, self.config.inflight_bytes_max)
            match_index = last_index if voter == self.id else 0
            self.progress[voter] = Progress(match_index=match_index, next_index=last_index + 1, inflights=inflights)

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
        self.trace("INFO %x became leader at term %d", self.id, self.term)

    def quorum_active(self) -> bool:
        """True when a majority was heard from since the last CheckQuorum."""
        active = {voter: self.progress[voter].recent_active for voter in self.voters}
        return vote_result(self.voters, active) is VoteResult.WON

    @property
    def soft_state(self) -> SoftState:
        """Leader and role."""
        return SoftState(self.leader, self.role)

    @property
    def hard_state(self) -> HardState:
        """Term, vote and commit index as they have to become durable."""
        return HardState(self.term, self.vote, self.log.commit_index)
