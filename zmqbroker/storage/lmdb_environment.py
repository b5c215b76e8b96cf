"""One LMDB environment whose values carry checksums: what both halves of the store are made of.

One database. Every value begins with the crc32c of key and value, u32 little-endian. The key ffff says what the environment
holds and in which format; one that holds anything else and no such key is of an older version and is refused. Never
`writemap`: a full disk would be a SIGBUS (reference/zeromq-and-lmdb.md §4.3). Read transactions end before anything is given
out, because an idle one keeps every freed page (§4.6.3).

One thread writes, any thread reads. A commit that fails because the volume is full raises NoRoom and changes nothing; the
environment is then closed and opened again, because after a failed write of its meta page LMDB refuses everything (§4.6.4).
"""

from __future__ import annotations

import errno
import os
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import lmdb

from zmqbroker.checksum import crc32c
from zmqbroker.errors import Corruption, NoRoom, StorageError
from zmqbroker.storage.disk import OS_DISK

__all__ = ["FORMAT_VERSION", "LmdbEnvironment", "Writer", "map_size_of"]

#: Of what an environment holds; raised with every change that an older reader would misread.
FORMAT_VERSION = 2
_FORMAT_KEY = b"\xff\xff"  # groups and what is added to them stay below
_FORMAT = struct.Struct("<8sI")
_CRC = struct.Struct("<I")
_DATA, _NEW = "data.mdb", "new.mdb"  # LMDB's own name for its file; ours for one that is being made
_MAP_SIZE_MIN = 1 << 30
_MAP_SIZE_STEP = 1 << 20  # LMDB wants a multiple of the page size
_ENGINE = 0  # LMDB 0.9: its format is read by every release of the last ten years; that of 1.0 is months old
#: LMDB says "Input/output error" for a short write, whatever its cause. With less than this free the cause is taken to be the
#: full volume: eight times the largest transaction of bodies.
_ROOM_BYTES = 64 << 20
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})

_DAMAGE = (
    lmdb.CorruptedError,
    lmdb.InvalidError,
    lmdb.VersionMismatchError,  # the format's version never changes
    lmdb.PageNotFoundError,
    lmdb.CursorFullError,  # a tree that leads back to itself
    lmdb.BadChecksumError,
)


def map_size_of(path: Path) -> int:
    """A map size that the volume of `path` is full before: address space, not memory or disk."""
    volume = os.statvfs(path)
    return max(volume.f_frsize * volume.f_blocks, _MAP_SIZE_MIN) // _MAP_SIZE_STEP * _MAP_SIZE_STEP


class Writer:
    """Changes of one transaction."""

    __slots__ = ("_transaction",)

    def __init__(self, transaction: lmdb.Transaction) -> None:
        self._transaction = transaction

    def put(self, key: bytes, value: bytes) -> None:
        """Set a key."""
        self._transaction.put(key, _CRC.pack(crc32c(value, crc32c(key))) + value)

    def delete(self, key: bytes) -> None:
        """Delete a key, if it is there."""
        self._transaction.delete(key)

    def delete_all(self, prefix: bytes) -> None:
        """Delete every key that begins with `prefix`."""
        with self._transaction.cursor() as cursor:
            valid = cursor.set_range(prefix)
            while valid and bytes(cursor.key()).startswith(prefix):
                valid = cursor.delete()  # moves to the next one


def _make(path: Path) -> None:
    """Make an empty environment in a directory; all of it is durable before its name is there. Raises OSError or lmdb.Error.

    LMDB itself writes two first pages and syncs them with the first commit: a power cut in between may leave one of them.
    """
    new = path / _NEW
    new.unlink(missing_ok=True)  # of a start that did not come to its end
    environment = lmdb.open(str(new), subdir=False, lock=False, mode=0o600, lib_version=_ENGINE)
    environment.sync(True)
    environment.close()
    OS_DISK.rename(new, path / _DATA)


