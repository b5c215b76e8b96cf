"""The lines a core writes about itself: through an injected callable, or nowhere.

Lines have the wording of etcd/raft, so that its recorded scenarios can be compared line by line; ids are in hexadecimal.
Nothing depends on a trace.
"""

from __future__ import annotations

from collections.abc import Callable

from zmqbroker.raft.confchange import ChangeType, ConfChange, Transition
from zmqbroker.raft.messages import EntryType, MessageType

__all__ = ["MESSAGE_NAMES", "Trace", "describe_change"]

#: What etcd/raft calls each message in its lines.
MESSAGE_NAMES: dict[MessageType, str] = {
    MessageType.STORAGE_APPEND_RESPONSE: "MsgStorageAppendResp",
    MessageType.APPEND_ENTRIES: "MsgApp",
    MessageType.APPEND_ENTRIES_RESPONSE: "MsgAppResp",
    MessageType.REQUEST_VOTE: "MsgVote",
    MessageType.REQUEST_VOTE_RESPONSE: "MsgVoteResp",
    MessageType.PRE_VOTE: "MsgPreVote",
    MessageType.PRE_VOTE_RESPONSE: "MsgPreVoteResp",
    MessageType.HEARTBEAT: "MsgHeartbeat",
    MessageType.HEARTBEAT_RESPONSE: "MsgHeartbeatResp",
    MessageType.PROPOSE: "MsgProp",
    MessageType.INSTALL_SNAPSHOT: "MsgSnap",
    MessageType.TIMEOUT_NOW: "MsgTimeoutNow",
    MessageType.TRANSFER_LEADER: "MsgTransferLeader",
    MessageType.READ_INDEX: "MsgReadIndex",
    MessageType.READ_INDEX_RESPONSE: "MsgReadIndexResp",
}

_CHANGE_NAMES = {
    ChangeType.ADD_VOTER: "ConfChangeAddNode",
    ChangeType.REMOVE: "ConfChangeRemoveNode",
    ChangeType.UPDATE: "ConfChangeUpdateNode",
    ChangeType.ADD_LEARNER: "ConfChangeAddLearnerNode",
}
_TRANSITION_NAMES = {
    Transition.AUTO: "ConfChangeTransitionAuto",
    Transition.JOINT_IMPLICIT: "ConfChangeTransitionJointImplicit",
    Transition.JOINT_EXPLICIT: "ConfChangeTransitionJointExplicit",
}


def describe_change(kind: EntryType, change: ConfChange) -> str:
    """A membership change as the reference writes it; its two kinds of entry are written differently."""
    names = [f"{_CHANGE_NAMES[one.type]} {one.node}" for one in change.changes]
    if kind is EntryType.SIMPLE_CHANGE:
        return f"{{{names[0]} [] 0}}"
    return f"{{{_TRANSITION_NAMES[change.transition]} [{' '.join(f'{{{name}}}' for name in names)}] []}}"


class Trace:
    """Calls its sink with formatted lines; without a sink nothing is formatted."""

    __slots__ = ("_sink",)

    def __init__(self, sink: Callable[[str], None] | None = None) -> None:
        self._sink = sink

    def __call__(self, template: str, *values: object) -> None:
        """Write one line: `template % values`."""
        if self._sink is not None:
            self._sink(template % values)
