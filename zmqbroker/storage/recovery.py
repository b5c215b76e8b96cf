"""What a start finds in the log's directory: the scan, the check of the chain, and the cut of a torn tail.

The rule (docs/STORAGE.md, "Recovery"; DESIGN promise 6): what may have been acknowledged is never deleted. A bad record in a
segment that has a successor, one before a record that attests it durable, or one whose bytes all reached the disk is damage:
Corruption, and nothing is changed. Only a bad record of the newest segment with a sector that was never written is torn, and
is cut together with what follows.

It also writes again, in a log that syncs, what no later record attests, because a page whose sync failed may look clean.
"""

from __future__ import annotations

import re
import struct
from array import array
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from zmqbroker.errors import Corruption
from zmqbroker.storage.disk import OS_DISK, Disk
from zmqbroker.storage.group_index import OFFSET_BITS, GroupIndex
from zmqbroker.storage.record import (
    ALIGNMENT,
    MAGIC_BYTES,
    PAYLOAD_OFFSET,
    RecordCursor,
    RecordHeader,
    RecordType,
    has_zero_sector,
    parse_header,
    restore_payload,
    to_entry,
    to_hard_state,
)
from zmqbroker.storage.segment import GroupBase, Segment, decode_segment_header

__all__ = ["Recovered", "recover"]

_NAME = re.compile(r"(\d{8,})\.segment")


@dataclass(slots=True)
class Recovered:
    """The log as it was found."""

    segments: list[Segment] = field(default_factory=list)  # open, oldest first
    groups: defaultdict[int, GroupIndex] = field(default_factory=lambda: defaultdict(GroupIndex))
    bases: dict[int, GroupBase] = field(default_factory=dict)
    cursor: RecordCursor | None = None  # where the next record goes; None for an empty directory


def recover(directory: Path, *, sync: bool, salvage: bool = False, disk: Disk = OS_DISK) -> Recovered:
    """Read every segment of `directory`; cut a torn tail. Raises Corruption, StorageError or OSError.

    With `salvage` the log ends before what is damaged: the rest is deleted, whether it was acknowledged or not. That is for a
    node that nobody can give its data again.
    """
    names = disk.names(directory)
    with ExitStack() as stack:
        found = Recovered(_open_segments(directory, names, disk, stack, salvage))
        for position, segment in enumerate(found.segments):
            newer = found.segments[position + 1 :]
            scan = _Scan(found, segment, newer[0] if newer else None)
            try:
                scan.run(sync)
            except Corruption:
                if not salvage:
                    raise
                scan.cut()
                _drop(found, newer)
                break
        _finish(found)
        if sync:
            disk.sync_directory(directory)
        stack.pop_all()
    return found


def _open_segments(directory: Path, names: list[str], disk: Disk, stack: ExitStack, salvage: bool) -> list[Segment]:
    """Open all segments, oldest first. Raises Corruption when one is missing or has no good header, unless it is to salvage."""
    numbered = sorted((int(match[1]), directory / name) for name in names if (match := _NAME.fullmatch(name)))
    segments: list[Segment] = []
    try:
        for number, path in numbered:
            if segments and number != segments[-1].sequence + 1:
                last = segments[-1].path
                raise Corruption(f"{last}: the segment after it is missing; the next one here is {number}")
            segments.append(Segment.open(path, disk))
            stack.callback(segments[-1].close)
    except Corruption:
        if not salvage:
            raise
        for _, path in reversed(numbered[len(segments) :]):
            disk.unlink(path)
    return segments


def _drop(found: Recovered, segments: list[Segment]) -> None:
    """Delete segments behind the end of a log that is salvaged, the newest first: none is left without its predecessor."""
    for segment in reversed(segments):
        segment.close()
        segment.disk.unlink(segment.path)
        found.segments.remove(segment)


