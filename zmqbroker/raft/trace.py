"""The lines a core writes about itself: through an injected callable, or nowhere.

Lines have the wording of etcd/raft, so that its recorded scenarios can be compared line by line; ids are in hexadecimal.
Nothing depends on a trace.
"""

from __future__ import annotations

from collections.abc import Callable

from zmqbroker.raft.messages import MessageType

__all__ = ["MESSAGE_NAMES", "Trace"]

#: What etcd/raft calls each message in its lines.
MESSAGE_NAMES: dict[MessageType, str] = {
    MessageType.HUP: "MsgHup",
    MessageType.STORAGE_APPEND_RESPONSE: "MsgStorageAppendResp",
    MessageType.APPEND_ENTRIES: "MsgApp",
    MessageType.APPEND_ENTRIES_RESPONSE: "MsgAppResp",
    MessageType.REQUEST_VOTE: "MsgVote",
    MessageType.REQUEST_VOTE_RESPONSE: "MsgVoteResp",
    MessageType.PRE_VOTE: "MsgPreVote",
    MessageType.PRE_VOTE_RESPONSE: "MsgPreVoteResp",
    MessageType.HEARTBEAT: "MsgHeartbeat",
    MessageType.HEARTBEAT_RESPONSE: "MsgHeartbeatResp",
}


class Trace:
    """Calls its sink with formatted lines; without a sink nothing is formatted."""

    __slots__ = ("_sink",)

    def __init__(self, sink: Callable[[str], None] | None = None) -> None:
        self._sink = sink

    def __call__(self, template: str, *values: object) -> None:
        """Write one line: `template % values`."""
        if self._sink is not None:
            self._sink(template % values)
