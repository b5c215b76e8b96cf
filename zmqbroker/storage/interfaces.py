"""What the shell needs of a log and of a store; `memory.py` and the durable twins both provide it.

One contract suite (tests/unit/storage) runs over every implementation. Nothing here is thread-safe but where it says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from zmqbroker.raft.messages import Snapshot, StorageAppend
from zmqbroker.raft.view import LogView

__all__ = ["Item", "LogStore", "PlainWrite", "Scrubbed", "StateStore", "WriteJob"]

#: A key of the state and its value.
Item = tuple[bytes, bytes]
#: How far a scrub is: which half of the store, and the last key that was read.
Scrubbed = tuple[int, bytes]
#: A write to an open file of the operating system: descriptor, offset, and what to write there, one after the other.
PlainWrite = tuple[int, int, list[bytes]]


class WriteJob(Protocol):
    """The encoded writes of one pass: positions are assigned, nothing is written yet.

    Jobs of one store run in the order of their preparation, on any one thread. A failed write or sync raises OSError; the
    process must then end without retrying: a page that failed to sync may be marked clean. NoRoom is no failure.
    """

    @property
    def size_bytes(self) -> int:
        """Bytes that `write` writes, headers included."""
        ...

    @property
    def must_sync(self) -> bool:
        """True when a promise depends on this job, so that it must be synced (in a store that syncs at all)."""
        ...

    def write(self) -> None:
        """Write to the operating system. Raises NoRoom, before any byte that has no place, and may then be called again."""
        ...

    def sync(self) -> None:
        """Make this job's writes durable, and with them those of every earlier job; nothing in a store that never syncs."""
        ...

    def plain(self) -> PlainWrite | None:
        """The job as one write, when that and an fdatasync of the file are all that `write` and `sync` would do; or None.

        Whoever makes that write then calls neither, and `mark_synced` when the fdatasync has returned.
        """
        ...

    def mark_synced(self) -> None:
        """Say that this job and every earlier one are durable, to be called before `LogStore.complete`."""
        ...


class LogStore(Protocol):
    """The write-ahead log of every group of one node."""

    def view(self, group: int) -> LogView:
        """The durable log of one group, live: it moves on with every `complete`."""
        ...

    def prepare(self, works: Sequence[StorageAppend]) -> WriteJob:
        """Encode one pass. Each work's first entry replaces what the group holds at its index and after."""
        ...

    def complete(self, job: WriteJob) -> None:
        """Say that `job` was written (and synced where it had to be): views and reads show it from now on.

        Called in the order of preparation.
        """
        ...

    def read(self, group: int, index: int) -> bytes:
        """The payload of one entry, from memory while it is young. Raises `Compacted`, or `Corruption` on a bad checksum."""
        ...

    def is_young(self, group: int, index: int) -> bool:
        """Whether `read` finds that entry in memory."""
        ...

    def trim(self, group: int, index: int) -> None:
        """Entries up to and including `index` are not needed any more; whole segments are dropped when all in them is."""
        ...

    def trim_target(self, group: int, excess_bytes: int) -> int:
        """How far the group must be trimmed for the oldest segments, of `excess_bytes` together if there are so many, to go."""
        ...

    def offer(self, group: int, snapshot: Snapshot | None) -> None:
        """Say which snapshot the group's view may offer to a follower that needs dropped entries; None: none any more."""
        ...

    @property
    def size_bytes(self) -> int:
        """Bytes of disk that the log occupies (of memory, for the memory twin)."""
        ...

    def close(self) -> None:
        """Release every handle; the last job must have completed."""
        ...


class StateStore(Protocol):
    """Committed state as sorted keys and values, per group, with the index of the last entry they contain."""

    def applied_index(self, group: int) -> int:
        """Index of the last entry whose effects the stored values contain; 0 for a new group."""
        ...

    def get(self, group: int, key: bytes) -> bytes | None:
        """The value of one key; None when there is none."""
        ...

    def load(self, group: int) -> Iterator[tuple[bytes, bytes]]:
        """All keys and values of a group in key order. Raises `Corruption` on a bad checksum."""
        ...

    def commit(self, group: int, applied_index: int, changes: Iterable[tuple[bytes, bytes | None]]) -> None:
        """Apply `changes` (None deletes) and move `applied_index`, all or nothing.

        May be called from one other thread, as all may that change anything. Each raises NoRoom when the volume is full: then
        it may be tried again, and the store goes on.
        """
        ...

    def install(self, group: int, index: int, term: int, items: Iterable[Item], bodies: Iterable[tuple[int, bytes]]) -> None:
        """Store `bodies`, then replace the state of a group by a snapshot at `index`, whose entry had `term`, all or nothing.

        The mark of the bodies is `index` then. Other bodies stay.
        """
        ...

    def installed(self, group: int) -> tuple[int, int]:
        """Index and term of the snapshot that was installed last; (0, 0) for none."""
        ...

    def put_bodies(self, group: int, bodies: Iterable[tuple[int, bytes]]) -> None:
        """Store the payloads of committed entries, in bounded transactions; they are durable when it returns."""
        ...

    def drop_bodies(self, group: int, indexes: Iterable[int]) -> None:
        """Delete bodies, those that there are, in bounded transactions."""
        ...

    def mark_bodies(self, group: int, index: int) -> None:
        """Say that the bodies of all entries up to `index` which the stored state needs are stored."""
        ...

    def bodies_mark(self, group: int) -> int:
        """The index that was said last, or the last snapshot's; 0 for none. The log up to there is needed for no body."""
        ...

    def body(self, group: int, index: int) -> bytes | None:
        """The payload of an entry; None when it is not stored. Raises `Corruption` on a bad checksum."""
        ...

    def body_indexes(self, group: int) -> list[int]:
        """The indexes of all bodies, ascending; some may be of entries that nobody needs."""
        ...

    def reusable_bytes(self) -> int:
        """Bytes of disk that the store has and does not use: what is stored next goes there first."""
        ...

    def scrub(self, after: Scrubbed | None, bytes_max: int) -> tuple[Scrubbed | None, int]:
        """Check what is stored behind `after` (None: from the beginning) until `bytes_max` bytes were read.

        Where it ended (None: at the end of all) and how many bytes were read. Raises `Corruption`.
        """
        ...

    def close(self) -> None:
        """Release every handle."""
        ...