class _Scan:
    """One segment, record by record."""

    def __init__(self, found: Recovered, segment: Segment, successor: Segment | None) -> None:
        self.found = found
        self.segment = segment
        self.successor = successor
        self.data = segment.read(0, segment.size_bytes)
        # Read again, and maybe written again: what went wrong on the way from the disk must not get there.
        decode_segment_header(self.data, str(segment.path))
        self.cursor = RecordCursor(segment.key, segment.header.size, segment.header.first_lsn)
        self.offsets = array("Q")  # where each record begins
        self.synced_lsn = 0  # the highest that a record here attests

    def run(self, sync: bool) -> None:
        """Take over every good record; judge what ends the chain."""
        self._begin()
        while (header := self._next()) is not None:
            payload = restore_payload(header, self._stored(header), self.segment.key)
            if payload is None:
                break
            self._take(header, payload)
        if self.successor is not None:
            if self.cursor.next_lsn != self.successor.header.first_lsn:
                raise self._damaged(f"record {self.cursor.next_lsn} is damaged, and a newer segment attests it")
        else:
            if self.data[self.cursor.position :].strip(b"\0"):
                self._judge()
                self.cut()
            if sync:
                self._write_again()
        self.found.cursor = self.cursor

    def _begin(self) -> None:
        oldest = self.segment is self.found.segments[0]
        for group, base in self.segment.header.groups.items():
            self.found.bases[group] = replace(base)
            index = self.found.groups[group]
            index.hard_state = base.hard_state
            if oldest:
                index.reset(base.last_index, base.last_term)

    def _next(self) -> RecordHeader | None:
        header = parse_header(self.data, self.cursor.position, self.segment.key)
        if header is not None and (header.previous_crc, header.lsn) != (self.cursor.previous_crc, self.cursor.next_lsn):
            raise self._damaged(f"record {header.lsn} does not follow the one before it")
        return header

    def _stored(self, header: RecordHeader) -> bytes:
        start = self.cursor.position + PAYLOAD_OFFSET
        return self.data[start : start + header.payload_size]

    def _damaged(self, what: str) -> Corruption:
        return self.segment.damaged(self.cursor.position, what)

    def _take(self, header: RecordHeader, payload: bytes) -> None:
        index = self.found.groups[header.group]
        try:
            if header.type == RecordType.ENTRY:
                to_entry(header, payload)
                self._place(header, index)
            elif header.type == RecordType.SNAPSHOT:
                index.reset(header.entry_index, header.term)
                base = self.found.bases.setdefault(header.group, GroupBase())
                base.snapshot_index, base.snapshot_term = header.entry_index, header.term
            else:
                RecordType(header.type)
                index.hard_state = to_hard_state(payload)
        except (ValueError, struct.error) as error:
            raise self._damaged(f"record {header.lsn} cannot be understood: {error}") from error
        self.offsets.append(self.cursor.position)
        self.synced_lsn = header.synced_lsn
        self.cursor.pass_by(header.size, header.header_crc)

    def _place(self, header: RecordHeader, index: GroupIndex) -> None:
        if header.entry_index > index.last_index + 1:
            raise self._damaged(f"group {header.group} has no entry before index {header.entry_index}")
        self.segment.note(header.group, header.entry_index)
        if header.entry_index < index.first_index:
            # It replaces an entry of a dropped segment, so it was trimmed itself: the log begins behind it.
            index.reset(header.entry_index, header.term)
            return
        position = self.segment.sequence << OFFSET_BITS | self.cursor.position
        index.append(header.entry_index, header.term, position, header.payload_size)

    def _judge(self) -> None:
        """Return when the bad record at the cursor was never acknowledged. Raises Corruption otherwise."""
        lsn = self.cursor.next_lsn
        position = self.data.find(MAGIC_BYTES, self.cursor.position)
        while position >= 0:
            header = parse_header(self.data, position, self.segment.key) if position % ALIGNMENT == 0 else None
            if header is not None and header.synced_lsn >= lsn:
                raise self._damaged(f"record {lsn} is damaged, and record {header.lsn} attests that it was durable")
            position = self.data.find(MAGIC_BYTES, position + 1)
        if not self._is_torn():
            raise self._damaged(f"record {lsn} is damaged, and all of it had been written")

    def _is_torn(self) -> bool:
        """True when a sector of the record at the cursor was never written."""
        position = self.cursor.position
        header = parse_header(self.data, position, self.segment.key)
        if header is None:
            return has_zero_sector(self.data[position : position + PAYLOAD_OFFSET], position)
        return has_zero_sector(self._stored(header), position + PAYLOAD_OFFSET)

    def cut(self) -> None:
        """Fill the rest of the segment with zeros, as far as it is not zero already."""
        self.found.cursor = self.cursor
        position = self.cursor.position
        self.segment.write([bytes(len(self.data[position:].rstrip(b"\0")))], position)

    def _write_again(self) -> None:
        """Write header and unattested records once more and sync them; the bytes are the same, so a crash harms nothing."""
        header, end = self.segment.header, self.cursor.position
        attested = max(self.synced_lsn + 1 - header.first_lsn, 0)
        start = self.offsets[attested] if attested < len(self.offsets) else end
        self.segment.write([self.data[: header.size]], 0)
        self.segment.write([self.data[start:end]], start)
        self.segment.disk.fsync(self.segment.descriptor)


def _finish(found: Recovered) -> None:
    """Bring the hard states and the bases for the next header to what the records left."""
    for group, index in found.groups.items():
        state = index.hard_state
        # A header or a hard state may outlive entries that were torn; commit only saves work, so it may fall back.
        if state.commit > index.last_index:
            index.hard_state = state = replace(state, commit=index.last_index)
        base = found.bases.setdefault(group, GroupBase())
        base.hard_state, base.last_index, base.last_term = state, index.last_index, index.term(index.last_index)
