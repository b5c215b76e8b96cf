"""The configuration of one node: what can be set, from where, and what is refused.

Settings are the tables of `zmqbroker.toml` (`sections`), valid by the rules of `rules`, gathered in `NodeConfig` (`node`), and
merged from defaults, file, environment and flags by `load`. Pure packages may import this one: it reads no file, no variable
and no clock.
"""

from zmqbroker.config.load import RESERVED_VARIABLES, load, with_files
from zmqbroker.config.node import NodeConfig, majority_of, tolerated_by
from zmqbroker.config.rules import CLUSTER_SIZE_MAX, Peer, parse_peer, split_address
from zmqbroker.config.sections import (
    ChannelsConfig,
    ClusterConfig,
    KeyDescription,
    LimitsConfig,
    ListenConfig,
    LogConfig,
    NodeSection,
    RaftTimingConfig,
    StorageConfig,
    Value,
    describe,
    variable_name,
)

__all__ = [
    "CLUSTER_SIZE_MAX",
    "RESERVED_VARIABLES",
    "ChannelsConfig",
    "ClusterConfig",
    "KeyDescription",
    "LimitsConfig",
    "ListenConfig",
    "LogConfig",
    "NodeConfig",
    "NodeSection",
    "Peer",
    "RaftTimingConfig",
    "StorageConfig",
    "Value",
    "describe",
    "load",
    "majority_of",
    "parse_peer",
    "split_address",
    "tolerated_by",
    "variable_name",
    "with_files",
]
