"""Power cuts: random work on a log, a crash that keeps a random part of what was not synced, and what recovery makes of it.

The disk model: sectors of 512 bytes are written whole or not at all, in any order, until fdatasync or fsync of the file
returns; names (create, rename, unlink) are durable after fsync of the directory, and before that in any combination in which
each call happened or not, in order.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from tests.unit.storage.support import SEGMENT_BYTES, Model, append, holds, open_log
from zmqbroker.raft.messages import HardState
from zmqbroker.storage.segment_log import SegmentLog

SECTOR = 512


class Disk:
    """Notes what is durable, by watching the calls that make it so."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.directory = directory
        self.contents: dict[int, bytes] = {}  # inode -> durable bytes
        self.names: list[dict[str, int]] = [{}]  # durable names, then the names after each change since
        for call in ("fsync", "fdatasync"):
            monkeypatch.setattr(os, call, self._synced(getattr(os, call)))
        for call in ("rename", "unlink"):
            monkeypatch.setattr(os, call, self._renamed(getattr(os, call)))

    def _look(self) -> dict[str, int]:
        return {path.name: path.stat().st_ino for path in self.directory.iterdir()}

    def _synced(self, real: Callable[[int], None]) -> Callable[[int], None]:
        def sync(descriptor: int) -> None:
            real(descriptor)
            path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
            if path == self.directory:
                self.names = [self._look()]
            elif path.is_file():
                self.contents[path.stat().st_ino] = path.read_bytes()

        return sync

    def _renamed(self, real: Callable[..., None]) -> Callable[..., None]:
        def rename(*paths: Path) -> None:
            self.names.append(self._look())
            real(*paths)
            self.names.append(self._look())

        return rename

    def crash(self, target: Path, random: Random, volatile: dict[int, bytes]) -> None:
        """Write to `target` what a power cut now could leave; `volatile` holds what the process saw, by inode."""
        target.mkdir()
        for name, inode in random.choice(self.names).items():
            seen = volatile[inode]
            image = bytearray(self.contents.get(inode, b"").ljust(len(seen), b"\0"))
            for start in range(0, len(seen), SECTOR):
                if random.random() < 0.5:
                    image[start : start + SECTOR] = seen[start : start + SECTOR]
            (target / name).write_bytes(image)


def _inodes(directory: Path) -> dict[int, bytes]:
    return {path.stat().st_ino: path.read_bytes() for path in directory.iterdir()}


class Workload:
    """Random passes on one log, and what must have survived."""

    def __init__(self, directory: Path, random: Random) -> None:
        self.random = random
        self.model = Model()
        self.synced = 0  # records in model.history that were synced
        self.term = 1
        self.log: SegmentLog = open_log(directory, sync=True)

    def work(self) -> None:
        """One pass, synced or not, complete or only written."""
        random = self.random
        group = random.choice([1, 2])
        last = len(self.model.groups[group].entries) if group in self.model.groups else 0
        floor = self.log.view(group).first_index()
        if random.random() < 0.15:
            self.term += 1
            last = max(last - random.randrange(3), floor - 1)
        payloads = [
            random.randbytes(size) if random.random() < 0.5 else bytes(size)
            for size in (random.randrange(1500) for _ in range(random.randrange(1, 4)))
        ]
        state = HardState(self.term, 1, max(0, min(last, floor - 1))) if random.random() < 0.4 else None
        must_sync = random.random() < 0.5
        works = [append(last + 1, *payloads, term=self.term, group=group, state=state, must_sync=must_sync)]
        job = self.log.prepare(works)
        job.write()
        self.model.apply(works)
        if must_sync:
            job.sync()
            self.synced = len(self.model.history) - 1
        self.log.complete(job)

    def tidy(self) -> None:
        """Trim what lies some entries back, and housekeep."""
        for group in (1, 2):
            self.log.trim(group, max(0, self.log.view(group).last_index() - 6))
        self.log.housekeep()


@pytest.mark.parametrize("seed", range(40))
def test_crash_any_image_recovers_to_a_prefix_with_all_that_was_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    random = Random(seed)
    directory = tmp_path / "log"
    directory.mkdir()
    disk = Disk(directory, monkeypatch)
    workload = Workload(directory, random)
    seen = _inodes(directory)
    for _ in range(random.randrange(4, 40)):
        workload.work()
        seen |= _inodes(directory)
        if random.random() < 0.2:
            workload.tidy()
            seen |= _inodes(directory)
    for number in range(3):
        disk.crash(tmp_path / f"crash-{number}", random, seen)
    monkeypatch.undo()
    workload.log.close()
    for number in range(3):
        _check(tmp_path / f"crash-{number}", workload, f"seed {seed}, crash {number}")


def _check(image: Path, workload: Workload, label: str) -> None:
    log = open_log(image, sync=True)
    kept = [point for point, state in enumerate(workload.model.history) if point >= workload.synced and holds(log, state)]
    assert kept, f"{label}: recovered to no point from {workload.synced} to {len(workload.model.history) - 1}"
    again = workload.model.history[kept[0]]
    last = len(again[1].entries) if 1 in again else 0
    job = log.prepare([append(last + 1, b"after the crash", term=workload.term + 1)])
    job.write()
    job.sync()
    log.complete(job)
    log.close()
    reopened = open_log(image, sync=True)
    assert reopened.read(1, last + 1) == b"after the crash", label
    reopened.close()


def test_crash_of_a_log_that_syncs_nothing_loses_something(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The harness itself: a log that claims to sync and does not must be caught within a few seeds."""
    caught = 0
    for seed in range(5):
        random = Random(seed)
        directory = tmp_path / f"log-{seed}"
        directory.mkdir()
        with monkeypatch.context() as patch:
            disk = Disk(directory, patch)
            log = SegmentLog.open(directory, sync=False, segment_bytes=SEGMENT_BYTES)
            job = log.prepare([append(1, b"x" * 4000)])
            job.write()
            job.sync()
            disk.crash(tmp_path / f"crash-{seed}", random, _inodes(directory))
        log.close()
        shutil.rmtree(directory)
        recovered = open_log(tmp_path / f"crash-{seed}")
        caught += recovered.view(1).last_index() == 0
        recovered.close()
    assert caught > 0
