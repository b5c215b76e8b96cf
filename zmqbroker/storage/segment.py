"""One file of the log: its header's bytes, and the plain reads and writes on it.

Layout of the header (docs/STORAGE.md, "Segment header"), little-endian; it fills a multiple of 4096 bytes:

    0 magic 8 bytes | 8 crc32c u32 of bytes 12 ... end of the header | 12 format version u32 | 16 header size u32
    20 group count u32 | 24 sequence u64 | 32 first_lsn u64 | 40 uuid 16 bytes | 56 file size u64 | 64 the groups
    each group: group u16 | 0 u16 | membership size u32 | term, vote, commit, snapshot_index, snapshot_term,
                last_index, last_term u64 each | membership, then zeros up to a multiple of 8

Invariant: the header holds all that a start needs to know from the segments before it, so that they may be dropped. This
module decides nothing about order, durability or repair; it maps no errors of the operating system.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from zmqbroker.checksum import crc32c
from zmqbroker.errors import Corruption, StorageError
from zmqbroker.raft.messages import HardState
from zmqbroker.storage.disk import OS_DISK, Disk, read_all, write_all
from zmqbroker.storage.record import SegmentKey, aligned

__all__ = [
    "BLOCK_SIZE",
    "FORMAT_VERSION",
    "GroupBase",
    "Segment",
    "SegmentHeader",
    "decode_segment_header",
    "encode_segment_header",
    "segment_name",
]

#: The header fills whole blocks of this size, so that no record shares a page with it.
BLOCK_SIZE = 4096
#: Bumped by any change that an older reader would misread.
FORMAT_VERSION = 1

_MAGIC = b"ZBLOGSEG"
_PREFIX = struct.Struct("<8sIIIIQQ16sQ")
_CHECKED_FROM = 12
_GROUP = struct.Struct("<HHI7Q")
_HEADER_SIZE_MAX = 64 << 20  # 65,536 groups with 900 bytes of membership each; a larger one is damage


@dataclass(slots=True)
class GroupBase:
    """What one group's log was when a segment began."""

    hard_state: HardState = field(default_factory=HardState)
    last_index: int = 0
    last_term: int = 0
    snapshot_index: int = 0
    snapshot_term: int = 0
    membership: bytes = b""  # opaque here


@dataclass(slots=True, frozen=True)
class SegmentHeader:
    """The decoded header."""

    sequence: int  # from 1, without gaps
    first_lsn: int  # of the segment's first record; every earlier one was durable when the segment began
    uuid: bytes
    file_size: int
    size: int  # bytes of the header itself
    groups: dict[int, GroupBase]


