"""The memory twins of the log and of the state store: for tests and simulations, and as the plainest statement of the contract.

Nothing here survives the process; `write` and `sync` do nothing because nothing can fail. They keep to the same rules of
visibility as the durable ones: an entry is seen when its job is completed, never before.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from zmqbroker.errors import Compacted
from zmqbroker.raft.messages import Entry, HardState, Snapshot, StorageAppend
from zmqbroker.storage.interfaces import Item, Scrubbed, WriteJob

__all__ = ["MemoryJob", "MemoryLog", "MemoryState", "MemoryView"]


@dataclass(slots=True, frozen=True)
class MemoryJob:
    """The works of one pass, as they came."""

    works: tuple[StorageAppend, ...]

    @property
    def size_bytes(self) -> int:
        """Bytes of the payloads."""
        return sum(len(entry.data) for work in self.works for entry in work.entries)

    @property
    def must_sync(self) -> bool:
        """True when any of the works says so."""
        return any(work.must_sync or work.snapshot is not None for work in self.works)

    def write(self) -> None:
        """Nothing to do."""

    def sync(self) -> None:
        """Nothing to do."""

    def plain(self) -> None:
        """There is no file."""

    def mark_synced(self) -> None:
        """Nothing to do."""


class MemoryView:
    """One group's log as a list; also the group's LogView."""

    def __init__(self) -> None:
        self._state = HardState()
        self._boundary = (0, 0)  # index and term of the entry before the first held
        self._entries: list[Entry] = []
        self.offered: Snapshot | None = None

    def hard_state(self) -> HardState:
        """The last completed hard state."""
        return self._state

    def first_index(self) -> int:
        """The lowest index held; last_index + 1 when there is none."""
        return self._boundary[0] + 1

    def last_index(self) -> int:
        """The highest completed index; 0 for a new group."""
        return self._boundary[0] + len(self._entries)

    def term(self, index: int) -> int:
        """Term of the entry at `index`, first_index - 1 included. Raises Compacted below that."""
        return self._boundary[1] if index == self._boundary[0] else self.entry(index).term

    def entries(self, low: int, high: int, size_max: int) -> tuple[Entry, ...]:
        """Entries low..high-1, cut after the first that brings the payloads to `size_max` bytes or more."""
        found: list[Entry] = []
        size = 0
        for index in range(low, high):
            found.append(self.entry(index))
            size += len(found[-1].data)
            if size >= size_max:
                break
        return tuple(found)

    def snapshot(self) -> Snapshot | None:
        """What was offered last."""
        return self.offered

    def entry(self, index: int) -> Entry:
        """One entry. Raises Compacted when it was dropped."""
        slot = index - self.first_index()
        if slot < 0:
            raise Compacted(f"index {index} was dropped; the log begins at {self.first_index()}")
        return self._entries[slot]

    def apply(self, work: StorageAppend) -> None:
        """Take over completed work."""
        self._state = work.hard_state or self._state
        if work.snapshot is not None:
            self._boundary, self._entries = (work.snapshot.index, work.snapshot.term), []
        for entry in work.entries:
            slot = entry.index - self.first_index()
            assert 0 <= slot <= len(self._entries), (entry.index, self.first_index(), self.last_index())
            self._entries[slot:] = [entry]

    def trim(self, index: int) -> None:
        """Drop the entries up to `index`, those that there are."""
        count = min(index, self.last_index()) - self._boundary[0]
        if count > 0:
            last = self._entries[count - 1]
            self._boundary = (last.index, last.term)
            del self._entries[:count]

    def end_of(self, size: int) -> int:
        """Index of the oldest entry that completes `size` bytes of payloads, of the last one if they are fewer."""
        for entry in self._entries:
            size -= len(entry.data)
            if size <= 0:
                return entry.index
        return self.last_index()

    @property
    def size_bytes(self) -> int:
        """Bytes of the payloads held."""
        return sum(len(entry.data) for entry in self._entries)


class MemoryLog:
    """A LogStore in memory; it drops entries one by one, where the durable one drops segments."""

    def __init__(self) -> None:
        self._groups: dict[int, MemoryView] = {}

    def view(self, group: int) -> MemoryView:
        """The log of one group, live."""
        return self._groups.setdefault(group, MemoryView())

    def prepare(self, works: Sequence[StorageAppend]) -> MemoryJob:
        """Keep the works for `complete`."""
        return MemoryJob(tuple(works))

    def complete(self, job: WriteJob) -> None:
        """Show what `job` holds."""
        assert isinstance(job, MemoryJob), job
        for work in job.works:
            self.view(work.group).apply(work)

    def read(self, group: int, index: int) -> bytes:
        """The payload of one entry. Raises Compacted."""
        return self.view(group).entry(index).data

    def is_young(self, group: int, index: int) -> bool:
        """True: everything is in memory, unless it was dropped."""
        return index >= self.view(group).first_index()

    def trim(self, group: int, index: int) -> None:
        """Drop the entries of `group` up to `index`."""
        self.view(group).trim(index)

    def trim_target(self, group: int, excess_bytes: int) -> int:
        """How far the group must be trimmed to give `excess_bytes` back."""
        return self.view(group).end_of(excess_bytes) if excess_bytes > 0 else 0

    def offer(self, group: int, snapshot: Snapshot | None) -> None:
        """Let the group's view offer `snapshot`."""
        self.view(group).offered = snapshot

    @property
    def size_bytes(self) -> int:
        """Bytes of all payloads held."""
        return sum(view.size_bytes for view in self._groups.values())

    def close(self) -> None:
        """Nothing to release."""


