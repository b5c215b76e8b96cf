"""Handing leadership to a chosen voter.

The leader stops taking proposals, brings the other's log up to its own and tells it to campaign at once, without a pre-vote and
without regard to the fresh leader. If that has not worked within an election timeout, the leader goes on. Source: thesis §3.10.
"""

from __future__ import annotations

from zmqbroker.raft import election
from zmqbroker.raft.messages import NO_NODE, Message, MessageType, Role
from zmqbroker.raft.replication import send_append
from zmqbroker.raft.state import RaftState

__all__ = ["continue_transfer", "handle_timeout_now", "handle_transfer"]


def handle_transfer(state: RaftState, transferee: int) -> None:
    """Someone wants `transferee` to lead."""
    if state.role is Role.LEADER:
        _transfer(state, transferee)
    elif state.role is Role.FOLLOWER and state.leader == NO_NODE:
        state.trace("INFO %x no leader at term %d; dropping leader transfer msg", state.id, state.term)
    elif state.role is Role.FOLLOWER and state.config.forward_to_leader:
        state.send(Message(MessageType.TRANSFER_LEADER, to=state.leader, sender=transferee))


def _transfer(state: RaftState, transferee: int) -> None:
    progress = state.progress.get(transferee)
    if progress is None:
        state.trace("DEBUG %x no progress available for %x", state.id, transferee)
        return
    if progress.learner:
        state.trace("DEBUG %x is learner. Ignored transferring leadership", state.id)
        return
    if state.transferee == transferee:
        text = "INFO %x [term %d] transfer leadership to %x is in progress, ignores request to same node %x"
        state.trace(text, state.id, state.term, transferee, transferee)
        return
    if state.transferee != NO_NODE:
        text = "INFO %x [term %d] abort previous transferring leadership to %x"
        state.trace(text, state.id, state.term, state.transferee)
        state.transferee = NO_NODE
    if transferee == state.id:
        state.trace("DEBUG %x is already leader. Ignored transferring leadership to self", state.id)
        return
    state.trace("INFO %x [term %d] starts to transfer leadership to %x", state.id, state.term, transferee)
    state.election_elapsed = 0  # it has one election timeout
    state.transferee = transferee
    if progress.match_index == state.log.last_index:
        _send_timeout_now(state, transferee)
        text = "INFO %x sends MsgTimeoutNow to %x immediately as %x already has up-to-date log"
        state.trace(text, state.id, transferee, transferee)
    else:
        send_append(state, transferee, send_if_empty=True)


def continue_transfer(state: RaftState, sender: int) -> None:
    """`sender` acknowledged entries: if it is to lead next and has them all, it may campaign."""
    if sender == state.transferee and state.progress[sender].match_index == state.log.last_index:
        state.trace("INFO %x sent MsgTimeoutNow to %x after received MsgAppResp", state.id, sender)
        _send_timeout_now(state, sender)


def _send_timeout_now(state: RaftState, to: int) -> None:
    state.send(Message(MessageType.TIMEOUT_NOW, to=to))


def handle_timeout_now(state: RaftState, message: Message) -> None:
    """The leader wants this node to lead."""
    if state.role is Role.FOLLOWER:
        text = "INFO %x [term %d] received MsgTimeoutNow from %x and starts an election to get leadership."
        state.trace(text, state.id, state.term, message.sender)
        election.start_election(state, forced=True)
    elif state.role is not Role.LEADER:
        text = "DEBUG %x [term %d state %s] ignored MsgTimeoutNow from %x"
        state.trace(text, state.id, state.term, state.role.name, message.sender)
