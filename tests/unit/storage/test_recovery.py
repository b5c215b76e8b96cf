"""What a start makes of the files it finds: everything, a cut tail, or Corruption with nothing changed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.storage.support import append, change, contents, open_log, run, segments
from zmqbroker.errors import Corruption
from zmqbroker.raft.messages import Entry, HardState, Membership, Snapshot, StorageAppend
from zmqbroker.storage.disk import OsDisk
from zmqbroker.storage.record import PAYLOAD_OFFSET, Record, RecordCursor, RecordType, record_of_entry
from zmqbroker.storage.segment import Segment
from zmqbroker.storage.segment_log import SegmentLog


def _images(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def _fails_and_changes_nothing(directory: Path, match: str) -> None:
    before = _images(directory)
    with pytest.raises(Corruption, match=match):
        open_log(directory, sync=True)
    assert _images(directory) == before


def _killed(log: SegmentLog, directory: Path) -> Path:
    """The directory as kill -9 would leave it."""
    copy = directory.with_name(directory.name + "-killed")
    shutil.copytree(directory, copy)
    log.close()
    return copy


@pytest.mark.parametrize("sync", [False, True])
def test_open_after_a_kill_shows_everything_written(tmp_path: Path, sync: bool) -> None:
    log = open_log(tmp_path / "log", sync=sync)
    for number in range(1, 30):
        run(log, append(number, bytes([number]) * 900, term=3, state=HardState(3, 1, number - 1), must_sync=number < 25))
    written = log.prepare([append(30, b"written, never completed")])
    written.write()
    reopened = open_log(_killed(log, tmp_path / "log"), sync=sync)
    assert contents(reopened) == {number: bytes([number]) * 900 for number in range(1, 30)} | {30: b"written, never completed"}
    assert reopened.view(1).hard_state() == HardState(3, 1, 28)
    run(reopened, append(31, b"more"))
    reopened.close()
    again = open_log(tmp_path / "log-killed", sync=sync)
    assert (again.read(1, 30), again.read(1, 31)) == (b"written, never completed", b"more")
    again.close()


class _FlippingDisk(OsDisk):
    """The last bit of the first 4 KiB is another in long reads, on the way from the disk alone."""

    def pread(self, descriptor: int, size: int, offset: int) -> bytes:
        data = super().pread(descriptor, size, offset)
        return data if len(data) <= 4096 or offset else data[:4095] + bytes([data[4095] ^ 1]) + data[4096:]


def test_header_that_reads_differently_the_second_time_is_damage_and_is_not_written_again(tmp_path: Path) -> None:
    log = open_log(tmp_path / "log", sync=True)
    run(log, append(1, b"a" * 3000))
    log.close()
    before = _images(tmp_path / "log")
    with pytest.raises(Corruption, match="the segment header is damaged"):
        SegmentLog.open(tmp_path / "log", sync=True, segment_bytes=1 << 16, disk=_FlippingDisk())
    assert _images(tmp_path / "log") == before


def _two_passes(directory: Path) -> tuple[int, int]:
    """A log with a synced pass and one that was written in a single unsynced pass; offsets of the latter's two records."""
    log = open_log(directory, sync=True)
    run(log, append(1, b"a" * 3000))
    first = 4096 + 56 + 3000
    job = log.prepare([append(2, b"b" * 2000, b"c" * 2000, must_sync=False)])
    job.write()
    log.close()
    return first, first + 56 + 2000


def test_torn_payload_is_cut_with_all_after_it(tmp_path: Path) -> None:
    second, _ = _two_passes(tmp_path)
    sector = (second + 1000) // 512 * 512
    change(segments(tmp_path)[0], sector, bytes(512))
    log = open_log(tmp_path, sync=True)
    assert contents(log) == {1: b"a" * 3000}
    assert not segments(tmp_path)[0].read_bytes()[second:].strip(b"\0")
    run(log, append(2, b"new"))
    log.close()
    reopened = open_log(tmp_path, sync=True)
    assert contents(reopened) == {1: b"a" * 3000, 2: b"new"}
    reopened.close()


def test_torn_header_is_cut_with_all_after_it(tmp_path: Path) -> None:
    second, _ = _two_passes(tmp_path)
    change(segments(tmp_path)[0], second, bytes(PAYLOAD_OFFSET))
    log = open_log(tmp_path)
    assert contents(log) == {1: b"a" * 3000}
    assert not segments(tmp_path)[0].read_bytes()[second:].strip(b"\0")
    log.close()


