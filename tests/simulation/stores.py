"""What a simulated node keeps when its process ends: the log's device and the store of applied state.

`SegmentDevice` is the real segment log, with its codec and its recovery, on a disk that is exact to the byte. `MemoryDevice`
is the plain statement of what a disk promises (synced works stay, of the others a first part), and many times as fast. The
store of applied state commits whole or not at all, as LMDB does, and keeps beside the machine's keys the membership at that
index.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from errno import EIO
from pathlib import Path
from random import Random
from typing import Protocol

from tests.simulation.disk import DiskFaults, SimDisk
from tests.simulation.world import Chance
from zmqbroker.broker.snapshot import entry_index
from zmqbroker.raft.messages import Membership, Snapshot, StorageAppend
from zmqbroker.storage.interfaces import LogStore, WriteJob
from zmqbroker.storage.memory import MemoryLog, MemoryState
from zmqbroker.storage.segment_log import SegmentLog

__all__ = ["Device", "Image", "MemoryDevice", "SegmentDevice", "StateKeeper"]

_LOG = Path("/log")
#: Payloads that the log keeps in memory: few, so that most reads take the way to the disk and back.
_CACHE_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Image:
    """The applied state after one entry: what a snapshot is made of."""

    snapshot: Snapshot
    items: tuple[tuple[bytes, bytes], ...]
    bodies: dict[int, bytes]


class StateKeeper:
    """The store of applied state of one node."""

    def __init__(self, membership: Membership) -> None:
        self.state = MemoryState()
        self._term = 0  # of the entry at the applied index
        self.membership = membership  # as of the applied index
        self._image: Image | None = None  # of what is stored now, made when it is asked for

    def applied_index(self, group: int) -> int:
        """Index of the last entry whose effects are stored."""
        return self.state.applied_index(group)

    def items(self, group: int) -> Iterable[tuple[bytes, bytes]]:
        """Keys and values, in the order of the keys."""
        return self.state.load(group)

    def snapshot(self, group: int) -> Snapshot | None:
        """Name of what is stored; None while that is nothing."""
        index = self.applied_index(group)
        return Snapshot(index, self._term, self.membership) if index else None

    def image(self, group: int, read: Callable[[int], bytes]) -> Image:
        """All of what is stored, with the bodies that it names."""
        snapshot = self.snapshot(group)
        assert snapshot is not None
        if self._image is None or self._image.snapshot != snapshot:
            items = tuple(self.items(group))
            named = sorted({index for key, value in items if (index := entry_index(key, value)) is not None})
            self._image = Image(snapshot, items, {index: read(index) for index in named})
        return self._image

    def commit(self, group: int, snapshot: Snapshot, changes: Iterable[tuple[bytes, bytes | None]]) -> None:
        """Move on to the state after `snapshot.index`; durable at once."""
        self.state.commit(group, snapshot.index, changes)
        self._term, self.membership = snapshot.term, snapshot.membership

    def install(self, group: int, image: Image) -> None:
        """Replace the state by a leader's, whose bodies were stored when it came; durable at once."""
        snapshot = image.snapshot
        self.state.install(group, snapshot.index, snapshot.term, image.items, ())
        self._term, self.membership = snapshot.term, snapshot.membership


class Device(Protocol):
    """Where a log lives through crashes."""

    @property
    def writes(self) -> int:
        """Number of the last write."""
        ...

    @property
    def durable_writes(self) -> int:
        """Number of the last write that no power cut undoes, nor any before it."""
        ...

    def open(self) -> LogStore:
        """Start: what is there now. Raises StorageError."""
        ...

    def crash(self, *, power: bool) -> None:
        """The process ended; with `power`, the machine did, and what was not synced is kept at random."""
        ...

    def wipe(self) -> None:
        """Lose everything."""
        ...

    def repair(self) -> None:
        """Let no call fail any more."""
        ...


