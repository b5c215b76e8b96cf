"""What the writer's thread does to the segment files: create, write, sync, delete.

It runs the plan that `SegmentLog.prepare` made and decides nothing itself. Everything but `doom` belongs to one thread: the
one that runs the jobs.

Invariants of a log that syncs: an older segment is synced whole before a newer one exists, so a bad record in it is damage
and never a torn write; a segment gets its name when its header is durable, so a named file without a whole header is damaged;
the name is durable before the first record is written. An OSError goes up as it is and nothing is tried again (a page that
failed to sync may be marked clean).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from pathlib import Path

from zmqbroker.storage.disk import OS_DISK, Disk
from zmqbroker.storage.segment import Segment

__all__ = ["NEW_NAME", "SPARE_NAME", "SegmentFiles", "SegmentWrite"]

#: An allocated file without a header, ready to become the next segment; at most one.
SPARE_NAME = "spare"
#: A segment that is being made without a spare. It and the spare are left-overs after a crash, and are deleted.
NEW_NAME = "new"


@dataclass(slots=True)
class SegmentWrite:
    """Buffers to write one after the other at `offset`; with a `header`, the segment is created first."""

    segment: Segment
    offset: int
    buffers: list[bytes]
    header: bytes = b""


class SegmentFiles:
    """The files behind one `SegmentLog`."""

    def __init__(self, directory: Path, *, sync: bool, segment_bytes: int, disk: Disk = OS_DISK) -> None:
        self._directory = directory
        self._disk = disk
        self._sync = sync
        self._segment_bytes = segment_bytes
        self._current: Segment | None = None  # the one written last
        self._dirty = False  # True while _current holds writes that were not synced
        self._spare = -1  # descriptor of the spare file
        self._doomed: deque[Segment] = deque()  # oldest first; bounded by the number of segments

    @property
    def spare_bytes(self) -> int:
        """Bytes of disk that the spare occupies. May be asked from any thread."""
        return self._segment_bytes if self._spare >= 0 else 0

    def resume(self, segment: Segment) -> None:
        """Go on in a segment that recovery found."""
        self._current = segment

    def write(self, write: SegmentWrite) -> None:
        """Create the segment if the write begins it, then write its buffers."""
        if write.header:
            self._create(write.segment, write.header)
            self._delete_doomed()
        self._current = write.segment
        self._dirty = True
        write.segment.write(write.buffers, write.offset)

    def _create(self, segment: Segment, header: bytes) -> None:
        self.sync()
        if self._spare >= 0 and segment.size_bytes == self._segment_bytes:
            path = self._directory / SPARE_NAME
            segment.descriptor, self._spare = self._spare, -1
        else:
            path = self._directory / NEW_NAME
            segment.descriptor = self._allocate(path, segment.size_bytes)
        segment.write([header], 0)
        if self._sync:
            self._disk.fsync(segment.descriptor)
        self._disk.rename(path, segment.path)
        if self._sync:
            self._disk.sync_directory(self._directory)

    def _allocate(self, path: Path, size: int) -> int:
        descriptor = self._disk.create(path)
        try:
            self._disk.allocate(descriptor, size)
        except OSError:
            self._disk.close(descriptor)
            raise
        return descriptor

    def sync(self) -> None:
        """Make every write so far durable: segments before the current one already are."""
        if self._sync and self._dirty and self._current is not None:
            self._disk.fdatasync(self._current.descriptor)
        self._dirty = False

    def doom(self, segment: Segment) -> None:
        """Have `segment` deleted by the next `housekeep`, roll-over or `close`. For any thread; oldest segment first."""
        self._doomed.append(segment)

    def housekeep(self) -> None:
        """Delete what is doomed and have a spare ready: the slow work that no pass should wait for."""
        self._delete_doomed()
        if self._spare < 0:
            self._spare = self._allocate(self._directory / SPARE_NAME, self._segment_bytes)

    def _delete_doomed(self) -> None:
        while self._doomed:
            segment = self._doomed.popleft()
            segment.close()
            self._disk.unlink(segment.path)
            if self._sync:
                # One name at a time: after a power cut the numbers that are left must have no gap.
                self._disk.sync_directory(self._directory)

    def close(self) -> None:
        """Delete the spare and what is doomed."""
        self._delete_doomed()
        if self._spare >= 0:
            self._disk.close(self._spare)
            self._disk.unlink(self._directory / SPARE_NAME)
            self._spare = -1
