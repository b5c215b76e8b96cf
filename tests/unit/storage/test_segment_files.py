"""Files made in advance: the reserve, recycling, what a start takes over, and a disk without room."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest

from tests.unit.storage.support import SEGMENT_BYTES, append, contents, noting, open_log, run, segments
from zmqbroker.errors import Corruption, NoRoom
from zmqbroker.raft.messages import HardState
from zmqbroker.storage import SegmentLog
from zmqbroker.storage.disk import OsDisk
from zmqbroker.storage.segment import BLOCK_SIZE
from zmqbroker.storage.segment_files import NEW_NAME, SPARE_PREFIX


class SmallDisk(OsDisk):
    """The operating system's files, with room for a number of new ones, and errors of choice."""

    def __init__(self, room: int = 1 << 30) -> None:
        self.room = room
        self.error = errno.ENOSPC  # of `allocate` without room
        self.zero_error = 0  # of `zero`; 0: none
        self.zeroes = True  # False: it says that it zeroes, and leaves everything as it is

    def allocate(self, descriptor: int, size: int) -> None:
        """See `Disk`."""
        if not self.room:
            raise OSError(self.error, os.strerror(self.error))
        self.room -= 1
        super().allocate(descriptor, size)

    def zero(self, descriptor: int, size: int) -> None:
        """See `Disk`."""
        if self.zero_error:
            raise OSError(self.zero_error, os.strerror(self.zero_error))
        if self.zeroes:
            super().zero(descriptor, size)


def _open(directory: Path, disk: OsDisk, *, sync: bool = False, reserve_segments: int = 2) -> SegmentLog:
    return SegmentLog.open(
        directory,
        sync=sync,
        segment_bytes=SEGMENT_BYTES,
        reserve_segments=reserve_segments,
        cache_bytes_max=0,
        disk=disk,
    )


def _spares(directory: Path) -> list[Path]:
    return sorted(directory.glob(f"{SPARE_PREFIX}*"))


def _fill(log: SegmentLog, first: int, last: int) -> None:
    """Entries of which each fills a segment."""
    for number in range(first, last + 1):
        run(log, append(number, b"%03d" % number * 3000))


# --- the reserve -----------------------------------------------------------------------------------------------------------


def test_housekeep_fills_the_reserve_that_the_next_segments_take(tmp_path: Path) -> None:
    log = _open(tmp_path, OsDisk())
    assert log.reserve_left == 0
    _fill(log, 1, 1)
    size = log.size_bytes
    log.housekeep()
    log.housekeep()
    made = [path.stat().st_ino for path in _spares(tmp_path)]
    assert (len(made), log.reserve_left, log.size_bytes) == (2, 2, size)
    _fill(log, 2, 3)
    assert [path.stat().st_ino for path in segments(tmp_path)[1:]] == made
    assert (_spares(tmp_path), log.reserve_left) == ([], 0)
    log.close()


def test_reserve_of_another_size_than_the_segment_is_left_for_later(tmp_path: Path) -> None:
    log = _open(tmp_path, OsDisk())
    log.housekeep()
    run(log, append(1, b"x" * 2 * SEGMENT_BYTES))
    assert log.reserve_left == 2
    assert log.read(1, 1) == b"x" * 2 * SEGMENT_BYTES
    log.close()


def test_reserve_outlives_a_restart_without_room(tmp_path: Path) -> None:
    disk = SmallDisk()
    log = _open(tmp_path, disk)
    log.housekeep()
    log.close()
    assert len(_spares(tmp_path)) == 2
    disk.room = 0
    log = _open(tmp_path, disk)
    _fill(log, 1, 2)
    assert sorted(contents(log)) == [1, 2]
    log.close()


# --- what a start takes over -----------------------------------------------------------------------------------------------


def test_open_zeroes_spares_and_deletes_what_is_no_spare(tmp_path: Path) -> None:
    (tmp_path / NEW_NAME).write_bytes(b"half a header")
    for number, size in enumerate((SEGMENT_BYTES, 10, SEGMENT_BYTES), 1):
        (tmp_path / f"{SPARE_PREFIX}{number}").write_bytes(b"x" * size)
    log = _open(tmp_path, OsDisk())
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        "spare-1": bytes(SEGMENT_BYTES),
        "spare-3": bytes(SEGMENT_BYTES),
    }
    log.close()


def test_open_keeps_no_more_spares_than_it_would_make(tmp_path: Path) -> None:
    for number in range(9):
        (tmp_path / f"{SPARE_PREFIX}{number}").write_bytes(bytes(SEGMENT_BYTES))
    log = _open(tmp_path, OsDisk())
    assert log.reserve_left == len(_spares(tmp_path)) == 4
    log.housekeep()
    assert log.reserve_left == 4
    log.close()


