"""A disk in memory, exact to the byte: the `Disk` that a simulated node keeps its log and its identity on.

One `SimDisk` is one node's volume; its root "/" is the node's data directory. Every file has two images: what the process sees
(the page cache) and what is on the platter. What fails, and how much of what was not synced survives a power cut, is drawn from
seeded generators, so a run is a function of its seed.

What a power cut may leave (POSIX, at its least kind):
* a sector of 512 bytes as it was when last synced, or as any write since left it; each sector by itself, so writes are torn and
  reordered, but a sector is never mixed;
* a file's new length, its old one, or one in between;
* of the changes of names in a directory since its last sync a beginning, or any of them; a rename happens whole or not at all.

It refuses what the log never does: to truncate, to rename between directories, to open a directory. It keeps no time: when a
slow sync returns is for the simulator to say, which calls `sync` then.
"""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

__all__ = ["SECTOR_SIZE", "DiskFaults", "ProcessDied", "SimDisk"]

#: The unit that a disk writes whole or not at all.
SECTOR_SIZE = 512

#: Changes of names that may wait for a sync; the oldest then happens by itself, as the journal of a file system writes it out.
_PENDING_MAX = 64


@dataclass(slots=True, kw_only=True)
class DiskFaults:
    """The chance of each fault, from 0 to 1, per call that may have it. May be changed at any time."""

    sync_error: float = 0.0  # fsync, fdatasync, sync_directory: EIO, and the pages are clean though they were not written
    stale_cache: float = 0.5  # after such an error: reads give what was not written until the power fails (as on ext4)
    no_space: float = 0.0  # create, allocate, zero, pwritev behind the file's end: ENOSPC, and nothing is changed
    short_write: float = 0.0  # pwritev stops at a sector's end; the kernel copies page by page, so never within a sector
    short_read: float = 0.0  # pread gives less than it could
    bad_sector: float = 0.0  # pread: a sector of those read is bad from now on, until it is written whole
    flip_read: float = 0.0  # pread gives a bit that is not the disk's


class ProcessDied(BaseException):
    """The process of the node ends inside a call of its disk, as `die_in` asked for; no handler of a node catches it."""


class _File:
    """What a name leads to; also reached through descriptors, even when it has no name any more."""

    __slots__ = ("bad", "directory", "dirty", "durable", "image", "lost", "name", "unsynced_from")

    def __init__(self, name: str, directory: _Directory) -> None:
        self.name = name
        self.directory = directory
        self.image = bytearray()  # what a read gives
        self.durable = bytearray()  # what is on the disk if no unsynced write reached it; never longer than image
        # Unsynced writes: number (0: zeroed, which is no write), offset of the first sector, its sectors.
        self.dirty: list[tuple[int, int, bytearray]] = []
        self.bad: set[int] = set()  # offsets of sectors that cannot be read
        self.unsynced_from = 0  # number of the first write that a power cut may undo; 0 when there is none
        self.lost = False  # a sync failed, so unsynced_from holds whatever is synced later

    def is_named(self) -> bool:
        """True when a power cut would leave the file under its name."""
        return self.directory.durable.get(self.name) is self and self.directory.is_named()


class _Directory:
    """Names of files and of directories."""

    __slots__ = ("durable", "entries", "name", "parent", "pending")

    def __init__(self, name: str, parent: _Directory | None) -> None:
        self.name = name
        self.parent = parent  # None: the root, which is always there
        self.entries: dict[str, _File | _Directory] = {}  # what the process sees
        self.durable: dict[str, _File | _Directory] = {}  # as of the last sync
        self.pending: list[tuple[str, _File | _Directory | None]] = []  # changes since: this name leads there, or nowhere

    def is_named(self) -> bool:
        """True when a power cut would leave the directory under its name."""
        return self.parent is None or (self.parent.durable.get(self.name) is self and self.parent.is_named())

    def change(self, name: str, node: _File | _Directory | None) -> None:
        """Let `name` lead to `node` alone, or to nothing."""
        _change(self.entries, name, node)
        self.pending.append((name, node))
        if len(self.pending) > _PENDING_MAX:
            _change(self.durable, *self.pending.pop(0))


