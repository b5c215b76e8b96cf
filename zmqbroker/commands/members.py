"""Who takes part in a group."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "Member",
    "Roster",
]


@dataclass(slots=True, frozen=True)
class Member:
    """One node of the cluster."""

    id: int  # Raft node id, from 1, never reused
    name: str
    uid: bytes  # 16 random bytes, new with every new data directory
    peer: str  # host:port of its peer socket
    voter: bool = True  # False: stays a learner, which gets the log and counts for nothing
    replaces: int = 0  # id of the member that leaves when this one has caught up; 0 for nobody


@dataclass(slots=True, frozen=True)
class Roster:
    """Who takes part in a group, as of the last membership change that was applied."""

    index: int = 0  # of that change's entry; 0: since the cluster was formed
    members: tuple[Member, ...] = ()  # ascending by id
    membership: bytes = b""  # which of them vote, as wire.membership writes it
    next_id: int = 1  # above every id ever given
