"""What the writer's thread does to the segment files: create, write, sync, recycle; and the reserve of files made in advance.

It runs the plan that `SegmentLog.prepare` made and decides nothing itself. Everything but `doom` and `reserve_left` belongs to
one thread: the one that runs the jobs.

Invariants of a log that syncs: an older segment is synced whole before a newer one exists, so a bad record in it is damage
and never a torn write; a segment gets its name when its header is durable, so a named file without a whole header is damaged;
the name is durable before the first record is written; a dropped segment has durably lost its name before its content goes, so
no name leads to less than a segment. An OSError goes up as it is and nothing is tried again (a page that failed to sync may be
marked clean), but for a lack of room where a file is made: then no segment has changed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from zmqbroker.errors import NoRoom
from zmqbroker.storage.disk import OS_DISK, Disk, lacks_room
from zmqbroker.storage.segment import Segment

__all__ = ["NEW_NAME", "RESERVE_SEGMENTS", "SPARE_PREFIX", "SegmentFiles", "SegmentWrite"]

#: How the names of spares begin: allocated files of zeros without a header, ready to become the next segments.
SPARE_PREFIX = "spare-"
#: A segment that is being made without a spare; a left-over after a crash, and deleted.
NEW_NAME = "new"
#: Spares kept ready: what is admitted, acknowledged and deleted on a full disk goes there (DESIGN §5).
RESERVE_SEGMENTS = 4
#: So many dropped segments more are kept as spares, so that a log that turns over allocates nothing.
_RECYCLED_MAX = 2
#: After a lack of room so many calls of `housekeep` leave the disk alone: a try takes for a moment all that is free.
_PAUSE_CALLS = 100


@dataclass(slots=True)
class SegmentWrite:
    """Buffers to write one after the other at `offset`; with a `header`, the segment is created first."""

    segment: Segment
    offset: int
    buffers: list[bytes]
    header: bytes = b""


class SegmentFiles:
    """The files behind one `SegmentLog`."""

    def __init__(
        self,
        directory: Path,
        *,
        sync: bool,
        segment_bytes: int,
        reserve_segments: int = RESERVE_SEGMENTS,
        disk: Disk = OS_DISK,
        on_left: Callable[[Path], object] = lambda path: None,
    ) -> None:
        self._directory = directory
        self._disk = disk
        self._sync = sync
        self._segment_bytes = segment_bytes
        self._reserve_segments = reserve_segments
        self._on_left = on_left  # told the path of a segment that is complete, and synced, when the next one has its name
        self._current: Segment | None = None  # the one written last
        self._dirty = False  # True while _current holds writes that were not synced
        self._spares: deque[tuple[Path, int]] = deque()  # path and descriptor; the next segment takes the first
        self._doomed: deque[Segment] = deque()  # oldest first; bounded by the number of segments
        self._pause_calls = 0  # calls of `housekeep` that allocate nothing

    @property
    def reserve_left(self) -> int:
        """How many spares there are. May be asked from any thread."""
        return len(self._spares)

    @property
    def only_writes(self) -> bool:
        """True when `write` and `sync` call nothing but the operating system, and `housekeep` would do nothing.

        May be asked from any thread.
        """
        return self._sync and self._disk is OS_DISK and not self._doomed and len(self._spares) >= self._reserve_segments

    def resume(self, segment: Segment) -> None:
        """Go on in a segment that recovery found."""
        self._current = segment

    def adopt(self) -> None:
        """Take over the spares of an earlier process, whatever they hold, and delete what else it left."""
        for name in sorted(self._disk.names(self._directory)):
            path = self._directory / name
            if name == NEW_NAME:
                self._disk.unlink(path)
            elif name.startswith(SPARE_PREFIX):
                descriptor = self._disk.open(path)
                if self._has_place and self._disk.size(descriptor) == self._segment_bytes:
                    self._keep(path, descriptor)
                else:
                    self._discard(path, descriptor)

    # --- jobs ----------------------------------------------------------------------------------------------------------

    def write(self, write: SegmentWrite) -> None:
        """Create the segment if the write begins it, then write its buffers. Raises NoRoom when it cannot be created."""
        if write.header:
            self._create(write.segment, write.header)
        self._current = write.segment
        self._dirty = True
        write.segment.write(write.buffers, write.offset)

    def _create(self, segment: Segment, header: bytes) -> None:
        self.sync()
        path, segment.descriptor = self._take(segment.size_bytes)
        segment.write([header], 0)
        if self._sync:
            # With the header what made a spare read as zeros becomes durable: nothing of a former segment is behind it.
            self._disk.fsync(segment.descriptor)
        self._disk.rename(path, segment.path)
        if self._sync:
            self._disk.sync_directory(self._directory)
        if self._current is not None:
            self._on_left(self._current.path)

    def _take(self, size: int) -> tuple[Path, int]:
        """A file of zeros for the next segment: a spare, or one that is allocated now. Raises NoRoom."""
        if size == self._segment_bytes:
            if not self._spares:
                self._retire_doomed()
            if self._spares:
                return self._spares.popleft()
        path = self._directory / NEW_NAME
        try:
            return path, self._allocate(path, size)
        except OSError as error:
            if not lacks_room(error):
                raise
            raise NoRoom(f"{self._directory}: no room for a log segment of {size} bytes: {error.strerror}") from error

    def sync(self) -> None:
        """Make every write so far durable: segments before the current one already are."""
        if self._sync and self._dirty and self._current is not None:
            self._disk.fdatasync(self._current.descriptor)
        self._dirty = False

    # --- between jobs --------------------------------------------------------------------------------------------------

    def doom(self, segment: Segment) -> None:
        """Have `segment` retired by the next `housekeep` or `close`. For any thread; oldest segment first."""
        self._doomed.append(segment)

    def housekeep(self) -> None:
        """Recycle what is doomed and fill the reserve: the slow work that no pass should wait for. Room for it is no must."""
        self._retire_doomed()
        if self._pause_calls:
            self._pause_calls -= 1
            return
        try:
            while len(self._spares) < self._reserve_segments:
                path = self._new_spare()
                self._spares.append((path, self._allocate(path, self._segment_bytes)))
        except OSError as error:
            if not lacks_room(error):
                raise
            self._pause_calls = _PAUSE_CALLS

    @property
    def _has_place(self) -> bool:
        """True when another spare may be kept."""
        return len(self._spares) < self._reserve_segments + _RECYCLED_MAX

    def _new_spare(self) -> Path:
        taken = {path for path, _ in self._spares}
        return next(path for number in count(1) if (path := self._directory / f"{SPARE_PREFIX}{number}") not in taken)

    def _allocate(self, path: Path, size: int) -> int:
        descriptor = self._disk.create(path)
        try:
            self._disk.allocate(descriptor, size)
        except OSError:
            self._discard(path, descriptor)
            raise
        return descriptor

    def _retire_doomed(self) -> None:
        """Make spares of dropped segments, or delete them."""
        while self._doomed:
            segment = self._doomed.popleft()
            descriptor, segment.descriptor = segment.descriptor, -1
            recycled = self._has_place and segment.size_bytes == self._segment_bytes
            path = self._new_spare()
            if recycled:
                self._disk.rename(segment.path, path)
            else:
                self._discard(segment.path, descriptor)
            if self._sync:
                # One name at a time: after a power cut the numbers that are left must have no gap. And the content goes only
                # when the name has gone.
                self._disk.sync_directory(self._directory)
            if recycled:
                self._keep(path, descriptor)

    def _keep(self, path: Path, descriptor: int) -> None:
        """Make a spare of a file that holds anything."""
        try:
            self._disk.zero(descriptor, self._segment_bytes)
        except OSError as error:
            self._discard(path, descriptor)
            if not lacks_room(error):
                raise
        else:
            self._spares.append((path, descriptor))

    def _discard(self, path: Path, descriptor: int) -> None:
        self._disk.close(descriptor)
        self._disk.unlink(path)

    def close(self) -> None:
        """Retire what is doomed and close the spares: they stay, since after a restart there may be no room for others."""
        self._retire_doomed()
        while self._spares:
            self._disk.close(self._spares.popleft()[1])
