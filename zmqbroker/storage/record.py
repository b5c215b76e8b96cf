"""Bytes of one log record: encoding, checking, and telling a torn record from a damaged one.

Layout (docs/STORAGE.md, "Record"), little-endian, records start at multiples of 8:

    0 magic u32 | 4 payload size u32 | 8 type u8 | 9 flags u8 | 10 group u16 | 12 previous_crc u32
    16 entry_index u64 | 24 term u64 | 32 lsn u64 | 40 synced_lsn u64 | 48 payload_crc u32 | 52 header_crc u32
    56 payload, then zeros up to a multiple of 8

Invariants: header_crc is seeded with the segment's uuid, so a record of another segment is never taken for one of this; no
512-byte sector of a stored payload is all zeros, so a zero sector means that the write never reached the disk. This module
knows no files and repairs nothing. The bytes come from `record_codec`.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from zmqbroker.checksum import crc32c
from zmqbroker.raft.messages import Entry, EntryType, HardState, Snapshot
from zmqbroker.storage._record_py import ALIGNMENT, FLAG_MASKED, HEADER, MAGIC, SECTOR_SIZE
from zmqbroker.storage.record_codec import encode_record, has_zero_sector

__all__ = [
    "ALIGNMENT",
    "ENTRY_TYPE_SHIFT",
    "FLAG_MASKED",
    "MAGIC_BYTES",
    "PAYLOAD_OFFSET",
    "SECTOR_SIZE",
    "Record",
    "RecordCursor",
    "RecordHeader",
    "RecordType",
    "SegmentKey",
    "aligned",
    "has_zero_sector",
    "parse_header",
    "record_of_entry",
    "record_of_hard_state",
    "record_of_snapshot",
    "restore_payload",
    "to_entry",
    "to_hard_state",
]

#: The high half of the flags is the Raft entry type.
ENTRY_TYPE_SHIFT = 4

_CHECKED_SIZE = HEADER.size - 4  # header_crc covers the bytes before itself
_HARD_STATE = struct.Struct("<QQQ")

#: The magic as it lies in the file: "ZBCR".
MAGIC_BYTES = MAGIC.to_bytes(4, "little")
#: Where a record's payload begins.
PAYLOAD_OFFSET = HEADER.size


class RecordType(IntEnum):
    """What a record's payload is. Numbers are on disk and never change."""

    ENTRY = 1
    HARD_STATE = 2
    SNAPSHOT = 3