def _change(names: dict[str, _File | _Directory], name: str, node: _File | _Directory | None) -> None:
    """A rename takes the old name away with the same stroke, whatever that was."""
    for old in [old for old, held in names.items() if held is node]:
        del names[old]
    if node is None:
        names.pop(name, None)
    else:
        names[name] = node


def _refusal(code: int, path: Path | None = None) -> OSError:
    return OSError(code, os.strerror(code), *([] if path is None else [str(path)]))


class SimDisk:
    """A `Disk`. Faults of calls are drawn from `random`; those of a power cut from the generator that `crash` is given."""

    def __init__(self, random: Random, faults: DiskFaults | None = None) -> None:
        self.faults = faults or DiskFaults()
        self.counts: Counter[str] = Counter()  # what happened to the node, by kind
        self.writes = 0  # number of the last write; they are numbered from 1, over all files, for ever
        self._random = random
        self._root = _Directory("", None)
        self._open: dict[int, _File] = {}
        self._next_descriptor = 3  # never given out twice, so a descriptor of a dead process is always refused
        self._unsynced: dict[_File, None] = {}  # those with a write that a power cut may undo; a dict for its order
        self._fuse = -1  # changing calls that are left to the process; -1: any number

    # --- the interface of a Disk ---------------------------------------------------------------------------------------

    def open(self, path: Path) -> int:
        """See `Disk`."""
        return self._descriptor(self._find_file(path))

    def create(self, path: Path) -> int:
        """See `Disk`."""
        directory = self._find_directory(path.parent)
        if path.name in directory.entries:
            raise _refusal(errno.EEXIST, path)
        self._burn()
        self._may_be_full()
        file = _File(path.name, directory)
        directory.change(path.name, file)
        return self._descriptor(file)

    def close(self, descriptor: int) -> None:
        """See `Disk`."""
        self._file(descriptor)
        del self._open[descriptor]

    def size(self, descriptor: int) -> int:
        """See `Disk`."""
        return len(self._file(descriptor).image)

    def allocate(self, descriptor: int, size: int) -> None:
        """See `Disk`."""
        image = self._file(descriptor).image
        self._burn()
        self._may_be_full()
        image.extend(bytes(max(0, size - len(image))))

    def zero(self, descriptor: int, size: int) -> None:
        """See `Disk`; a power cut may undo it in any sector, as it may a write.

        But it is no write that anybody relies on, and what was written before it is none any more.
        """
        file = self._file(descriptor)
        assert size >= len(file.image), (size, len(file.image))
        self._burn()
        self._may_be_full()
        file.image[:] = bytes(size)
        file.dirty = [*((0, start, sectors) for _, start, sectors in file.dirty), (0, 0, bytearray(size))]
        file.unsynced_from = 0
        self._unsynced.pop(file, None)
        file.bad.clear()

    def pread(self, descriptor: int, size: int, offset: int) -> bytes:
        """See `Disk`."""
        file, faults = self._file(descriptor), self.faults
        if faults.bad_sector or file.bad:
            self._read_sectors(file, size, offset)
        if faults.short_read and size > 1 and self._happens(faults.short_read, "short_read"):
            size = self._random.randrange(1, size)
        data = bytes(file.image[offset : offset + size])
        if faults.flip_read and data and self._happens(faults.flip_read, "flip_read"):
            return self._flipped(data)
        return data

    def pwritev(self, descriptor: int, buffers: Sequence[bytes | memoryview], offset: int) -> int:
        """See `Disk`."""
        file, faults, data = self._file(descriptor), self.faults, b"".join(buffers)
        if self._fuse >= 0:
            self._burn()
        if faults.no_space and offset + sum(map(len, buffers)) > len(file.image):
            self._may_be_full()
        if faults.short_write:
            data = data[: self._taken(len(data), offset)]
        size, image = len(data), file.image
        if not size:
            return 0
        self.writes += 1
        end = offset + size
        if offset > len(image):
            image.extend(bytes(offset - len(image)))
        image[offset:end] = data
        start = offset & -SECTOR_SIZE
        file.dirty.append((self.writes, start, image[start : (end + SECTOR_SIZE - 1) & -SECTOR_SIZE]))
        if not file.unsynced_from:
            file.unsynced_from = self.writes
            self._unsynced[file] = None
        if file.bad:
            file.bad.difference_update(range((offset + SECTOR_SIZE - 1) & -SECTOR_SIZE, end - SECTOR_SIZE + 1, SECTOR_SIZE))
        return size

    def fdatasync(self, descriptor: int) -> None:
        """See `Disk`."""
        file = self._file(descriptor)
        if self._fuse >= 0:
            self._burn()
        if self.faults.sync_error and self._happens(self.faults.sync_error, "sync_error"):
            self._fail_to_sync(file)
        durable = file.durable
        durable.extend(bytes(len(file.image) - len(durable)))
        for _, start, sectors in file.dirty:
            durable[start : start + len(sectors)] = sectors
        file.dirty.clear()
        self._settle(file)

    def fsync(self, descriptor: int) -> None:
        """See `Disk`."""
        self.fdatasync(descriptor)

    def names(self, directory: Path) -> list[str]:
        """See `Disk`."""
        return list(self._find_directory(directory).entries)

    def make_directory(self, path: Path) -> None:
        """See `Disk`."""
        place = self._root
        for part in path.parts[1:]:
            node = place.entries.get(part)
            if node is None:
                self._burn()
                node = _Directory(part, place)
                place.change(part, node)
            if isinstance(node, _File):
                raise _refusal(errno.EEXIST, path)
            place = node

    def rename(self, source: Path, target: Path) -> None:
        """See `Disk`."""
        assert source.parent == target.parent, (source, target)
        file = self._find_file(source)
        self._burn()
        replaced = file.directory.entries.get(target.name)
        if isinstance(replaced, _File):
            self._unsynced.pop(replaced, None)
        file.directory.change(target.name, file)
        file.name = target.name

    def unlink(self, path: Path) -> None:
        """See `Disk`."""
        file = self._find_file(path)
        self._burn()
        file.directory.change(path.name, None)
        self._unsynced.pop(file, None)

    def sync_directory(self, path: Path) -> None:
        """See `Disk`."""
        directory = self._find_directory(path)
        self._burn()
        if self.faults.sync_error and self._happens(self.faults.sync_error, "sync_error"):
            raise _refusal(errno.EIO, path)
        directory.durable = dict(directory.entries)
        directory.pending.clear()
        for file in list(self._unsynced):
            self._settle(file)

    # --- what happens to a node ----------------------------------------------------------------------------------------

    def die_in(self, calls: int) -> None:
        """Let the process make `calls` changing calls more; every later one raises ProcessDied and changes nothing.

        All calls change something but open, close, size, pread and names. `kill`, `crash` or `wipe` must follow, and end it.
        """
        self._fuse = calls

    @property
    def has_died(self) -> bool:
        """True when the next changing call raises ProcessDied, or one did."""
        return self._fuse == 0

    def kill(self) -> None:
        """The process dies: descriptors are gone, the page cache stays, and with it what was written but never synced."""
        self._end("kill")
        for file in self._files(self._root):
            file.lost = False
            self._settle(file)

    def crash(self, random: Random) -> None:
        """The power fails: of what was not synced a random part is on the disk; the module's docstring says which."""
        self._end("crash")
        self._unsynced.clear()
        self._cut_names(self._root, random)
        for file in self._files(self._root):
            self._cut_content(file, random)

    def wipe(self) -> None:
        """Another, empty disk takes the place of this one."""
        self._end("wipe")
        self._unsynced.clear()
        self._root = _Directory("", None)

    def flip_bit(self, random: Random, path: Path | None = None) -> tuple[Path, int] | None:
        """One bit on the disk changes in a random file, or in that at `path`; returns path and offset, None without a file.

        It lies before the file's last byte that is not zero. The process reads it at once; but while writes to the file wait
        for a sync, only after the next power cut, and only if they do not replace it.
        """
        file = self._choose(random, path)
        if file is None:
            return None
        offset = random.randrange(len(file.durable.rstrip(b"\0")) or len(file.durable))
        changed = file.durable[offset] ^ 1 << random.randrange(8)
        if not file.dirty and file.image[offset] == file.durable[offset]:
            file.image[offset] = changed
        file.durable[offset] = changed
        self.counts["bit_flip"] += 1
        return self._path(file), offset

    def spoil_sector(self, random: Random, path: Path | None = None) -> tuple[Path, int] | None:
        """One sector cannot be read any more, until it is written whole; chosen and returned as by `flip_bit`."""
        file = self._choose(random, path)
        if file is None:
            return None
        offset = random.randrange(len(file.durable.rstrip(b"\0")) or len(file.durable)) & -SECTOR_SIZE
        file.bad.add(offset)
        self.counts["bad_sector"] += 1
        return self._path(file), offset

    def overwrite_sector(self, random: Random, path: Path | None = None) -> tuple[Path, int] | None:
        """A write that was meant for elsewhere replaces one sector, by no zeros; chosen and seen as by `flip_bit`."""
        file = self._choose(random, path)
        if file is None:
            return None
        offset = random.randrange(len(file.durable.rstrip(b"\0")) or len(file.durable)) & -SECTOR_SIZE
        end = min(offset + SECTOR_SIZE, len(file.durable))
        strange = bytes(random.randrange(1, 256) for _ in range(offset, end))
        if not file.dirty and file.image[offset:end] == file.durable[offset:end]:
            file.image[offset:end] = strange
        file.durable[offset:end] = strange
        self.counts["stray_write"] += 1
        return self._path(file), offset

    # --- what only an onlooker may ask ---------------------------------------------------------------------------------

    @property
    def durable_writes(self) -> int:
        """The highest number such that no power cut undoes a write numbered so or lower.

        A write is durable with its bytes and its file's name. So what a job wrote is durable from the moment when this reaches
        the `writes` that followed the job. Those of a process that died and of files that were unlinked are not counted; after
        a failed sync the number stands still until the process has died.
        """
        return min((file.unsynced_from for file in self._unsynced), default=self.writes + 1) - 1

    def is_durable(self, path: Path, offset: int, size: int) -> bool:
        """True when a power cut now leaves `size` bytes at `offset` of `path` as a read sees them, under that name.

        Raises FileNotFoundError.
        """
        file, end = self._find_file(path), offset + size
        return file.is_named() and len(file.durable) >= end and file.durable[offset:end] == file.image[offset:end]

    def durable_bytes(self, path: Path) -> bytes | None:
        """What is at `path` after a power cut that nothing unsynced survives; None when the name does not."""
        place: _File | _Directory | None = self._root
        for part in path.parts[1:]:
            place = place.durable.get(part) if isinstance(place, _Directory) else None
        return bytes(place.durable) if isinstance(place, _File) else None

    def paths(self) -> list[Path]:
        """Every file that the process can open, in the order of their making."""
        return [self._path(file) for file in self._files(self._root)]

    def directories(self) -> list[Path]:
        """Every directory but the root, each behind the one that it is in."""
        found: list[Path] = []
        waiting = [self._root]
        for directory in waiting:
            inside = [node for node in directory.entries.values() if isinstance(node, _Directory)]
            found += [self._path(node) for node in inside]
            waiting += inside
        return found

    # --- inside --------------------------------------------------------------------------------------------------------

    def _end(self, how: str) -> None:
        self.counts[how] += 1
        self._open.clear()
        self._fuse = -1

    def _burn(self) -> None:
        if not self._fuse:
            raise ProcessDied
        self._fuse -= self._fuse > 0

    def _happens(self, chance: float, kind: str) -> bool:
        happens = self._random.random() < chance
        if happens:
            self.counts[kind] += 1
        return happens

    def _may_be_full(self) -> None:
        if self.faults.no_space and self._happens(self.faults.no_space, "no_space"):
            raise _refusal(errno.ENOSPC)

    def _taken(self, size: int, offset: int) -> int:
        """How many of `size` bytes a write at `offset` takes."""
        ends = range(SECTOR_SIZE - offset % SECTOR_SIZE, size, SECTOR_SIZE)
        return self._random.choice(ends) if ends and self._happens(self.faults.short_write, "short_write") else size

    def _descriptor(self, file: _File) -> int:
        descriptor = self._next_descriptor
        self._next_descriptor += 1
        self._open[descriptor] = file
        return descriptor

    def _file(self, descriptor: int) -> _File:
        file = self._open.get(descriptor)
        if file is None:
            raise _refusal(errno.EBADF)
        return file

    def _find(self, path: Path) -> _File | _Directory:
        assert path.is_absolute(), path
        place: _File | _Directory = self._root
        for part in path.parts[1:]:
            if not isinstance(place, _Directory):
                raise _refusal(errno.ENOTDIR, path)
            if part not in place.entries:
                raise _refusal(errno.ENOENT, path)
            place = place.entries[part]
        return place

    def _find_file(self, path: Path) -> _File:
        node = self._find(path)
        if isinstance(node, _Directory):
            raise _refusal(errno.EISDIR, path)
        return node

    def _find_directory(self, path: Path) -> _Directory:
        node = self._find(path)
        if isinstance(node, _File):
            raise _refusal(errno.ENOTDIR, path)
        return node

    def _files(self, directory: _Directory) -> Iterator[_File]:
        for node in directory.entries.values():
            if isinstance(node, _File):
                yield node
            else:
                yield from self._files(node)

    def _path(self, node: _File | _Directory) -> Path:
        parent = node.directory if isinstance(node, _File) else node.parent
        return Path("/") if parent is None else self._path(parent) / node.name

    def _choose(self, random: Random, path: Path | None) -> _File | None:
        """A random file, or that at `path`, if it has bytes on the disk under a durable name."""
        files = self._files(self._root) if path is None else iter([self._find_file(path)])
        candidates = [file for file in files if file.durable and file.is_named()]
        return random.choice(candidates) if candidates else None

    def _settle(self, file: _File) -> None:
        """Bring up to date what of the file a power cut may undo."""
        if file.lost or not file.is_named():
            return
        file.unsynced_from = next((number for number, _, _ in file.dirty if number), 0)
        if not file.unsynced_from:
            self._unsynced.pop(file, None)

    def _read_sectors(self, file: _File, size: int, offset: int) -> None:
        """Raise EIO when one of these sectors is bad, or goes bad now."""
        sectors = range(offset & -SECTOR_SIZE, min(offset + size, len(file.image)), SECTOR_SIZE)
        if sectors and self.faults.bad_sector and self._happens(self.faults.bad_sector, "bad_sector"):
            file.bad.add(self._random.choice(sectors))
        if not file.bad.isdisjoint(sectors):
            self.counts["read_error"] += 1
            raise _refusal(errno.EIO)

    def _flipped(self, data: bytes) -> bytes:
        """With one bit changed, before the last byte that is not zero."""
        place = self._random.randrange(len(data.rstrip(b"\0")) or len(data))
        return data[:place] + bytes((data[place] ^ 1 << self._random.randrange(8),)) + data[place + 1 :]

    def _fail_to_sync(self, file: _File) -> None:
        """EIO: some sectors were written, and all are clean now. The others read as before, or as on the disk."""
        self._land(file, self._random)
        if not self._happens(self.faults.stale_cache, "stale_cache"):
            file.image[:] = file.durable
        file.lost = True
        raise _refusal(errno.EIO)

    def _land(self, file: _File, random: Random) -> None:
        """Let a random part of the unsynced sectors reach the disk, each with one of the contents that it had."""
        file.durable.extend(bytes(len(file.image) - len(file.durable)))
        contents: dict[int, list[bytearray]] = {}
        for _, start, sectors in file.dirty:
            for inside in range(0, len(sectors), SECTOR_SIZE):
                contents.setdefault(start + inside, []).append(sectors[inside : inside + SECTOR_SIZE])
        file.dirty.clear()
        chance = random.random()
        for offset, written in contents.items():
            if random.random() < chance:
                content = random.choice(written)
                file.durable[offset : offset + len(content)] = content
                self.counts["sector_kept"] += 1
            else:
                self.counts["sector_lost"] += 1

    def _cut_names(self, directory: _Directory, random: Random) -> None:
        changes, names = directory.pending, directory.durable
        if random.random() < 0.5:
            kept = changes[: random.randrange(len(changes) + 1)]
        else:
            kept = [change for change in changes if random.random() < 0.5]
        for change in kept:
            _change(names, *change)
        self.counts["name_kept"] += len(kept)
        self.counts["name_lost"] += len(changes) - len(kept)
        changes.clear()
        directory.entries = dict(names)
        for name, node in names.items():
            node.name = name
            if isinstance(node, _Directory):
                self._cut_names(node, random)

    def _cut_content(self, file: _File, random: Random) -> None:
        old, new = len(file.durable), len(file.image)
        size = random.choice((old, new, random.randint(old, new)))
        self._land(file, random)
        del file.durable[size:]
        file.image = bytearray(file.durable)
        file.lost, file.unsynced_from = False, 0
