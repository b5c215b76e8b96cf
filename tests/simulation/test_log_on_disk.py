"""The real segment log on the simulated disk: lives that end in power cuts and kills, at any call, under faults of the disk.

After each end the log must recover to the state after some record, at or after the last one that was synced (invariant I21).
When `sync` returns, the disk must agree that everything written is durable (I19).
"""

from __future__ import annotations

import errno
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import pytest

from tests.simulation.disk import DiskFaults, ProcessDied, SimDisk
from zmqbroker.errors import Corruption, NoRoom, StorageError
from zmqbroker.raft.messages import Entry, HardState, Membership, Snapshot, StorageAppend
from zmqbroker.storage.disk import Disk
from zmqbroker.storage.interfaces import WriteJob
from zmqbroker.storage.segment_log import SegmentLog

LOG = Path("/log")
SEGMENT_BYTES = 16 << 10  # room for the header and a few passes
GROUPS = (1, 2)
NO_STATE = HardState()
FAULTS = (errno.EIO, errno.ENOSPC)  # what `faults_of` makes the disk say; anything else is the log's own fault


@dataclass(slots=True, frozen=True)
class GroupState:
    """What the log holds of one group after some record."""

    state: HardState = NO_STATE  # its commit index is the highest that the log may show: those entries are the committed ones
    boundary: tuple[int, int] = (0, 0)  # index and term of what lies before the first entry
    entries: tuple[Entry, ...] = ()

    @property
    def last_index(self) -> int:
        """The highest index held, or that of the boundary."""
        return self.boundary[0] + len(self.entries)

    def is_shown_by(self, log: SegmentLog, group: int) -> bool:
        """True when the log shows this, but for entries that it dropped from the beginning."""
        view = log.view(group)
        first, last, (start, start_term) = view.first_index(), view.last_index(), self.boundary
        if last != self.last_index or first <= start:
            return False
        state = view.hard_state()
        if (state.term, state.vote) != (self.state.term, self.state.vote) or state.commit > self.state.commit:
            return False
        before = self.entries[first - start - 2].term if first - 1 > start else start_term
        return view.term(first - 1) == before and view.entries(first, last + 1, 1 << 30) == self.entries[first - start - 1 :]


State = dict[int, GroupState]


def after_each_record(state: State, work: StorageAppend) -> list[State]:
    """The states after the records of one work: what it commits is committed with its last record."""
    states, held = [], state[work.group]
    if work.hard_state is not None:
        commit = held.state.commit
        if work.snapshot is None:
            commit = work.entries[0].index - 1 if work.entries else held.last_index
        held = replace(held, state=replace(work.hard_state, commit=min(work.hard_state.commit, commit)))
        states.append(state | {work.group: held})
    if work.snapshot is not None:
        held = GroupState(held.state, (work.snapshot.index, work.snapshot.term))
        states.append(state | {work.group: held})
    for entry in work.entries:
        held = replace(held, entries=(*held.entries[: entry.index - 1 - held.boundary[0]], entry))
        states.append(state | {work.group: held})
    if work.hard_state is not None:
        states[-1] = state | {work.group: replace(held, state=work.hard_state)}
    return states


