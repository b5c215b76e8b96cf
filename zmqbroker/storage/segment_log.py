"""The log of all groups of a node in segment files: the durable LogStore.

One thread, the loop's, owns everything here; only the jobs' `write` and `sync`, and `housekeep`, run on the writer's thread,
where they touch nothing but `SegmentFiles`. Positions are given out when a job is prepared and shown when it is completed, so
any number of jobs may be outstanding. It refuses gaps and writes below what was dropped: both are bugs of the caller.

Source: docs/STORAGE.md for bytes and rules; etcd's WAL for the header that carries the state of every group.
"""

from __future__ import annotations

import os
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from zmqbroker.errors import StorageError
from zmqbroker.raft.messages import Entry, HardState, Snapshot, StorageAppend
from zmqbroker.storage.disk import OS_DISK, Disk
from zmqbroker.storage.group_index import OFFSET_BITS, GroupIndex
from zmqbroker.storage.interfaces import WriteJob
from zmqbroker.storage.record import (
    PAYLOAD_OFFSET,
    Record,
    RecordCursor,
    parse_header,
    record_of_entry,
    record_of_hard_state,
    record_of_snapshot,
    restore_payload,
    to_entry,
)
from zmqbroker.storage.recovery import recover
from zmqbroker.storage.segment import (
    GroupBase,
    Segment,
    decode_segment_header,
    encode_segment_header,
    segment_name,
)
from zmqbroker.storage.segment_files import RESERVE_SEGMENTS, SegmentFiles, SegmentWrite
from zmqbroker.storage.segment_job import SegmentJob

__all__ = ["CACHE_BYTES_MAX", "SEGMENT_BYTES", "GroupView", "SegmentLog"]

#: Half a second of one disk's sequential speed: rare enough roll-overs, small enough steps of dropping.
SEGMENT_BYTES = 64 << 20
#: Payloads of recent entries kept in memory, for followers and consumers that keep up.
CACHE_BYTES_MAX = 64 << 20

_random_uuid = partial(os.urandom, 16)


class GroupView:
    """The LogView of one group."""

    __slots__ = ("_group", "_index", "_log")

    def __init__(self, log: SegmentLog, group: int, index: GroupIndex) -> None:
        self._log = log
        self._group = group
        self._index = index

    def hard_state(self) -> HardState:
        """The last durable hard state."""
        return self._index.hard_state

    def first_index(self) -> int:
        """The lowest index still held; last_index + 1 when there is none."""
        return self._index.first_index

    def last_index(self) -> int:
        """The highest durable index; 0 for a new group."""
        return self._index.last_index

    def term(self, index: int) -> int:
        """Term of the entry at `index`, first_index - 1 included. Raises Compacted below that."""
        return self._index.term(index)

    def snapshot(self) -> Snapshot | None:
        """What was offered last: the log itself holds no state."""
        return self._log.offered(self._group)

    def entries(self, low: int, high: int, size_max: int) -> tuple[Entry, ...]:
        """Entries low..high-1, cut after the first that brings the payloads to `size_max` bytes or more."""
        found: list[Entry] = []
        size = 0
        for index in range(low, high):
            entry = self._log.entry(self._group, index)
            found.append(entry)
            size += len(entry.data)
            if size >= size_max:
                break
        return tuple(found)


def _in_front(work: StorageAppend, state: HardState, previous: HardState) -> HardState:
    """The hard state of `work` as it is stored before the work's other records.

    A power cut may leave it without them. What they replace is then still there, and must not be called committed.
    """
    commit = state.commit
    if work.snapshot is not None:
        commit = min(commit, previous.commit)
    elif work.entries:
        commit = min(commit, work.entries[0].index - 1)
    return state if commit == state.commit else HardState(state.term, state.vote, commit)


