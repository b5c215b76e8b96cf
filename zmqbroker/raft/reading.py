"""ReadIndex: what index a state has to reach before a read of it is linearizable.

The leader answers with its commit index as of the request's arrival, once it has committed an entry of its own term (before, it
may be behind) and a majority has confirmed since that it still leads. Source: thesis §6.4; etcd/raft.
"""

from __future__ import annotations

from zmqbroker.errors import Busy, NotLeader
from zmqbroker.raft.messages import NO_NODE, Message, MessageType, ReadState, Role
from zmqbroker.raft.state import RaftState

__all__ = ["BUSY_RETRY_MS", "handle_read_index", "handle_read_index_response", "read_index", "release_early", "release_reads"]

#: A round of heartbeats takes this long where nodes are near.
BUSY_RETRY_MS = 5


def read_index(state: RaftState, request: int) -> None:
    """Ask for this node's own `request`. Raises `NotLeader` when nobody is known to lead, or `Busy`."""
    if state.role is Role.LEADER:
        if state.reads.full:
            raise Busy(f"{state.config.reads_max} reads are waiting", retry_ms=BUSY_RETRY_MS)
        _take(state, NO_NODE, request)
    elif state.role is not Role.FOLLOWER or state.leader == NO_NODE:
        raise NotLeader(f"node {state.id} knows no leader of group {state.config.group}", leader=None)
    else:
        state.send(Message(MessageType.READ_INDEX, to=state.leader, context=request))


def handle_read_index(state: RaftState, message: Message) -> None:
    """A follower asks. Only a leader answers; whom nobody answers asks again."""
    if state.role is Role.LEADER and not state.reads.full:
        _take(state, message.sender, message.context)


def _take(state: RaftState, sender: int, request: int) -> None:
    voters = state.membership.all_voters
    if state.log.term_or_none(state.log.commit_index) != state.term:
        state.reads.wait_for_commit(sender, request)
    elif voters == (state.id,) or state.config.lease_reads:
        _answer(state, sender, request, state.log.commit_index)
    else:
        state.reads.add(sender, request, state.log.commit_index)


def _answer(state: RaftState, sender: int, request: int, index: int) -> None:
    if sender == NO_NODE:
        state.read_states.append(ReadState(request, index))
    else:
        state.send(Message(MessageType.READ_INDEX_RESPONSE, to=sender, index=index, context=request))


def release_early(state: RaftState) -> None:
    """The term has its first commit: reads that waited for it begin."""
    for sender, request in state.reads.take_early():
        _take(state, sender, request)


def release_reads(state: RaftState, message: Message) -> None:
    """A heartbeat was answered: answer the reads which that confirms."""
    state.reads.answered(message.sender, message.context)
    for read in state.reads.confirmed(state.id, state.membership):
        _answer(state, read.sender, read.request, read.index)


def handle_read_index_response(state: RaftState, message: Message) -> None:
    """The leader's answer to this node's own request."""
    if state.role is Role.FOLLOWER:
        state.read_states.append(ReadState(message.context, message.index))
