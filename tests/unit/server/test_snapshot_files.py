"""One snapshot made of a store and read again: what is in it, and what is no snapshot."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.unit.broker.builders import START, acked_by, publish, receive
from zmqbroker.broker import Machine
from zmqbroker.commands import Member
from zmqbroker.errors import Compacted, Corruption, StorageError
from zmqbroker.raft import Membership
from zmqbroker.raft.messages import Entry, Snapshot, StorageAppend
from zmqbroker.server.membership import founding
from zmqbroker.server.snapshot_making import MadeSnapshot, make_snapshot
from zmqbroker.server.snapshot_receiving import read_snapshot, store_bodies, store_snapshot
from zmqbroker.storage.memory import MemoryLog, MemoryState
from zmqbroker.storage.snapshot_file import SnapshotHead, SnapshotReader, SnapshotWriter

ROSTER = founding(Member(number, f"n{number}", bytes([number]) * 16, f"h{number}:1") for number in (1, 2, 3))


class Source:
    """A node's machine, log and store: five entries with a message each, of which the first two are acked."""

    def __init__(self) -> None:
        self.machine, self.log, self.state = Machine(), MemoryLog(), MemoryState()
        self.machine.found(ROSTER)
        for index in range(1, 6):
            self.machine.apply(index, START, [publish()])
        (delivery,) = self.machine.apply(6, START, [receive(2)]).deliveries
        self.machine.apply(7, START, [acked_by(delivery)])
        entries = tuple(Entry(index, 2, b"payload %d" % index) for index in range(1, 8))
        self.log.complete(self.log.prepare([StorageAppend(1, entries)]))
        self.state.commit(1, 7, self.machine.changes())

    def make(self, directory: Path, before_job: Callable[[int], None] = lambda _: None) -> MadeSnapshot:
        """A snapshot; `before_job` is called with the number of each job."""
        count = 0

        async def job(work: Callable[[], Any]) -> Any:
            nonlocal count
            before_job(count)
            count += 1
            return work()

        return asyncio.run(make_snapshot(directory, 1, self.log, self.state, self.log.read, job))


def test_snapshot_made_holds_the_state_and_the_payloads_of_live_entries(tmp_path: Path) -> None:
    source = Source()
    made = source.make(tmp_path)
    assert made.snapshot == Snapshot(7, 2, Membership((1, 2, 3)))
    assert made.size == made.path.stat().st_size
    with made.path.open("rb") as file:
        reader = SnapshotReader(file, "file")
        assert reader.head == SnapshotHead(1, 7, 2, ROSTER.membership)
        assert list(reader.items()) == list(source.state.load(1))
        assert dict(reader.bodies()) == {index: b"payload %d" % index for index in (3, 4, 5)}


def test_snapshot_read_and_stored_is_the_same_state(tmp_path: Path) -> None:
    source, state = Source(), MemoryState()
    state.install(1, 3, 1, [(b"old", b"")], [(1, b"old")])
    made = source.make(tmp_path)
    received = read_snapshot(made.path, 1)
    assert (received.snapshot, received.bodies) == (made.snapshot, [3, 4, 5])
    assert received.machine.digest() == source.machine.digest()
    store_bodies(received, state, 1)
    assert (state.applied_index(1), state.body_indexes(1)) == (3, [1, 3, 4, 5]), "they harm nobody"
    store_snapshot(received, state, 1)
    assert (state.applied_index(1), state.installed(1)) == (7, (7, 2))
    assert list(state.load(1)) == list(source.state.load(1))
    assert [state.body(1, index) for index in (3, 4, 5)] == [b"payload 3", b"payload 4", b"payload 5"]


def test_making_while_another_snapshot_replaces_the_state_fails_and_mixes_nothing(tmp_path: Path) -> None:
    source = Source()
    newer = Machine()
    newer.found(ROSTER)
    newer.apply(50, START, [publish()])

    def install(number: int) -> None:
        if number == 1:
            source.state.install(1, 50, 3, newer.items(), [])

    with pytest.raises(StorageError, match="another snapshot has replaced the state"):
        source.make(tmp_path, install)
    assert list(tmp_path.iterdir()) == []


def test_making_fails_when_a_payload_is_gone(tmp_path: Path) -> None:
    source = Source()
    source.log.trim(1, 3)
    with pytest.raises(Compacted):
        source.make(tmp_path)
    assert list(tmp_path.iterdir()) == []


def write(path: Path, *, group: int = 1, membership: bytes = ROSTER.membership, bodies: tuple[int, ...] = (3, 4, 5)) -> Path:
    """A snapshot that is not what it says, but for its defaults."""
    with path.open("wb") as file:
        writer = SnapshotWriter(file, SnapshotHead(group, 7, 2, membership))
        for key, value in Source().state.load(1):
            writer.item(key, value)
        for index in bodies:
            writer.body(index, b"")
        writer.finish()
    return path


def test_file_with_all_that_belongs_to_it_is_a_snapshot(tmp_path: Path) -> None:
    path = write(tmp_path / "snapshot")
    assert read_snapshot(path, 1).bodies == [3, 4, 5]
    assert path.exists()


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"group": 2}, "of group 2, not 1"),
        ({"membership": founding(ROSTER.members[:2]).membership}, "members are not those of its head"),
        ({"bodies": (3, 4)}, "has 2 bodies, its state names 3"),
        ({"bodies": (3, 4, 5, 6)}, "has 4 bodies, its state names 3"),
        ({"bodies": (3, 5, 4)}, "has 3 bodies"),
    ],
)
def test_file_that_is_another_snapshot_is_refused_and_deleted(tmp_path: Path, changes: dict[str, Any], match: str) -> None:
    path = write(tmp_path / "snapshot", **changes)
    with pytest.raises(Corruption, match=match):
        read_snapshot(path, 1)
    assert not path.exists()


def test_file_with_a_state_that_is_none_is_refused_and_deleted(tmp_path: Path) -> None:
    path = tmp_path / "snapshot"
    with path.open("wb") as file:
        writer = SnapshotWriter(file, SnapshotHead(1, 7, 2, ROSTER.membership))
        writer.item(b"\1no key", b"")
        writer.finish()
    with pytest.raises(Corruption, match="no meta record"):
        read_snapshot(path, 1)
    assert not path.exists()


def test_file_that_cannot_be_read_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_snapshot(tmp_path / "absent", 1)
