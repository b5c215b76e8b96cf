"""What one Raft core is told at its construction and never changes.

Times are ticks, sizes are bytes. A configuration that breaks a rule is refused with every fault it has. Source: DESIGN §4.
"""

from __future__ import annotations

from dataclasses import dataclass

from zmqbroker.errors import ConfigError

__all__ = ["RaftConfig"]

_POSITIVE = (
    "id",
    "heartbeat_ticks",
    "inflight_messages_max",
    "message_bytes_max",
    "uncommitted_bytes_max",
    "committed_bytes_max",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class RaftConfig:
    """One node's part in one group. Raises `ConfigError` with all faults."""

    id: int  # this node, one of `voters`
    voters: tuple[int, ...]  # ids from 1, each once, in any order
    group: int  # from 0
    election_ticks: int = 10  # a follower waits this long, and at random up to twice as long, for its leader
    heartbeat_ticks: int = 1
    inflight_messages_max: int = 256  # unanswered AppendEntries with entries, per follower
    inflight_bytes_max: int = 16 << 20  # and their payloads
    message_bytes_max: int = 1 << 20  # entries of one AppendEntries; a single larger entry still travels
    uncommitted_bytes_max: int = 64 << 20  # proposed and not yet applied; above it `propose` raises `Busy`
    committed_bytes_max: int = 4 << 20  # handed out and not yet applied; a single larger entry still is
    pre_vote: bool = True
    check_quorum: bool = True

    def __post_init__(self) -> None:
        faults = [f"{name} is {getattr(self, name)}, it must be at least 1" for name in _POSITIVE if getattr(self, name) < 1]
        if self.group < 0:
            faults.append(f"group is {self.group}, it must be at least 0")
        if len(set(self.voters)) != len(self.voters):
            faults.append(f"voters {self.voters} name a node twice")
        if any(voter < 1 for voter in self.voters):
            faults.append(f"voters {self.voters} hold an id below 1")
        if self.id not in self.voters:
            faults.append(f"id {self.id} is not one of the voters {self.voters}")
        if self.election_ticks <= self.heartbeat_ticks:
            faults.append(f"election_ticks {self.election_ticks} must be above heartbeat_ticks {self.heartbeat_ticks}")
        if self.inflight_bytes_max < self.message_bytes_max:
            faults.append(f"inflight_bytes_max {self.inflight_bytes_max} is below message_bytes_max {self.message_bytes_max}")
        if faults:
            raise ConfigError(tuple(faults))