class SegmentKey:
    """What a segment's uuid lends to its records: the seed of their checksums and the pattern that masks zero sectors."""

    __slots__ = ("pattern", "seed", "uuid")

    def __init__(self, uuid: bytes) -> None:
        self.uuid = uuid
        self.seed = crc32c(uuid)
        # No byte of the pattern is zero, so that not even one zero byte alone in its sector stays zero.
        self.pattern = bytes(byte | 1 for byte in uuid)

    def mask(self, payload: bytes) -> bytes:
        """XOR `payload` with the pattern, repeated; doing it twice gives the payload back."""
        size = len(payload)
        pattern = self.pattern * (size // len(self.pattern) + 1)
        mixed = int.from_bytes(payload, "little") ^ int.from_bytes(pattern[:size], "little")
        return mixed.to_bytes(size, "little")


class RecordHeader(NamedTuple):
    """The fields after the magic, in the order of the layout."""

    payload_size: int
    type: int
    flags: int
    group: int
    previous_crc: int
    entry_index: int
    term: int
    lsn: int
    synced_lsn: int
    payload_crc: int
    header_crc: int

    @property
    def size(self) -> int:
        """Bytes of the whole record, padding included."""
        return aligned(PAYLOAD_OFFSET + self.payload_size)


@dataclass(slots=True, frozen=True)
class Record:
    """What a record says, without where it lies."""

    type: RecordType
    group: int
    index: int  # 0 in a HARD_STATE; of the last entry that it replaces in a SNAPSHOT
    term: int
    payload: bytes
    entry_type: int = 0
    payload_crc: int | None = None  # crc32c of the payload as it is here, if that is known

    @property
    def size(self) -> int:
        """Bytes of the whole record, padding included."""
        return aligned(PAYLOAD_OFFSET + len(self.payload))


class RecordCursor:
    """Where the next record of a segment goes, and what its chain and number must be."""

    __slots__ = ("key", "next_lsn", "position", "previous_crc")

    def __init__(self, key: SegmentKey, position: int, next_lsn: int) -> None:
        self.key = key
        self.position = position  # offset in the segment's file, a multiple of ALIGNMENT
        self.next_lsn = next_lsn
        self.previous_crc = 0  # header_crc of the record before; 0 before the first of a segment

    def encode(self, record: Record, synced_lsn: int) -> list[bytes]:
        """The record's bytes as buffers to write one after the other; the cursor moves behind it."""
        place, flags = (self.position, self.key.seed, record.type), record.entry_type << ENTRY_TYPE_SHIFT
        fields = (record.group, self.previous_crc, record.index, record.term, self.next_lsn, synced_lsn)
        encoded = encode_record(record.payload, record.payload_crc, *place, flags, *fields)
        if encoded is None:
            encoded = encode_record(self.key.mask(record.payload), None, *place, flags | FLAG_MASKED, *fields)
            assert encoded is not None, "a masked payload is taken as it is"
        buffers, header_crc = encoded
        self.pass_by(record.size, header_crc)
        return buffers

    def pass_by(self, size: int, header_crc: int) -> None:
        """Move behind a record of `size` bytes that was written or read here."""
        self.position += size
        self.next_lsn += 1
        self.previous_crc = header_crc


def aligned(size: int) -> int:
    """`size` rounded up to a multiple of ALIGNMENT."""
    return (size + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT


def parse_header(data: bytes, position: int, key: SegmentKey) -> RecordHeader | None:
    """The record header at data[position:], None when there is none with a right magic and checksum."""
    if len(data) - position < PAYLOAD_OFFSET:
        return None
    magic, *fields = HEADER.unpack_from(data, position)
    header = RecordHeader._make(fields)
    if magic != MAGIC or header.header_crc != crc32c(data[position : position + _CHECKED_SIZE], key.seed):
        return None
    return header


def restore_payload(header: RecordHeader, stored: bytes, key: SegmentKey) -> bytes | None:
    """The payload that was given to the log, from the bytes in the file; None when they are not what the header says."""
    if len(stored) != header.payload_size or crc32c(stored) != header.payload_crc:
        return None
    return key.mask(stored) if header.flags & FLAG_MASKED else stored


def record_of_entry(group: int, entry: Entry) -> Record:
    """The record that stores an entry."""
    return Record(RecordType.ENTRY, group, entry.index, entry.term, entry.data, entry.type, entry.data_crc)


def record_of_hard_state(group: int, state: HardState) -> Record:
    """The record that stores a hard state: term, vote and commit index, u64 each."""
    payload = _HARD_STATE.pack(state.term, state.vote, state.commit)
    return Record(RecordType.HARD_STATE, group, 0, state.term, payload)


def record_of_snapshot(group: int, snapshot: Snapshot) -> Record:
    """The record that empties a group's log: it begins anew behind the snapshot. Its state lies elsewhere."""
    return Record(RecordType.SNAPSHOT, group, snapshot.index, snapshot.term, b"")


def to_entry(header: RecordHeader, payload: bytes) -> Entry:
    """The entry of an ENTRY record. Raises ValueError for an entry type of a later version."""
    # Both readers have checked the payload as it is stored, which is another one when it is masked.
    data_crc = None if header.flags & FLAG_MASKED else header.payload_crc
    return Entry(header.entry_index, header.term, payload, EntryType(header.flags >> ENTRY_TYPE_SHIFT), data_crc)


def to_hard_state(payload: bytes) -> HardState:
    """The hard state of a HARD_STATE record. Raises struct.error when the size is wrong."""
    return HardState(*_HARD_STATE.unpack(payload))
