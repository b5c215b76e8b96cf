"""Defects of the segment files: their order of calls, what is made of a dropped one, and what waits for room."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from zmqbroker.errors import NoRoom
from zmqbroker.storage import writer
from zmqbroker.storage.interfaces import WriteJob
from zmqbroker.storage.recovery import _Scan
from zmqbroker.storage.segment import GroupBase, Segment, encode_segment_header
from zmqbroker.storage.segment_files import SegmentFiles

__all__ = [
    "adopt_uncleaned",
    "drop_names_together",
    "forget_idle_groups",
    "keep_older_unsynced",
    "keep_torn_tail",
    "pretend_room",
    "recycle_uncleaned",
    "zero_what_is_named",
]


class _Without:
    """A disk on which some calls do nothing, or what they are given to do instead."""

    def __init__(self, disk: Any, **instead: Callable[..., object]) -> None:
        self._disk, self._instead = disk, instead

    def __getattr__(self, name: str) -> Any:
        return self._instead.get(name) or getattr(self._disk, name)


def _nothing(*_: object) -> None:
    """In place of a call."""


def _without(patch: pytest.MonkeyPatch, method: str, **instead: Callable[..., object]) -> None:
    """Let a method of SegmentFiles run on a disk `_Without` something."""
    real = getattr(SegmentFiles, method)

    def call(files: SegmentFiles, *arguments: Any) -> Any:
        disk = files._disk
        files._disk = _Without(disk, **instead)
        try:
            return real(files, *arguments)
        finally:
            files._disk = disk

    patch.setattr(SegmentFiles, method, call)


def zero_what_is_named(patch: pytest.MonkeyPatch) -> None:
    """A dropped segment's content goes before its name has durably gone."""
    _without(patch, "_retire_doomed", sync_directory=_nothing)


def recycle_uncleaned(patch: pytest.MonkeyPatch) -> None:
    """A spare still holds what the segment held."""
    _without(patch, "_keep", zero=_nothing)


def adopt_uncleaned(patch: pytest.MonkeyPatch) -> None:
    """The spares of an earlier process are taken for what they were going to be."""
    _without(patch, "adopt", zero=_nothing)


def drop_names_together(patch: pytest.MonkeyPatch) -> None:
    """Many names go, and then the directory is synced; only the zeros wait for that."""
    real = SegmentFiles._retire_doomed

    def retire(files: SegmentFiles) -> None:
        disk, zeros = files._disk, list[tuple[int, int]]()
        if not files._doomed:
            return
        files._disk = _Without(disk, sync_directory=_nothing, zero=lambda *call: zeros.append(call))
        try:
            real(files)
        finally:
            files._disk = disk
        disk.sync_directory(files._directory)
        for descriptor, size in zeros:
            disk.zero(descriptor, size)

    patch.setattr(SegmentFiles, "_retire_doomed", retire)


def keep_older_unsynced(patch: pytest.MonkeyPatch) -> None:
    """A newer segment gets its name before the older one is durable."""
    create = SegmentFiles._create

    def created(files: SegmentFiles, segment: Segment, header: bytes) -> None:
        files._dirty = False
        create(files, segment, header)

    patch.setattr(SegmentFiles, "_create", created)


def forget_idle_groups(patch: pytest.MonkeyPatch) -> None:
    """A new segment's header says where each group's log ends, and not whom it voted for."""
    encode = encode_segment_header

    def encoded(sequence: int, first_lsn: int, uuid: bytes, groups: dict[int, GroupBase], **sizes: int) -> bytes:
        without = {group: GroupBase(last_index=base.last_index, last_term=base.last_term) for group, base in groups.items()}
        return encode(sequence, first_lsn, uuid, without, **sizes)

    patch.setattr("zmqbroker.storage.segment_log.encode_segment_header", encoded)


def keep_torn_tail(patch: pytest.MonkeyPatch) -> None:
    """Recovery goes on in front of a torn record, and leaves its rest where it is."""
    patch.setattr(_Scan, "cut", lambda scan: None)


def pretend_room(patch: pytest.MonkeyPatch) -> None:
    """A job that found no room is handed back with the others."""

    def run(jobs: Sequence[WriteJob]) -> tuple[int, int]:
        for job in jobs:
            try:
                job.write()
            except NoRoom:
                continue
        return len(jobs), 0

    patch.setattr(writer, "run", run)
