"""A whole configuration: `NodeConfig`, and what the settings say about the cluster together.

Values only: no file, no variable, no clock. Invariants: an instance that exists is valid; its peers are sorted by name and hold
the node itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from zmqbroker.config.rules import WILDCARD_HOSTS, Peer, parse_peer, section_faults, split_address
from zmqbroker.config.sections import (
    TABLES,
    ChannelsConfig,
    ClusterConfig,
    LimitsConfig,
    ListenConfig,
    LogConfig,
    NodeSection,
    RaftTimingConfig,
    StorageConfig,
    Value,
)
from zmqbroker.errors import ConfigError

__all__ = ["NodeConfig", "build_sections", "majority_of", "tolerated_by"]

_KIB, _MIB = 1 << 10, 1 << 20

_TEST_FLAGS: dict[str, Value] = {
    "listen.client": ("tcp://127.0.0.1:0",),
    "listen.peer": "127.0.0.1:0",
    "raft.tick_ms": 5,
    "raft.inflight_messages_max": 4,
    "raft.inflight_bytes_max": 64 * _KIB,
    "raft.append_bytes_max": 4 * _KIB,
    "raft.uncommitted_bytes_max": 2 * _MIB,
    "raft.committed_bytes_max": 64 * _KIB,
    "storage.segment_bytes": 64 * _KIB,
    "storage.log_budget_bytes": _MIB,
    "storage.reserve_segments": 1,
    "storage.cache_bytes_max": 64 * _KIB,
    "storage.page_cache_bytes": 256 * _KIB,
    "limits.message_bytes_max": 16 * _KIB,
    "limits.requests_max": 64,
    "limits.sessions_max": 8,
    "limits.session_timeout_ms": 500,
}


def majority_of(size: int) -> int:
    """Nodes that must agree before anything is confirmed."""
    return size // 2 + 1


def tolerated_by(size: int) -> int:
    """Nodes that may be down while the others still confirm."""
    return size - majority_of(size)


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeConfig:
    """All settings of one node. Raises ConfigError with every fault."""

    node: NodeSection = field(default_factory=NodeSection)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    listen: ListenConfig = field(default_factory=ListenConfig)
    raft: RaftTimingConfig = field(default_factory=RaftTimingConfig)
    storage: StorageConfig = field(default_factory=StorageConfig)
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    channels: ChannelsConfig = field(default_factory=ChannelsConfig)
    log: LogConfig = field(default_factory=LogConfig)

    def __post_init__(self) -> None:
        faults = section_faults({table: getattr(self, table) for table in TABLES})
        if faults:
            raise ConfigError(tuple(f"{key}: {text}" for key, text in faults))

    @classmethod
    def for_test(cls, flags: Mapping[str, Value] | None = None) -> NodeConfig:
        """A configuration with tiny limits and ports chosen by the system, changed by `flags` ("table.key")."""
        return cls(**build_sections({**_TEST_FLAGS, **(flags or {})}))

    @property
    def peers(self) -> tuple[Peer, ...]:
        """Every node of the cluster, this one included, sorted by name."""
        named = self.cluster.peers or (f"{self.node.name}={self.listen.peer}",)
        return tuple(sorted(peer for text in named if (peer := parse_peer(text)) is not None))

    @property
    def size(self) -> int:
        """Nodes of the cluster, 1 to 9."""
        return len(self.peers)

    @property
    def majority(self) -> int:
        """Nodes that must agree before anything is confirmed."""
        return majority_of(self.size)

    @property
    def tolerated(self) -> int:
        """Nodes that may be down while the others still confirm."""
        return tolerated_by(self.size)

    @property
    def even_size_warning(self) -> str | None:
        """A sentence for the operator of a cluster of even size, None for an odd one."""
        if self.size % 2:
            return None
        return (
            f"{self.size} nodes tolerate {self.tolerated} failed, no more than {self.size - 1} nodes would: "
            f"use {self.size - 1} nodes, or {self.size + 1} to tolerate {tolerated_by(self.size + 1)}"
        )

    @property
    def client_endpoint(self) -> str:
        """The endpoint that clients are sent to.

        `node.advertise`, else the first tcp endpoint of `listen.client` with a wildcard host replaced by this node's host in
        `cluster.peers`, else the first endpoint.
        """
        if self.node.advertise:
            return self.node.advertise
        for endpoint in self.listen.client:
            if endpoint.startswith("tcp://"):
                host, port = split_address(endpoint.removeprefix("tcp://")) or ("", 0)
                own = next(peer.host for peer in self.peers if peer.name == self.node.name)
                return f"tcp://{Peer('', own if host in WILDCARD_HOSTS else host, port).address}"
        return self.listen.client[0]


def build_sections(values: Mapping[str, Value]) -> dict[str, Any]:
    """Make one section per table from values keyed "table.key"; ranges are not looked at."""
    return {
        table: section(**{key.partition(".")[2]: value for key, value in values.items() if key.startswith(f"{table}.")})
        for table, section in TABLES.items()
    }
