"""Terms, votes and campaigns.

A vote is given once per term, to a candidate whose log is at least as up to date, and never while a leader is fresh (with
CheckQuorum). A pre-vote changes nothing at the voter. No vote, not even the candidate's own, is sent or counted before it
is durable, and none is asked for before the term, the own vote and the log that the request tells of are: all of these go
through the after-append outbox. A candidate that forgot them in a crash could use votes that were given for a log which it no
longer has, or win the same term twice and give an index in it to two entries. Source: Raft §5.2, §5.4.1, thesis §4.2.3 and
§9.6; etcd/raft for the answers to late messages.
"""

from __future__ import annotations

from collections.abc import Iterable

from zmqbroker.raft.messages import FORCED_ELECTION, NO_NODE, Message, MessageType, Role
from zmqbroker.raft.quorum import VoteResult, vote_result
from zmqbroker.raft.replication import broadcast_append, start_term
from zmqbroker.raft.state import RaftState
from zmqbroker.raft.trace import MESSAGE_NAMES

__all__ = [
    "accept_term",
    "forget_leader",
    "handle_vote_request",
    "handle_vote_response",
    "learn_commit",
    "start_election",
    "tell_commit",
]

_RESPONSE = {
    MessageType.REQUEST_VOTE: MessageType.REQUEST_VOTE_RESPONSE,
    MessageType.PRE_VOTE: MessageType.PRE_VOTE_RESPONSE,
}
_FROM_LEADER = frozenset((MessageType.APPEND_ENTRIES, MessageType.HEARTBEAT, MessageType.INSTALL_SNAPSHOT))


def accept_term(state: RaftState, message: Message) -> bool:
    """Compare the message's term with ours, step down where it is higher; False when the message is done with."""
    if message.term == state.term:
        return True
    if message.term < state.term:
        _answer_lower_term(state, message)
        return False
    if message.type in _RESPONSE and message.context != FORCED_ELECTION and _leader_is_fresh(state):
        text = "INFO %x [logterm: %d, index: %d, vote: %x] ignored %s from %x [logterm: %d, index: %d] at term %d: "
        remaining = state.config.election_ticks - state.election_elapsed
        _note_vote(state, message, text + "lease is not expired (remaining ticks: %d)", state.term, remaining)
        return False
    # A pre-vote asks about a term that nobody has entered, and a granted one answers about it: no reason to enter it. A
    # refused one carries the refusing node's own term.
    granted = message.type is MessageType.PRE_VOTE_RESPONSE and not message.reject
    if message.type is not MessageType.PRE_VOTE and not granted:
        text = "INFO %x [term: %d] received a %s message with higher term from %x [term: %d]"
        state.trace(text, state.id, state.term, MESSAGE_NAMES[message.type], message.sender, message.term)
        state.become_follower(message.term, message.sender if message.type in _FROM_LEADER else NO_NODE)
    return True


def _leader_is_fresh(state: RaftState) -> bool:
    """With CheckQuorum, a leader that was heard of within the shortest election timeout is still one (thesis §4.2.3)."""
    return state.config.check_quorum and state.leader != NO_NODE and state.election_elapsed < state.config.election_ticks


def _answer_lower_term(state: RaftState, message: Message) -> None:
    asked = message.type in (MessageType.APPEND_ENTRIES, MessageType.HEARTBEAT)
    if asked and (state.config.check_quorum or state.config.pre_vote):
        # This node's term is ahead of its leader's, for instance after a partition, and its votes are ignored while the
        # leader is fresh. The answer's term makes the leader step down, so that an election lets this node in again.
        state.send(Message(MessageType.APPEND_ENTRIES_RESPONSE, to=message.sender))
    elif message.type is MessageType.PRE_VOTE:
        # Dropped, it could leave a pre-candidate with a lower term asking for ever; refused, it learns the term.
        _refuse(state, message)
    elif message.type is MessageType.STORAGE_APPEND_RESPONSE:
        # What was written may have been replaced since, with the write of that still under way (ABA).
        if message.index:
            text = "INFO %x [term: %d] ignored entry appends from a %s message with lower term [term: %d]"
            state.trace(text, state.id, state.term, MESSAGE_NAMES[message.type], message.term)
        if message.snapshot is not None:
            # A snapshot of committed state is right in every term.
            state.log.snapshot_installed(message.snapshot)
    else:
        text = "INFO %x [term: %d] ignored a %s message with lower term from %x [term: %d]"
        state.trace(text, state.id, state.term, MESSAGE_NAMES[message.type], message.sender, message.term)


def _share_commit(state: RaftState, message: Message) -> None:
    """Tell what is committed, with the term of that entry."""
    commit_term = state.log.term_or_none(state.log.commit_index)
    if state.config.share_commit_in_votes and commit_term is not None:
        message.commit, message.reject_hint = state.log.commit_index, commit_term


def learn_commit(state: RaftState, message: Message) -> None:
    """A request or refusal of a vote tells what is committed: true here as well, where the same entry stands.

    Without it a cluster can come to rest. A voter with the longest log that has not heard of the commit of a membership change
    needs the votes of those who have left; the others, who have heard of it, need its vote, and their logs are shorter.
    """
    told = message.commit > state.log.commit_index and state.role is not Role.LEADER
    if not told or state.log.term_or_none(message.commit) != message.reject_hint:
        return
    state.log.commit_to(message.commit)
    if state.role is not Role.FOLLOWER and state.log.has_unapplied_change():
        state.become_follower(state.term, NO_NODE)  # who votes is not known here any more


