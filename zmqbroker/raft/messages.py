"""The values that Raft nodes exchange, store and hand to their shell.

Pure data, shared by `raft`, `wire` (which gives them bytes for the network) and `storage` (which gives them bytes for the
log). Instances are treated as immutable once made. Names follow the Raft paper for the messages and etcd/raft for the rest.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

__all__ = [
    "NO_NODE",
    "Entry",
    "EntryType",
    "HardState",
    "Message",
    "MessageType",
    "Ready",
    "Role",
    "SoftState",
    "StorageAppend",
]

#: Node id that means "nobody": no leader known, no vote given.
NO_NODE = 0


class Role(IntEnum):
    """What a node is in one group at the moment."""

    FOLLOWER = 0
    CANDIDATE = 1
    LEADER = 2
    PRE_CANDIDATE = 3


class EntryType(IntEnum):
    """What an entry's payload is for."""

    NORMAL = 0


class MessageType(IntEnum):
    """Numbers are on the wire (docs/PROTOCOL.md, "Between nodes") and never change. The first two never leave a node."""

    HUP = 0
    STORAGE_APPEND_RESPONSE = 1
    APPEND_ENTRIES = 2
    APPEND_ENTRIES_RESPONSE = 3
    REQUEST_VOTE = 4
    REQUEST_VOTE_RESPONSE = 5
    PRE_VOTE = 6
    PRE_VOTE_RESPONSE = 7
    HEARTBEAT = 8
    HEARTBEAT_RESPONSE = 9


@dataclass(slots=True, frozen=True)
class Entry:
    """One slot of the replicated log. An empty payload is the entry that a new leader commits first (Raft §8)."""

    index: int  # from 1, without gaps
    term: int
    data: bytes = b""
    type: EntryType = EntryType.NORMAL


@dataclass(slots=True, frozen=True)
class HardState:
    """What must be durable before any reply that reveals it (Raft figure 2; commit only saves work at a restart)."""

    term: int = 0
    vote: int = NO_NODE
    commit: int = 0


@dataclass(slots=True, frozen=True)
class SoftState:
    """What the shell wants to know at once and nobody stores."""

    leader: int = NO_NODE
    role: Role = Role.FOLLOWER


@dataclass(slots=True)
class Message:
    """One Raft RPC or its response, for one group. Fields that a type does not use stay at their defaults.

    For APPEND_ENTRIES `index` and `log_term` are prev_log_index and prev_log_term; for its response `index` is the last
    index now matched or, when `reject` is set, the refused one, and `reject_hint`/`log_term` where to look next.
    """

    type: MessageType
    to: int = NO_NODE
    sender: int = NO_NODE
    group: int = 0
    term: int = 0
    log_term: int = 0
    index: int = 0
    commit: int = 0
    reject_hint: int = 0
    reject: bool = False
    context: int = 0
    entries: tuple[Entry, ...] = ()


@dataclass(slots=True)
class StorageAppend:
    """Work for the log: make `entries` and `hard_state` durable, in this order relative to other StorageAppends.

    An entry replaces whatever the log holds at its index and after. When the work is durable the shell calls
    `RaftCore.advance(work)`, and only that call hands out the messages which depend on it. `must_sync` is False when no
    promise depends on it (a new commit index alone).
    """

    group: int
    entries: tuple[Entry, ...] = ()
    hard_state: HardState | None = None
    must_sync: bool = False
    responses: list[Message] = field(default_factory=list)


@dataclass(slots=True)
class Ready:
    """What a core wants done now.

    `messages` may leave before the disk has done anything; `append` goes to the log; `committed` are durable here, in
    order, and go to the state machine, after which the shell calls `RaftCore.applied_to(index)`.
    """

    soft_state: SoftState | None = None
    messages: list[Message] = field(default_factory=list)
    append: StorageAppend | None = None
    committed: tuple[Entry, ...] = ()
