"""The head of a backup: what it is of, and where in the file the snapshot of each group is.

Layout, little-endian (docs/STORAGE.md, "Backups"):

    0 magic 8 bytes | 8 crc32c u32 of all of the head behind it | 12 size u32 of the map | 16 msgpack map
    then the snapshots of the groups, one after the other, each with the size and the checksum that the map says

`BackupCheck` sees whether every byte of a file fits the checksums. Nothing here reads a snapshot or knows files.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

from zmqbroker.errors import Corruption, MalformedFrame, UnsupportedVersion
from zmqbroker.wire import codec
from zmqbroker.wire.frames import U64_MAX, pack, unpack_map

__all__ = [
    "BACKUP_FORMAT",
    "HEAD_SIZE_MAX",
    "BackupCheck",
    "BackupGroup",
    "BackupHead",
    "decode_backup_head",
    "encode_backup_head",
]

#: Bumped by any change that an older reader would misread.
BACKUP_FORMAT = 1
#: A name, two uids and a handful of numbers for each of at most 0x4000 groups.
HEAD_SIZE_MAX = 1 << 20

_MAGIC = b"ZBBACK01"
_PREFIX = struct.Struct("<8sII")
_CHECKED_FROM = 12


@dataclass(slots=True, frozen=True)
class BackupGroup:
    """The snapshot of one group."""

    number: int
    index: int  # of the last entry that is in it
    term: int  # of that entry
    size: int  # bytes in the file
    checksum: int  # crc32c of them


@dataclass(slots=True, frozen=True, kw_only=True)
class BackupHead:
    """What a backup is of."""

    cluster_name: str
    cluster_uid: bytes
    volume: str
    node: str  # that made it
    taken_unix_ns: int
    software: str  # version of the package that made it
    groups: tuple[BackupGroup, ...]  # in the order of the file

    @property
    def size(self) -> int:
        """Bytes of all snapshots together."""
        return sum(group.size for group in self.groups)


def encode_backup_head(head: BackupHead) -> bytes:
    """The first bytes of the file."""
    fields = {
        "format": BACKUP_FORMAT,
        "cluster": head.cluster_name,
        "cluster_uid": head.cluster_uid,
        "volume": head.volume,
        "node": head.node,
        "taken_unix_ns": head.taken_unix_ns,
        "software": head.software,
        "groups": [[group.number, group.index, group.term, group.size, group.checksum] for group in head.groups],
    }
    packed = pack(fields, "the head of a backup")
    rest = struct.pack("<I", len(packed)) + packed
    return _MAGIC + struct.pack("<I", codec.crc32c(rest)) + rest


def decode_backup_head(data: bytes, source: str) -> tuple[BackupHead, int]:
    """The head at the beginning of a file, of which `data` is all or at least HEAD_SIZE_MAX bytes; and the size of the head.

    Raises Corruption, naming `source`, UnsupportedVersion for a backup of a later version.
    """
    if len(data) < _PREFIX.size or not data.startswith(_MAGIC):
        raise Corruption(f"{source}: offset 0: is no backup, it begins with {data[: len(_MAGIC)]!r}")
    _, checksum, size = _PREFIX.unpack_from(data)
    end = _PREFIX.size + size
    if end > min(len(data), HEAD_SIZE_MAX) or codec.crc32c(data[_CHECKED_FROM:end]) != checksum:
        raise Corruption(f"{source}: offset 0: the head does not fit its checksum")
    try:
        return _head_of(unpack_map(data[_PREFIX.size : end], "the head of a backup"), source), end
    except (MalformedFrame, KeyError, TypeError, ValueError) as error:
        raise Corruption(f"{source}: offset 0: the head cannot be understood: {error}") from error


def _head_of(fields: dict[str, Any], source: str) -> BackupHead:
    if fields["format"] != BACKUP_FORMAT:
        raise UnsupportedVersion(f"{source}: written in format {fields['format']}; this version reads format {BACKUP_FORMAT}")
    groups = tuple(BackupGroup(*group) for group in fields["groups"])
    numbers = [value for group in fields["groups"] for value in group]
    if not all(type(value) is int and 0 <= value <= U64_MAX for value in numbers) or not all(group.size for group in groups):
        raise ValueError("a group has a value out of its range")
    return BackupHead(
        cluster_name=fields["cluster"],
        cluster_uid=fields["cluster_uid"],
        volume=fields["volume"],
        node=fields["node"],
        taken_unix_ns=fields["taken_unix_ns"],
        software=fields["software"],
        groups=groups,
    )


class BackupCheck:
    """Whether a file is a whole backup: feed all its bytes, in pieces of any size, then ask for the head."""

    def __init__(self, source: str) -> None:
        self._source = source  # names the file in errors
        self._start = bytearray()  # the file's beginning, until the head is known
        self._head: BackupHead | None = None
        self._left: list[BackupGroup] = []  # groups whose bytes have not all come, in order
        self._group_left = 0  # bytes of the first of them that have not come
        self._checksum = 0  # of those that have
        self._offset = 0  # of the next byte

    def feed(self, data: bytes) -> None:
        """Take the next bytes. Raises Corruption, UnsupportedVersion."""
        if self._head is None:
            self._start += data
            if len(self._start) < HEAD_SIZE_MAX:
                return
            data = self._begin()
        self._take(memoryview(data))

    def finish(self) -> BackupHead:
        """All bytes have come: the head. Raises Corruption, UnsupportedVersion."""
        if self._head is None:
            self._take(memoryview(self._begin()))
        if self._left:
            raise Corruption(f"{self._source}: offset {self._offset}: it ends too early")
        assert self._head is not None
        return self._head

    def _begin(self) -> bytes:
        start = bytes(self._start)
        self._head, self._offset = decode_backup_head(start, self._source)
        self._start.clear()
        self._left = list(self._head.groups)
        self._group_left = self._left[0].size if self._left else 0
        return start[self._offset :]

    def _take(self, data: memoryview) -> None:
        while data:
            if not self._left:
                raise Corruption(f"{self._source}: offset {self._offset}: it should end here")
            piece = data[: self._group_left]
            data = data[len(piece) :]
            self._checksum = codec.crc32c(piece, self._checksum)
            self._group_left -= len(piece)
            self._offset += len(piece)
            if not self._group_left:
                self._end_group()

    def _end_group(self) -> None:
        group = self._left.pop(0)
        if self._checksum != group.checksum:
            start = self._offset - group.size
            raise Corruption(f"{self._source}: offset {start}: the state of group {group.number} does not fit its checksum")
        self._checksum, self._group_left = 0, self._left[0].size if self._left else 0