def tell_commit(state: RaftState) -> None:
    """A node that may not campaign has missed its leader for an election timeout: it tells the others what is committed.

    It may be the only one that knows of a change by which they vote and it does not, as a removed leader is, and they may be
    learners in their own view, waiting for a leader that only they could be. The pre-vote that tells it is never counted.
    """
    state.election_elapsed = 0
    state.leader = NO_NODE  # also so that this node, counted from now on, does not take it for fresh
    _request_votes(state, MessageType.PRE_VOTE, state.term + 1, state.others)


def start_election(state: RaftState, *, forced: bool = False) -> None:
    """Campaign, beginning with a pre-vote where that is configured; `forced` when the leader asked for it (thesis §3.10)."""
    if state.role is Role.LEADER:
        state.trace("DEBUG %x ignoring MsgHup because already leader", state.id)
        return
    if not state.promotable:
        state.trace("WARN %x is unpromotable and can not campaign", state.id)
        return
    if state.log.has_unapplied_change():
        # Who votes is not known here yet.
        text = "WARN %x cannot campaign at term %d since there are still pending configuration changes to apply"
        state.trace(text, state.id, state.term)
        return
    state.trace("INFO %x is starting a new election at term %d", state.id, state.term)
    if state.config.pre_vote and not forced:
        state.become_pre_candidate()
        _request_votes(state, MessageType.PRE_VOTE, state.term + 1, state.membership.all_voters)
    else:
        _campaign(state, FORCED_ELECTION if forced else 0)


def _campaign(state: RaftState, context: int = 0) -> None:
    state.become_candidate()
    _request_votes(state, MessageType.REQUEST_VOTE, state.term, state.membership.all_voters, context)


def _request_votes(state: RaftState, kind: MessageType, term: int, voters: Iterable[int], context: int = 0) -> None:
    index, log_term = state.log.last_index, state.log.last_term
    for voter in voters:
        if voter == state.id:
            # Its own vote counts like any other: when it is durable.
            state.send(Message(_RESPONSE[kind], to=voter, term=term))
            continue
        text = "INFO %x [logterm: %d, index: %d] sent %s request to %x at term %d"
        state.trace(text, state.id, log_term, index, MESSAGE_NAMES[kind], voter, state.term)
        request = Message(kind, to=voter, term=term, index=index, log_term=log_term, context=context)
        _share_commit(state, request)
        state.send(request)


def handle_vote_request(state: RaftState, message: Message) -> None:
    """Answer REQUEST_VOTE or PRE_VOTE of this term, or a PRE_VOTE for a later one."""
    pre_vote = message.type is MessageType.PRE_VOTE
    free = (
        state.vote == message.sender
        or (state.vote == NO_NODE and state.leader == NO_NODE)
        or (pre_vote and message.term > state.term)
    )
    if not free or not state.log.is_up_to_date(message.index, message.log_term):
        _refuse(state, message)
        return
    text = "INFO %x [logterm: %d, index: %d, vote: %x] cast %s for %x [logterm: %d, index: %d] at term %d"
    _note_vote(state, message, text, state.term)
    # The answer carries the request's term: for a pre-vote that is a later one than this node's.
    state.send(Message(_RESPONSE[message.type], to=message.sender, term=message.term))
    if not pre_vote:
        state.election_elapsed = 0
        state.vote = message.sender


def _refuse(state: RaftState, message: Message) -> None:
    text = "INFO %x [logterm: %d, index: %d, vote: %x] rejected %s from %x [logterm: %d, index: %d] at term %d"
    _note_vote(state, message, text, state.term)
    answer = Message(_RESPONSE[message.type], to=message.sender, term=state.term, reject=True)
    _share_commit(state, answer)
    state.send(answer)


def _note_vote(state: RaftState, message: Message, text: str, *values: int) -> None:
    mine = (state.id, state.log.last_term, state.log.last_index, state.vote)
    state.trace(text, *mine, MESSAGE_NAMES[message.type], message.sender, message.log_term, message.index, *values)


def handle_vote_response(state: RaftState, message: Message) -> None:
    """Count an answer to this campaign and act on its result."""
    name = MESSAGE_NAMES[message.type]
    if message.reject:
        state.trace("INFO %x received %s rejection from %x at term %d", state.id, name, message.sender, state.term)
    else:
        state.trace("INFO %x received %s from %x at term %d", state.id, name, message.sender, state.term)
    state.votes.setdefault(message.sender, not message.reject)
    votes = {voter: vote for voter, vote in state.votes.items() if state.membership.is_voter(voter)}
    granted = sum(votes.values())
    text = "INFO %x has received %d %s votes and %d vote rejections"
    state.trace(text, state.id, granted, name, len(votes) - granted)
    result = vote_result(votes, state.membership)
    if result is VoteResult.WON:
        if state.role is Role.PRE_CANDIDATE:
            _campaign(state)
        else:
            state.become_leader()
            start_term(state)
            broadcast_append(state)
    elif result is VoteResult.LOST:
        state.become_follower(state.term, NO_NODE)


def forget_leader(state: RaftState) -> None:
    """Be a follower of nobody until a leader is heard of; this node may then grant a vote."""
    if state.role is not Role.FOLLOWER:
        return
    if state.config.lease_reads:
        # The lease rests on followers that keep their promise to vote for nobody else.
        state.trace("ERROR ignoring MsgForgetLeader due to ReadOnlyLeaseBased")
    elif state.leader != NO_NODE:
        state.trace("INFO %x forgetting leader %x at term %d", state.id, state.leader, state.term)
        state.leader = NO_NODE
