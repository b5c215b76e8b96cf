"""What a follower has promised at one moment of its work, and whether a data directory keeps it.

A promise is a message that left it (tests/fault/node_workload.py writes them down). `check` opens a directory as a node does,
and sees that nothing there is called damaged, that every promise is kept, and that another start finds the same.
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path

from tests.fault.leader_script import Script
from tests.fault.lone_follower import is_formed, open_data, opened_group
from zmqbroker.broker import Machine
from zmqbroker.checksum import crc32c
from zmqbroker.errors import StorageError
from zmqbroker.raft.messages import Entry, HardState
from zmqbroker.server.data import NodeData
from zmqbroker.server.desk import DATA_GROUP
from zmqbroker.wire.entries import decode_entry

__all__ = ["Broken", "Found", "Promises", "check"]


class Broken(AssertionError):
    """A promise that a directory does not keep."""


class Promises:
    """What was begun and what was promised, as the marks tell it."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.formed = False
        self.steps = 0  # that have begun
        self.term, self.vote = 0, (0, 0)  # the highest term that was spoken in; the last vote, as term and candidate
        self.told: defaultdict[int, list[Entry]] = defaultdict(list)  # by index: all entries that it was told, in order
        self.kept: dict[int, int] = {}  # by index: from which of those on it must hold one
        self.held = 0  # entries up to there must be there, in the log or in the state
        self.final = 0  # entries up to there are those that will be committed
        self.flushed = 0  # the stored state is of this index or a later one
        self.commit = 0  # the highest index that it may have applied

    def take(self, marks: bytes) -> None:
        """Something more has happened."""
        for line in marks.splitlines():
            kind, *numbers = json.loads(line)
            if kind == "formed":
                self.formed = True
            elif kind == "begins":
                self._begins(numbers[0])
            elif kind == "flushed":
                self.flushed = max(self.flushed, numbers[0])
            else:
                self.term = max(self.term, numbers[0])
                if kind == "voted":
                    self.vote = numbers[0], numbers[1]
                else:
                    self._holds(numbers[1])

    def _begins(self, number: int) -> None:
        step = self.script.steps[number]
        self.steps, self.commit = self.steps + 1, max(self.commit, step.commit)
        if step.chunks:
            self.held = min(self.held, step.reached)  # the log may end there
        for entry in step.message.entries if step.message is not None else ():
            versions = self.told[entry.index]
            if versions and versions[-1] != entry:
                # What is behind may go, and the entry itself when the new one has come whole.
                self.held = min(self.held, entry.index)
            if not versions or versions[-1] != entry:
                versions.append(entry)

    def _holds(self, index: int) -> None:
        for one in range(1, index + 1):
            if one in self.told:
                self.kept[one] = len(self.told[one]) - 1
        self.held = index
        step, final = self.script.steps[self.steps - 1], self.script.entries
        while self.final < index and (step.chunks or self.told[self.final + 1][-1] == final.get(self.final + 1)):
            self.final += 1


@dataclass(frozen=True, slots=True)
class Found:
    """What a start has found; two starts of the same directory find equal ones."""

    hard_state: HardState
    log: tuple[tuple[int, int, int], ...]  # index, term and crc32c of every entry
    first_index: int
    applied_index: int
    digest: bytes
    mark: int
    installed: tuple[int, int]
    bodies: tuple[int, ...]


def check(directory: Path, promises: Promises) -> Found | None:
    """Open a directory twice and compare it with what was promised; None for no member of a cluster yet. Raises Broken."""
    first = _start(directory, promises, "boot-2")
    second = _start(directory, promises, "boot-3")
    if second != first:
        raise Broken(f"another start finds {second}, the one before {first}")
    return first


def _start(directory: Path, promises: Promises, boot: str) -> Found | None:
    try:
        data = open_data(directory, boot)
    except StorageError as error:
        raise Broken(f"it cannot be opened: {error}") from error
    try:
        if data.former is not None:
            raise Broken(f"it is called damaged: {data.former.reason}")
        if not is_formed(data) and not promises.formed:
            return None
        return _Start(data, promises).found()
    except StorageError as error:
        raise Broken(f"it is damaged: {error}") from error
    except Broken:
        raise
    except AssertionError as error:
        raise Broken(f"the node ends: {error}") from error
    finally:
        data.close(orderly=False)


