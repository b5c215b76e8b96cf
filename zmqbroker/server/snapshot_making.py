"""Making one snapshot: the stored state and the payloads of the entries that still hold a live message, in one file.

The caller holds the state still. Whatever touches the store runs as a `job` on the store's thread; payloads are read on the
loop, where the log lives, in slices. A file that was not finished does not stay.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from zmqbroker.broker import snapshot
from zmqbroker.errors import StorageError
from zmqbroker.raft import RaftCore
from zmqbroker.raft.messages import Snapshot
from zmqbroker.raft.view import LogView
from zmqbroker.server.disks import Disks
from zmqbroker.storage.interfaces import LogStore, StateStore
from zmqbroker.storage.snapshot_file import SnapshotHead, SnapshotWriter
from zmqbroker.wire.membership import decode_membership

__all__ = ["MadeSnapshot", "is_wanted", "make_snapshot"]

#: Payloads read from the log in one go: a few milliseconds of a disk that has to be asked.
SLICE_BYTES = 1 << 20

Job = Callable[[Callable[[], Any]], Awaitable[Any]]


@dataclass(slots=True, frozen=True)
class MadeSnapshot:
    """A snapshot that can be sent."""

    id: bytes
    path: Path
    size: int
    snapshot: Snapshot


def is_wanted(core: RaftCore, view: LogView, disks: Disks) -> bool:
    """Whether a member that lacks dropped entries may have room for a snapshot; one that cannot store it only holds the log."""
    behind = [id for id, status in core.progress().items() if id != core.id and status.match_index < view.first_index() - 1]
    return any(disks.has_room(id) for id in behind)


async def make_snapshot(
    directory: Path,
    number: int,
    log: LogStore,
    state: StateStore,
    read: Callable[[int, int], bytes],
    job: Job,
    progress: Callable[[int], None] = lambda _: None,
) -> MadeSnapshot:
    """Make a file in `directory` of what is stored of group `number`. Raises BrokerError or OSError.

    `progress` is told now and then how many bytes it has.
    """
    id = os.urandom(16)
    path = directory / f"outgoing-{number}-{id.hex()}"
    try:
        index, roster = await job(lambda: (state.applied_index(number), state.get(number, snapshot.ROSTER_KEY)))
        membership = snapshot.read_roster(roster).membership
        head = SnapshotHead(number, index, log.view(number).term(index), membership)
        with path.open("wb") as file:
            writer = SnapshotWriter(file, head)
            indexes = await job(partial(_write_items, writer, state, head))
            for payloads in _slices(partial(read, number), indexes):
                await job(partial(_write_bodies, writer, payloads))
                progress(file.tell())
            size = await job(writer.finish)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return MadeSnapshot(id, path, size, Snapshot(index, head.term, decode_membership(membership)))


def _write_items(writer: SnapshotWriter, state: StateStore, head: SnapshotHead) -> list[int]:
    """Copy the state; the entries whose bodies it names, ascending."""
    if state.applied_index(head.group) != head.index:
        raise StorageError("another snapshot has replaced the state")
    indexes = set()
    for key, value in state.load(head.group):
        writer.item(key, value)
        if (index := snapshot.entry_index(key, value)) is not None:
            indexes.add(index)
    return sorted(indexes)


def _slices(read: Callable[[int], bytes], indexes: list[int]) -> Iterator[list[tuple[int, bytes]]]:
    """The payloads of the entries at `indexes`."""
    found: list[tuple[int, bytes]] = []
    size = 0
    for index in indexes:
        found.append((index, read(index)))
        size += len(found[-1][1])
        if size >= SLICE_BYTES:
            yield found
            found, size = [], 0
    yield found


def _write_bodies(writer: SnapshotWriter, payloads: list[tuple[int, bytes]]) -> None:
    for index, payload in payloads:
        writer.body(index, payload)