def test_open_without_room_for_zeros_goes_on_without_the_spare(tmp_path: Path) -> None:
    (tmp_path / "spare-1").write_bytes(b"x" * SEGMENT_BYTES)
    disk = SmallDisk()
    disk.zero_error = errno.EDQUOT
    log = _open(tmp_path, disk)
    assert (log.reserve_left, list(tmp_path.iterdir())) == (0, [])
    log.close()


# --- recycling -------------------------------------------------------------------------------------------------------------


def test_dropped_segments_become_the_next_ones(tmp_path: Path) -> None:
    log = _open(tmp_path, SmallDisk(room=3))
    log.housekeep()
    inodes = set()
    for number in range(1, 30):
        _fill(log, number, number)
        log.trim(1, number)
        log.housekeep()
        inodes |= {path.stat().st_ino for path in tmp_path.iterdir()}
    assert len(inodes) == 3
    assert contents(log) == {29: b"029" * 3000}
    log.close()
    reopened = _open(tmp_path, OsDisk())
    assert contents(reopened) == {29: b"029" * 3000}
    reopened.close()


def test_dropped_segments_beyond_the_bound_are_deleted(tmp_path: Path) -> None:
    log = _open(tmp_path, OsDisk())
    _fill(log, 1, 10)
    log.trim(1, 10)
    assert len(segments(tmp_path)) == 10
    log.housekeep()
    assert (len(segments(tmp_path)), log.reserve_left) == (1, 4)
    assert all(path.read_bytes() == bytes(SEGMENT_BYTES) for path in _spares(tmp_path))
    log.close()


def test_dropped_segment_of_another_size_is_deleted(tmp_path: Path) -> None:
    log = _open(tmp_path, OsDisk())
    run(log, append(1, b"x" * 2 * SEGMENT_BYTES))
    _fill(log, 2, 2)
    log.trim(1, 1)
    log.close()
    assert [path.name for path in tmp_path.iterdir()] == ["00000002.segment"]


def test_dropped_segment_that_cannot_be_zeroed_is_deleted(tmp_path: Path) -> None:
    log = _open(tmp_path, disk := SmallDisk())
    _fill(log, 1, 2)
    log.trim(1, 1)
    disk.zero_error, disk.room = errno.ENOSPC, 0
    log.housekeep()
    assert [path.name for path in tmp_path.iterdir()] == ["00000002.segment"]
    log.close()


@pytest.mark.parametrize("code", [errno.EIO, errno.EBADF])
def test_error_while_zeroing_that_tells_of_no_lack_of_room_goes_up(tmp_path: Path, code: int) -> None:
    log = _open(tmp_path, disk := SmallDisk())
    _fill(log, 1, 2)
    log.trim(1, 1)
    disk.zero_error = code
    with pytest.raises(OSError, match=os.strerror(code)):
        log.housekeep()
    log.close()


