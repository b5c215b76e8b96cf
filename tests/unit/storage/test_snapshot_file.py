"""The bytes of a snapshot: written and read again, and every way in which they may be damaged."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import crc32c as reference
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zmqbroker.errors import Corruption
from zmqbroker.storage.snapshot_file import SnapshotHead, SnapshotReader, SnapshotWriter

U64 = st.integers(0, 2**64 - 1)
Contents = tuple[SnapshotHead, list[tuple[bytes, bytes]], list[tuple[int, bytes]]]

HEAD = SnapshotHead(1, 70, 3, b"members")
ITEMS = [(b"\0", b"meta"), (b"\1key", b""), (b"\2", b"a longer value" * 3)]
BODIES = [(12, b"body"), (2**63, b"")]


def written(head: SnapshotHead, items: list[tuple[bytes, bytes]], bodies: list[tuple[int, bytes]]) -> bytes:
    file = io.BytesIO()
    writer = SnapshotWriter(file, head)
    for key, value in items:
        writer.item(key, value)
    for index, payload in bodies:
        writer.body(index, payload)
    assert writer.finish() == len(file.getvalue())
    return file.getvalue()


def read(data: bytes) -> Contents:
    reader = SnapshotReader(io.BytesIO(data), "the test's file")
    return reader.head, list(reader.items()), list(reader.bodies())


@settings(deadline=None)
@given(
    st.builds(SnapshotHead, st.integers(0, 2**16 - 1), U64, U64, st.binary(max_size=30)),
    st.lists(st.tuples(st.binary(max_size=20), st.binary(max_size=50)), max_size=6),
    st.lists(st.tuples(U64, st.binary(max_size=50)), max_size=6),
)
def test_snapshot_written_and_read_is_the_same(
    head: SnapshotHead, items: list[tuple[bytes, bytes]], bodies: list[tuple[int, bytes]]
) -> None:
    assert read(written(head, items, bodies)) == (head, items, bodies)


def record(kind: int, key: bytes, value: bytes) -> bytes:
    start = struct.pack("<BHI", kind, len(key), len(value))
    return start + struct.pack("<I", reference.crc32c(start + key + value)) + key + value


def test_snapshot_has_the_bytes_of_the_document() -> None:
    start, rest = b"ZBSNAP01" + struct.pack("<HH", 1, 7), struct.pack("<QQ", 70, 3) + b"members"
    by_hand = start + struct.pack("<I", reference.crc32c(start + rest)) + rest
    by_hand += record(1, b"key", b"value") + record(2, struct.pack(">Q", 12), b"body")
    by_hand += record(0, b"", struct.pack("<Q", 2))
    assert written(HEAD, [(b"key", b"value")], [(12, b"body")]) == by_hand


def test_snapshot_cut_anywhere_is_corruption() -> None:
    whole = written(HEAD, ITEMS, BODIES)
    for size in range(len(whole)):
        with pytest.raises(Corruption, match="the test's file: the snapshot is damaged near offset"):
            read(whole[:size])


def test_snapshot_any_flipped_bit_is_corruption() -> None:
    whole = written(HEAD, ITEMS, BODIES)
    for position in range(len(whole)):
        for bit in range(8):
            damaged = bytearray(whole)
            damaged[position] ^= 1 << bit
            with pytest.raises(Corruption):
                read(bytes(damaged))


@settings(deadline=None)
@given(st.data())
def test_snapshot_any_other_change_is_corruption(data: st.DataObject) -> None:
    whole = written(HEAD, ITEMS, BODIES)
    position = data.draw(st.integers(0, len(whole) - 1))
    change = data.draw(st.binary(min_size=1, max_size=4).filter(any))
    damaged = bytearray(whole + bytes(4))
    for offset, byte in enumerate(change, position):
        damaged[offset] ^= byte
    kept = bytes(damaged[: len(whole)])
    if kept != whole:
        with pytest.raises(Corruption):
            read(kept)


def test_snapshot_with_bytes_moved_from_value_to_key_is_corruption() -> None:
    whole = bytearray(written(HEAD, [(b"key", b"value")], []))
    at = whole.index(b"keyvalue") - 11
    whole[at : at + 7] = struct.pack("<BHI", 1, 4, 4)  # the same bytes, cut elsewhere
    with pytest.raises(Corruption, match="record 0 does not fit its checksum"):
        read(bytes(whole))


def test_snapshot_with_something_behind_its_end_is_corruption() -> None:
    with pytest.raises(Corruption, match="does not end after 5 records"):
        read(written(HEAD, ITEMS, BODIES) + b"\0")


def test_snapshot_without_one_of_its_records_is_corruption() -> None:
    whole = written(HEAD, ITEMS, BODIES)
    with pytest.raises(Corruption, match="does not end after 4 records"):
        read(whole.replace(record(1, *ITEMS[1]), b""))


def test_snapshot_with_an_item_after_a_body_is_corruption() -> None:
    whole = written(HEAD, ITEMS, BODIES)
    moved = record(1, *ITEMS[2])
    end = record(0, b"", struct.pack("<Q", 5))
    assert whole.endswith(end)
    with pytest.raises(Corruption, match="does not end"):
        read(whole.removesuffix(end).replace(moved, b"") + moved + end)


def test_snapshot_that_shrinks_while_it_is_read_is_corruption(tmp_path: Path) -> None:
    path = tmp_path / "snapshot"
    path.write_bytes(written(HEAD, [(b"k", bytes(100_000))], []))
    with path.open("rb") as file:
        reader = SnapshotReader(file, "file")
        with path.open("r+b") as other:
            other.truncate(50_000)
        with pytest.raises(Corruption, match="it was cut while it was read"):
            list(reader.items())
