"""What the storage tests share: building works, running them, and a model of what a log must hold."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from zmqbroker.raft.messages import Entry, HardState, StorageAppend
from zmqbroker.storage.interfaces import LogStore
from zmqbroker.storage.segment_log import SegmentLog

#: Small enough that a few entries roll over.
SEGMENT_BYTES = 16 << 10


def append(
    first: int, *payloads: bytes, term: int = 1, group: int = 1, state: HardState | None = None, must_sync: bool = True
) -> StorageAppend:
    """A work with entries first, first + 1, ... of one term."""
    entries = tuple(Entry(first + offset, term, payload) for offset, payload in enumerate(payloads))
    return StorageAppend(group, entries, state, must_sync)


def run(log: LogStore, *works: StorageAppend) -> None:
    """One whole pass."""
    job = log.prepare(works)
    job.write()
    if job.must_sync:
        job.sync()
    log.complete(job)


def contents(log: LogStore, group: int = 1) -> dict[int, bytes]:
    """All that the log holds of a group, index -> payload."""
    view = log.view(group)
    return {index: log.read(group, index) for index in range(view.first_index(), view.last_index() + 1)}


def open_log(directory: Path, *, sync: bool = False, cache_bytes_max: int = 0) -> SegmentLog:
    """A log with tiny segments, a reserve of one and, unless asked for, no cache: everything is read from the files."""
    return SegmentLog.open(
        directory, sync=sync, segment_bytes=SEGMENT_BYTES, reserve_segments=1, cache_bytes_max=cache_bytes_max
    )


def segments(directory: Path) -> list[Path]:
    """The segment files, oldest first."""
    return sorted(directory.glob("*.segment"))


def change(path: Path, offset: int, data: bytes) -> None:
    """Overwrite bytes of a file."""
    descriptor = os.open(path, os.O_WRONLY)
    try:
        os.pwrite(descriptor, data, offset)
    finally:
        os.close(descriptor)


def noting(calls: list[str], name: str, real: Callable[..., Any]) -> Callable[..., Any]:
    """`real`, which writes `name` down with every call."""

    def call(*arguments: Any) -> Any:
        calls.append(name)
        return real(*arguments)

    return call


@dataclass
class GroupModel:
    """One group's log as a plain list."""

    state: HardState = field(default_factory=HardState)
    entries: list[Entry] = field(default_factory=list)


class Model:
    """What the log must hold after each record."""

    def __init__(self) -> None:
        self.groups: dict[int, GroupModel] = {}
        self.history: list[dict[int, GroupModel]] = [{}]

    def apply(self, works: Sequence[StorageAppend]) -> None:
        """Apply the works record by record and remember the state after each."""
        for work in works:
            group = self.groups.setdefault(work.group, GroupModel())
            if work.hard_state is not None:
                group.state = work.hard_state
                self.history.append(deepcopy(self.groups))
            for entry in work.entries:
                group.entries[entry.index - 1 :] = [entry]
                self.history.append(deepcopy(self.groups))


def holds(log: SegmentLog, groups: dict[int, GroupModel]) -> bool:
    """True when the log shows exactly `groups`, but for what it has dropped from their beginnings."""
    for number, group in groups.items():
        view = log.view(number)
        first, last = view.first_index(), view.last_index()
        state = replace(group.state, commit=min(group.state.commit, len(group.entries)))
        if last != len(group.entries) or view.hard_state() != state:
            return False
        if view.entries(first, last + 1, 1 << 30) != tuple(group.entries[first - 1 :]):
            return False
        if view.term(first - 1) != (group.entries[first - 2].term if first > 1 else 0):
            return False
    return True
