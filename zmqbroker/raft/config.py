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
    "reads_max",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class RaftConfig:
    """One node's part in one group. Raises `ConfigError` with all faults."""

    id: int  # this node, from 1
    group: int  # from 0
    election_ticks: int = 10  # a follower waits this long, and at random up to twice as long, for its leader
    heartbeat_ticks: int = 1
    inflight_messages_max: int = 256  # unanswered AppendEntries with entries, per follower
    inflight_bytes_max: int = 16 << 20  # and their payloads
    message_bytes_max: int = 1 << 20  # entries of one AppendEntries; a single larger entry still travels
    uncommitted_bytes_max: int = 64 << 20  # proposed and not yet applied; above it `propose` raises `Busy`
    committed_bytes_max: int = 4 << 20  # handed out and not yet applied; a single larger entry still is
    reads_max: int = 4096  # ReadIndex requests that wait for a majority; above it `read_index` raises `Busy`
    pre_vote: bool = True
    check_quorum: bool = True
    step_down_on_removal: bool = True  # a leader that is removed, or made a learner, stops leading when that is applied
    share_commit_in_votes: bool = True  # requests and refusals of votes tell what is committed: see election.learn_commit
    commit_at_tick: bool = True  # a commit that nothing else carries is told, and written, at the next tick
    # The rest are the reference's, for its scenarios; this broker leaves them as they are.
    validate_changes: bool = True  # refuse membership changes that cannot follow what is applied here
    forward_to_leader: bool = False  # pass proposals, transfers and reads on; else their callers are sent to the leader
    apply_unstable: bool = False  # hand out committed entries together with the work that makes them durable here
    campaign_before_durable: bool = False  # ask for votes while the own vote, and the log they are given for, are being written
    lease_reads: bool = False  # answer reads without asking a majority, as long as CheckQuorum holds

    def __post_init__(self) -> None:
        faults = [f"{name} is {getattr(self, name)}, it must be at least 1" for name in _POSITIVE if getattr(self, name) < 1]
        if self.group < 0:
            faults.append(f"group is {self.group}, it must be at least 0")
        if self.election_ticks <= self.heartbeat_ticks:
            faults.append(f"election_ticks {self.election_ticks} must be above heartbeat_ticks {self.heartbeat_ticks}")
        if self.inflight_bytes_max < self.message_bytes_max:
            faults.append(f"inflight_bytes_max {self.inflight_bytes_max} is below message_bytes_max {self.message_bytes_max}")
        if faults:
            raise ConfigError(tuple(faults))
