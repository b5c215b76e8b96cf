"""Every point at which the power may fail while the segment log works, and what a start makes of what is left then.

Before each call that changes the disk several images are made: what is synced, and random parts of the sectors and names that
are not. From each the log must recover: to the state after some record that had begun to be written, at or after all that was
acknowledged (invariant I21). A recovery may itself be cut off at any of its calls, and the next one must still find the same;
and a log that has recovered must go on, through the next segments and the next power cut.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from copy import deepcopy
from random import Random
from typing import Any

import pytest

from tests.simulation.disk import DiskFaults, SimDisk
from tests.simulation.test_log_on_disk import GROUPS, Workload
from zmqbroker.errors import StorageError
from zmqbroker.raft.messages import Entry, HardState, StorageAppend
from zmqbroker.storage.disk import Disk
from zmqbroker.storage.segment_log import SegmentLog

#: Calls of a `Disk` that change what a power cut leaves.
CHANGING = {
    *("create", "allocate", "zero", "pwritev", "fdatasync", "fsync"),
    *("make_directory", "rename", "unlink", "sync_directory"),
}


class WatchedDisk:
    """A disk that says what it is about to change."""

    def __init__(self, disk: SimDisk, look: Callable[[str], None]) -> None:
        self._disk, self._look = disk, look

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._disk, name)
        if name not in CHANGING:
            return call

        def looked(*arguments: Any) -> Any:
            self._look(name)
            return call(*arguments)

        return looked


class Recorded(Workload):
    """A workload that recovers, at each of its points, from `images` power cuts that might have happened there.

    One in ten of those recoveries is itself cut off at each of its calls, and three in ten go on.
    """

    def __init__(self, seed: int, *, images: int, no_space: float) -> None:
        self.images = images
        self.cuts, self.uuids = Random(seed + 2), Random(seed + 3)
        self.watching = False
        self.calls: Counter[str] = Counter()
        self.recovered = 0
        super().__init__(seed, faults=DiskFaults(no_space=no_space))

    def open_on(self, disk: Disk) -> SegmentLog:
        """See `Workload`; its own disk is watched."""
        return super().open_on(WatchedDisk(self.disk, self._look) if disk is self.disk else disk)

    def _uuid(self) -> bytes:
        return self.uuids.randbytes(16)

    def work(self, passes: int) -> None:
        """Live, recovering at every point and once more at the end."""
        self.watching = True
        assert self.live(passes)
        self._look("end")
        self.watching = False

    def _look(self, call: str) -> None:
        if not self.watching:
            return
        self.calls[call] += 1
        where = f"before call {self.calls.total()} ({call})"
        for _ in range(self.images):
            image, kind = self._cut(self.disk), self.cuts.randrange(10)
            if not kind:
                self._recover_interrupted(image, where)
            else:
                log = self._recover(image, where)
                if kind <= 3:
                    self._go_on(log, image, where)
                log.close()

    def _cut(self, disk: SimDisk) -> SimDisk:
        """The disk as a power cut now may leave it."""
        image = deepcopy(disk)
        image.faults = DiskFaults()
        image.crash(Random(self.cuts.getrandbits(32)))
        return image

    def _open(self, disk: Disk, where: str) -> SegmentLog:
        try:
            return self.open_on(disk)
        except (StorageError, OSError) as error:
            raise AssertionError(f"{self.label}: power cut {where}: {error}") from error

    def _recover(self, disk: Disk, where: str) -> SegmentLog:
        """A log that shows what it must."""
        self.recovered += 1
        log = self._open(disk, where)
        shown = self.states_shown_by(log, self.synced)
        assert shown, f"{self.label}: power cut {where}: no state of {self.synced} to {self.begun}"
        return log

    def _recover_interrupted(self, disk: SimDisk, where: str) -> None:
        """Recover, and again from what each call of that recovery would leave if the power failed before it."""
        points: list[tuple[str, SimDisk]] = []
        self._recover(WatchedDisk(disk, lambda call: points.append((call, self._cut(disk)))), where).close()
        points.append(("its end", self._cut(disk)))
        for call, image in points:
            self._recover(image, f"{where}, then before {call} of the recovery").close()

    def _go_on(self, log: SegmentLog, disk: SimDisk, where: str) -> None:
        """Write on, with entries of all sizes, and then one that is torn: the next power cut leaves all that was synced."""
        held = {group: _entries(log, group) for group in GROUPS}
        for number in range(self.cuts.choice((0, 1, 2, 20))):
            group = self.cuts.choice(GROUPS)
            payload = self.cuts.randbytes(self.cuts.choice((3, 600, 2000)))
            entry = Entry(log.view(group).last_index() + 1, self.term + 1, payload)
            job = log.prepare([StorageAppend(group, (entry,), HardState(self.term + 1, 1, 0), must_sync=True)])
            job.write()
            job.sync()
            log.complete(job)
            held[group] = (*held[group], entry)
            if number % 8 == 7:
                log.housekeep()
        torn = Entry(log.view(2).last_index() + 1, self.term + 1, bytes(self.cuts.choice((3, 3000))))
        log.prepare([StorageAppend(2, (torn,))]).write()
        reopened = self._open(self._cut(disk), f"{where}, and another one later")
        for group, entries in held.items():
            found = _entries(reopened, group)
            assert found[: len(entries)] == entries, f"{self.label}: power cut {where}, another one later: {group} lost entries"
        reopened.close()


def _entries(log: SegmentLog, group: int) -> tuple[Entry, ...]:
    view = log.view(group)
    return view.entries(view.first_index(), view.last_index() + 1, 1 << 30)


def recorded(seed: int, *, passes: int = 50, images: int = 3) -> Recorded:
    """Record one workload, with odd seeds on a disk that is often full. Raises AssertionError for an image that is not good."""
    recording = Recorded(seed, images=images, no_space=0.4 * (seed % 2))
    recording.work(passes)
    return recording


@pytest.mark.parametrize("seed", range(3))
def test_log_recovers_from_every_image_of_a_workload(seed: int) -> None:
    recording = recorded(seed)
    assert recording.recovered > 500
    assert min(recording.calls[call] for call in ("zero", "rename", "fsync", "allocate")) > 3, recording.calls


def test_log_recovers_from_every_image_of_a_short_workload() -> None:
    """What the mutants of the log's files are hunted with."""
    recorded(0, passes=35, images=2)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(100, 140))
def test_log_recovers_from_every_image_of_many_workloads(seed: int) -> None:
    recorded(seed, passes=100, images=10)
