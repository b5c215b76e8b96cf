"""Every setting: its name, default, range and meaning.

Declarations only; nothing here reads or checks a value. docs/OPERATIONS.md is tested against `describe`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import NamedTuple

__all__ = [
    "TABLES",
    "ChannelsConfig",
    "ClusterConfig",
    "KeyDescription",
    "LimitsConfig",
    "ListenConfig",
    "LogConfig",
    "NodeSection",
    "RaftTimingConfig",
    "StorageConfig",
    "Value",
    "describe",
    "variable_name",
]

#: What a key holds once it is read.
Value = str | int | bool | tuple[str, ...]

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30

_PREFIX = "ZMQBROKER_"


def _number(default: int, low: int, high: int, meaning: str) -> int:
    """Declare an integer key with its inclusive range."""
    declared: int = field(default=default, metadata={"low": low, "high": high, "meaning": meaning})
    return declared


def _words(default: str, meaning: str, choices: tuple[str, ...] = ()) -> str:
    """Declare a text key, one of `choices` if there are any."""
    declared: str = field(default=default, metadata={"choices": choices, "meaning": meaning})
    return declared


def _several(default: tuple[str, ...], meaning: str) -> tuple[str, ...]:
    """Declare a key that holds a list of texts; one text alone stands for a list of one."""
    declared: tuple[str, ...] = field(default=default, metadata={"meaning": meaning})
    return declared


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeSection:
    """Table [node]: who this node is."""

    name: str = _words("node-1", "name of this node, one of the names in cluster.peers")
    data_dir: str = _words("./zmqbroker-data", "directory of its log, store and identity; no other node may use it")
    advertise: str = _words("", "endpoint to send clients to; empty: derived from listen.client and cluster.peers")


@dataclass(frozen=True, kw_only=True, slots=True)
class ClusterConfig:
    """Table [cluster]: only forms the cluster; must be the same on all nodes."""

    name: str = _words("zmqbroker", "name of the cluster; nodes of another name are not talked to")
    peers: tuple[str, ...] = _several((), "every node as name=host:port of its peer socket, itself included; empty: one node")
    volume: str = _words(
        "ephemeral",
        "persistent: fsync before every promise; ephemeral: no fsync",
        ("ephemeral", "persistent"),
    )
    groups: int = _number(1, 1, 1, "Raft groups that hold channels; this version serves one")
    auto_rejoin: bool = field(
        default=True,
        metadata={"meaning": "a member whose data is gone or not to be trusted takes its own place again by itself"},
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class ListenConfig:
    """Table [listen]: where the node's sockets are bound."""

    client: tuple[str, ...] = _several(("tcp://127.0.0.1:5590",), "endpoints for clients: tcp://host:port or ipc:///path")
    peer: str = _words("127.0.0.1:5591", "host:port for the other nodes of the cluster")


@dataclass(frozen=True, kw_only=True, slots=True)
class RaftTimingConfig:
    """Table [raft]: time in ticks, and the windows of replication."""

    tick_ms: int = _number(20, 1, 1_000, "length of a tick")
    heartbeat_ticks: int = _number(3, 1, 1_000, "ticks between heartbeats of a leader")
    election_ticks: int = _number(20, 2, 10_000, "ticks without a leader before a node campaigns; drawn up to twice as high")
    inflight_messages_max: int = _number(256, 1, 65_536, "unanswered AppendEntries per follower")
    inflight_bytes_max: int = _number(16 * MIB, 64 * KIB, GIB, "bytes of unanswered AppendEntries per follower")
    append_bytes_max: int = _number(MIB, KIB, 64 * MIB, "bytes of entries in one AppendEntries; one entry may be larger")
    uncommitted_bytes_max: int = _number(256 * MIB, 64 * KIB, 4 * GIB, "bytes proposed and not committed; over it BUSY")
    committed_bytes_max: int = _number(16 * MIB, KIB, GIB, "bytes of entries applied in one pass")
    slow_disk_ms: int = _number(500, 0, 60_000, "time a leader's log may lag behind commits before it hands over; 0: any")