def encode_segment_header(
    sequence: int, first_lsn: int, uuid: bytes, groups: dict[int, GroupBase], *, segment_bytes: int, record_size: int
) -> bytes:
    """A header for a file of `segment_bytes`, or of as much as one record of `record_size` bytes needs."""
    table = b"".join(_encode_group(group, base) for group, base in sorted(groups.items()))
    size = -(-(_PREFIX.size + len(table)) // BLOCK_SIZE) * BLOCK_SIZE
    file_size = max(segment_bytes, size + record_size)
    prefix = _PREFIX.pack(_MAGIC, 0, FORMAT_VERSION, size, len(groups), sequence, first_lsn, uuid, file_size)
    data = (prefix + table).ljust(size, b"\0")
    crc = crc32c(data[_CHECKED_FROM:])
    return data[:8] + struct.pack("<I", crc) + data[_CHECKED_FROM:]


def _encode_group(group: int, base: GroupBase) -> bytes:
    state = base.hard_state
    numbers = (state.term, state.vote, state.commit, base.snapshot_index, base.snapshot_term, base.last_index, base.last_term)
    entry = _GROUP.pack(group, 0, len(base.membership), *numbers) + base.membership
    return entry.ljust(aligned(len(entry)), b"\0")


def decode_segment_header(data: bytes, source: str) -> SegmentHeader:
    """Read a header from the first bytes of a file; `source` names the file in errors.

    Raises Corruption when it is damaged, StorageError when a later version wrote it.
    """
    if len(data) < _PREFIX.size:
        raise Corruption(f"{source}: offset 0: the file is too short for a segment header")
    magic, crc, version, size, count, sequence, first_lsn, uuid, file_size = _PREFIX.unpack_from(data)
    if magic != _MAGIC or size > len(data) or crc32c(data[_CHECKED_FROM:size]) != crc:
        raise Corruption(f"{source}: offset 0: the segment header is damaged")
    if version != FORMAT_VERSION:
        raise StorageError(f"{source}: written in format {version}; this version reads format {FORMAT_VERSION}")
    try:
        groups = _decode_groups(data[:size], count)
    except struct.error as error:
        raise Corruption(f"{source}: offset 0: the segment header has no room for its {count} groups") from error
    return SegmentHeader(sequence, first_lsn, uuid, file_size, size, groups)


def _decode_groups(data: bytes, count: int) -> dict[int, GroupBase]:
    groups, position = {}, _PREFIX.size
    for _ in range(count):
        group, _, membership_size, term, vote, commit, *rest = _GROUP.unpack_from(data, position)
        position += _GROUP.size
        membership = data[position : position + membership_size]
        position += aligned(membership_size)
        snapshot_index, snapshot_term, last_index, last_term = rest
        state = HardState(term, vote, commit)
        groups[group] = GroupBase(state, last_index, last_term, snapshot_index, snapshot_term, membership)
    return groups


class Segment:
    """A segment and, once it exists, its open file."""

    __slots__ = ("descriptor", "disk", "header", "key", "last_indexes", "path")

    def __init__(self, path: Path, header: SegmentHeader, disk: Disk = OS_DISK) -> None:
        self.path = path
        self.disk = disk
        self.header = header
        self.key = SegmentKey(header.uuid)
        self.last_indexes: dict[int, int] = {}  # group -> index of its last entry here, which the next header will name
        self.descriptor = -1  # set by the thread that creates or opens the file

    @property
    def sequence(self) -> int:
        """Number of the segment, from 1."""
        return self.header.sequence

    @property
    def size_bytes(self) -> int:
        """Size of the file."""
        return self.header.file_size

    def note(self, group: int, index: int) -> None:
        """Remember that the next entry of `group` here is that at `index`, in the place of all after it."""
        self.last_indexes[group] = index

    def read(self, offset: int, size: int) -> bytes:
        """Up to `size` bytes from `offset`; fewer only at the end of the file."""
        return read_all(self.disk, self.descriptor, size, offset)

    def write(self, buffers: Sequence[bytes], offset: int) -> None:
        """Write all of `buffers`, one after the other, at `offset`."""
        write_all(self.disk, self.descriptor, buffers, offset)

    def close(self) -> None:
        """Close the file, if it is open."""
        if self.descriptor >= 0:
            self.disk.close(self.descriptor)
            self.descriptor = -1

    def damaged(self, offset: int, what: str) -> Corruption:
        """The error that says where this file is damaged."""
        return Corruption(f"{self.path}: offset {offset}: {what}")

    @classmethod
    def open(cls, path: Path, disk: Disk = OS_DISK) -> Segment:
        """Open an existing file and read its header. Raises Corruption, StorageError or OSError."""
        descriptor = disk.open(path)
        try:
            size = disk.size(descriptor)
            prefix = read_all(disk, descriptor, _PREFIX.size, 0)
            header_size = _PREFIX.unpack(prefix)[3] if len(prefix) == _PREFIX.size else 0
            # A damaged size would read the whole file or nothing; the checksum then says so.
            data = read_all(disk, descriptor, min(max(header_size, _PREFIX.size), size, _HEADER_SIZE_MAX), 0)
            segment = cls(path, decode_segment_header(data, str(path)), disk)
            if path.name != segment_name(segment.sequence) or size != segment.size_bytes:
                raise segment.damaged(0, f"the file's name or size ({size}) is not that of its header")
            segment.descriptor, descriptor = descriptor, -1
            return segment
        finally:
            if descriptor >= 0:
                disk.close(descriptor)


def segment_name(sequence: int) -> str:
    """File name of a segment."""
    return f"{sequence:08d}.segment"