class LmdbEnvironment:
    """Made by `LmdbEnvironment.open`. Every error of LMDB leaves as a StorageError."""

    def __init__(self, path: Path, kind: bytes, *, sync: bool, map_size: int, read_only: bool) -> None:
        self._path, self._sync, self._map_size, self._read_only = path, sync, map_size, read_only
        self._swap = threading.Lock()  # held by whoever reads, and while the environment is closed and opened again
        self._format = _FORMAT.pack(kind, FORMAT_VERSION)
        self._environment = self._open()

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
        except (OSError, lmdb.Error) as error:
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

    def _open(self) -> lmdb.Environment:
        with self._mapped():
            if self._read_only:
                return lmdb.open(str(self._path), max_dbs=0, readonly=True, lock=False, create=False, lib_version=_ENGINE)
            environment = lmdb.open(
                str(self._path), map_size=self._map_size, max_dbs=0, sync=self._sync, mode=0o600, lib_version=_ENGINE
            )
            environment.reader_check()
        return environment

    def _check_format(self, kind: bytes) -> None:
        value = self.get(_FORMAT_KEY)
        if value is None:
            if self.keys(b"", b"", 1):
                raise StorageError(f"{self._path}: of a version before format {FORMAT_VERSION}, which this version cannot read")
            if not self._read_only:
                with self.write() as writer:
                    writer.put(_FORMAT_KEY, self._format)
            return
        if len(value) != _FORMAT.size or value[: len(kind)] != kind:
            raise StorageError(f"{self._path}: holds {value[: len(kind)]!r}, not {kind!r}")
        version = _FORMAT.unpack(value)[1]
        if version != FORMAT_VERSION:
            raise StorageError(f"{self._path}: written in format {version}; this version reads format {FORMAT_VERSION}")

    # --- reading -----------------------------------------------------------------------------------------------------

    def get(self, key: bytes) -> bytes | None:
        """The value of one key; None when there is none. Raises Corruption."""
        with self._reading() as transaction:
            stored = transaction.get(key)
        return None if stored is None else self._checked(key, bytes(stored))

    def slice(self, prefix: bytes, after: bytes, count_max: int, bytes_max: int) -> list[tuple[bytes, bytes]]:
        """Keys greater than `after` that begin with `prefix`, and their values, in order. Raises Corruption.

        At most `count_max`, and none after the one that brings the values to `bytes_max` bytes.
        """
        found: list[tuple[bytes, bytes]] = []
        size = 0
        with self._reading() as transaction, transaction.cursor() as cursor:
            valid = _set_after(cursor, after)
            while valid and len(found) < count_max and size < bytes_max and bytes(cursor.key()).startswith(prefix):
                found.append((bytes(cursor.key()), bytes(cursor.value())))
                size += len(found[-1][1])
                valid = cursor.next()
        return [(key, self._checked(key, stored)) for key, stored in found]

    def keys(self, prefix: bytes, after: bytes, count_max: int) -> list[bytes]:
        """As `slice`, without the values: they are neither read nor checked."""
        found: list[bytes] = []
        with self._reading() as transaction, transaction.cursor() as cursor:
            valid = _set_after(cursor, after)
            while valid and len(found) < count_max and bytes(cursor.key()).startswith(prefix):
                found.append(bytes(cursor.key()))
                valid = cursor.next()
        return found

    def _checked(self, key: bytes, stored: bytes) -> bytes:
        value = stored[_CRC.size :]
        if len(stored) < _CRC.size or _CRC.unpack_from(stored)[0] != crc32c(value, crc32c(key)):
            raise Corruption(f"{self._path}: the value of key {key.hex()} is damaged")
        return value

    def reusable_bytes(self) -> int:
        """Bytes of the file that hold nothing any more: it never shrinks, and what is stored next goes there first.

        Waits for nobody but a reader or an opening again. Raises StorageError.
        """
        with self._swap, self._mapped():
            stat, last_page = self._environment.stat(), self._environment.info()["last_pgno"]
        used = stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]
        return max(last_page + 1 - used, 0) * int(stat["psize"])

    @contextmanager
    def _reading(self) -> Iterator[lmdb.Transaction]:
        with self._swap, self._mapped(), self._environment.begin() as transaction:
            yield transaction

    # --- writing -----------------------------------------------------------------------------------------------------

    @contextmanager
    def write(self) -> Iterator[Writer]:
        """One transaction: committed when the block ends, and nothing of it when that raises."""
        try:
            with self._transaction() as writer:
                yield writer
        except NoRoom:
            self._turn_over()
            raise

    @contextmanager
    def _transaction(self) -> Iterator[Writer]:
        try:
            with self._mapped(), self._environment.begin(write=True) as transaction:
                yield Writer(transaction)
        except NoRoom as error:
            if not isinstance(error.__cause__, lmdb.MapFullError):
                with self._swap:
                    self._environment.close()
                    self._environment = self._open()
            raise

    def _turn_over(self) -> None:
        """Commit next to nothing: what a transaction has freed can be used by the next but one, so there has to be a next one.

        Without it a store that was emptied in one transaction would stay full for ever: whatever is larger than the few pages
        that were free before finds no room, and what fails is no next transaction.
        """
        with suppress(NoRoom), self._transaction() as writer:
            writer.put(_FORMAT_KEY, self._format)

    @contextmanager
    def _mapped(self) -> Iterator[None]:
        """Turn LMDB's errors into ours."""
        try:
            yield
        except _DAMAGE as error:
            raise Corruption(f"{self._path}: the state store is damaged: {error}") from error
        except lmdb.MapFullError as error:
            raise NoRoom(f"{self._path}: the state store has reached its map size: {error}") from error
        except lmdb.Error as error:
            if self._is_full(error):
                raise NoRoom(f"{self._path}: the volume is full: {error}") from error
            raise StorageError(f"{self._path}: the state store failed: {error}") from error

    def _is_full(self, error: lmdb.Error) -> bool:
        code = getattr(error, "code", 0)
        if code != errno.EIO:
            return code in _FULL
        volume = os.statvfs(self._path)
        return volume.f_frsize * volume.f_bavail < _ROOM_BYTES

    def close(self) -> None:
        """Close the environment."""
        self._environment.close()


def _set_after(cursor: lmdb.Cursor, after: bytes) -> bool:
    """Place the cursor at the first key that is greater than `after`; False when there is none."""
    if not after:
        return bool(cursor.first())
    valid = cursor.set_range(after)
    if valid and bytes(cursor.key()) == after:
        valid = cursor.next()
    return bool(valid)