class Workload:
    """One log through any number of lives of its process, and what it must hold."""

    def __init__(self, seed: int, *, sync: bool = True, faults: DiskFaults | None = None) -> None:
        self.random = Random(seed)
        self.label = f"seed {seed}"
        self.sync = sync
        self.faults = faults or DiskFaults()
        self.disk = SimDisk(Random(seed + 1), DiskFaults())
        self.history: list[State] = [dict.fromkeys(GROUPS, GroupState())]
        self.synced = 0  # every state of history before this one is out of question after a power cut
        self.written = 0  # the same after a kill
        self.begun = 0  # the last state of history of which anything may have been written
        self.trimmed = dict.fromkeys(GROUPS, 0)
        self.term = 1
        self.reserve_segments = self.random.choice((1, 1, 2))
        self.log = self.open_on(self.disk)

    def open_on(self, disk: Disk) -> SegmentLog:
        """A log of this workload's kind."""
        return SegmentLog.open(
            LOG,
            sync=self.sync,
            segment_bytes=SEGMENT_BYTES,
            reserve_segments=self.reserve_segments,
            cache_bytes_max=0,
            disk=disk,
            uuid=self._uuid,
        )

    def _uuid(self) -> bytes:
        return self.random.randbytes(16)

    def live(self, passes: int, dies_in: int = -1) -> bool:
        """Work until a fault, the `dies_in`-th call of the disk or the last pass ends the process; False when a fault did."""
        self.disk.faults = replace(self.faults)
        self.disk.die_in(dies_in)
        try:
            for _ in range(passes):
                self._pass()
                if self.random.random() < 0.2:
                    self._tidy()
        except ProcessDied:
            return True
        except OSError as error:
            if error.errno not in FAULTS:
                raise
            return False
        return True

    def _pass(self) -> None:
        """What the writer's thread does with some jobs that were queued together."""
        jobs, ends = [], []
        for _ in range(self.random.choice((1, 1, 1, 2, 3))):
            works = [self._work(group) for group in self.random.sample(GROUPS, self.random.choice((1, 1, 2)))]
            jobs.append(self.log.prepare(works))
            ends.append(len(self.history) - 1)
        for job, end in zip(jobs, ends, strict=True):
            self.begun = end
            self._write(job)
            self.written = end
        if any(job.must_sync for job in jobs):
            jobs[-1].sync()
            self.synced = self.written
            assert not self.sync or self.disk.durable_writes == self.disk.writes, self.label
        for job in jobs:
            self.log.complete(job)

    def _write(self, job: WriteJob) -> None:
        """Write a job, as often as it finds no room."""
        for _ in range(100):
            try:
                job.write()
            except NoRoom:
                continue
            return
        raise AssertionError(self.label)

    def _work(self, group: int) -> StorageAppend:
        """Entries behind the last or in the place of some, maybe a hard state, seldom a snapshot."""
        random, held = self.random, self.history[-1][group]
        last, floor = held.last_index, max(self.trimmed[group], held.boundary[0], held.state.commit)
        snapshot = None
        if random.random() < 0.15:
            self.term += 1
            last = max(last - random.randrange(4), floor)
        if random.random() < 0.03:
            last += random.randrange(1, 5)
            snapshot = Snapshot(last, self.term, Membership((1,)))
        entries = tuple(Entry(last + 1 + number, self.term, self._payload()) for number in range(random.randrange(4)))
        state = None
        if snapshot is not None or random.random() < 0.4:
            commit = random.randint(max(floor, snapshot.index if snapshot else 0), last + len(entries))
            state = HardState(self.term, random.randrange(4), commit)
        work = StorageAppend(group, entries, state, random.random() < 0.5, snapshot=snapshot)
        self.history += after_each_record(self.history[-1], work)
        return work

    def _payload(self) -> bytes:
        random = self.random
        size = random.choice((random.randrange(100), random.randrange(1500), random.randrange(1500)))
        if random.random() < 0.01:
            size = SEGMENT_BYTES + random.randrange(1000)
        return random.randbytes(size) if random.random() < 0.7 else bytes(size)

    def _tidy(self) -> None:
        """Trim as a node does, which trims only what is committed and durable, and housekeep."""
        for group, held in self.history[self.synced].items():
            index = max(self.trimmed[group], held.state.commit - self.random.randrange(4))
            self.trimmed[group] = index
            self.log.trim(group, index)
        self.log.housekeep()

    def end(self, *, power_cut: bool) -> None:
        """The process, or the machine, dies."""
        if power_cut:
            self.disk.crash(self.random)
        else:
            self.disk.kill()

    def start(self, *, lost: bool) -> None:
        """Recover, through faults of the disk while they last; `lost`: what was only written may be gone."""
        for attempt in range(20):
            self.disk.faults = replace(self.faults) if attempt < 5 else DiskFaults()
            self.disk.die_in(self.random.randrange(12) if self.random.random() < 0.3 and attempt < 5 else -1)
            try:
                self.log = self.open_on(self.disk)
            except (ProcessDied, StorageError) as error:
                faulty = isinstance(error, StorageError)
                if faulty and getattr(error.__cause__, "errno", 0) not in FAULTS:
                    raise
                power_cut = self.sync and self.random.random() < 0.5
                lost |= power_cut or faulty
                self.end(power_cut=power_cut)
            else:
                break
        self._check(self.synced if lost else self.written)

    def _check(self, first: int) -> None:
        self.disk.faults = DiskFaults()
        self.disk.die_in(-1)
        kept = self.states_shown_by(self.log, first)
        assert kept, f"{self.label}: recovered to no state of {first} to {len(self.history) - 1}"
        assert not self.sync or self.disk.durable_writes == self.disk.writes, self.label
        self.history, self.synced, self.written, self.begun = [self._with_commit_of_log(kept[-1])], 0, 0, 0
        self.term += 1

    def states_shown_by(self, log: SegmentLog, first: int) -> list[State]:
        """The states from number `first` up to what has begun to be written that `log` shows; it dropped what may go alone."""
        for group in GROUPS:
            floor = max(self.trimmed[group], *(state[group].boundary[0] for state in self.history))
            assert log.view(group).first_index() <= floor + 1, self.label
        states = self.history[first : self.begun + 1]
        return [state for state in states if all(held.is_shown_by(log, group) for group, held in state.items())]

    def _with_commit_of_log(self, state: State) -> State:
        return {group: replace(held, state=self.log.view(group).hard_state()) for group, held in state.items()}