def test_torn_last_record_keeps_those_before_it(tmp_path: Path) -> None:
    _, third = _two_passes(tmp_path)
    change(segments(tmp_path)[0], third, bytes(4000))
    log = open_log(tmp_path)
    assert contents(log) == {1: b"a" * 3000, 2: b"b" * 2000}
    log.close()


def test_damaged_last_record_whose_sectors_were_all_written_is_corruption(tmp_path: Path) -> None:
    _, third = _two_passes(tmp_path)
    change(segments(tmp_path)[0], third + 100, b"X")
    _fails_and_changes_nothing(tmp_path, rf"00000001\.segment: offset {third}: record 3 is damaged, and all of it")
    change(segments(tmp_path)[0], third, b"X")
    _fails_and_changes_nothing(tmp_path, rf"offset {third}: record 3 is damaged, and all of it")


def test_damaged_record_that_a_later_one_attests_is_corruption(tmp_path: Path) -> None:
    log = open_log(tmp_path, sync=True)
    for number in (1, 2, 3):
        run(log, append(number, b"x" * 2000))
    log.close()
    change(segments(tmp_path)[0], 4096, bytes(2056))
    _fails_and_changes_nothing(tmp_path, r"offset 4096: record 1 is damaged, and record 2 attests")


def test_damaged_record_in_an_older_segment_is_corruption(tmp_path: Path) -> None:
    log = open_log(tmp_path, sync=True)
    for number in (1, 2, 3):
        run(log, append(number, b"x" * 7000))
    log.close()
    assert len(segments(tmp_path)) == 3
    change(segments(tmp_path)[1], 4096, bytes(7100))
    _fails_and_changes_nothing(tmp_path, r"00000002\.segment: offset 4096: record 2 is damaged, and a newer segment attests it")


