"""The end of the log that is not known to be durable yet: what the disk has to write, and what it is writing.

A snapshot that is being installed is part of it: it comes before the entries.
Entries stay here until the log has confirmed them in the current term, because an older write of the same indexes may still
be under way and would show in the durable log for a while (the ABA case). Invariants: entries[0].index == offset, indexes
have no gaps, offset <= in_progress <= offset + len(entries); snapshot.index < offset.
Source: etcd/raft, asynchronous storage writes.
"""

from __future__ import annotations

from collections.abc import Sequence

from zmqbroker.raft.messages import Entry, Snapshot
from zmqbroker.raft.trace import Trace

__all__ = ["Unstable"]


class Unstable:
    """Entries offset..last_index, of which those below `in_progress` have been handed to the disk."""

    __slots__ = ("_trace", "entries", "in_progress", "offset", "snapshot", "snapshot_in_progress")

    def __init__(self, offset: int, trace: Trace) -> None:
        self.entries: list[Entry] = []
        self.offset = offset  # everything below is durable and will not be overwritten by a write under way
        self.in_progress = offset
        self.snapshot: Snapshot | None = None  # replaces everything below offset, once it is durable
        self.snapshot_in_progress = False  # handed to the disk
        self._trace = trace

    @property
    def last_index(self) -> int:
        """The last index of the whole log."""
        return self.offset + len(self.entries) - 1

    def slice(self, low: int, high: int) -> tuple[Entry, ...]:
        """Entries low..high-1, fewer where the log ends."""
        assert low >= self.offset
        return tuple(self.entries[low - self.offset : high - self.offset])

    def next_entries(self) -> tuple[Entry, ...]:
        """What the disk has not been given yet."""
        return tuple(self.entries[self.in_progress - self.offset :])

    @property
    def next_snapshot(self) -> Snapshot | None:
        """The snapshot, if the disk has not been given it yet."""
        return None if self.snapshot_in_progress else self.snapshot

    def accept(self) -> None:
        """The disk has been given everything."""
        self.in_progress = self.last_index + 1
        self.snapshot_in_progress = self.snapshot is not None

    def restore(self, snapshot: Snapshot) -> None:
        """Begin anew after `snapshot`: what was here is not part of the log any more."""
        self.entries = []
        self.offset = self.in_progress = snapshot.index + 1
        self.snapshot, self.snapshot_in_progress = snapshot, False

    def snapshot_stable(self, snapshot: Snapshot) -> None:
        """The disk has installed `snapshot`; ignored when a newer one came meanwhile."""
        if self.snapshot is not None and self.snapshot.index == snapshot.index:
            self.snapshot, self.snapshot_in_progress = None, False

    def stable_to(self, index: int, term: int) -> None:
        """The disk has written everything up to `index`, whose entry had `term`; ignored when that is not what is here now."""
        if self.snapshot is not None and index == self.snapshot.index:
            self._trace("INFO entry at index %d matched unstable snapshot; ignoring", index)
            return
        if not self.offset <= index <= self.last_index:
            self._trace("INFO entry at index %d missing from unstable log; ignoring", index)
            return
        found = self.entries[index - self.offset].term
        if found != term:
            text = "INFO entry at (index,term)=(%d,%d) mismatched with entry at (%d,%d) in unstable log; ignoring"
            self._trace(text, index, term, index, found)
            return
        del self.entries[: index + 1 - self.offset]
        self.offset = index + 1
        self.in_progress = max(self.in_progress, self.offset)

    def truncate_and_append(self, entries: Sequence[Entry]) -> None:
        """Put `entries` where their indexes say; whatever was there and after is gone. At most one past the end."""
        first = entries[0].index
        assert first <= self.last_index + 1, "entries leave a gap in the log"
        if first == self.last_index + 1:
            self.entries.extend(entries)
        elif first <= self.offset:
            self._trace("INFO replace the unstable entries from index %d", first)
            self.entries = list(entries)
            self.offset = self.in_progress = first
        else:
            self._trace("INFO truncate the unstable entries before index %d", first)
            self.entries[first - self.offset :] = entries
            self.in_progress = min(self.in_progress, first)
