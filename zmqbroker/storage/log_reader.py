"""Every record of a log that nobody writes to, in order, past what is damaged: for people who look into it.

It changes nothing, and finds more than a start does: after a bad record it goes on with the next whole one. It judges nothing
either: what a start would call torn, and cut, is named here like all that is not as it should be (`recovery` judges). Memory
is that of one segment. Source: docs/STORAGE.md §3 to §6.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from zmqbroker.errors import StorageError
from zmqbroker.storage.record import (
    ALIGNMENT,
    MAGIC_BYTES,
    PAYLOAD_OFFSET,
    RecordHeader,
    RecordType,
    SegmentKey,
    parse_header,
    restore_payload,
)
from zmqbroker.storage.segment import SegmentHeader, decode_segment_header, segment_name

__all__ = ["Flaw", "FoundRecord", "FoundSegment", "LogEvent", "read_log"]

_NAME = re.compile(r"(\d{8,})\.segment")


@dataclass(slots=True, frozen=True)
class FoundSegment:
    """A segment begins."""

    path: Path
    header: SegmentHeader


@dataclass(slots=True, frozen=True)
class FoundRecord:
    """A whole record."""

    path: Path
    sequence: int
    offset: int
    header: RecordHeader
    payload: bytes  # as it was given to the log


@dataclass(slots=True, frozen=True)
class Flaw:
    """Something is not as it should be."""

    path: Path
    offset: int
    what: str

    def __str__(self) -> str:
        return f"{self.path}: offset {self.offset}: {self.what}"


LogEvent = FoundSegment | FoundRecord | Flaw


def read_log(directory: Path) -> Iterator[LogEvent]:
    """Everything in the log's `directory`. Raises OSError when the directory itself cannot be read."""
    names = [(int(match[1]), path) for path in directory.iterdir() if (match := _NAME.fullmatch(path.name))]
    expected_sequence, next_lsn = 0, 0  # 0: anything will do
    for sequence, path in sorted(names):
        if expected_sequence and sequence != expected_sequence:
            missing = segment_name(expected_sequence)
            yield Flaw(directory / missing, 0, f"the segment is missing; the next one here is {path.name}")
            next_lsn = 0
        expected_sequence = sequence + 1
        try:
            data = path.read_bytes()
            header = decode_segment_header(data, str(path))
        except (OSError, StorageError) as error:
            what = str(error).removeprefix(f"{path}: offset 0: ").removeprefix(f"{path}: ")
            yield Flaw(path, 0, f"{what}; none of its records can be read")
            next_lsn = 0
            continue
        yield FoundSegment(path, header)
        walk = _Walk(path, header, data)
        yield from walk.start(sequence, next_lsn)
        yield from walk.records()
        next_lsn = walk.next_lsn


class _Walk:
    """One segment, record by record."""

    def __init__(self, path: Path, header: SegmentHeader, data: bytes) -> None:
        self._path, self._header, self._data = path, header, data
        self._key = SegmentKey(header.uuid)
        self._position = header.size
        self._previous_crc = 0
        self.next_lsn = header.first_lsn  # of the record that comes; 0 when that is not known any more

    def start(self, sequence: int, next_lsn: int) -> Iterator[Flaw]:
        """What of the header does not fit the file, or the segment before; `next_lsn` is how far that went, 0 for unknown."""
        header = self._header
        if header.sequence != sequence or header.file_size != len(self._data):
            what = (
                f"the header is that of segment {header.sequence} with {header.file_size} bytes, the file has {len(self._data)}"
            )
            yield Flaw(self._path, 0, what)
        if next_lsn and next_lsn != header.first_lsn:
            what = f"it begins with record {header.first_lsn}, but the segment before ends before record {next_lsn}"
            yield Flaw(self._path, 0, what)

    def records(self) -> Iterator[FoundRecord | Flaw]:
        """All records up to the zeros at the end."""
        while True:
            header = parse_header(self._data, self._position, self._key)
            if header is None:
                if not self._data[self._position :].strip(b"\0"):
                    return
                start, lsn = self._position, self.next_lsn
                yield Flaw(self._path, start, f"no record {lsn}; {self._skip()} bytes cannot be read")
                continue
            if (header.previous_crc, header.lsn) != (self._previous_crc, self.next_lsn):
                yield Flaw(self._path, self._position, f"record {header.lsn} does not follow record {self.next_lsn - 1}")
            yield self._record(header)
            self._previous_crc, self.next_lsn = header.header_crc, header.lsn + 1
            self._position += header.size

    def _record(self, header: RecordHeader) -> FoundRecord | Flaw:
        start = self._position + PAYLOAD_OFFSET
        payload = restore_payload(header, self._data[start : start + header.payload_size], self._key)
        if payload is None:
            return Flaw(self._path, self._position, f"the payload of record {header.lsn} does not fit its checksum")
        if header.type not in RecordType.__members__.values():
            return Flaw(self._path, self._position, f"record {header.lsn} is of type {header.type}, which is not known")
        return FoundRecord(self._path, self._header.sequence, self._position, header, payload)

    def _skip(self) -> int:
        """Go to the next whole record header, or to the end; how many bytes that was."""
        start = self._position
        found = self._data.find(MAGIC_BYTES, start + 1)
        while found >= 0:
            header = parse_header(self._data, found, self._key) if found % ALIGNMENT == 0 else None
            if header is not None:
                self._position, self._previous_crc, self.next_lsn = found, header.previous_crc, header.lsn
                return found - start
            found = self._data.find(MAGIC_BYTES, found + 1)
        self._position, self.next_lsn = len(self._data), 0
        return len(self._data[start:].rstrip(b"\0"))
