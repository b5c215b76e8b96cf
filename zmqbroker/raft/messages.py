"""The values that Raft nodes exchange, store and hand to their shell.

Pure data, shared by `raft`, `wire` (which gives them bytes for the network) and `storage` (which gives them bytes for the
log). Instances are treated as immutable once made. Names follow the Raft paper for the messages and etcd/raft for the rest.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum, StrEnum

from zmqbroker.raft.membership import Membership

__all__ = [
    "FORCED_ELECTION",
    "NO_NODE",
    "DropReason",
    "Entry",
    "EntryType",
    "HardState",
    "Membership",
    "Message",
    "MessageType",
    "ReadState",
    "Ready",
    "Role",
    "Snapshot",
    "SoftState",
    "StorageAppend",
]

#: Node id that means "nobody": no leader known, no vote given.
NO_NODE = 0

#: `context` of a vote request in a campaign that a leader asked for (TimeoutNow): a fresh leader is no reason to refuse it.
FORCED_ELECTION = 1


class Role(IntEnum):
    """What a node is in one group at the moment."""

    FOLLOWER = 0
    CANDIDATE = 1
    LEADER = 2
    PRE_CANDIDATE = 3


class EntryType(IntEnum):
    """What an entry's payload is for. Numbers are in logs and on the wire and never change.

    The two kinds of membership change hold the same encoding (`confchange.encode`); SIMPLE_CHANGE is the reference's older
    form with one change, which the scripted scenarios use and this broker never proposes.
    """

    NORMAL = 0
    SIMPLE_CHANGE = 1
    CHANGE = 2


class MessageType(IntEnum):
    """Numbers are on the wire (docs/PROTOCOL.md, "Between nodes") and never change. The first never leaves a node."""

    STORAGE_APPEND_RESPONSE = 1
    APPEND_ENTRIES = 2
    APPEND_ENTRIES_RESPONSE = 3
    REQUEST_VOTE = 4
    REQUEST_VOTE_RESPONSE = 5
    PRE_VOTE = 6
    PRE_VOTE_RESPONSE = 7
    HEARTBEAT = 8
    HEARTBEAT_RESPONSE = 9
    PROPOSE = 10
    INSTALL_SNAPSHOT = 11
    TIMEOUT_NOW = 12
    TRANSFER_LEADER = 13
    READ_INDEX = 14
    READ_INDEX_RESPONSE = 15


class DropReason(StrEnum):
    """Why `RaftCore.step` did nothing with a message; the value is a metric's suffix."""

    OTHER_GROUP = "other_group"
    OTHER_RECEIVER = "other_receiver"
    OWN_MESSAGE = "own_message"
    LOCAL_TYPE = "local_type"
    NOT_FORWARDED = "not_forwarded"  # a proposal or transfer from a node that should have sent its client here
    NO_TERM = "no_term"
    IMPOSSIBLE_TERM = "impossible_term"
    UNKNOWN_SENDER = "unknown_sender"  # a response from a node that is no member
    SECOND_LEADER = "second_leader"  # of the term this node leads
    BAD_ENTRIES = "bad_entries"  # indexes with gaps, or terms that go back or beyond the message's
    INDEX_BEYOND_LOG = "index_beyond_log"  # acknowledges what this leader never had
    COMMIT_BEYOND_LOG = "commit_beyond_log"  # commits what was never acknowledged
    COMMITTED_CONFLICT = "committed_conflict"  # would change a committed entry
    BAD_SNAPSHOT = "bad_snapshot"
    PROPOSAL_DROPPED = "proposal_dropped"  # believed, but this node cannot take a proposal now


@dataclass(slots=True, frozen=True)
class Entry:
    """One slot of the replicated log. An empty payload is the entry that a new leader commits first (Raft §8)."""

    index: int  # from 1, without gaps
    term: int
    data: bytes = b""
    type: EntryType = EntryType.NORMAL
    #: crc32c of `data` where somebody knows it already, so that nobody else need read `data` for it.
    data_crc: int | None = field(default=None, compare=False, repr=False)


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


@dataclass(slots=True, frozen=True)
class Snapshot:
    """The state after `index`, by name: how its bytes travel and where they are kept is the shell's affair."""

    index: int
    term: int
    membership: Membership


@dataclass(slots=True, frozen=True)
class ReadState:
    """The answer to `RaftCore.read_index(request)`: state applied up to `index` is fresh enough for it."""

    request: int
    index: int


@dataclass(slots=True)
class Message:
    """One Raft RPC or its response, for one group. Fields that a type does not use stay at their defaults.

    For APPEND_ENTRIES `index` and `log_term` are prev_log_index and prev_log_term; for its response `index` is the last
    index now matched or, when `reject` is set, the refused one, and `reject_hint`/`log_term` where to look next. `context`:
    of a heartbeat and its response the leader's read counter; of READ_INDEX and its response the asking node's request; of a
    vote request FORCED_ELECTION or 0; of a vote response it belongs to the shell (wall clock, DESIGN §6). Vote
    requests and refusals tell in `commit` and `reject_hint` what is committed and in which term it was written. PROPOSE and
    READ_INDEX carry no term; entries of PROPOSE carry neither index nor term.
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
    snapshot: Snapshot | None = None  # of INSTALL_SNAPSHOT, and of the STORAGE_APPEND_RESPONSE to one


@dataclass(slots=True)
class StorageAppend:
    """Work for the log: make `snapshot`, `entries` and `hard_state` durable, in this order relative to other StorageAppends.

    A snapshot replaces the whole log: afterwards it is empty and ends at the snapshot's index and term. An entry replaces
    whatever the log holds at its index and after. When the work is durable the shell calls `RaftCore.advance(work)`, and only
    that call hands out the messages which depend on it. `must_sync` is False when it holds neither entries nor another term or
    vote, so that no promise depends on those; a snapshot is always synced.
    """

    group: int
    entries: tuple[Entry, ...] = ()
    hard_state: HardState | None = None
    must_sync: bool = False
    responses: list[Message] = field(default_factory=list)
    snapshot: Snapshot | None = None


@dataclass(slots=True)
class Ready:
    """What a core wants done now.

    `messages` may leave before the disk has done anything; `append` goes to the log; `committed` are durable here, in
    order, and go to the state machine, after which the shell calls `RaftCore.applied_to(index)`; for a membership change among
    them it calls `RaftCore.apply_change` first. A snapshot in `append` replaces the state machine when it is durable, before
    `advance`.
    """

    soft_state: SoftState | None = None
    messages: list[Message] = field(default_factory=list)
    append: StorageAppend | None = None
    committed: tuple[Entry, ...] = ()
    read_states: list[ReadState] = field(default_factory=list)
