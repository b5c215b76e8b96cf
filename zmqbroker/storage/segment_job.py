"""What one pass has to write, encoded: the plan that `SegmentLog.prepare` makes, the writer runs and `complete` shows."""

from __future__ import annotations

from dataclasses import dataclass, field

from zmqbroker.raft.messages import Entry, HardState, Snapshot
from zmqbroker.storage.interfaces import PlainWrite
from zmqbroker.storage.segment_files import SegmentFiles, SegmentWrite

__all__ = ["SegmentJob"]


@dataclass(slots=True)
class SegmentJob:
    """One pass, encoded; see `interfaces.WriteJob` for who calls what."""

    files: SegmentFiles
    must_sync: bool
    size_bytes: int = 0
    synced: bool = False  # set by the writer's thread before it hands the job back
    writes: list[SegmentWrite] = field(default_factory=list)
    changes: list[tuple[int, Entry | Snapshot, int]] = field(default_factory=list)  # group, what, position; in order
    hard_states: list[tuple[int, HardState]] = field(default_factory=list)
    last_lsn: int = 0
    sequence: int = 0  # of the segment that the job ends in
    written: int = 0  # of `writes`, so that a job that found no room goes on where it stopped

    def write(self) -> None:
        """Write to the operating system, creating segments on the way. After NoRoom it may be called again."""
        for write in self.writes[self.written :]:
            self.files.write(write)
            self.written += 1

    def sync(self) -> None:
        """Make this job and every earlier one durable."""
        self.files.sync()
        self.synced = True

    def plain(self) -> PlainWrite | None:
        """See `interfaces.WriteJob`: nothing begins a segment, and nothing waits to be done between jobs."""
        if len(self.writes) != 1 or self.writes[0].header or not self.files.only_writes:
            return None
        write = self.writes[0]
        # A segment that an earlier job is to begin has no file yet.
        return (write.segment.descriptor, write.offset, write.buffers) if write.segment.descriptor >= 0 else None

    def mark_synced(self) -> None:
        """See `interfaces.WriteJob`."""
        self.synced = True
