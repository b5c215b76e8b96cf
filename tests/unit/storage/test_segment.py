"""Segment header codec, the plain file operations, and the index of a group."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from zmqbroker.checksum import crc32c
from zmqbroker.errors import Compacted, Corruption, StorageError
from zmqbroker.raft.messages import HardState
from zmqbroker.storage.disk import OS_DISK, write_all
from zmqbroker.storage.group_index import OFFSET_BITS, GroupIndex
from zmqbroker.storage.segment import (
    BLOCK_SIZE,
    GroupBase,
    Segment,
    SegmentHeader,
    decode_segment_header,
    encode_segment_header,
    segment_name,
)

UUID = bytes(range(16))
GROUPS = {
    7: GroupBase(HardState(5, 2, 40), 44, 5, 10, 3, b"members"),
    0: GroupBase(HardState(1, 0, 0), 1, 1),
}


def _header(groups: dict[int, GroupBase], segment_bytes: int = 1 << 14) -> tuple[SegmentHeader, bytes]:
    data = encode_segment_header(3, 77, UUID, groups, segment_bytes=segment_bytes, record_size=64)
    return SegmentHeader(3, 77, UUID, max(segment_bytes, len(data) + 64), len(data), groups), data


def test_segment_header_round_trip_gives_it_back() -> None:
    header, data = _header(GROUPS)
    assert (len(data), header.file_size) == (BLOCK_SIZE, 1 << 14)
    assert decode_segment_header(data + bytes(100), "file") == header


def test_segment_header_many_groups_fills_more_blocks() -> None:
    groups = {number: GroupBase(membership=b"m" * number) for number in range(200)}
    header, data = _header(groups)
    assert len(data) % BLOCK_SIZE == 0
    assert BLOCK_SIZE < len(data) == header.file_size - 64
    assert decode_segment_header(data, "file") == header


def test_segment_header_bytes_are_final() -> None:
    _, data = _header({7: GROUPS[7]})
    numbers = [5, 2, 40, 10, 3, 44, 5]
    group = bytes.fromhex("0700 0000 07000000") + b"".join(number.to_bytes(8, "little") for number in numbers) + b"members\0"
    head = (
        bytes.fromhex("01000000 00100000 01000000 0300000000000000 4d00000000000000") + UUID + (1 << 14).to_bytes(8, "little")
    )
    assert data[:8] == b"ZBLOGSEG"
    assert data[12 : 12 + len(head) + len(group)] == head + group
    assert not data[12 + len(head) + len(group) :].strip(b"\0")


def test_segment_header_every_flipped_bit_is_noticed() -> None:
    _, data = _header(GROUPS)
    for bit in range(0, len(data) * 8, 7):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(Corruption, match="file: offset 0"):
            decode_segment_header(bytes(flipped), "file")


def test_segment_header_too_short_is_corruption() -> None:
    with pytest.raises(Corruption, match="too short"):
        decode_segment_header(b"ZBLOGSEG", "file")


@pytest.mark.parametrize(("offset", "value"), [(20, 0xFFFF), (20, 65), (68, 0xFFFF)])
def test_segment_header_with_more_groups_than_it_holds_is_corruption(offset: int, value: int) -> None:
    _, data = _header(GROUPS)
    longer = bytearray(data)
    longer[offset : offset + 4] = value.to_bytes(4, "little")
    longer[8:12] = crc32c(bytes(longer[12:])).to_bytes(4, "little")
    with pytest.raises(Corruption, match="file: offset 0: the segment header has no room"):
        decode_segment_header(bytes(longer), "file")


def test_segment_header_of_a_later_format_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("zmqbroker.storage.segment.FORMAT_VERSION", 2)
        _, data = _header(GROUPS)
    with pytest.raises(StorageError, match="format 2; this version reads format 1") as caught:
        decode_segment_header(data, "file")
    assert not isinstance(caught.value, Corruption)


def test_open_segment_with_another_name_or_size_is_corruption(tmp_path: Path) -> None:
    header, data = _header(GROUPS)
    right = tmp_path / segment_name(3)
    right.write_bytes(data.ljust(header.file_size, b"\0"))
    segment = Segment.open(right)
    assert segment.header == header
    segment.close()
    segment.close()
    wrong = tmp_path / segment_name(4)
    wrong.write_bytes(right.read_bytes())
    with pytest.raises(Corruption, match="name or size"):
        Segment.open(wrong)
    os.truncate(right, header.file_size - 1)
    with pytest.raises(Corruption, match="name or size"):
        Segment.open(right)


def test_write_all_more_buffers_than_one_call_takes_writes_all(tmp_path: Path) -> None:
    buffers = [b"%d," % number for number in range(2500)]
    with open(tmp_path / "file", "wb") as file:
        write_all(OS_DISK, file.fileno(), buffers, 5)
    assert (tmp_path / "file").read_bytes() == bytes(5) + b"".join(buffers)


def test_write_all_partial_writes_goes_on_where_they_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pwrite = os.pwrite

    def pwritev(descriptor: int, buffers: list[bytes], offset: int) -> int:
        return pwrite(descriptor, b"".join(buffers)[:7], offset)

    monkeypatch.setattr(os, "pwritev", pwritev)
    buffers = [b"abc", b"", b"defghijklmnop", b"q", b"rstuvwxyz"]
    with open(tmp_path / "file", "wb") as file:
        write_all(OS_DISK, file.fileno(), buffers, 0)
    assert (tmp_path / "file").read_bytes() == b"".join(buffers)


def _index(*entries: tuple[int, int, int]) -> GroupIndex:
    """Entries as (index, term, segment); offsets grow, sizes are the index."""
    index = GroupIndex()
    for number, (entry, term, segment) in enumerate(entries):
        index.append(entry, term, segment << OFFSET_BITS | number, entry)
    return index


def test_group_index_locates_what_was_appended() -> None:
    index = _index((1, 1, 1), (2, 1, 1), (3, 4, 2))
    assert [index.locate(number) for number in (1, 2, 3)] == [(1, 0, 1), (1, 1, 2), (2, 2, 3)]
    assert [index.term(number) for number in (0, 1, 2, 3)] == [0, 1, 1, 4]


def test_group_index_append_over_entries_forgets_what_follows() -> None:
    index = _index((1, 1, 1), (2, 2, 1), (3, 3, 1), (2, 3, 2))
    assert (index.last_index, index.term(1), index.term(2)) == (2, 1, 3)
    index.append(1, 5, 0, 0)
    assert (index.last_index, index.term(1)) == (1, 5)


def test_group_index_drop_segment_keeps_the_boundary_term() -> None:
    index = _index((1, 1, 1), (2, 2, 1), (3, 2, 2), (4, 3, 3))
    assert index.drop_segment(1) == 2
    assert (index.first_index, [index.term(number) for number in (2, 3, 4)]) == (3, [2, 2, 3])
    with pytest.raises(Compacted, match="index 1 was dropped; the log begins at 3"):
        index.term(1)
    assert index.drop_segment(1) == 0
    assert index.drop_segment(3) == 2
    assert (index.first_index, index.last_index, index.term(4)) == (5, 4, 3)
    index.append(5, 3, 4 << OFFSET_BITS, 1)
    assert (index.term(4), index.term(5), index.locate(5)) == (3, 3, (4, 0, 1))


def test_group_index_beyond_the_last_trips_an_assert() -> None:
    index = _index((1, 1, 1))
    with pytest.raises(AssertionError):
        index.term(2)
    with pytest.raises(AssertionError):
        index.append(3, 1, 0, 0)
