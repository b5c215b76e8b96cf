"""A new data directory, of a new cluster with one node, made of the state of an old one.

What a backup or a stopped directory holds is stored as an installed snapshot would be (docs/STORAGE.md §9), with one change:
the roster names the new node alone. The cluster gets a new uid, so that no node of the old one talks to it. The identity is
written last: a directory that was not finished is refused by every start. It never touches a directory that holds anything.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from zmqbroker.broker import snapshot
from zmqbroker.commands import Member, Roster
from zmqbroker.errors import DataDirectoryError, StorageError
from zmqbroker.raft import Membership
from zmqbroker.server.opening import align
from zmqbroker.storage.directory import UNSAFE_FILE_SYSTEMS, file_system_type
from zmqbroker.storage.disk import OS_DISK
from zmqbroker.storage.identity import Identity, write_identity
from zmqbroker.storage.interfaces import Item
from zmqbroker.storage.lmdb_state import LmdbState
from zmqbroker.storage.segment_log import SegmentLog
from zmqbroker.wire.membership import encode_membership

__all__ = ["GroupState", "NewNode", "check_empty", "make_directory"]

_UID_SIZE = 16
#: The log begins with a segment for a single record; the node's own size counts from its first start on.
_SEGMENT_BYTES = 64 << 10


@dataclass(slots=True, frozen=True, kw_only=True)
class NewNode:
    """Whom the new directory is for."""

    name: str
    cluster_name: str
    volume: str  # "ephemeral" or "persistent"
    peer: str  # host:port of its peer socket


@dataclass(slots=True, frozen=True)
class GroupState:
    """What the new node is to hold of one group."""

    number: int
    index: int  # of the last entry that is in it
    term: int  # of that entry
    roster: Roster  # of the old cluster
    items: Iterable[Item]  # ascending by key
    bodies: Iterable[tuple[int, bytes]]  # of all entries that the items name, ascending


def check_empty(path: Path) -> None:
    """Raise DataDirectoryError unless a new data directory can be made at `path`."""
    try:
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise DataDirectoryError(f"{path}: is not empty; nothing was changed")
        existing = next(place for place in (path.absolute(), *path.absolute().parents) if place.exists())
        kind = UNSAFE_FILE_SYSTEMS.get(file_system_type(existing))
    except OSError as error:
        raise DataDirectoryError(f"{path}: cannot be used as a data directory: {error}") from error
    if kind is not None:
        raise DataDirectoryError(f"{path}: is on {kind}, which cannot be trusted with a broker's data")


def make_directory(path: Path, node: NewNode, group: GroupState) -> Identity:
    """Make the data directory at `path`; durable when this returns. Raises StorageError, or whatever the iterables raise.

    After an error, what was written so far is there, without an identity: a start refuses it, and so does another try.
    """
    check_empty(path)
    own = Member(group.roster.next_id, node.name, os.urandom(_UID_SIZE), node.peer)
    roster = Roster(group.index, (own,), encode_membership(Membership((own.id,))), own.id + 1)
    identity = Identity(
        node_uid=own.uid,
        name=node.name,
        volume=node.volume,
        cluster_name=node.cluster_name,
        owner="serve",
        cluster_uid=os.urandom(_UID_SIZE),
        founders=(own,),
        members=(own,),
        members_index=group.index,
    )
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        _store(path, group, roster)
        write_identity(path, identity)
        OS_DISK.sync_directory(path.absolute().parent)
    except OSError as error:
        raise StorageError(f"{path}: the data directory cannot be made: {error}") from error
    return identity


def _store(path: Path, group: GroupState, roster: Roster) -> None:
    """State, bodies, and a log that begins behind them."""
    items = list(_with_roster(group.items, roster))  # a backup has them before the bodies, and the store wants them behind
    with closing(LmdbState.open(path / "state", sync=True)) as state:
        state.install(group.number, group.index, group.term, items, group.bodies)
        with closing(SegmentLog.open(path / "log", sync=True, segment_bytes=_SEGMENT_BYTES)) as log:
            align(group.number, log, state)


def _with_roster(items: Iterable[Item], roster: Roster) -> Iterator[Item]:
    for key, value in items:
        yield key, snapshot.write_roster(roster) if key == snapshot.ROSTER_KEY else value