def faults_of(random: Random) -> DiskFaults:
    """A mixture of faults; in a quarter of all cases none."""
    faults = DiskFaults()
    if random.random() < 0.75:
        for name in ("sync_error", "no_space", "short_write", "short_read"):
            setattr(faults, name, random.choice((0.0, 0.01, 0.1)))
    return faults


@pytest.mark.parametrize("seed", range(100))
def test_log_after_any_ends_holds_all_that_was_synced(seed: int) -> None:
    random = Random(seed)
    workload = Workload(seed, faults=faults_of(random))
    for _ in range(4):
        orderly = workload.live(random.randrange(30), random.randrange(200) if random.random() < 0.5 else -1)
        power_cut = random.random() < 0.7
        workload.end(power_cut=power_cut)
        workload.start(lost=power_cut or not orderly)


@pytest.mark.parametrize("seed", range(20))
def test_log_that_never_syncs_holds_all_that_was_written_before_a_kill(seed: int) -> None:
    random = Random(seed)
    workload = Workload(seed, sync=False)
    for _ in range(3):
        workload.live(random.randrange(30), random.randrange(200) if random.random() < 0.5 else -1)
        workload.end(power_cut=False)
        workload.start(lost=False)


@pytest.mark.parametrize("seed", range(3))
def test_log_survives_a_power_cut_in_any_call(seed: int) -> None:
    """The same life, ended by each call in turn: through segments that begin, are dropped and are made in advance."""
    calls, dies = 0, True
    while dies:
        workload = Workload(seed)
        workload.live(30, calls)
        dies = workload.disk.has_died
        workload.end(power_cut=True)
        workload.start(lost=True)
        calls += 1
    assert calls > 80


def test_log_flipped_bit_is_noticed_or_harmless() -> None:
    noticed = 0
    for seed in range(150):
        random = Random(seed)
        workload = Workload(seed)
        workload.live(random.randrange(5, 25))
        power_cut = random.random() < 0.5
        workload.end(power_cut=power_cut)
        place = workload.disk.flip_bit(random)
        assert place is not None
        message = ""
        try:
            workload.start(lost=power_cut)
        except Corruption as error:
            message = str(error)
            noticed += 1
        assert not message or str(place[0]) in message
    assert 50 < noticed < 150


def test_log_sector_that_cannot_be_read_is_no_corruption() -> None:
    for seed in range(20):
        workload = Workload(seed)
        workload.live(10)
        workload.end(power_cut=False)
        names = workload.disk.names(LOG)
        path = next(LOG / name for name in sorted(names) if name.endswith(".segment"))
        assert workload.disk.spoil_sector(workload.random, path) is not None
        with pytest.raises(StorageError, match="cannot be opened") as caught:
            SegmentLog.open(LOG, sync=True, segment_bytes=SEGMENT_BYTES, disk=workload.disk)
        assert not isinstance(caught.value, Corruption)
        assert path.name in workload.disk.names(LOG)
