"""One LMDB environment: what it holds and in which format, and what becomes of LMDB's errors.

What both halves of the store are made of, on an engine (`engine.py`) that puts checksums on values. The key ffff says what the
environment holds and in which format; one that holds anything else and no such key is damaged.
Never `writemap`: a full disk would be a SIGBUS (reference/zeromq-and-lmdb.md §4.3). Read transactions end before anything is
given out, because an idle one keeps every freed page (§4.6.3).

One thread writes, any thread reads. A commit that fails because the volume is full raises NoRoom and changes nothing; the
environment is then closed and opened again, because after a failed write of its meta page LMDB refuses everything (§4.6.4).
"""

from __future__ import annotations

import errno
import os
import struct
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from zmqbroker.errors import Corruption, NoRoom, StorageError
from zmqbroker.storage._store_py import make_environment
from zmqbroker.storage.disk import OS_DISK
from zmqbroker.storage.engine import CORRUPTED, BadValue, Change, Engine, EngineError, Tally
from zmqbroker.storage.engine_choice import open_engine
from zmqbroker.storage.record_hash import DIGEST_MASK

__all__ = ["FORMAT_VERSION", "LmdbEnvironment", "map_size_of"]

#: Of what an environment holds; raised with every change that an older reader would misread.
FORMAT_VERSION = 3
_FORMAT_KEY = b"\xff\xff"  # groups and what is added to them stay below
_FORMAT = struct.Struct("<8sI")
_DATA, _NEW = "data.mdb", "new.mdb"  # LMDB's own name for its file; ours for one that is being made
_MAP_SIZE_MIN = 1 << 30
_MAP_SIZE_STEP = 1 << 20  # LMDB wants a multiple of the page size
#: LMDB says "Input/output error" for a short write, whatever its cause. With less than this free the cause is taken to be the
#: full volume: eight times the largest transaction of bodies.
_ROOM_BYTES = 64 << 20
_TALLIED_COUNT, _TALLIED_BYTES = 1000, 1 << 20  # of one look
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})

_MAP_FULL = -30792
#: LMDB's codes for a file that is not as LMDB leaves it.
_DAMAGE = frozenset(
    {
        -30797,  # MDB_PAGE_NOTFOUND
        CORRUPTED,
        -30794,  # MDB_VERSION_MISMATCH: the format's version never changes
        -30793,  # MDB_INVALID
        -30787,  # MDB_CURSOR_FULL: a tree that leads back to itself
    }
)


def map_size_of(path: Path) -> int:
    """A map size that the volume of `path` is full before: address space, not memory or disk."""
    volume = os.statvfs(path)
    return max(volume.f_frsize * volume.f_blocks, _MAP_SIZE_MIN) // _MAP_SIZE_STEP * _MAP_SIZE_STEP


def _make(path: Path) -> None:
    """Make an empty environment in a directory; all of it is durable before its name is there. Raises OSError or EngineError.

    LMDB itself writes two first pages and syncs them with the first commit: a power cut in between may leave one of them.
    """
    new = path / _NEW
    new.unlink(missing_ok=True)  # of a start that did not come to its end
    make_environment(new)
    OS_DISK.rename(new, path / _DATA)