def test_magic_without_a_record_attests_nothing(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    run(log, append(1, b"good"))
    log.prepare([append(2, b"." * 700 + b"ZBCR" * 200)]).write()
    log.close()
    change(segments(tmp_path)[0], 4608, bytes(512))
    reopened = open_log(tmp_path)
    assert contents(reopened) == {1: b"good"}
    reopened.close()


def test_missing_segment_is_corruption(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    for number in (1, 2, 3):
        run(log, append(number, b"x" * 7000))
    log.close()
    segments(tmp_path)[1].unlink()
    _fails_and_changes_nothing(tmp_path, r"00000001\.segment: the segment after it is missing; the next one here is 3")


def test_damaged_header_is_corruption(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    run(log, append(1, b"x"))
    log.close()
    change(segments(tmp_path)[0], 0, bytes(4096))
    _fails_and_changes_nothing(tmp_path, r"00000001\.segment: offset 0: the segment header is damaged")


@pytest.mark.parametrize(
    "work",
    [
        append(2, b"right", term=2, state=HardState(2, 0, 2)),
        append(2, b"too large for the same segment" * 500, term=2, state=HardState(2, 0, 2)),
        StorageAppend(1, hard_state=HardState(2, 0, 2), snapshot=Snapshot(2, 2, Membership((1,)))),
    ],
)
def test_entry_that_a_torn_work_would_have_replaced_is_not_committed(tmp_path: Path, work: StorageAppend) -> None:
    """The leader has committed its entry 2. Only the hard state of the work that brings it here outlives the power cut."""
    log = open_log(tmp_path, sync=True)
    run(log, append(1, b"a", b"s" * 232, state=HardState(1, 0, 1)))
    log.prepare([work]).write()
    log.close()
    newest = segments(tmp_path)[-1]
    torn = 4096 if newest != segments(tmp_path)[0] else 4608  # the hard state of the work ends with the sector
    change(newest, torn, bytes(newest.stat().st_size - torn))
    log = open_log(tmp_path, sync=True)
    assert contents(log) == {1: b"a", 2: b"s" * 232}
    assert log.view(1).hard_state() == HardState(2, 0, 1)
    log.close()


def test_commit_beyond_a_torn_entry_falls_back(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    run(log, append(1, b"a" * 1000))
    log.prepare([append(2, b"b" * 1000, state=HardState(1, 1, 2))]).write()
    log.close()
    data = segments(tmp_path)[0].read_bytes()
    position = data.rindex(b"b" * 1000)  # what is before it ends with a checksum, and that may end with a b
    change(segments(tmp_path)[0], position, bytes(1000))
    reopened = open_log(tmp_path)
    assert (reopened.view(1).hard_state(), reopened.view(1).last_index()) == (HardState(1, 1, 1), 1)
    reopened.close()


def test_commit_beyond_the_last_entry_falls_back(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    run(log, append(1, b"a"), StorageAppend(1, hard_state=HardState(1, 1, 5)))
    log.close()
    reopened = open_log(tmp_path)
    assert reopened.view(1).hard_state() == HardState(1, 1, 1)
    reopened.close()


def _append_record(directory: Path, record: Record, *, skip: int = 0) -> None:
    """Put a well-formed record behind a log of one entry `x`."""
    log = open_log(directory)
    run(log, append(1, b"x"))
    log.close()
    segment = Segment.open(segments(directory)[0])
    cursor = RecordCursor(segment.key, 4096, 1)
    cursor.encode(record_of_entry(1, Entry(1, 1, b"x")), 0)
    cursor.next_lsn += skip
    position = cursor.position
    change(segment.path, position, b"".join(cursor.encode(record, 0)))
    segment.close()


@pytest.mark.parametrize(
    ("record", "skip", "match"),
    [
        (record_of_entry(1, Entry(3, 1, b"y")), 0, "group 1 has no entry before index 3"),
        (record_of_entry(1, Entry(2, 1, b"y")), 1, "record 3 does not follow the one before it"),
        (Record(RecordType.ENTRY, 1, 2, 1, b"y", 15), 0, "record 2 cannot be understood: 15"),
        (Record(RecordType.HARD_STATE, 1, 0, 1, b"short"), 0, "record 2 cannot be understood"),
    ],
)
def test_record_that_makes_no_sense_is_corruption(tmp_path: Path, record: Record, skip: int, match: str) -> None:
    _append_record(tmp_path, record, skip=skip)
    _fails_and_changes_nothing(tmp_path, f"offset 4160: {match}")


def test_record_type_of_a_later_version_is_corruption(tmp_path: Path) -> None:
    record = Record(9, 1, 0, 1, bytes(24))  # type: ignore[arg-type]
    _append_record(tmp_path, record)
    _fails_and_changes_nothing(tmp_path, "record 2 cannot be understood: 9 is not a valid RecordType")


def test_unattested_tail_is_written_again_before_it_is_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _two_passes(tmp_path)
    before = _images(tmp_path)
    writes: list[tuple[int, int]] = []
    pwritev = os.pwritev

    def record(descriptor: int, buffers: list[bytes], offset: int) -> int:
        writes.append((offset, sum(map(len, buffers))))
        return pwritev(descriptor, buffers, offset)

    monkeypatch.setattr(os, "pwritev", record)
    log = open_log(tmp_path, sync=True)
    assert writes == [(0, 4096), (4096 + 3056, 2 * 2056)]
    monkeypatch.undo()
    log.close()
    assert _images(tmp_path) == before


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[int, bytes]]:
    """A log of two segments without a zero byte at any edge of a sector, and what it holds."""
    directory = tmp_path_factory.mktemp("image") / "log"
    log = open_log(directory, sync=True)
    for number in range(1, 8):
        run(log, append(number, bytes([number]) * 1900, state=HardState(1, 1, number - 1)))
    held = contents(log)
    log.close()
    return directory, held


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_flipped_bit_is_noticed_or_harmless(image: tuple[Path, dict[int, bytes]], data: st.DataObject) -> None:
    source, held = image
    path = data.draw(st.sampled_from(segments(source)))
    content = path.read_bytes()
    bit = data.draw(st.integers(0, len(content.rstrip(b"\0")) * 8 - 1))
    original = content[bit // 8]
    change(path, bit // 8, bytes([original ^ 1 << bit % 8]))
    noticed, shown = "", held
    try:
        log = open_log(source)
        shown = contents(log)
        log.close()
    except Corruption as error:
        noticed = str(error)
    change(path, 0, content)
    assert path.name in noticed if noticed else shown == held


def test_recovery_of_a_snapshot_begins_the_log_behind_it(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    run(log, append(1, b"a", b"b"))
    run(log, StorageAppend(1, snapshot=Snapshot(7, 3, Membership((1,)))), append(8, b"h", term=3))
    log.close()
    log = open_log(tmp_path)
    assert contents(log) == {8: b"h"}
    assert (log.view(1).first_index(), log.view(1).term(7)) == (8, 3)
    run(log, append(9, bytes(20_000), term=3), append(10, bytes(20_000), term=3))
    log.close()
    log = open_log(tmp_path)
    assert sorted(contents(log)) == [8, 9, 10]
    log.close()