def test_recycling_takes_the_name_durably_before_it_takes_the_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oldest first, one at a time: rename, sync of the directory, zeros."""
    log = _open(tmp_path, OsDisk(), sync=True)
    _fill(log, 1, 3)
    log.trim(1, 3)
    calls: list[str] = []
    for name in ("rename", "fsync"):
        monkeypatch.setattr(os, name, noting(calls, name, getattr(os, name)))
    monkeypatch.setattr(OsDisk, "zero", noting(calls, "zero", OsDisk.zero))
    log.housekeep()
    assert calls == ["rename", "fsync", "zero"] * 2
    monkeypatch.undo()
    log.close()


def test_segment_of_a_group_that_is_idle_is_recycled_and_its_vote_stays(tmp_path: Path) -> None:
    log = _open(tmp_path, OsDisk(), sync=True)
    run(log, append(1, b"idle", group=9, term=3, state=HardState(4, 2, 1)))
    for number in range(1, 20):
        _fill(log, number, number)
        log.trim(1, number)
        log.trim(9, 1)
        log.housekeep()
    assert [path.name for path in segments(tmp_path)] == ["00000019.segment"]
    log.close()
    reopened = _open(tmp_path, OsDisk())
    view = reopened.view(9)
    assert (view.hard_state(), view.first_index(), view.last_index(), view.term(1)) == (HardState(4, 2, 1), 2, 1, 3)
    reopened.close()


def test_records_of_a_former_life_are_never_taken_for_records(tmp_path: Path) -> None:
    """A disk that loses the zeros and keeps the header: the old records are whole, chained and at the right places."""
    log = _open(tmp_path / "log", disk := SmallDisk(), sync=True)
    works = [append(number, b"old" * 40, term=1) for number in range(1, 101)]
    for work in works:
        run(log, work)
    disk.zeroes = False
    log.trim(1, 100)
    log.housekeep()
    assert log.reserve_left > 0
    assert any(path.read_bytes().count(b"old" * 40) > 10 for path in _spares(tmp_path / "log"))
    last = 100
    while len(segments(tmp_path / "log")) < 2:
        last += 1
        run(log, append(last, b"new" * 40, term=2))
    copy = tmp_path / "copy"
    shutil.copytree(tmp_path / "log", copy)
    log.close()
    end = BLOCK_SIZE + 56 + 120  # of the only record that the newest segment should hold
    assert segments(copy)[-1].read_bytes()[end:].count(b"old" * 40) > 10
    with pytest.raises(Corruption, match=rf"00000003\.segment: offset {end}: record {last + 1} is damaged, and all of it"):
        _open(copy, OsDisk())


# --- no room ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_housekeep_without_room_is_no_error_and_pauses(tmp_path: Path, code: int) -> None:
    log = _open(tmp_path, disk := SmallDisk(room=1))
    disk.error = code
    log.housekeep()
    assert (log.reserve_left, [path.name for path in tmp_path.iterdir()]) == (1, ["spare-1"])
    disk.room = 5
    calls = 0
    while log.reserve_left < 2:
        log.housekeep()
        calls += 1
    assert calls == 101
    log.close()


def test_housekeep_with_another_error_goes_up(tmp_path: Path) -> None:
    log = _open(tmp_path, disk := SmallDisk(room=0))
    disk.error = errno.EIO
    with pytest.raises(OSError, match="Input/output error"):
        log.housekeep()
    log.close()


def test_job_goes_on_in_the_reserve_and_then_waits_where_it_was(tmp_path: Path) -> None:
    log = _open(tmp_path, disk := SmallDisk(room=3))
    log.housekeep()
    _fill(log, 1, 2)
    job = log.prepare([append(3, b"c" * 6000, b"d" * 6000, b"e" * 6000)])
    for _ in range(3):
        with pytest.raises(NoRoom, match="no room for a log segment of 16384 bytes: No space left on device"):
            job.write()
    assert [path.name for path in tmp_path.iterdir() if not path.name.endswith(".segment")] == []
    disk.room = 1
    job.write()
    log.complete(job)
    assert contents(log) == {1: b"001" * 3000, 2: b"002" * 3000, 3: b"c" * 6000, 4: b"d" * 6000, 5: b"e" * 6000}
    log.close()
    reopened = _open(tmp_path, OsDisk())
    assert sorted(contents(reopened)) == [1, 2, 3, 4, 5]
    reopened.close()


def test_job_without_room_writes_nothing_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = _open(tmp_path, disk := SmallDisk(room=1), sync=True)
    run(log, append(1, b"a" * 2000))
    job = log.prepare([append(2, b"b" * 5000, b"c" * 9000)])
    calls: list[str] = []
    for name in ("pwritev", "fdatasync"):
        monkeypatch.setattr(os, name, noting(calls, name, getattr(os, name)))
    for _ in range(3):
        with pytest.raises(NoRoom):
            job.write()
    assert calls == ["pwritev", "fdatasync"]
    disk.room = 1
    job.write()
    assert calls == ["pwritev", "fdatasync", "pwritev", "pwritev"]
    monkeypatch.undo()
    log.close()


def test_job_without_room_takes_a_segment_that_was_dropped_meanwhile(tmp_path: Path) -> None:
    log = _open(tmp_path, SmallDisk(room=2))
    _fill(log, 1, 2)
    job = log.prepare([append(3, b"c" * 9000)])
    with pytest.raises(NoRoom):
        job.write()
    log.trim(1, 1)
    job.write()
    log.complete(job)
    assert sorted(contents(log)) == [2, 3]
    log.close()


def test_job_that_fails_otherwise_while_a_segment_is_made_is_final(tmp_path: Path) -> None:
    log = _open(tmp_path, disk := SmallDisk(room=0))
    disk.error = errno.EIO
    with pytest.raises(OSError, match="Input/output error"):
        log.prepare([append(1, b"x")]).write()
    log.close()
    assert list(tmp_path.iterdir()) == []


def test_log_without_room_closes_and_opens_with_what_was_written(tmp_path: Path) -> None:
    log = _open(tmp_path, SmallDisk(room=1))
    run(log, append(1, b"a" * 9000))
    job = log.prepare([append(2, b"b" * 9000)])
    with pytest.raises(NoRoom):
        job.write()
    log.close()
    reopened = open_log(tmp_path)
    assert contents(reopened) == {1: b"a" * 9000}
    reopened.close()


# --- who is told -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sync", [False, True])
def test_left_segment_is_told_once_the_next_one_has_its_name(tmp_path: Path, sync: bool) -> None:
    told: list[tuple[str, int]] = []  # name, and how many segments there are

    def left(path: Path) -> None:
        told.append((path.name, len(segments(tmp_path))))

    for first in (1, 3):  # the second time the first segment to be left is one that recovery found
        log = SegmentLog.open(tmp_path, sync=sync, segment_bytes=SEGMENT_BYTES, reserve_segments=1, on_left=left)
        _fill(log, first, first + 1)
        log.close()
    assert told == [("00000001.segment", 2), ("00000002.segment", 3), ("00000003.segment", 4)]
