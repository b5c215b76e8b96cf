"""Reading a log past its damage: every whole record, and every place that is not as it should be."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.storage.support import append, change, open_log, run, segments
from zmqbroker.errors import Corruption
from zmqbroker.raft.messages import HardState, Membership, Snapshot, StorageAppend
from zmqbroker.storage.log_reader import Flaw, FoundRecord, FoundSegment, read_log
from zmqbroker.storage.record import PAYLOAD_OFFSET


def filled(directory: Path, count: int = 30) -> Path:
    """A log of several segments that was closed in order."""
    log = open_log(directory / "log", sync=True)
    run(log, StorageAppend(2, snapshot=Snapshot(7, 2, Membership((1,)))))
    for index in range(1, count + 1):
        run(log, append(index, bytes([index]) * 2000, term=3, state=HardState(3, 1, index - 1)))
    log.close()
    return directory / "log"


def read(directory: Path) -> tuple[list[FoundRecord], list[Flaw]]:
    """All records and all flaws."""
    events = list(read_log(directory))
    records = [event for event in events if isinstance(event, FoundRecord)]
    return records, [event for event in events if isinstance(event, Flaw)]


def refused(directory: Path) -> bool:
    """Whether a start would find damage."""
    try:
        open_log(directory, sync=False).close()
    except Corruption:
        return True
    return False


def test_whole_log_is_read_record_by_record(tmp_path: Path) -> None:
    events = list(read_log(filled(tmp_path)))
    found = [event for event in events if isinstance(event, FoundSegment)]
    assert [event.header.sequence for event in found] == list(range(1, len(segments(tmp_path / "log")) + 1))
    assert len(found) > 3
    records = [event for event in events if isinstance(event, FoundRecord)]
    assert len(records) + len(found) == len(events)
    assert [record.header.lsn for record in records] == list(range(1, 62))
    assert records[-1].payload == bytes([30]) * 2000
    assert [record.sequence for record in records] == sorted(record.sequence for record in records)


def test_empty_log_has_nothing(tmp_path: Path) -> None:
    assert list(read_log(tmp_path)) == []


@pytest.mark.parametrize("position", [0, 3, 20])
def test_damaged_payload_is_named_and_the_rest_is_read(tmp_path: Path, position: int) -> None:
    directory = filled(tmp_path)
    target = [record for record in read(directory)[0] if record.payload[:1] == bytes([position + 1]) * 1][-1]
    change(target.path, target.offset + PAYLOAD_OFFSET + 100, b"!")
    records, flaws = read(directory)
    assert len(records) == 60
    assert [(flaw.path, flaw.offset) for flaw in flaws] == [(target.path, target.offset)]
    assert str(flaws[0]).endswith(f"the payload of record {target.header.lsn} does not fit its checksum")
    assert refused(directory)


def test_damaged_header_is_named_and_the_next_record_found(tmp_path: Path) -> None:
    directory = filled(tmp_path)
    target = read(directory)[0][10]
    change(target.path, target.offset + 20, b"\xff")
    records, flaws = read(directory)
    assert [record.header.lsn for record in records] == [lsn for lsn in range(1, 62) if lsn != target.header.lsn]
    assert [(flaw.offset, flaw.what) for flaw in flaws] == [
        (target.offset, f"no record {target.header.lsn}; {target.header.size} bytes cannot be read")
    ]


def test_damage_up_to_the_end_of_a_segment_is_one_flaw(tmp_path: Path) -> None:
    directory = filled(tmp_path)
    records = read(directory)[0]
    last = [record for record in records if record.sequence == 2][-1]
    change(last.path, last.offset, b"\xff" * 8)
    found, flaws = read(directory)
    assert (len(found), len(flaws)) == (len(records) - 1, 1)
    assert flaws[0].offset == last.offset


def test_records_cut_off_the_end_of_an_older_segment_are_missed(tmp_path: Path) -> None:
    directory = filled(tmp_path)
    last = [record for record in read(directory)[0] if record.sequence == 2][-1]
    change(last.path, last.offset, bytes(last.header.size))
    flaws = read(directory)[1]
    assert [str(flaw) for flaw in flaws] == [
        f"{segments(directory)[2]}: offset 0: it begins with record {last.header.lsn + 1}, "
        f"but the segment before ends before record {last.header.lsn}"
    ]


def test_bad_segment_header_costs_its_records_alone(tmp_path: Path) -> None:
    directory = filled(tmp_path)
    change(segments(directory)[1], 100, b"\xff")
    records, flaws = read(directory)
    assert {record.sequence for record in records} == {1, *range(3, len(segments(directory)) + 1)}
    assert [str(flaw) for flaw in flaws] == [
        f"{segments(directory)[1]}: offset 0: the segment header is damaged; none of its records can be read"
    ]


def test_missing_segment_is_named(tmp_path: Path) -> None:
    directory = filled(tmp_path)
    second, third = segments(directory)[1:3]
    second.unlink()
    assert [str(flaw) for flaw in read(directory)[1]] == [
        f"{second}: offset 0: the segment is missing; the next one here is {third.name}"
    ]


def test_segment_of_another_size_or_name_is_named(tmp_path: Path) -> None:
    directory = filled(tmp_path)
    last = segments(directory)[-1]
    with last.open("ab") as file:
        file.write(bytes(8))
    assert "the file has" in read(directory)[1][0].what


def test_record_out_of_the_chain_is_named(tmp_path: Path) -> None:
    directory = filled(tmp_path)
    records = [record for record in read(directory)[0] if record.sequence == 2]
    first, third = records[0], records[2]
    data = first.path.read_bytes()
    moved = data[third.offset : third.offset + third.header.size]
    assert third.header.size == first.header.size
    change(first.path, first.offset, moved)
    flaws = read(directory)[1]
    assert flaws[0].what == f"record {third.header.lsn} does not follow record {first.header.lsn - 1}"
