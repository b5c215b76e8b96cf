"""Defects of the log, the store, and what a node makes of a disk that failed."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from tests.simulation.disk import SimDisk
from tests.simulation.flushing import Flushing
from tests.simulation.node import SimNode
from tests.simulation.stores import StateKeeper
from tests.simulation.world import MILLISECOND
from zmqbroker.broker import Machine
from zmqbroker.raft.messages import HardState, Snapshot, StorageAppend
from zmqbroker.server import body_moves
from zmqbroker.server.body_moves import Move
from zmqbroker.server.formation import Formation
from zmqbroker.storage import recovery, segment_log
from zmqbroker.storage.disk import Disk
from zmqbroker.storage.group_index import GroupIndex
from zmqbroker.storage.lmdb_state import LmdbState
from zmqbroker.storage.record import FLAG_MASKED, RecordHeader, SegmentKey
from zmqbroker.storage.recovery import _Scan
from zmqbroker.storage.segment import Segment
from zmqbroker.storage.segment_files import SegmentFiles

__all__ = [
    "adopt_by_name",
    "commit_in_front",
    "cut_damage",
    "forget_names",
    "keep_stored_suffix",
    "leave_a_body",
    "lie_until_power_cut",
    "return_wiped",
    "skip_sync",
    "store_index_first",
    "sync_again",
    "trim_what_waits",
    "trust_payloads",
    "trust_records",
    "two_transactions",
]

#: Nanoseconds between two transactions of a store that should make one.
_BETWEEN_NS = 5 * MILLISECOND


def two_transactions(patch: pytest.MonkeyPatch) -> None:
    """M15: the index moves first, the state follows."""
    commit = LmdbState.commit

    def committed(
        state: LmdbState,
        group: int,
        applied_index: int,
        changes: Iterable[tuple[bytes, bytes | None]],
    ) -> None:
        commit(state, group, applied_index, ())
        commit(state, group, applied_index, changes)

    patch.setattr(LmdbState, "commit", committed)


def store_index_first(patch: pytest.MonkeyPatch) -> None:
    """M15 in the simulator's twin of the store: the process can end between the two transactions."""
    begin = Flushing.begin

    def begun(flushing: Flushing) -> None:
        node = flushing._node
        keeper, whole = node.keeper, StateKeeper.commit

        def first(group: int, snapshot: Snapshot, changes: list[tuple[bytes, bytes | None]]) -> None:
            whole(keeper, group, snapshot, ())
            node.plan(_BETWEEN_NS, lambda: whole(keeper, group, snapshot, changes))

        keeper.commit = first  # type: ignore[assignment, method-assign]
        begin(flushing)

    patch.setattr(Flushing, "begin", begun)


def trim_what_waits(patch: pytest.MonkeyPatch) -> None:
    """The log is trimmed as far as all members hold it, whatever waits in it."""
    patch.setattr(body_moves, "trimmable", lambda machine, mark: min(machine.trimmed_index, machine.applied_index))


def leave_a_body(patch: pytest.MonkeyPatch) -> None:
    """The last of the bodies that move is not stored, and the mark says that it is."""
    plan_move = body_moves.plan_move

    def planned(machine: Machine, mark: int, target: int) -> Move | None:
        move = plan_move(machine, mark, target)
        return move and Move(move.indexes[:-1], move.upto)

    patch.setattr(body_moves, "plan_move", planned)


def cut_damage(patch: pytest.MonkeyPatch) -> None:
    """M18: whatever record is damaged, it and all after it is cut."""
    patch.setattr(_Scan, "_judge", lambda scan: None)


def sync_again(patch: pytest.MonkeyPatch) -> None:
    """M19: a sync that failed is tried again, and succeeds without having written."""
    sync = SegmentFiles.sync

    def synced(files: SegmentFiles) -> None:
        try:
            sync(files)
        except OSError:
            sync(files)

    patch.setattr(SegmentFiles, "sync", synced)


def trust_records(patch: pytest.MonkeyPatch) -> None:
    """N15: a start takes every record with a good header for whole."""
    patch.setattr(recovery, "restore_payload", _unchecked)


def trust_payloads(patch: pytest.MonkeyPatch) -> None:
    """N16: a payload is read from the log without a look at its checksum."""
    patch.setattr(segment_log, "restore_payload", _unchecked)


def _unchecked(header: RecordHeader, stored: bytes, key: SegmentKey) -> bytes | None:
    if len(stored) != header.payload_size:
        return None
    return key.mask(stored) if header.flags & FLAG_MASKED else stored


def lie_until_power_cut(patch: pytest.MonkeyPatch) -> None:
    """N17: a disk says that it has synced, and everybody believes it, onlookers too; then the power fails."""

    def synced(disk: SimDisk, descriptor: int) -> None:
        file = disk._file(descriptor)
        file.unsynced_from = 0
        disk._unsynced.pop(file, None)

    patch.setattr(SimDisk, "fdatasync", synced)


class _WithoutNames:
    """A disk that is never told to make a directory's names durable."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk

    def __getattr__(self, name: str) -> Any:
        return getattr(self._disk, name)

    def sync_directory(self, path: Path) -> None:
        """Nothing."""


def forget_names(patch: pytest.MonkeyPatch) -> None:
    """M20: a new segment's name is not synced."""
    create = SegmentFiles._create

    def created(files: SegmentFiles, segment: Segment, header: bytes) -> None:
        disk = files._disk
        files._disk = _WithoutNames(disk)
        try:
            create(files, segment, header)
        finally:
            files._disk = disk

    patch.setattr(SegmentFiles, "_create", created)


def keep_stored_suffix(patch: pytest.MonkeyPatch) -> None:
    """M25b: installing a snapshot keeps the log's entries behind it."""
    reset = GroupIndex.reset

    def partly(index: GroupIndex, snapshot_index: int, term: int) -> None:
        kept = index.last_index - snapshot_index
        if index.first_index <= snapshot_index < index.last_index:
            positions, sizes = index._positions[-kept:], index._sizes[-kept:]
            terms = [index.term(snapshot_index + 1 + n) for n in range(kept)]
            reset(index, snapshot_index, term)
            for n in range(kept):
                index.append(snapshot_index + 1 + n, terms[n], positions[n], sizes[n])
        else:
            reset(index, snapshot_index, term)

    patch.setattr(GroupIndex, "reset", partly)


def return_wiped(patch: pytest.MonkeyPatch) -> None:
    """M24a: a node whose disk was wiped starts again as who it was."""

    def wiped(node: SimNode) -> None:
        node.crash(power=True)
        node.device.wipe()
        node.cluster.start_later(node)

    patch.setattr(SimNode, "wipe", wiped)


def adopt_by_name(patch: pytest.MonkeyPatch) -> None:
    """M24b: a node takes itself for the member of its name, whatever disk that had."""
    consider = Formation._consider

    def considered(formation: Formation, cluster_uid: bytes, fields: dict[str, Any]) -> None:
        for member in fields.get("members") or ():
            if member[1] == formation.name:
                formation.uid = member[2]
        consider(formation, cluster_uid, fields)

    patch.setattr(Formation, "_consider", considered)


def commit_in_front(patch: pytest.MonkeyPatch) -> None:
    """The hard state is stored before the entries of the same pass, and calls them committed."""

    def in_front(work: StorageAppend, state: HardState, previous: HardState) -> HardState:
        return state

    patch.setattr("zmqbroker.storage.segment_log._in_front", in_front)


def skip_sync(patch: pytest.MonkeyPatch) -> None:
    """The log says that it has synced, and has not."""
    patch.setattr(SegmentFiles, "sync", lambda files: None)
