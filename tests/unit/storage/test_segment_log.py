"""What only the segment log has: roll-over, dropped segments, the cache, errors of the disk."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
from pathlib import Path

import pytest

from tests.unit.storage.support import SEGMENT_BYTES, append, change, contents, noting, open_log, run, segments
from zmqbroker.errors import Compacted, Corruption, StorageError
from zmqbroker.raft.messages import HardState, Membership, Snapshot, StorageAppend
from zmqbroker.storage import SegmentLog
from zmqbroker.storage.segment import Segment


def _fill(log: SegmentLog, first: int, last: int, group: int = 1) -> None:
    for number in range(first, last + 1):
        run(log, append(number, b"%03d" % number * 1000, term=number // 5, group=group))


def test_open_new_directory_makes_no_segment_before_the_first_record(tmp_path: Path) -> None:
    log = open_log(tmp_path / "deep" / "log", sync=True)
    assert (segments(tmp_path / "deep" / "log"), log.size_bytes) == ([], 0)
    log.close()


def test_roll_over_makes_the_next_segment_of_the_right_size(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    _fill(log, 1, 8)
    run(log, append(9, b"x" * 3 * SEGMENT_BYTES))
    _fill(log, 10, 10)
    sizes = [path.stat().st_size for path in segments(tmp_path)]
    assert [path.name for path in segments(tmp_path)] == [f"0000000{number}.segment" for number in range(1, 5)]
    assert sizes[:2] + sizes[3:] == [SEGMENT_BYTES] * 3
    assert 3 * SEGMENT_BYTES < sizes[2] < 4 * SEGMENT_BYTES
    assert log.size_bytes == sum(sizes)
    log.close()


def test_segment_header_carries_every_group(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    run(log, append(1, b"idle", group=9, term=3, state=HardState(4, 2, 1)))
    _fill(log, 1, 5)
    log.close()
    segment = Segment.open(segments(tmp_path)[-1])
    base = segment.header.groups[9]
    assert (base.hard_state, base.last_index, base.last_term) == (HardState(4, 2, 1), 1, 3)
    segment.close()


@pytest.mark.parametrize("reopened", [False, True])
def test_segment_header_names_the_snapshot_that_a_group_began_with(tmp_path: Path, reopened: bool) -> None:
    log = open_log(tmp_path)
    _fill(log, 1, 2)
    run(log, StorageAppend(1, snapshot=Snapshot(7, 3, Membership((1,)))))
    if reopened:
        log.close()
        log = open_log(tmp_path)
    _fill(log, 8, 20)
    log.close()
    for path in segments(tmp_path)[1:]:
        segment = Segment.open(path)
        base = segment.header.groups[1]
        assert (base.snapshot_index, base.snapshot_term) == (7, 3)
        segment.close()
    assert len(segments(tmp_path)) > 2
    log = open_log(tmp_path)
    _fill(log, 21, 25)
    log.close()
    segment = Segment.open(segments(tmp_path)[-1])
    assert segment.header.groups[1].snapshot_index == 7
    segment.close()


def test_trim_drops_the_oldest_segments_that_no_group_needs(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    run(log, append(1, b"idle", group=9, state=HardState(4, 2, 1)))
    _fill(log, 1, 20)
    before = len(segments(tmp_path))
    log.trim(1, 20)
    assert log.view(1).first_index() == 1
    log.trim(9, 1)
    assert (log.view(9).first_index(), log.view(9).last_index(), log.view(9).term(1)) == (2, 1, 1)
    log.housekeep()
    kept = segments(tmp_path)
    assert len(kept) == 1 < before
    copy = tmp_path / "copy"
    copy.mkdir()
    shutil.copy(kept[0], copy)
    reopened = open_log(copy)
    for one in (log, reopened):
        view = one.view(9)
        assert (view.hard_state(), view.first_index(), view.last_index(), view.term(1)) == (HardState(4, 2, 1), 2, 1, 1)
        first = one.view(1).first_index()
        assert (one.view(1).last_index(), one.view(1).term(first - 1)) == (20, (first - 1) // 5)
        assert contents(one) == {number: b"%03d" % number * 1000 for number in range(first, 21)}
        one.close()


def test_trim_never_drops_before_the_next_segment_is_written(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    run(log, append(1, b"x" * 12000))
    job = log.prepare([append(2, b"y" * 12000)])
    log.trim(1, 1)
    assert (log.read(1, 1), len(segments(tmp_path))) == (b"x" * 12000, 1)
    job.write()
    log.complete(job)
    log.trim(1, 1)
    with pytest.raises(Compacted):
        log.read(1, 1)
    log.close()
    assert [path.name for path in segments(tmp_path)] == ["00000002.segment"]


def test_trim_counts_replaced_entries_too(tmp_path: Path) -> None:
    """A segment whose dead entries reach beyond the trim stays: the next header could not name the boundary."""
    log = open_log(tmp_path)
    run(log, append(1, b"a" * 4000, b"b" * 4000, term=1))
    run(log, append(2, b"B" * 9000, term=2))
    log.trim(1, 1)
    assert log.view(1).first_index() == 1
    log.trim(1, 2)
    assert (log.view(1).first_index(), log.view(1).term(1)) == (2, 1)
    log.close()
    reopened = open_log(tmp_path)
    view = reopened.view(1)
    assert (view.first_index(), view.last_index(), view.term(2)) == (3, 2, 2)
    reopened.close()


def test_cache_serves_young_entries_and_is_bounded(tmp_path: Path) -> None:
    log = open_log(tmp_path, cache_bytes_max=2500)
    run(log, append(1, b"a" * 1000, b"b" * 1000, b"c" * 1000))
    for path in segments(tmp_path):
        change(path, 4096, bytes(SEGMENT_BYTES - 4096))
    assert (log.read(1, 2), log.read(1, 3)) == (b"b" * 1000, b"c" * 1000)
    with pytest.raises(Corruption):
        log.read(1, 1)
    run(log, append(2, b"B" * 10, term=2))
    assert log.read(1, 2) == b"B" * 10
    log.close()


def test_cache_forgets_replaced_and_dropped_entries(tmp_path: Path) -> None:
    log = open_log(tmp_path, cache_bytes_max=1 << 20)
    _fill(log, 1, 10)
    run(log, append(5, b"new", term=9))
    assert contents(log)[5] == b"new"
    log.trim(1, 5)
    with pytest.raises(Compacted):
        log.read(1, 1)
    log.close()


def test_read_damaged_payload_names_file_and_offset(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    run(log, append(1, b"first", b"second"))
    change(segments(tmp_path)[0], 4096 + 64 + 56, b"S")
    assert log.read(1, 1) == b"first"
    with pytest.raises(Corruption, match=r"00000001\.segment: offset 4160: the payload of group 1, index 2 is damaged"):
        log.read(1, 2)
    change(segments(tmp_path)[0], 4096, b"X")
    with pytest.raises(Corruption, match=r"offset 4096: no record of group 1, index 1"):
        log.view(1).entries(1, 3, 100)
    log.close()


def test_read_refused_by_the_disk_is_a_storage_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = open_log(tmp_path)
    run(log, append(1, b"first"))

    def pread(descriptor: int, size: int, offset: int) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pread", pread)
        with pytest.raises(StorageError, match=r"segment: offset 4096: cannot be read") as caught:
            log.read(1, 1)
    assert isinstance(caught.value.__cause__, OSError)
    log.close()


def test_open_where_a_file_is_in_the_way_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"")
    with pytest.raises(StorageError, match="cannot be opened"):
        open_log(tmp_path / "log")


def test_persistent_log_syncs_before_it_creates_names_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The order of system calls at a roll-over is the promise: old data, new header, new name, directory, record."""
    calls: list[str] = []
    log = open_log(tmp_path, sync=True)
    run(log, append(1, b"x" * 9000))
    lazy = log.prepare([append(2, b"y" * 1000, must_sync=False)])
    lazy.write()
    log.complete(lazy)
    job = log.prepare([append(3, b"z" * 9000)])
    for name in ("fdatasync", "fsync", "rename", "pwritev"):
        monkeypatch.setattr(os, name, noting(calls, name, getattr(os, name)))
    job.write()
    job.sync()
    assert calls == ["fdatasync", "pwritev", "fsync", "rename", "fsync", "pwritev", "fdatasync"]
    log.complete(job)
    monkeypatch.undo()
    log.close()


def test_ephemeral_log_never_syncs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: int) -> None:
        raise AssertionError("synced")

    for name in ("fdatasync", "fsync"):
        monkeypatch.setattr(os, name, refuse)
    log = open_log(tmp_path)
    _fill(log, 1, 10)
    log.trim(1, 10)
    log.housekeep()
    log.close()
    log = open_log(tmp_path)
    assert log.view(1).last_index() == 10
    log.close()


def test_segments_get_the_uuids_that_the_log_was_given(tmp_path: Path) -> None:
    uuids = (bytes([number]) * 16 for number in itertools.count(1))
    log = SegmentLog.open(tmp_path, sync=False, segment_bytes=SEGMENT_BYTES, uuid=lambda: next(uuids))
    _fill(log, 1, 20)
    log.close()
    found = [Segment.open(path) for path in segments(tmp_path)]
    assert [segment.header.uuid for segment in found] == [bytes([number]) * 16 for number in range(1, len(found) + 1)]
    for segment in found:
        segment.close()
