"""The whole log of one group: the durable part behind a `LogView`, the unstable end, and how far it is committed and applied.

Never changes an entry at or below the commit index and never hands out an entry that is not durable here. Invariant:
applied_index <= applying_index <= commit_index <= last_index. Source: Raft §5.3, §5.4; etcd/raft for the conflict search.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from zmqbroker.errors import Compacted
from zmqbroker.raft.messages import Entry, EntryType, Snapshot
from zmqbroker.raft.trace import Trace
from zmqbroker.raft.unstable import Unstable
from zmqbroker.raft.view import LogView

__all__ = ["ENTRY_OVERHEAD_BYTES", "RaftLog", "payload_bytes"]

#: Counted for every entry on top of its payload, so that empty entries are bounded too. Its size in a peer message.
ENTRY_OVERHEAD_BYTES = 32
#: Read at a time when committed entries are searched for membership changes.
_SCAN_BYTES = 1 << 20


def payload_bytes(entries: Sequence[Entry]) -> int:
    """Bytes of all payloads together."""
    return sum(len(entry.data) for entry in entries)


def _limit(entries: Sequence[Entry], size_max: int) -> int:
    """How many of the first entries fit into `size_max` bytes; at least one when there is one."""
    size = 0
    for position, entry in enumerate(entries):
        size += len(entry.data) + ENTRY_OVERHEAD_BYTES
        if size > size_max and position:
            return position
    return len(entries)


class RaftLog:
    """One group's log. `applying_bytes_max` bounds what is handed out for applying and not applied yet."""

    __slots__ = (
        "_apply_unstable",
        "_applying",
        "_applying_bytes",
        "_applying_bytes_max",
        "_applying_paused",
        "_trace",
        "_view",
        "applied_index",
        "applying_index",
        "commit_index",
        "unstable",
    )

    def __init__(
        self,
        view: LogView,
        commit_index: int,
        applied_index: int,
        applying_bytes_max: int,
        trace: Trace,
        *,
        apply_unstable: bool = False,
    ) -> None:
        last_index = view.last_index()
        assert view.first_index() - 1 <= applied_index, "the log no longer holds entries that are not applied"
        assert applied_index <= last_index, "the applied state is ahead of the log: acknowledged entries are missing"
        self._view = view
        self._trace = trace
        self.unstable = Unstable(last_index + 1, trace)
        # The stored commit index only saves work: it may be older than what is applied, and newer than a torn log's end.
        self.commit_index = max(applied_index, min(commit_index, last_index))
        self.applied_index = applied_index
        self.applying_index = applied_index  # last index handed out for applying
        self._applying: deque[tuple[int, int, int]] = deque()  # per handout: last index, size, payload bytes
        self._applying_bytes = 0  # sum of the sizes in _applying
        self._applying_bytes_max = applying_bytes_max
        self._apply_unstable = apply_unstable
        self._applying_paused = False  # True: the bound is reached, nothing is handed out before something is applied

    @property
    def first_index(self) -> int:
        """The lowest index that can be read; last_index + 1 when the log is empty."""
        snapshot = self.unstable.snapshot
        return self._view.first_index() if snapshot is None else snapshot.index + 1

    @property
    def last_index(self) -> int:
        """The last index, durable or not; 0 for an empty log."""
        return self.unstable.last_index

    @property
    def last_term(self) -> int:
        """Term of the last entry; 0 for an empty log."""
        return self.term(self.last_index)

    @property
    def stable_index(self) -> int:
        """The last index known to be durable here."""
        return self.unstable.offset - 1

    def term(self, index: int) -> int:
        """Term of the entry at `index`, 0 for index 0. Raises `Compacted`; never asked above last_index."""
        assert index <= self.last_index
        if index >= self.unstable.offset:
            return self.unstable.entries[index - self.unstable.offset].term
        snapshot = self.unstable.snapshot
        if snapshot is None:
            return self._view.term(index)
        if index < snapshot.index:
            raise Compacted(f"index {index} is below the snapshot at {snapshot.index}")
        return snapshot.term

    def term_or_none(self, index: int) -> int | None:
        """Term of the entry at `index`; None when the log no longer, or not yet, holds it."""
        if index > self.last_index:
            return None
        try:
            return self.term(index)
        except Compacted:
            return None

    def is_up_to_date(self, index: int, term: int) -> bool:
        """True when a log that ends at (index, term) may lead this one: the later term, then the longer log (Raft §5.4.1)."""
        return (term, index) >= (self.last_term, self.last_index)

    def entries(self, low: int, high: int, size_max: int) -> tuple[Entry, ...]:
        """Entries low..high-1 that fit into `size_max` bytes, at least one. Raises `Compacted`."""
        # No more entries than this can fit: the bound keeps a long log from being copied only to be cut.
        high = min(high, low + size_max // ENTRY_OVERHEAD_BYTES + 1)
        if low >= self.unstable.offset:
            found = self.unstable.slice(low, high)
        else:
            if self.unstable.snapshot is not None:
                raise Compacted(f"index {low} is below the snapshot at {self.unstable.snapshot.index}")
            cut = min(high, self.unstable.offset)
            found = self._view.entries(low, cut, size_max)
            if cut < high and len(found) == cut - low:
                found += self.unstable.slice(cut, high)
        return found[: _limit(found, size_max)]

    def append(self, entries: Sequence[Entry]) -> None:
        """Put `entries` at the end, or where a conflict begins."""
        assert entries[0].index > self.commit_index, "a committed entry would be overwritten"
        self.unstable.truncate_and_append(entries)

    def maybe_append(self, index: int, term: int, entries: Sequence[Entry], commit_index: int) -> int | None:
        """Take a leader's entries that follow (index, term); the last index now matched, or None when the logs do not meet.

        Entries that are here already stay: a late, shorter message must not cut off what was acknowledged since.
        """
        if self.term_or_none(index) != term:
            return None
        matched = index + len(entries)
        new = self._first_new(entries)
        if new < len(entries):
            self.append(entries[new:])
        self.commit_to(min(commit_index, matched))
        return matched

    def _first_new(self, entries: Sequence[Entry]) -> int:
        """Position of the first entry that is missing here or differs; their count when none does."""
        for position, entry in enumerate(entries):
            found = self.term_or_none(entry.index)
            if found != entry.term:
                if found is not None:
                    text = "INFO found conflict at index %d [existing term: %d, conflicting term: %d]"
                    self._trace(text, entry.index, found, entry.term)
                return position
        return len(entries)

    def find_conflict_by_term(self, index: int, term: int) -> tuple[int, int]:
        """The last (index, term) at or below `index` with at most `term`: where two logs may meet. Term 0 if unknown.

        Going back a whole term at a time takes one probe per differing term (Raft §5.3, end).
        """
        while index > 0:
            found = self.term_or_none(index)
            if found is None:
                return index, 0
            if found <= term:
                return index, found
            index -= 1
        return 0, 0

    def commit_to(self, index: int) -> None:
        """Everything up to `index` is committed; the commit index never goes back."""
        if index > self.commit_index:
            assert index <= self.last_index, f"commit index {index} is behind the log's end {self.last_index}: was it cut?"
            self.commit_index = index

    def maybe_commit(self, index: int, term: int) -> bool:
        """Commit up to `index` if its entry is of the leader's own `term` (Raft §5.4.2); True when that moved anything."""
        if index <= self.commit_index or self.term_or_none(index) != term:
            return False
        self.commit_to(index)
        return True

    def restore(self, snapshot: Snapshot) -> None:
        """Replace the log by `snapshot`, which is ahead of what is committed here."""
        assert snapshot.index > self.commit_index
        text = "INFO log [committed=%d, applied=%d, applying=%d, unstable.offset=%d, unstable.offsetInProgress=%d, "
        text += "len(unstable.Entries)=%d] starts to restore snapshot [index: %d, term: %d]"
        unstable = self.unstable
        indexes = (self.commit_index, self.applied_index, self.applying_index, unstable.offset, unstable.in_progress)
        self._trace(text, *indexes, len(unstable.entries), snapshot.index, snapshot.term)
        self.commit_index = snapshot.index
        unstable.restore(snapshot)

    def snapshot(self) -> Snapshot | None:
        """The newest state that could be sent."""
        return self.unstable.snapshot or self._view.snapshot()

    def snapshot_installed(self, snapshot: Snapshot) -> None:
        """`snapshot` is durable, and is what the state machine holds now."""
        self.unstable.snapshot_stable(snapshot)
        self.applied_index = max(self.applied_index, snapshot.index)
        self.applying_index = max(self.applying_index, self.applied_index)

    def has_unapplied_change(self) -> bool:
        """True when a membership change is committed and not applied here."""
        low = self.applied_index + 1
        while low <= self.commit_index:
            entries = self.entries(low, self.commit_index + 1, _SCAN_BYTES)
            if any(entry.type is not EntryType.NORMAL for entry in entries):
                return True
            low = entries[-1].index + 1
        return False

    @property
    def has_committed(self) -> bool:
        """True when `next_committed` has something. Nothing is handed out before a snapshot is installed."""
        if self.unstable.snapshot is not None:
            return False
        return not self._applying_paused and self.applying_index < self._appliable_index

    @property
    def _appliable_index(self) -> int:
        # Committed elsewhere is not enough: what is applied here must survive a crash here.
        return self.commit_index if self._apply_unstable else min(self.commit_index, self.stable_index)

    def next_committed(self) -> tuple[Entry, ...]:
        """Hand out the next committed, locally durable entries, within the bound."""
        if not self.has_committed:
            return ()
        room, appliable_index = self._applying_bytes_max - self._applying_bytes, self._appliable_index
        entries = self.entries(self.applying_index + 1, appliable_index + 1, room)
        payload = payload_bytes(entries)
        size = payload + len(entries) * ENTRY_OVERHEAD_BYTES
        self.applying_index = entries[-1].index
        self._applying.append((self.applying_index, size, payload))
        self._applying_bytes += size
        # Either the bound is reached or the next entry would pass it.
        self._applying_paused = self._applying_bytes >= self._applying_bytes_max or self.applying_index < appliable_index
        return entries

    def applied_to(self, index: int) -> int:
        """The state machine has applied up to `index`; returns the payload bytes of the handouts that this finished."""
        assert index <= self.applying_index, "applied what was not handed out"
        # Below it: a snapshot was installed meanwhile.
        self.applied_index = max(index, self.applied_index)
        finished = 0
        while self._applying and self._applying[0][0] <= index:
            _, size, payload = self._applying.popleft()
            self._applying_bytes -= size
            finished += payload
        self._applying_paused = self._applying_bytes >= self._applying_bytes_max
        return finished
