"""What of another node's message is believed.

A message that no correct member can have sent is refused with a reason, before anything looks at it: believed, it would break
an invariant and end this node. What messages of earlier terms say is not judged: they change nothing.
"""

from __future__ import annotations

from zmqbroker.raft.messages import DropReason, Message, MessageType, Role
from zmqbroker.raft.state import RaftState

__all__ = ["TERM_MAX", "judge"]

#: No group comes here in any lifetime; beyond it terms would outgrow their 64 bits.
TERM_MAX = 1 << 62

_LOCAL = frozenset((MessageType.STORAGE_APPEND_RESPONSE,))
_RESPONSES = frozenset(
    (
        MessageType.APPEND_ENTRIES_RESPONSE,
        MessageType.REQUEST_VOTE_RESPONSE,
        MessageType.PRE_VOTE_RESPONSE,
        MessageType.HEARTBEAT_RESPONSE,
        MessageType.READ_INDEX_RESPONSE,
    )
)
_TERMLESS = frozenset((MessageType.PROPOSE, MessageType.READ_INDEX))
_FORWARDED = frozenset((MessageType.PROPOSE, MessageType.TRANSFER_LEADER))
_FROM_LEADER = frozenset((MessageType.APPEND_ENTRIES, MessageType.HEARTBEAT, MessageType.INSTALL_SNAPSHOT))
#: Their log_term is of a log whose terms are at most the message's.
_WITH_LOG_TERM = _FROM_LEADER | {MessageType.REQUEST_VOTE, MessageType.PRE_VOTE}


def judge(state: RaftState, message: Message) -> DropReason | None:
    """Why `message` cannot be what a member of this group sent to this node; None when it can."""
    kind = message.type
    if message.group != state.config.group:
        return DropReason.OTHER_GROUP
    if message.to != state.id:
        return DropReason.OTHER_RECEIVER
    if kind in _LOCAL:
        return DropReason.LOCAL_TYPE
    if kind in _FORWARDED:
        if not state.config.forward_to_leader:
            return DropReason.NOT_FORWARDED
    elif message.sender == state.id:
        return DropReason.OWN_MESSAGE
    if message.term < 1 and kind not in _TERMLESS:
        return DropReason.NO_TERM
    if message.term > TERM_MAX or (message.log_term > message.term and kind in _WITH_LOG_TERM):
        return DropReason.IMPOSSIBLE_TERM
    if kind in _RESPONSES and message.sender not in state.progress:
        return DropReason.UNKNOWN_SENDER
    return None if message.term < state.term else _judge_content(state, message)


def _judge_content(state: RaftState, message: Message) -> DropReason | None:
    """Of messages that this node would act on."""
    kind, log = message.type, state.log
    if kind in _FROM_LEADER and state.role is Role.LEADER and message.term == state.term:
        return DropReason.SECOND_LEADER
    if kind is MessageType.APPEND_ENTRIES:
        return _judge_entries(state, message)
    if kind is MessageType.APPEND_ENTRIES_RESPONSE:
        leads = state.role is Role.LEADER and message.term == state.term
        return DropReason.INDEX_BEYOND_LOG if leads and not message.reject and message.index > log.last_index else None
    if kind is MessageType.HEARTBEAT and message.commit > log.last_index:
        return DropReason.COMMIT_BEYOND_LOG
    if kind is MessageType.INSTALL_SNAPSHOT and not _is_snapshot(message):
        return DropReason.BAD_SNAPSHOT
    return None


def _judge_entries(state: RaftState, message: Message) -> DropReason | None:
    index, term = message.index, message.log_term
    for entry in message.entries:
        index += 1
        if entry.index != index or not term <= entry.term <= message.term:
            return DropReason.BAD_ENTRIES
        term = entry.term
    if message.index <= state.log.commit_index:
        # Every leader has what is committed (Raft §5.4.3).
        found = state.log.term_or_none(message.index)
        if found is not None and found != message.log_term:
            return DropReason.COMMITTED_CONFLICT
    return None


def _is_snapshot(message: Message) -> bool:
    snapshot = message.snapshot
    if snapshot is None or not snapshot.membership.voters or snapshot.membership.faults():
        return False
    return snapshot.index >= 1 and 1 <= snapshot.term <= message.term
