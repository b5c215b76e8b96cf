"""What a start makes of a crash between the replaced state and the log that was to begin anew behind it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.broker.builders import START, publish
from tests.unit.storage.support import run
from zmqbroker.broker import Machine
from zmqbroker.broker.snapshot import ROSTER_KEY, write_roster
from zmqbroker.commands import Member
from zmqbroker.config import NodeConfig
from zmqbroker.errors import Corruption
from zmqbroker.raft import Membership, RaftCore
from zmqbroker.raft.messages import Entry, HardState, Snapshot, StorageAppend
from zmqbroker.server.membership import founding
from zmqbroker.server.opening import align, check_bodies, raft_config
from zmqbroker.storage import LmdbState, LogStore, SegmentLog
from zmqbroker.storage.memory import MemoryLog

MEMBERS = tuple(Member(number, f"n{number}", bytes([number]) * 16, f"h{number}:5591", True, 0) for number in (1, 2, 3))
ROSTER = founding(MEMBERS)
INDEX, TERM = 50, 4  # of the snapshot


class Disk:
    """A node's log and store, which can be closed and opened again."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.state = LmdbState.open(directory / "state", sync=False, map_size=8 << 20)
        self.log = self._open_log()

    def _open_log(self) -> SegmentLog:
        return SegmentLog.open(self._directory / "log", sync=False, segment_bytes=64 << 10)

    def write(self, first: int, *terms: int, hard_state: HardState | None = None) -> None:
        """Entries from `first` on, of these terms."""
        entries = tuple(Entry(index, term, b"payload") for index, term in enumerate(terms, first))
        run(self.log, StorageAppend(1, entries, hard_state or HardState(max(terms), 0, 0), True))

    def install(self) -> None:
        """Replace the state; here the node is killed."""
        machine = Machine()
        machine.found(ROSTER)
        machine.apply(INDEX, 0, ())
        self.state.install(1, INDEX, TERM, machine.items(), [])
        self.reopen()

    def reopen(self) -> None:
        self.log.close()
        self.log = self._open_log()

    def place(self) -> tuple[int, int]:
        """First and last index of the log."""
        view = self.log.view(1)
        return view.first_index(), view.last_index()

    def vote(self) -> tuple[int, int]:
        """Stored term and vote."""
        hard_state = self.log.view(1).hard_state()
        return hard_state.term, hard_state.vote

    def start(self) -> RaftCore:
        """What `open_group` does."""
        align(1, self.log, self.state)
        applied_index = self.state.applied_index(1)
        config = raft_config(1, 1, NodeConfig.for_test())
        return RaftCore(config, Membership((1, 2, 3)), self.log.view(1), random.Random(1), applied_index)

    def close(self) -> None:
        self.log.close()
        self.state.close()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    made = Disk(tmp_path)
    yield made
    made.close()


def terms(count: int, *others: int) -> tuple[int, ...]:
    return (1,) * count + others


def assert_begins_behind_the_snapshot(disk: Disk, term: int) -> None:
    core = disk.start()
    for _ in range(2):
        assert disk.place() == (INDEX + 1, INDEX)
        assert disk.log.view(1).term(INDEX) == TERM
        assert (core.applied_index, core.commit_index, core.last_index, core.term) == (INDEX, INDEX, INDEX, term)
        disk.reopen()  # it was written, and the next start finds nothing to mend
        core = disk.start()


def test_start_after_the_state_was_replaced_with_a_shorter_log_begins_anew(disk: Disk) -> None:
    disk.write(1, *terms(20), hard_state=HardState(7, 3, 10))
    disk.install()
    assert disk.place() == (1, 20)
    assert_begins_behind_the_snapshot(disk, term=7)
    assert disk.vote() == (7, 3), "it may have voted"


def test_start_after_the_state_was_replaced_with_an_empty_log_begins_anew(disk: Disk) -> None:
    disk.install()
    assert disk.place() == (1, 0)
    assert_begins_behind_the_snapshot(disk, term=TERM)


def test_start_after_the_state_was_replaced_in_a_term_that_was_not_stored_has_at_least_that_term(disk: Disk) -> None:
    disk.write(1, *terms(20), hard_state=HardState(1, 2, 10))
    disk.install()
    assert_begins_behind_the_snapshot(disk, term=TERM)
    assert disk.vote() == (TERM, 0)


def test_start_after_the_state_was_replaced_with_another_entry_there_begins_anew(disk: Disk) -> None:
    disk.write(1, *terms(60), hard_state=HardState(5, 0, 10))
    disk.install()
    assert_begins_behind_the_snapshot(disk, term=5)


def test_start_after_the_state_was_replaced_with_the_log_ending_there_in_another_term_begins_anew(disk: Disk) -> None:
    disk.write(1, *terms(INDEX), hard_state=HardState(5, 0, 10))
    disk.install()
    assert_begins_behind_the_snapshot(disk, term=5)


def test_start_with_a_log_that_holds_the_same_entry_there_keeps_all_of_it(disk: Disk) -> None:
    disk.write(1, *terms(INDEX - 1, TERM, TERM, 5), hard_state=HardState(5, 0, 10))
    disk.install()
    core = disk.start()
    assert disk.place() == (1, INDEX + 2)
    assert (core.applied_index, core.last_index) == (INDEX, INDEX + 2)