class _Job:
    """A pass of works on its way into a memory device."""

    def __init__(self, device: MemoryDevice, works: Sequence[StorageAppend]) -> None:
        self.device = device
        self.works = tuple(works)
        self.must_sync = any(work.must_sync or work.snapshot is not None for work in works)
        self.size_bytes = sum(len(entry.data) for work in works for entry in work.entries)

    def write(self) -> None:
        """Into the page cache."""
        self.device.written.extend(self.works)

    def sync(self) -> None:
        """Everything in the page cache is durable."""
        self.device.sync()

    def plain(self) -> None:
        """There is no file."""

    def mark_synced(self) -> None:
        """Nothing to do."""


class _Log(MemoryLog):
    """A MemoryLog whose jobs go through a device."""

    def __init__(self, device: MemoryDevice) -> None:
        super().__init__()
        self._device = device

    def prepare(self, works: Sequence[StorageAppend]) -> _Job:  # type: ignore[override]
        return _Job(self._device, works)

    def complete(self, job: WriteJob) -> None:
        assert isinstance(job, _Job), job
        for work in job.works:
            self.view(work.group).apply(work)

    def trim(self, group: int, index: int) -> None:
        super().trim(group, index)
        self._device.trimmed[group] = index

    def housekeep(self) -> None:
        """Nothing to do."""


class MemoryDevice:
    """A log's works in memory: durable ones, and those that a power cut may take."""

    def __init__(self, chance: Chance, *, sync: bool) -> None:
        self._chance = chance
        self._sync = sync
        self.broken = False  # the next sync fails
        self.durable: list[StorageAppend] = []
        self.written: list[StorageAppend] = []
        self.trimmed: dict[int, int] = {}

    @property
    def writes(self) -> int:
        """See `Device`."""
        return len(self.durable) + len(self.written)

    @property
    def durable_writes(self) -> int:
        """See `Device`; in a log that never syncs, what is written is as good as it gets."""
        return len(self.durable) if self._sync else self.writes

    def sync(self) -> None:
        """Everything written is durable, in a log that syncs."""
        if self.broken:
            self.broken = False
            self.crash(power=True)
            raise OSError(EIO, "the sync failed")
        if self._sync:
            self.durable.extend(self.written)
            self.written.clear()

    def open(self) -> LogStore:
        """A log with everything that is there; what was only written is synced first, as recovery does."""
        self.broken = False
        self.durable.extend(self.written)
        self.written.clear()
        log = _Log(self)
        for work in self.durable:
            log.view(work.group).apply(work)
        for group, index in self.trimmed.items():
            MemoryLog.trim(log, group, index)
        return log

    def crash(self, *, power: bool) -> None:
        """Lose the end of what was not synced."""
        if power:
            del self.written[self._chance.below(len(self.written) + 1) :]

    def wipe(self) -> None:
        """Lose everything."""
        self.durable.clear()
        self.written.clear()
        self.trimmed.clear()

    def repair(self) -> None:
        """See `Device`."""
        self.broken = False


class SegmentDevice:
    """The real log in segment files on a simulated disk."""

    def __init__(self, seed: int, *, sync: bool, segment_bytes: int, reserve_segments: int = 1) -> None:
        self._random = Random(seed)  # of power cuts and of segments' uuids
        self._reserve_segments = reserve_segments
        self._sync = sync
        self._segment_bytes = segment_bytes
        self.disk = SimDisk(Random(seed + 1))

    @property
    def writes(self) -> int:
        """See `Device`."""
        return self.disk.writes

    @property
    def durable_writes(self) -> int:
        """See `Device`; in a log that never syncs, what is written is as good as it gets."""
        return self.disk.durable_writes if self._sync else self.disk.writes

    def open(self) -> LogStore:
        """See `Device`."""
        return SegmentLog.open(
            _LOG,
            sync=self._sync,
            segment_bytes=self._segment_bytes,
            reserve_segments=self._reserve_segments,
            cache_bytes_max=_CACHE_BYTES,
            disk=self.disk,
            uuid=self._uuid,
        )

    def _uuid(self) -> bytes:
        return self._random.getrandbits(128).to_bytes(16, "big")

    def crash(self, *, power: bool) -> None:
        """See `Device`."""
        if power:
            self.disk.crash(self._random)
        else:
            self.disk.kill()

    def wipe(self) -> None:
        """See `Device`."""
        self.disk.wipe()

    def repair(self) -> None:
        """See `Device`."""
        self.disk.faults = DiskFaults()