class LmdbEnvironment:
    """Made by `LmdbEnvironment.open`. Every error of LMDB leaves as a StorageError."""

    def __init__(self, path: Path, kind: bytes, *, sync: bool, map_size: int, read_only: bool) -> None:
        self._path, self._sync, self._map_size, self._read_only = path, sync, map_size, read_only
        self._swap = threading.Lock()  # held by whoever reads, and while the environment is closed or opened again
        self._writing = threading.Lock()  # held by whoever writes, before `_swap`
        self._format = _FORMAT.pack(kind, FORMAT_VERSION)
        self._engine = self._open()

    @classmethod
    def open(cls, path: Path, kind: bytes, *, sync: bool, map_size: int | None = None) -> LmdbEnvironment:
        """Open the environment at `path`, made if it is not there; `sync` True makes every commit durable.

        `kind` is 8 bytes that say what it holds. Raises Corruption when it is damaged, StorageError when it is of another
        kind or version, or LMDB or the operating system refuses.
        """
        try:
            path.mkdir(parents=True, exist_ok=True)
            size = map_size if map_size is not None else map_size_of(path)
            if not (path / _DATA).exists():
                _make(path)
        except (OSError, EngineError) as error:
            raise StorageError(f"{path}: the state store cannot be opened: {error}") from error
        return cls._checked_open(path, kind, sync=sync, map_size=size)

    @classmethod
    def open_read_only(cls, path: Path, kind: bytes) -> LmdbEnvironment:
        """Open the environment of a node that does not run, without changing a byte of it. Raises as `open`."""
        return cls._checked_open(path, kind, read_only=True)

    @classmethod
    def _checked_open(
        cls, path: Path, kind: bytes, *, sync: bool = False, map_size: int = 0, read_only: bool = False
    ) -> LmdbEnvironment:
        opened = cls(path, kind, sync=sync, map_size=map_size, read_only=read_only)
        try:
            opened._check_format(kind)
            if sync:  # LMDB syncs its file, not the names of file and directory
                OS_DISK.sync_directory(path)
                OS_DISK.sync_directory(path.parent)
        except OSError as error:
            opened.close()
            raise StorageError(f"{path}: the state store cannot be opened: {error}") from error
        except BaseException:
            opened.close()
            raise
        return opened

    def _open(self) -> Engine:
        with self._mapped():
            return open_engine(self._path, sync=self._sync, map_size=self._map_size, read_only=self._read_only)

    def _check_format(self, kind: bytes) -> None:
        value = self.get(_FORMAT_KEY)
        if value is None:
            if self.keys(b"", b"", 1):
                raise Corruption(f"{self._path}: the state store is damaged: the record that says its format is missing")
            if not self._read_only:
                self.write([(_FORMAT_KEY, self._format)])
            return
        if len(value) != _FORMAT.size or value[: len(kind)] != kind:
            raise StorageError(f"{self._path}: holds {value[: len(kind)]!r}, not {kind!r}")
        version = _FORMAT.unpack(value)[1]
        if version != FORMAT_VERSION:
            raise StorageError(f"{self._path}: written in format {version}; this version reads format {FORMAT_VERSION}")

    # --- reading -----------------------------------------------------------------------------------------------------

    def get(self, key: bytes) -> bytes | None:
        """The value of one key; None when there is none. Raises Corruption."""
        with self._swap, self._mapped():
            return self._engine.get(key)

    def slice(self, prefix: bytes, after: bytes, count_max: int, bytes_max: int) -> list[tuple[bytes, bytes]]:
        """Keys greater than `after` that begin with `prefix`, and their values, in order. Raises Corruption.

        At most `count_max`, and none after the one that brings the values to `bytes_max` bytes.
        """
        with self._swap, self._mapped():
            found = self._engine.slice(prefix, after, count_max, bytes_max)
        self._check_order(after, found[-1][0] if found else None)
        return found

    def keys(self, prefix: bytes, after: bytes, count_max: int) -> list[bytes]:
        """As `slice`, without the values: they are neither read nor checked."""
        with self._swap, self._mapped():
            found = self._engine.keys(prefix, after, count_max)
        self._check_order(after, found[-1] if found else None)
        return found

    def tally(self, prefix: bytes) -> Tally:
        """Count and digest of all keys that begin with `prefix` and are longer. Raises Corruption.

        Each key is also looked for from the root. In slices, each a transaction of its own, as `slice`.
        """
        after, count, digest = prefix, 0, 0
        while True:
            with self._swap, self._mapped():
                found = self._engine.tally(prefix, after, _TALLIED_COUNT, _TALLIED_BYTES)
            if not found.count:
                return Tally(count, digest)
            self._check_order(after, found.after)
            after, count, digest = found.after, count + found.count, digest + found.digest & DIGEST_MASK

    def _check_order(self, after: bytes, last: bytes | None) -> None:
        """Whoever reads slice after slice comes to an end, whatever has become of the tree. Raises Corruption."""
        if last is not None and last <= after:
            raise Corruption(f"{self._path}: the state store is damaged: key {last.hex()} comes after key {after.hex()}")

    def reusable_bytes(self) -> int:
        """Bytes of the file that hold nothing any more: it never shrinks, and what is stored next goes there first.

        Waits for nobody but a reader or an opening again. Raises StorageError.
        """
        with self._swap, self._mapped():
            page_size, used, pages = self._engine.usage()
        return max(pages - used, 0) * page_size

    # --- writing -----------------------------------------------------------------------------------------------------

    def write(self, changes: Sequence[Change]) -> None:
        """Make all changes, in order, or none: one transaction. Raises NoRoom, StorageError."""
        self._write([changes])

    def write_tallied(self, slices: Iterable[Sequence[Change]], key: bytes, head: bytes, *, clear: bool = False) -> None:
        """As `write`, for more than memory should hold at once; the value of `key` becomes `head` and the tally of its records.

        Those are all longer keys that begin with it (docs/STORAGE.md §8); `clear` True deletes them first. Raises what `slices`
        raises, too, and Corruption when a value that is replaced is damaged.
        """
        self._write(slices, key if clear else None, (key, head))

    def _write(
        self,
        slices: Iterable[Sequence[Change]],
        cleared: bytes | None = None,
        tallied: tuple[bytes, bytes] | None = None,
    ) -> None:
        with self._writing:
            try:
                self._apply(slices, cleared, tallied)
            except NoRoom:
                self._turn_over()
                raise

    def _apply(
        self,
        slices: Iterable[Sequence[Change]],
        cleared: bytes | None = None,
        tallied: tuple[bytes, bytes] | None = None,
    ) -> None:
        try:
            with self._mapped():
                self._engine.apply(slices, cleared, tallied)
        except NoRoom as error:
            cause = error.__cause__
            if not (isinstance(cause, EngineError) and cause.code == _MAP_FULL):
                with self._swap:
                    self._engine.close()
                    self._engine = self._open()
            raise

    def _turn_over(self) -> None:
        """Commit next to nothing: what a transaction has freed can be used by the next but one, so there has to be a next one.

        Without it a store that was emptied in one transaction would stay full for ever: whatever is larger than the few pages
        that were free before finds no room, and what fails is no next transaction.
        """
        with suppress(NoRoom):
            self._apply([[(_FORMAT_KEY, self._format)]])

    @contextmanager
    def _mapped(self) -> Iterator[None]:
        """Turn the engine's errors into ours."""
        try:
            yield
        except BadValue as error:
            raise Corruption(f"{self._path}: {error}") from error
        except EngineError as error:
            raise self._meaning(error) from error

    def _meaning(self, error: EngineError) -> StorageError:
        if error.code in _DAMAGE:
            return Corruption(f"{self._path}: the state store is damaged: {error}")
        if error.code == _MAP_FULL:
            return NoRoom(f"{self._path}: the state store has reached its map size: {error}")
        if self._is_full(error.code):
            return NoRoom(f"{self._path}: the volume is full: {error}")
        return StorageError(f"{self._path}: the state store failed: {error}")

    def _is_full(self, code: int) -> bool:
        if code != errno.EIO:
            return code in _FULL
        volume = os.statvfs(self._path)
        return volume.f_frsize * volume.f_bavail < _ROOM_BYTES

    def close(self) -> None:
        """Close the environment, when nobody reads or writes any more."""
        with self._writing, self._swap:
            self._engine.close()
