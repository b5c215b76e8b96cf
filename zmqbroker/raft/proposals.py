"""What a leader takes into its log, and how the group's membership changes.

A membership change takes effect when it is applied, and one at a time: none is proposed before the last one is applied here. A
committed change that cannot be made changes nothing, on every node alike. Source: Raft §6, thesis §4; etcd/raft for the checks.
"""

from __future__ import annotations

from collections.abc import Sequence

from zmqbroker.errors import Busy, NotLeader
from zmqbroker.raft.confchange import ConfChange, InvalidChange, change_membership, decode, encode
from zmqbroker.raft.membership import Membership
from zmqbroker.raft.messages import NO_NODE, DropReason, Entry, EntryType, Message, MessageType, Role
from zmqbroker.raft.replication import Payload, append, broadcast_append, fits, maybe_commit, send_append
from zmqbroker.raft.state import RaftState
from zmqbroker.raft.trace import describe_change

__all__ = ["BUSY_RETRY_MS", "apply_change", "handle_propose", "leave_joint", "propose", "propose_change"]

#: Hint to a refused proposer: a few round trips and syncs, after which a healthy majority has committed a good part.
BUSY_RETRY_MS = 10


def propose(state: RaftState, kind: EntryType, data: bytes, data_crc: int | None = None) -> int:
    """Append one entry at the leader and send it; its index. Raises `NotLeader`, or `Busy` when that is for later."""
    if state.role is not Role.LEADER or state.id not in state.progress:
        raise NotLeader(f"node {state.id} does not lead group {state.config.group} at term {state.term}", leader=None)
    if state.transferee != NO_NODE:
        raise Busy(f"leadership is being handed to node {state.transferee}", retry_ms=BUSY_RETRY_MS)
    if not fits(state, len(data)):
        limit = state.config.uncommitted_bytes_max
        raise Busy(
            f"{state.uncommitted_bytes + len(data)} bytes would be uncommitted, the limit is {limit}", retry_ms=BUSY_RETRY_MS
        )
    index = append(state, ((kind, data, data_crc),))
    broadcast_append(state)
    return index


def propose_change(state: RaftState, change: ConfChange) -> int:
    """Append a membership change; its index. Raises `NotLeader`, `Busy`, or `InvalidChange` when it cannot be made now."""
    if state.role is Role.LEADER:
        if state.pending_change_index > state.log.applied_index:
            raise Busy("another membership change is not applied yet", retry_ms=BUSY_RETRY_MS)
        change_membership(state.membership, change)
    index = propose(state, EntryType.CHANGE, encode(change))
    state.pending_change_index = index
    return index


def _fault(state: RaftState, change: ConfChange) -> str:
    """Why a change cannot follow what is applied here; empty when it can."""
    if state.pending_change_index > state.log.applied_index:
        waits = (state.pending_change_index, state.log.applied_index)
        return "possible unapplied conf change at index {} (applied to {})".format(*waits)
    if state.membership.joint and change.changes:
        return "must transition out of joint config first"
    if not state.membership.joint and not change.changes:
        return "not in joint state; refusing empty conf change"
    return ""


def handle_propose(state: RaftState, message: Message) -> DropReason | None:
    """PROPOSE, from this node's shell or forwarded by another; the answer tells only that it was not taken at all."""
    if state.role is Role.LEADER:
        return _take(state, message)
    if state.role is not Role.FOLLOWER or state.leader == NO_NODE:
        state.trace("INFO %x no leader at term %d; dropping proposal", state.id, state.term)
        return DropReason.PROPOSAL_DROPPED
    if not state.config.forward_to_leader:
        text = "INFO %x not forwarding to leader %x at term %d; dropping proposal"
        state.trace(text, state.id, state.leader, state.term)
        return DropReason.PROPOSAL_DROPPED
    state.send(Message(MessageType.PROPOSE, to=state.leader, sender=message.sender, entries=message.entries))
    return None


def _take(state: RaftState, message: Message) -> DropReason | None:
    if state.id not in state.progress:
        return DropReason.PROPOSAL_DROPPED
    if state.transferee != NO_NODE:
        text = "DEBUG %x [term %d] transfer leadership to %x is in progress; dropping proposal"
        state.trace(text, state.id, state.term, state.transferee)
        return DropReason.PROPOSAL_DROPPED
    payloads = _checked(state, [(entry.type, entry.data, entry.data_crc) for entry in message.entries])
    if not fits(state, sum(len(data) for _, data, _ in payloads)):
        text = "WARN %x appending new entries to log would exceed uncommitted entry size limit; dropping proposal"
        state.trace(text, state.id)
        return DropReason.PROPOSAL_DROPPED
    append(state, payloads)
    broadcast_append(state)
    return None


def _checked(state: RaftState, payloads: Sequence[Payload]) -> list[Payload]:
    """Membership changes that cannot be made now become empty entries."""
    checked = []
    for position, (kind, data, crc) in enumerate(payloads):
        if kind is not EntryType.NORMAL:
            change = decode(data)
            fault = _fault(state, change)
            if fault and state.config.validate_changes:
                text = "INFO %x ignoring conf change %s at config %s: %s"
                state.trace(text, state.id, describe_change(kind, change), state.membership, fault)
                kind, data, crc = EntryType.NORMAL, b"", None
            else:
                state.pending_change_index = state.log.last_index + position + 1
        checked.append((kind, data, crc))
    return checked


def apply_change(state: RaftState, payload: bytes) -> None:
    """A committed change is being applied. One that cannot be made changes nothing."""
    try:
        membership, fresh = change_membership(state.membership, decode(payload))
    except InvalidChange as error:
        state.trace("WARN %x ignoring committed conf change at config %s: %s", state.id, state.membership, error)
        return
    enter(state, membership, fresh)


def enter(state: RaftState, membership: Membership, fresh: frozenset[int]) -> None:
    """A new membership is in force; a leader acts on it at once."""
    state.set_membership(membership, fresh)
    if state.role is not Role.LEADER:
        return
    if not membership.is_voter(state.id):
        if state.config.step_down_on_removal:
            state.become_follower(state.term, NO_NODE)
        return
    # The quorum may be smaller than before.
    if maybe_commit(state):
        broadcast_append(state)
    else:
        for node in state.others:
            send_append(state, node, send_if_empty=False)
    if state.transferee != NO_NODE and not membership.is_voter(state.transferee):
        state.transferee = NO_NODE


def leave_joint(state: RaftState) -> None:
    """End a joint membership that ends by itself, once the change that made it is applied; tried again until it is done."""
    membership = state.membership
    if not membership.auto_leave or state.role is not Role.LEADER or state.log.applied_index < state.pending_change_index:
        return
    # Empty, so that no limit can refuse it; a leadership transfer can, and the next leader tries again.
    leave = Message(MessageType.PROPOSE, entries=(Entry(0, 0, encode(ConfChange()), EntryType.CHANGE),))
    if dropped := _take(state, leave):
        text = "DEBUG not initiating automatic transition out of joint configuration %s: %s"
        state.trace(text, membership, dropped)
    else:
        state.trace("INFO initiating automatic transition out of joint configuration %s", membership)