@dataclass(frozen=True, kw_only=True, slots=True)
class StorageConfig:
    """Table [storage]: log and store on this node's disk."""

    segment_bytes: int = _number(64 * MIB, 64 * KIB, GIB, "size of a log segment")
    log_budget_bytes: int = _number(4 * GIB, 256 * KIB, 1 << 44, "size of the log above which bodies move to the store")
    reserve_segments: int = _number(4, 1, 64, "log segments allocated ahead, for what must be written when the disk is full")
    low_water_bytes: int = _number(
        0, 0, 1 << 44, "free space below which a node takes no more messages; 0: 1 GiB, or 5 % of the volume if less"
    )
    flush_ms: int = _number(200, 1, 60_000, "time between flushes of applied state to the store")
    cache_bytes_max: int = _number(64 * MIB, 0, 64 * GIB, "recent log entries kept in memory")
    page_cache_bytes: int = _number(
        256 * MIB, 0, 1 << 44, "newest part of the log that stays in the page cache; older ones are written back and let go"
    )
    scrub_bytes_per_s: int = _number(MIB, 0, GIB, "pace at which what is stored is read and checked; 0: never")
    allow_network_file_system: bool = field(
        default=False, metadata={"meaning": "start although the data directory is on a file system that cannot be trusted"}
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class LimitsConfig:
    """Table [limits]: what clients may ask of this node; over it BUSY or MESSAGE_TOO_LARGE."""

    message_bytes_max: int = _number(4 * MIB, KIB, 64 * MIB, "size of a message body")
    requests_max: int = _number(50_000, 1, 1_000_000, "requests under way on the node")
    sessions_max: int = _number(10_000, 1, 1_000_000, "sessions of clients")
    session_timeout_ms: int = _number(15_000, 100, 3_600_000, "silence after which a session has expired")

    @property
    def batch_bytes_max(self) -> int:
        """Size of the largest batch frame, in bytes (docs/PROTOCOL.md §5)."""
        return self.message_bytes_max + MIB


@dataclass(frozen=True, kw_only=True, slots=True)
class ChannelsConfig:
    """Table [channels]: what a leader says to the cluster when it begins to lead; should be the same on all nodes."""

    create_on_use: bool = field(
        default=True,
        metadata={"meaning": "using a channel makes it; false: a leader makes that a default for >, unless one is set"},
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class LogConfig:
    """Table [log]: what the node says on standard error."""

    level: str = _words("info", "least severity that is logged", ("debug", "info", "warning", "error"))


#: Table name -> the class that declares it, in the order of the documentation.
TABLES: dict[str, type] = {
    "node": NodeSection,
    "cluster": ClusterConfig,
    "listen": ListenConfig,
    "raft": RaftTimingConfig,
    "storage": StorageConfig,
    "limits": LimitsConfig,
    "channels": ChannelsConfig,
    "log": LogConfig,
}


class KeyDescription(NamedTuple):
    """One key as the documentation shows it."""

    key: str  # table.key
    variable: str
    default: Value
    allowed: str
    meaning: str


def describe() -> Iterator[KeyDescription]:
    """Yield every key there is, in the order of the tables."""
    for table, section in TABLES.items():
        defaults = section()
        for item in fields(section):
            extra = item.metadata
            allowed = ", ".join(extra.get("choices", ()))
            if "low" in extra:
                allowed = f"{extra['low']} … {extra['high']}"
            default: Value = getattr(defaults, item.name)
            yield KeyDescription(f"{table}.{item.name}", variable_name(table, item.name), default, allowed, extra["meaning"])


def variable_name(table: str, key: str) -> str:
    """The environment variable that sets a key."""
    return f"{_PREFIX}{table}_{key}".upper()