def test_start_after_the_log_began_anew_changes_nothing(disk: Disk) -> None:
    disk.write(1, *terms(20))
    disk.install()
    run(
        disk.log,
        StorageAppend(
            1, hard_state=HardState(6, 2, INDEX), must_sync=True, snapshot=Snapshot(INDEX, TERM, Membership((1, 2, 3)))
        ),
    )
    disk.write(INDEX + 1, 5, 6, hard_state=HardState(6, 2, INDEX))
    disk.reopen()
    core = disk.start()
    assert disk.place() == (INDEX + 1, INDEX + 2)
    assert (core.term, core.vote, core.applied_index, core.last_index) == (6, 2, INDEX, INDEX + 2)


def test_start_with_state_ahead_of_the_snapshot_leaves_the_log_as_it_is(disk: Disk) -> None:
    """Then the log was replaced long ago; if it lacks entries now they are missing."""
    disk.write(1, *terms(20))
    disk.install()
    disk.state.commit(1, INDEX + 5, [])
    with pytest.raises(Corruption, match="entry 55 left, and the log ends with entry 20: acknowledged entries are missing"):
        disk.start()
    assert disk.place() == (1, 20)


def test_start_with_a_log_that_ends_before_the_state_is_refused(disk: Disk) -> None:
    """As a disk leaves it that says it has synced, and has not: an error for the operator, not a failed check."""
    disk.write(1, *terms(20))
    disk.state.commit(1, 21, [])
    with pytest.raises(Corruption, match="entry 21 left, and the log ends with entry 20: acknowledged entries are missing"):
        disk.start()
    assert disk.place() == (1, 20)


@pytest.mark.parametrize("applied_index", [0, 1])
def test_start_with_a_state_older_than_the_log_was_trimmed_for_is_refused(disk: Disk, applied_index: int) -> None:
    """As damage to the first pages of LMDB leaves it, which say where the newest state is."""
    log = MemoryLog()
    run(log, StorageAppend(1, tuple(Entry(index, 1, b"payload") for index in range(1, 6))))
    log.trim(1, 2)
    disk.state.commit(1, applied_index, [])
    with pytest.raises(Corruption, match=f"entry {applied_index} left, and the log begins with entry 3: what was stored last"):
        align(1, log, disk.state)
    disk.state.commit(1, 2, [])
    align(1, log, disk.state)


def test_start_without_any_snapshot_leaves_the_log_as_it_is(disk: Disk) -> None:
    disk.write(1, *terms(20))
    disk.start()
    assert disk.place() == (1, 20)


def test_align_of_one_group_leaves_the_others_alone(disk: Disk) -> None:
    run(disk.log, StorageAppend(2, (Entry(1, 1, b"x"),), HardState(1, 2, 0), True))
    disk.install()
    disk.start()
    view = disk.log.view(2)
    assert (view.first_index(), view.last_index(), view.hard_state()) == (1, 1, HardState(1, 2, 0))


def test_align_on_a_log_in_memory_is_the_same(disk: Disk) -> None:
    log: LogStore = MemoryLog()
    run(log, StorageAppend(1, (Entry(1, 1, b"x"),), HardState(1, 2, 1), True))
    disk.install()
    align(1, log, disk.state)
    view = log.view(1)
    assert (view.first_index(), view.last_index(), view.hard_state()) == (INDEX + 1, INDEX, HardState(TERM, 0, INDEX))


def test_roster_of_the_snapshot_is_what_the_start_begins_with(disk: Disk) -> None:
    disk.install()
    assert disk.state.get(1, ROSTER_KEY) == write_roster(ROSTER)
    machine = Machine.restore(disk.state.applied_index(1), disk.state.load(1))
    assert machine.roster == ROSTER


def with_messages(disk: Disk) -> Machine:
    """Five entries with a message each in the log, of which all but the last are applied and stored."""
    machine = Machine()
    machine.found(ROSTER)
    for index in range(1, 5):
        machine.apply(index, START, [publish()])
    disk.state.commit(1, 4, machine.changes())
    disk.write(1, *terms(5))
    return machine


def test_start_finds_every_body_in_the_log_or_in_the_store(disk: Disk) -> None:
    machine = with_messages(disk)
    check_bodies(1, machine, disk.log, disk.state)
    log = MemoryLog()
    run(log, StorageAppend(1, tuple(Entry(index, 1, b"payload") for index in range(1, 6))))
    log.trim(1, 3)
    disk.state.put_bodies(1, [(1, b"payload"), (2, b"payload"), (3, b"payload")])
    check_bodies(1, machine, log, disk.state)


@pytest.mark.parametrize(("stored", "count", "first"), [((1, 3), 1, 2), ((), 3, 1), ((3, 4, 9), 2, 1)])
def test_start_without_the_body_of_a_waiting_message_is_refused(
    disk: Disk, stored: tuple[int, ...], count: int, first: int
) -> None:
    machine = with_messages(disk)
    log = MemoryLog()
    run(log, StorageAppend(1, tuple(Entry(index, 1, b"payload") for index in range(1, 6))))
    log.trim(1, 3)
    disk.state.put_bodies(1, [(index, b"payload") for index in stored])
    with pytest.raises(Corruption, match=f"group 1: {count} entries with waiting messages, {first} the first, .* begins at 4"):
        check_bodies(1, machine, log, disk.state)