class SegmentLog:
    """A LogStore in a directory. Made by `SegmentLog.open`."""

    def __init__(
        self,
        directory: Path,
        files: SegmentFiles,
        *,
        sync: bool,
        segment_bytes: int,
        cache_bytes_max: int,
        disk: Disk,
        uuid: Callable[[], bytes],
    ) -> None:
        self._directory = directory
        self._files = files
        self._disk = disk
        self._uuid = uuid
        self._sync = sync
        self._segment_bytes = segment_bytes
        self._segments: OrderedDict[int, Segment] = OrderedDict()  # by sequence, oldest first, without gaps
        self._size_bytes = 0  # of all in _segments
        self._bases: dict[int, GroupBase] = {}  # every group as the next header must describe it: outstanding jobs included
        self._groups: defaultdict[int, GroupIndex] = defaultdict(GroupIndex)  # what is durable
        self._trimmed: dict[int, int] = {}  # group -> highest index that nobody needs any more
        self._offered: dict[int, Snapshot] = {}  # group -> what a follower that needs dropped entries may be sent
        self._cache: OrderedDict[tuple[int, int], Entry] = OrderedDict()  # oldest first
        self._cache_bytes = 0
        self._cache_bytes_max = cache_bytes_max
        self._completed_sequence = 0  # segment in which the last completed job ended
        self._synced_lsn = 0  # every record up to it is durable (written, in a log that never syncs)
        self._cursor: RecordCursor | None = None  # None until the first record asks for a segment

    @classmethod
    def open(
        cls,
        directory: Path,
        *,
        sync: bool,
        segment_bytes: int = SEGMENT_BYTES,
        reserve_segments: int = RESERVE_SEGMENTS,
        cache_bytes_max: int = CACHE_BYTES_MAX,
        salvage: bool = False,
        disk: Disk = OS_DISK,
        uuid: Callable[[], bytes] = _random_uuid,
        on_left: Callable[[Path], object] = lambda path: None,
    ) -> SegmentLog:
        """Open the log in `directory`, made if it is not there; `sync` False means that nothing is ever fsynced.

        `reserve_segments` files are kept ready for the next segments, and a few more that were recycled.
        `salvage` True keeps what the checksums prove where it would be damaged otherwise: see `recover`.
        `uuid` gives each new segment 16 bytes that no other segment of the node may have.
        `on_left` is told, on the thread that runs the jobs, each segment that nothing is written to any more.
        Raises Corruption when something that may have been acknowledged is damaged (nothing is changed then), StorageError
        when the operating system refuses.
        """
        assert segment_bytes < 1 << OFFSET_BITS, segment_bytes
        files = SegmentFiles(
            directory, sync=sync, segment_bytes=segment_bytes, reserve_segments=reserve_segments, disk=disk, on_left=on_left
        )
        log = cls(
            directory, files, sync=sync, segment_bytes=segment_bytes, cache_bytes_max=cache_bytes_max, disk=disk, uuid=uuid
        )
        try:
            disk.make_directory(directory)
            if sync:
                disk.sync_directory(directory.parent)
            log._load(salvage)
        except OSError as error:
            raise StorageError(f"{directory}: the log cannot be opened: {error}") from error
        return log

    def _load(self, salvage: bool) -> None:
        found = recover(self._directory, sync=self._sync, salvage=salvage, disk=self._disk)
        self._groups, self._bases, self._cursor = found.groups, found.bases, found.cursor
        for segment in found.segments:
            self._segments[segment.sequence] = segment
            self._size_bytes += segment.size_bytes
        if found.cursor is not None:
            newest = found.segments[-1]
            self._files.resume(newest)
            self._completed_sequence = newest.sequence
            self._synced_lsn = found.cursor.next_lsn - 1
        self._files.adopt()

    def view(self, group: int) -> GroupView:
        """The durable log of one group, live."""
        return GroupView(self, group, self._groups[group])

    def prepare(self, works: Sequence[StorageAppend]) -> SegmentJob:
        """Encode one pass; every work's hard state comes before its entries, so no log is ahead of its current term."""
        job = SegmentJob(self._files, any(work.must_sync or work.snapshot is not None for work in works))
        for work in works:
            base = self._bases.setdefault(work.group, GroupBase())
            if work.hard_state is not None:
                base.hard_state = _in_front(work, work.hard_state, base.hard_state)
                self._put(job, record_of_hard_state(work.group, base.hard_state))
                job.hard_states.append((work.group, work.hard_state))
            if work.snapshot is not None:
                self._put(job, record_of_snapshot(work.group, work.snapshot))
                base.last_index, base.last_term = work.snapshot.index, work.snapshot.term
                base.snapshot_index, base.snapshot_term = work.snapshot.index, work.snapshot.term
                job.changes.append((work.group, work.snapshot, 0))
            for entry in work.entries:
                first_index = self._groups[work.group].first_index
                assert first_index <= entry.index <= base.last_index + 1, (work.group, first_index, entry, base.last_index)
                segment, offset = self._put(job, record_of_entry(work.group, entry))
                segment.note(work.group, entry.index)
                base.last_index, base.last_term = entry.index, entry.term
                job.changes.append((work.group, entry, segment.sequence << OFFSET_BITS | offset))
            base.hard_state = work.hard_state or base.hard_state
        if self._cursor is not None:
            job.last_lsn = self._cursor.next_lsn - 1
            job.sequence = next(reversed(self._segments))
        return job

    def _put(self, job: SegmentJob, record: Record) -> tuple[Segment, int]:
        """Add one record to a job; returns where it will lie."""
        cursor, size = self._cursor, record.size
        segment = self._segments[next(reversed(self._segments))] if self._segments else None
        if cursor is None or segment is None or cursor.position + size > segment.size_bytes:
            segment, cursor = self._roll(job, size)
        elif not job.writes:
            job.writes.append(SegmentWrite(segment, cursor.position, []))
        offset = cursor.position
        job.writes[-1].buffers.extend(cursor.encode(record, self._synced_lsn))
        job.size_bytes += size
        return segment, offset

    def _roll(self, job: SegmentJob, record_size: int) -> tuple[Segment, RecordCursor]:
        """Begin the next segment; its header describes every group as the records before it leave it."""
        sequence = next(reversed(self._segments)) + 1 if self._segments else 1
        first_lsn = self._cursor.next_lsn if self._cursor is not None else 1
        data = encode_segment_header(
            sequence, first_lsn, self._uuid(), self._bases, segment_bytes=self._segment_bytes, record_size=record_size
        )
        path = self._directory / segment_name(sequence)
        segment = Segment(path, decode_segment_header(data, str(path)), self._disk)
        self._segments[sequence] = segment
        self._size_bytes += segment.size_bytes
        self._cursor = RecordCursor(segment.key, segment.header.size, first_lsn)
        job.writes.append(SegmentWrite(segment, segment.header.size, [], data))
        job.size_bytes += len(data)
        return segment, self._cursor

    def complete(self, job: WriteJob) -> None:
        """Show what `job` wrote."""
        assert isinstance(job, SegmentJob), job
        for group, state in job.hard_states:
            self._groups[group].hard_state = state
        for group, change, position in job.changes:
            index = self._groups[group]
            first_replaced = change.index if isinstance(change, Entry) else index.first_index
            for replaced in range(first_replaced, index.last_index + 1):
                self._forget(group, replaced)
            if isinstance(change, Snapshot):
                index.reset(change.index, change.term)
                continue
            index.append(change.index, change.term, position, len(change.data))
            self._cache[group, change.index] = change
            self._cache_bytes += len(change.data)
        while self._cache_bytes > self._cache_bytes_max:
            self._cache_bytes -= len(self._cache.popitem(last=False)[1].data)
        self._completed_sequence = max(self._completed_sequence, job.sequence)
        if job.synced or not self._sync:
            self._synced_lsn = max(self._synced_lsn, job.last_lsn)

    def _forget(self, group: int, index: int) -> None:
        entry = self._cache.pop((group, index), None)
        if entry is not None:
            self._cache_bytes -= len(entry.data)

    def read(self, group: int, index: int) -> bytes:
        """The payload of one entry. Raises Compacted, Corruption, or StorageError when the file cannot be read."""
        return self.entry(group, index).data

    def is_young(self, group: int, index: int) -> bool:
        """Whether one entry is in memory."""
        return (group, index) in self._cache

    def entry(self, group: int, index: int) -> Entry:
        """One entry, from memory while it is young. Raises as `read`."""
        sequence, offset, size = self._groups[group].locate(index)
        cached = self._cache.get((group, index))
        if cached is not None:
            return cached
        segment = self._segments[sequence]
        try:
            data = segment.read(offset, PAYLOAD_OFFSET + size)
        except OSError as error:
            raise StorageError(f"{segment.path}: offset {offset}: cannot be read: {error}") from error
        return self._decode(segment, offset, data, group, index)

    def _decode(self, segment: Segment, offset: int, data: bytes, group: int, index: int) -> Entry:
        header = parse_header(data, 0, segment.key)
        if header is None or (header.group, header.entry_index) != (group, index):
            raise segment.damaged(offset, f"no record of group {group}, index {index}")
        payload = restore_payload(header, data[PAYLOAD_OFFSET:], segment.key)
        if payload is None:
            raise segment.damaged(offset, f"the payload of group {group}, index {index} is damaged")
        return to_entry(header, payload)

    def trim(self, group: int, index: int) -> None:
        """Entries of `group` up to `index` are not needed; the oldest segments go when that holds for all in them.

        Their names disappear with the next `housekeep`. The one that completed jobs write to stays.
        """
        self._trimmed[group] = max(index, self._trimmed.get(group, 0))
        while self._segments:
            sequence, segment = next(iter(self._segments.items()))
            if sequence >= self._completed_sequence:
                break
            if any(last_index > self._trimmed.get(owner, 0) for owner, last_index in segment.last_indexes.items()):
                break
            del self._segments[sequence]
            self._size_bytes -= segment.size_bytes
            for owner in segment.last_indexes:
                self._drop(owner, sequence)
            self._files.doom(segment)

    def trim_target(self, group: int, excess_bytes: int) -> int:
        """How far `group` must be trimmed for the oldest segments, of `excess_bytes` together, to be dropped; see `trim`."""
        target = 0
        for sequence, segment in self._segments.items():
            if excess_bytes <= 0 or sequence >= self._completed_sequence:
                break
            target = max(target, segment.last_indexes.get(group, 0))
            excess_bytes -= segment.size_bytes
        return target

    def _drop(self, group: int, sequence: int) -> None:
        index = self._groups[group]
        first_index = index.first_index
        for dropped in range(first_index, first_index + index.drop_segment(sequence)):
            self._forget(group, dropped)

    def offer(self, group: int, snapshot: Snapshot | None) -> None:
        """Let the group's view offer `snapshot`, or nothing any more."""
        if snapshot is None:
            self._offered.pop(group, None)
        else:
            self._offered[group] = snapshot

    def offered(self, group: int) -> Snapshot | None:
        """What the group's view offers."""
        return self._offered.get(group)

    def housekeep(self) -> None:
        """Recycle dropped segments and fill the reserve. For the writer's thread, between jobs. Raises OSError."""
        self._files.housekeep()

    @property
    def size_bytes(self) -> int:
        """Bytes of disk that the segments occupy. What is kept ready for more of them is not counted: see `reserve_left`."""
        return self._size_bytes

    @property
    def reserve_left(self) -> int:
        """How many files are ready to become segments, so that writing goes on when the disk is full. For any thread."""
        return self._files.reserve_left

    def close(self) -> None:
        """Close every file; the last job must have completed and the writer must have stopped."""
        self._files.close()
        for segment in self._segments.values():
            segment.close()
        self._segments.clear()
        self._size_bytes = 0
        self._cache.clear()
