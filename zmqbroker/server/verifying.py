"""Whether all that a stopped data directory holds is right, and all is there: read to the last byte, and nothing changed.

A flaw in the log is damage unless a start would cut it off as torn, which recovery is asked for. The stored state is read in a
child process, since a damaged LMDB file can end its reader. Source: docs/STORAGE.md §2, §6, §8.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from zmqbroker.errors import BrokerError, Corruption, DataDirectoryError, StorageError
from zmqbroker.server.isolation import isolated
from zmqbroker.server.stopped_group import StoppedGroup, live_indexes, open_stopped, read_body, replay
from zmqbroker.storage.identity import Identity
from zmqbroker.storage.interfaces import LogStore
from zmqbroker.storage.log_reader import Flaw, FoundRecord, FoundSegment, read_log
from zmqbroker.storage.stopped import StoppedDirectory

__all__ = ["Part", "Report", "check_state", "verify_directory"]

DATA_GROUP = 1


@dataclass(slots=True)
class Part:
    """One part of a directory: what was looked at, and what was wrong with it."""

    name: str
    checked: str = ""  # empty: it was not looked at, because another part is damaged
    faults: list[str] = field(default_factory=list)  # each names a file and an offset, a key, or an index
    torn: list[str] = field(default_factory=list)  # never acknowledged: a start cuts it off


@dataclass(slots=True)
class Report:
    """What came of it all."""

    parts: list[Part]

    @property
    def faults(self) -> list[str]:
        """All faults, in the order of the parts."""
        return [fault for part in self.parts for fault in part.faults]

    @property
    def torn(self) -> list[str]:
        """What a start would cut off."""
        return [place for part in self.parts for place in part.torn]


def verify_directory(directory: StoppedDirectory) -> Report:
    """Check everything in `directory`. Raises DataDirectoryError when it is no node's at all."""
    who, log, state, whole = Part("identity"), Part("log"), Part("state"), Part("messages")
    identity = _check_identity(directory, who)
    opened = _check_log(directory, log)
    with _noting(state):
        keys, bodies, size, state.faults = isolated(lambda: check_state(directory), f"{directory.path / 'state'}")
        state.checked = f"{keys} keys and {bodies} bodies, {size} bytes"
    if identity is not None and opened is not None and not state.faults:
        with _noting(whole):
            _check_whole(directory, identity, opened, whole)
    return Report([who, log, state, whole])


@contextmanager
def _noting(part: Part) -> Iterator[None]:
    """What is raised here is a fault of `part`."""
    try:
        yield
    except (BrokerError, OSError) as error:
        part.faults.append(str(error))


def _check_identity(directory: StoppedDirectory, part: Part) -> Identity | None:
    try:
        identity = directory.identity()
    except (Corruption, DataDirectoryError) as error:
        if isinstance(error, DataDirectoryError) and not directory.log_path.exists():
            raise  # it never was a node's
        part.faults.append(str(error))
        return None
    part.checked = f"node {identity.name} of cluster {identity.cluster_name}, {identity.volume}"
    return identity


def _check_log(directory: StoppedDirectory, part: Part) -> LogStore | None:
    """Every record; the log as a start would leave it, None when it would refuse."""
    flaws, segments, records, size = [], 0, 0, 0
    if directory.log_path.exists():
        for event in read_log(directory.log_path):
            if isinstance(event, Flaw):
                flaws.append(str(event))
            elif isinstance(event, FoundSegment):
                segments += 1
            elif isinstance(event, FoundRecord):
                records, size = records + 1, size + event.header.size
    part.checked = f"{segments} segments, {records} records of {size} bytes"
    try:
        opened = directory.open_log()
    except StorageError as error:
        part.faults += flaws or [str(error)]
        return None
    part.torn += flaws
    return opened


def check_state(directory: StoppedDirectory) -> tuple[int, int, int, list[str]]:
    """Read all that is stored: keys, bodies, bytes, and what is wrong with them. Raises BrokerError, OSError."""
    state = directory.open_state()
    keys = size = 0
    faults: list[str] = []
    state.applied_index(DATA_GROUP), state.installed(DATA_GROUP)
    try:
        for key, value in state.load(DATA_GROUP):
            keys, size = keys + 1, size + len(key) + len(value)
    except Corruption as error:
        faults.append(f"{error} (and what comes after it was not looked at)")
    indexes = state.body_indexes(DATA_GROUP)
    for index in indexes:
        try:
            size += len(state.body(DATA_GROUP, index) or b"")
        except Corruption as error:
            faults.append(str(error))
    return keys, len(indexes), size, faults


def _check_whole(directory: StoppedDirectory, identity: Identity, log: LogStore, part: Part) -> None:
    """Log, state and identity together."""
    state = directory.open_state()
    if identity.cluster_uid is None:
        if log.view(DATA_GROUP).last_index() or state.applied_index(DATA_GROUP):
            part.faults.append(f"{directory.path}: holds data of a cluster, but its identity knows none")
        part.checked = "none: no cluster was formed yet"
        return
    group = open_stopped(DATA_GROUP, identity.founders, log, state)
    part.faults += [f"{directory.path}: {fault}" for fault in _hard_state_faults(group)]
    live = live_indexes(group.machine)
    for index in live:
        with _noting(part):
            read_body(group, index)
    try:
        replay(group)
    except BrokerError as error:
        index = group.machine.applied_index + 1
        part.faults.append(f"{directory.path}: group {DATA_GROUP}: entry {index} cannot be applied: {error}")
    depth, channels = sum(group.messages.values()), len(group.messages)
    stored = f"stored index {group.stored_index}, log to {group.last_index}"
    part.checked = f"{depth} in {channels} channels; bodies of {len(live)} entries; {stored}"


def _hard_state_faults(group: StoppedGroup) -> Iterator[str]:
    state = group.log.view(group.number).hard_state()
    if state.term < group.last_term:
        yield f"group {group.number}: the term is {state.term}, but the last entry is of term {group.last_term}"
    if state.commit > group.last_index:
        yield f"group {group.number}: index {state.commit} is committed, but the log ends at {group.last_index}"