class MemoryState:
    """A StateStore in memory."""

    def __init__(self) -> None:
        self._applied: dict[int, int] = {}
        self._values: dict[int, dict[bytes, bytes]] = {}
        self._installed: dict[int, tuple[int, int]] = {}
        self._marks: dict[int, int] = {}
        self._bodies: dict[int, dict[int, bytes]] = {}

    def applied_index(self, group: int) -> int:
        """Index that the last commit of `group` gave; 0 for a new group."""
        return self._applied.get(group, 0)

    def get(self, group: int, key: bytes) -> bytes | None:
        """The value of one key."""
        return self._values.get(group, {}).get(key)

    def load(self, group: int) -> Iterator[tuple[bytes, bytes]]:
        """All keys and values of a group in key order."""
        yield from sorted(self._values.get(group, {}).items())

    def commit(self, group: int, applied_index: int, changes: Iterable[tuple[bytes, bytes | None]]) -> None:
        """Apply `changes` and move `applied_index`, all or nothing."""
        values = dict(self._values.get(group, {}))
        for key, value in changes:
            if value is None:
                values.pop(key, None)
            else:
                values[key] = value
        self._values[group] = values
        self._applied[group] = applied_index

    def install(self, group: int, index: int, term: int, items: Iterable[Item], bodies: Iterable[tuple[int, bytes]]) -> None:
        """Store bodies and replace the state of a group by a snapshot."""
        self.put_bodies(group, bodies)
        self._values[group] = dict(items)
        self._applied[group], self._installed[group], self._marks[group] = index, (index, term), index

    def installed(self, group: int) -> tuple[int, int]:
        """Index and term of the snapshot that was installed last."""
        return self._installed.get(group, (0, 0))

    def put_bodies(self, group: int, bodies: Iterable[tuple[int, bytes]]) -> None:
        """Store payloads."""
        self._bodies.setdefault(group, {}).update(bodies)

    def drop_bodies(self, group: int, indexes: Iterable[int]) -> None:
        """Delete payloads."""
        for index in indexes:
            self._bodies.get(group, {}).pop(index, None)

    def mark_bodies(self, group: int, index: int) -> None:
        """Say up to where all bodies that are needed are stored."""
        self._marks[group] = index

    def bodies_mark(self, group: int) -> int:
        """The index that was said last."""
        return self._marks.get(group, 0)

    def body(self, group: int, index: int) -> bytes | None:
        """The payload of an entry."""
        return self._bodies.get(group, {}).get(index)

    def body_indexes(self, group: int) -> list[int]:
        """The indexes of all bodies."""
        return sorted(self._bodies.get(group, ()))

    def reusable_bytes(self) -> int:
        """See `StateStore`."""
        return 0

    def scrub(self, after: Scrubbed | None, bytes_max: int) -> tuple[Scrubbed | None, int]:
        """Memory is believed."""
        return None, 0

    def close(self) -> None:
        """Nothing to release."""