class _Start:
    """One start, compared with the promises."""

    def __init__(self, data: NodeData, promises: Promises) -> None:
        self._data, self._promises, self._script = data, promises, promises.script
        group = opened_group(data)
        self._machine, self._commit_index = group.machine, group.core.commit_index
        self._view = data.log.view(DATA_GROUP)

    def found(self) -> Found:
        """What is there. Raises Broken, StorageError."""
        state, view, machine = self._data.state, self._view, self._machine
        applied_index, digest = machine.applied_index, machine.digest()
        self._check_hard_state()
        self._check_state()
        entries = view.entries(view.first_index(), view.last_index() + 1, 1 << 40)
        self._check_log(entries)
        self._check_bodies()
        self._replay(entries)
        return Found(
            # Of the commit index the log may know less than the core makes of log and state together.
            replace(view.hard_state(), commit=self._commit_index),
            tuple((entry.index, entry.term, crc32c(entry.data)) for entry in entries),
            view.first_index(),
            applied_index,
            digest,
            state.bodies_mark(DATA_GROUP),
            state.installed(DATA_GROUP),
            tuple(state.body_indexes(DATA_GROUP)),
        )

    def _check_hard_state(self) -> None:
        promises, state = self._promises, self._view.hard_state()
        if state.term < promises.term:
            raise Broken(f"it is in term {state.term}, and has spoken in term {promises.term}")
        term, vote = promises.vote
        if state.term == term and state.vote != vote:
            raise Broken(f"in term {term} it has voted for {vote}, and knows of {state.vote}")
        if self._commit_index > promises.commit:
            raise Broken(f"it takes {self._commit_index} for committed, and has heard of {promises.commit}")

    def _check_state(self) -> None:
        promises, index = self._promises, self._machine.applied_index
        if not promises.flushed <= index <= promises.commit:
            raise Broken(f"the state is of index {index}, not of {promises.flushed} to {promises.commit}")
        if self._machine.digest() != self._script.digests[index]:
            raise Broken(f"the state is not what entry {index} left")

    def _check_log(self, entries: tuple[Entry, ...]) -> None:
        promises, view, applied_index = self._promises, self._view, self._machine.applied_index
        if not view.first_index() - 1 <= applied_index <= view.last_index():
            raise Broken(f"the log holds {view.first_index()} to {view.last_index()}, the state is of {applied_index}")
        if view.last_index() < promises.held:
            raise Broken(f"the log ends with entry {view.last_index()}, and {promises.held} was acknowledged")
        for entry in entries:
            if entry not in promises.told[entry.index][promises.kept.get(entry.index, 0) :]:
                raise Broken(f"entry {entry.index} of term {entry.term} is not what was acknowledged, or never was told")

    def _check_bodies(self) -> None:
        """Every waiting message is there; up to the mark in the store, since the log may drop it."""
        state = self._data.state
        mark = state.bodies_mark(DATA_GROUP)
        for index in self._machine.live_indexes():
            body = state.body(DATA_GROUP, index) if index <= mark or index < self._view.first_index() else None
            if body is None and index > mark:
                body = self._data.log.read(DATA_GROUP, index)
            if body != self._script.entries[index].data:
                raise Broken(f"the body of entry {index} is missing, or another one; the mark is at {mark}")

    def _replay(self, entries: tuple[Entry, ...]) -> None:
        """What is committed behind the state leads to the state that it led to before."""
        machine, script = self._machine, self._script
        for entry in entries:
            if machine.applied_index < entry.index <= self._promises.commit and entry == script.entries.get(entry.index):
                _apply(machine, entry)
                if machine.digest() != script.digests[entry.index]:
                    raise Broken(f"applied again, entry {entry.index} leaves another state")
        if machine.applied_index < min(self._promises.final, self._promises.commit):
            raise Broken(f"the state comes to index {machine.applied_index}, and {self._promises.final} was acknowledged")


def _apply(machine: Machine, entry: Entry) -> None:
    decoded = decode_entry(entry.data) if entry.data else None
    if decoded is None:
        machine.apply(entry.index, 0, ())
    else:
        machine.apply(entry.index, decoded.time_unix_ns, decoded.commands)
