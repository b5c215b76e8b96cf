"""The bytes of a snapshot, as it is written to a file, sent in chunks and read back.

Layout, little-endian (docs/STORAGE.md, "Snapshots"):

    0 magic 8 bytes | 8 group u16 | 10 membership size u16 | 12 crc32c u32 of all of the head but itself
    16 index u64 | 24 term u64 | 32 membership
    records: kind u8 | key size u16 | value size u32 | crc32c u32 of all of the record but itself | key | value
    the last record has kind 0, and as its value the number of the records before it, u64

Kind 1 is an item of the state, kind 2 a body, whose key is its index, u64 big-endian. Items come in the order of their keys,
and before the bodies. A file without its last record is not complete. Nothing is read that does not fit its checksum.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from os import SEEK_END
from typing import BinaryIO

from zmqbroker.checksum import crc32c
from zmqbroker.errors import Corruption
from zmqbroker.storage.interfaces import Item

__all__ = ["SnapshotHead", "SnapshotReader", "SnapshotWriter"]

_MAGIC = b"ZBSNAP01"
_START = struct.Struct("<8sHH")
_PLACE = struct.Struct("<QQ")
_RECORD = struct.Struct("<BHI")
_CRC = struct.Struct("<I")
_INDEX = struct.Struct(">Q")
_COUNT = struct.Struct("<Q")
_END, _ITEM, _BODY = 0, 1, 2


@dataclass(slots=True, frozen=True)
class SnapshotHead:
    """What a snapshot stands for."""

    group: int
    index: int
    term: int
    membership: bytes  # as wire.membership writes it


class SnapshotWriter:
    """Writes one snapshot: items first, then bodies, then `finish`. Raises OSError."""

    def __init__(self, file: BinaryIO, head: SnapshotHead) -> None:
        self._file = file
        self._count = 0
        start = _START.pack(_MAGIC, head.group, len(head.membership))
        rest = _PLACE.pack(head.index, head.term) + head.membership
        file.write(start + _CRC.pack(crc32c(rest, crc32c(start))) + rest)

    def item(self, key: bytes, value: bytes) -> None:
        """Add a key of the state."""
        self._record(_ITEM, key, value)

    def body(self, index: int, payload: bytes) -> None:
        """Add the payload of the entry at `index`."""
        self._record(_BODY, _INDEX.pack(index), payload)

    def finish(self) -> int:
        """Write the end; the size of the whole, in bytes."""
        self._record(_END, b"", _COUNT.pack(self._count))
        self._file.flush()
        return self._file.tell()

    def _record(self, kind: int, key: bytes, value: bytes) -> None:
        start = _RECORD.pack(kind, len(key), len(value))
        self._file.write(b"".join((start, _CRC.pack(_checksum(start, key, value)), key, value)))
        self._count += 1


def _checksum(start: bytes, key: bytes, value: bytes) -> int:
    return crc32c(value, crc32c(key, crc32c(start)))


class SnapshotReader:
    """Reads one snapshot from its beginning. Raises Corruption for whatever is not a whole one, OSError.

    It may be a part of a file: `size` bytes from offset `start` on, without `size` all to the file's end.
    """

    def __init__(self, file: BinaryIO, source: str, start: int = 0, size: int | None = None) -> None:
        self._file = file
        self._source = source  # names the file in errors
        self._count = 0
        self._next: tuple[int, bytes, bytes] | None = None  # read and not given out
        end = file.seek(0, SEEK_END) if size is None else start + size
        self._left = end - file.seek(start)  # bytes that were not read yet: no size in the file is believed beyond them
        head, checksum = self._take(_START.size), self._take(_CRC.size)
        magic, group, membership_size = _START.unpack(head)
        if magic != _MAGIC:
            raise self._damaged(f"it begins with {magic!r}")
        rest = self._take(_PLACE.size + membership_size)
        if _CRC.pack(crc32c(rest, crc32c(head))) != checksum:
            raise self._damaged("the head does not fit its checksum")
        index, term = _PLACE.unpack_from(rest)
        self.head = SnapshotHead(group, index, term, rest[_PLACE.size :])

    def items(self) -> Iterator[Item]:
        """The state, in the order of its keys; before `bodies`."""
        while (record := self._record())[0] == _ITEM:
            yield record[1], record[2]
        self._next = record

    def bodies(self) -> Iterator[tuple[int, bytes]]:
        """The bodies; checks at the end that the snapshot is complete."""
        while (record := self._record())[0] == _BODY:
            yield int.from_bytes(record[1], "big"), record[2]
        kind, _, value = record
        if kind != _END or value != _COUNT.pack(self._count - 1) or self._left:
            raise self._damaged(f"it does not end after {self._count - 1} records as it should")

    def _record(self) -> tuple[int, bytes, bytes]:
        if self._next is not None:
            record, self._next = self._next, None
            return record
        start, checksum = self._take(_RECORD.size), self._take(_CRC.size)
        kind, key_size, value_size = _RECORD.unpack(start)
        key, value = self._take(key_size), self._take(value_size)
        if _CRC.pack(_checksum(start, key, value)) != checksum:
            raise self._damaged(f"record {self._count} does not fit its checksum")
        self._count += 1
        return kind, key, value

    def _take(self, size: int) -> bytes:
        if size > self._left:
            raise self._damaged(f"it ends {size - self._left} bytes too early")
        data = self._file.read(size)
        if len(data) != size:
            raise self._damaged("it was cut while it was read")
        self._left -= size
        return data

    def _damaged(self, what: str) -> Corruption:
        return Corruption(f"{self._source}: the snapshot is damaged near offset {self._file.tell()}: {what}")
