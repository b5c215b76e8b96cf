"""The bytes of a snapshot, as it is written to a file, sent in chunks and read back.

Layout, little-endian (docs/STORAGE.md, "Snapshots"):

    0 magic 8 bytes | 8 group u16 | 10 membership size u16 | 12 crc32c u32 of the rest of the head
    16 index u64 | 24 term u64 | 32 membership
    records: kind u8 | key size u16 | value size u32 | crc32c u32 of kind, key and value | key | value
    the last record has kind 0, and as its value the number of the records before it, u64

Kind 1 is an item of the state, kind 2 a body, whose key is its index, u64 big-endian. Items come in the order of their keys,
and before the bodies. A file without its last record is not complete. Nothing is read that does not fit its checksum.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from zmqbroker.checksum import crc32c
from zmqbroker.errors import Corruption
from zmqbroker.storage.interfaces import Item

__all__ = ["SnapshotHead", "SnapshotReader", "SnapshotWriter"]

_MAGIC = b"ZBSNAP01"
_START = struct.Struct("<8sHHI")
_PLACE = struct.Struct("<QQ")
_RECORD = struct.Struct("<BHII")
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
        rest = _PLACE.pack(head.index, head.term) + head.membership
        file.write(_START.pack(_MAGIC, head.group, len(head.membership), crc32c(rest)) + rest)

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
        checksum = crc32c(value, crc32c(key, crc32c(bytes((kind,)))))
        self._file.write(b"".join((_RECORD.pack(kind, len(key), len(value), checksum), key, value)))
        self._count += 1


class SnapshotReader:
    """Reads one snapshot from its beginning. Raises Corruption for whatever is not a whole one, OSError."""

    def __init__(self, file: BinaryIO, source: str) -> None:
        self._file = file
        self._source = source  # names the file in errors
        self._count = 0
        self._next: tuple[int, bytes, bytes] | None = None  # read and not given out
        start = self._take(_START.size)
        magic, group, membership_size, checksum = _START.unpack(start)
        if magic != _MAGIC:
            raise self._damaged(f"it begins with {magic!r}")
        rest = self._take(_PLACE.size + membership_size)
        if crc32c(rest) != checksum:
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
            yield int(_INDEX.unpack(record[1])[0]), record[2]
        kind, _, value = record
        if kind != _END or value != _COUNT.pack(self._count - 1) or self._file.read(1):
            raise self._damaged(f"it does not end after {self._count - 1} records as it should")

    def _record(self) -> tuple[int, bytes, bytes]:
        if self._next is not None:
            record, self._next = self._next, None
            return record
        kind, key_size, value_size, checksum = _RECORD.unpack(self._take(_RECORD.size))
        key, value = self._take(key_size), self._take(value_size)
        if crc32c(value, crc32c(key, crc32c(bytes((kind,))))) != checksum:
            raise self._damaged(f"record {self._count} does not fit its checksum")
        self._count += 1
        return kind, key, value

    def _take(self, size: int) -> bytes:
        data = self._file.read(size)
        if len(data) != size:
            raise self._damaged(f"it ends {size - len(data)} bytes too early")
        return data

    def _damaged(self, what: str) -> Corruption:
        return Corruption(f"{self._source}: the snapshot is damaged near offset {self._file.tell()}: {what}")
