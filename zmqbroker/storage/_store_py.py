"""An engine on py-lmdb: the reference, and the twin of the compiled ext/_store.pyx.

It takes the GIL back after every call into LMDB, which is what the compiled half is for.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import lmdb

from zmqbroker.checksum import crc32c
from zmqbroker.storage.engine import (
    CORRUPTED,
    HEAD_SIZE_MAX,
    MISPLACED,
    BadValue,
    Change,
    Engine,
    EngineError,
    OpenFiles,
    Tallied,
    Usage,
)
from zmqbroker.storage.record_hash import DIGEST_MASK, record_hash

__all__ = ["make_environment", "open_engine"]

_CRC = struct.Struct("<I")
_TALLY = struct.Struct("<QQ")
_ENGINE = 0  # LMDB 0.9: its format is read by every release of the last ten years; that of 1.0 is months old


def open_engine(path: Path, *, sync: bool, map_size: int, read_only: bool) -> Engine:
    """Open the environment in the directory `path`, which is there; read_only: without locks, and no byte is changed."""
    return _PyEngine(path, sync=sync, map_size=map_size, read_only=read_only)


def make_environment(file: Path) -> None:
    """Make the file of an empty environment, and sync it. Raises EngineError."""
    with _mapped():
        environment = lmdb.open(str(file), subdir=False, lock=False, mode=0o600, lib_version=_ENGINE)
        environment.sync(True)
        environment.close()


class _PyEngine:
    """See `Engine`."""

    def __init__(self, path: Path, *, sync: bool, map_size: int, read_only: bool) -> None:
        self._files = OpenFiles()
        self._files.claim(path)
        try:
            with _mapped():
                self._environment = _open(path, sync=sync, map_size=map_size, read_only=read_only)
        except BaseException:
            self._files.release()
            raise
        try:
            self._files.claim(path)
        except EngineError:
            self.close()
            raise

    def get(self, key: bytes) -> bytes | None:
        with self._transaction() as transaction:
            stored = transaction.get(key)
            return None if stored is None else _checked(key, bytes(stored))

    def slice(self, prefix: bytes, after: bytes, count_max: int, bytes_max: int) -> list[tuple[bytes, bytes]]:
        found: list[tuple[bytes, bytes]] = []
        size = 0
        with self._transaction() as transaction, transaction.cursor() as cursor:
            valid = _set_after(cursor, after)
            while valid and len(found) < count_max and size < bytes_max and bytes(cursor.key()).startswith(prefix):
                key = bytes(cursor.key())
                found.append((key, _checked(key, bytes(cursor.value()))))
                size += len(found[-1][1])
                valid = cursor.next()
        return found

    def keys(self, prefix: bytes, after: bytes, count_max: int) -> list[bytes]:
        found: list[bytes] = []
        with self._transaction() as transaction, transaction.cursor() as cursor:
            valid = _set_after(cursor, after)
            while valid and len(found) < count_max and bytes(cursor.key()).startswith(prefix):
                found.append(bytes(cursor.key()))
                valid = cursor.next()
        return found

    def tally(self, prefix: bytes, after: bytes, count_max: int, bytes_max: int) -> Tallied:
        records = self.slice(prefix, after, count_max, bytes_max)
        digest = 0
        with self._transaction() as transaction:
            for key, value in records:
                stored = transaction.get(key)
                if stored is None or bytes(stored)[_CRC.size :] != value:
                    raise EngineError(CORRUPTED, MISPLACED)
                digest += record_hash(key, value)
        return Tallied(records[-1][0] if records else b"", len(records), digest & DIGEST_MASK)

    def apply(
        self,
        slices: Iterable[Sequence[Change]],
        cleared: bytes | None = None,
        tallied: tuple[bytes, bytes] | None = None,
    ) -> None:
        with self._transaction(write=True) as transaction:
            if cleared is not None:
                _clear(transaction, cleared)
            tally = None if tallied is None else _RunningTally(transaction, *tallied)
            for changes in slices:
                for key, value in changes:
                    if tally is not None:
                        tally.note(key, value)
                    if value is None:
                        transaction.delete(key)
                    else:
                        _put(transaction, key, value)
            if tally is not None:
                tally.store()

    def usage(self) -> Usage:
        with _mapped():
            stat, last_page = self._environment.stat(), self._environment.info()["last_pgno"]
        used = stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]
        return int(stat["psize"]), int(used), int(last_page) + 1

    def close(self) -> None:
        self._environment.close()
        self._files.release()

    @contextmanager
    def _transaction(self, *, write: bool = False) -> Iterator[lmdb.Transaction]:
        with _mapped(), self._environment.begin(write=write) as transaction:
            yield transaction


def _open(path: Path, *, sync: bool, map_size: int, read_only: bool) -> lmdb.Environment:
    if read_only:
        return lmdb.open(str(path), max_dbs=0, readonly=True, lock=False, create=False, lib_version=_ENGINE)
    environment = lmdb.open(str(path), map_size=map_size, max_dbs=0, sync=sync, mode=0o600, lib_version=_ENGINE)
    environment.reader_check()
    return environment


class _RunningTally:
    """The count and digest that a record has of others, while they change."""

    def __init__(self, transaction: lmdb.Transaction, key: bytes, head: bytes) -> None:
        if len(head) > HEAD_SIZE_MAX:
            raise ValueError(f"a tally has a head of {len(head)} bytes; {HEAD_SIZE_MAX} are allowed")
        self._transaction, self._key, self._head = transaction, key, head
        self._count = self._digest = 0
        stored = transaction.get(key)
        if stored is not None:
            value = _checked(key, bytes(stored))
            if len(value) != len(head) + _TALLY.size:
                raise BadValue(key)
            self._count, self._digest = _TALLY.unpack_from(value, len(head))

    def note(self, key: bytes, value: bytes | None) -> None:
        """A key gets another value; to be called before."""
        if len(key) <= len(self._key) or not key.startswith(self._key):
            return
        stored = self._transaction.get(key)
        if stored is not None:
            self._count -= 1
            self._digest -= record_hash(key, _checked(key, bytes(stored)))
        if value is not None:
            self._count += 1
            self._digest += record_hash(key, value)

    def store(self) -> None:
        """Put the record."""
        tally = _TALLY.pack(self._count & DIGEST_MASK, self._digest & DIGEST_MASK)
        _put(self._transaction, self._key, self._head + tally)


def _put(transaction: lmdb.Transaction, key: bytes, value: bytes) -> None:
    transaction.put(key, _CRC.pack(crc32c(value, crc32c(key))) + value)


@contextmanager
def _mapped() -> Iterator[None]:
    """Turn py-lmdb's errors into EngineError."""
    try:
        yield
    except lmdb.Error as error:
        raise EngineError(error.code, f"{error.what}: {error.reason}" if error.code else str(error)) from error


def _checked(key: bytes, stored: bytes) -> bytes:
    value = stored[_CRC.size :]
    if len(stored) < _CRC.size or _CRC.unpack_from(stored)[0] != crc32c(value, crc32c(key)):
        raise BadValue(key)
    return value


def _set_after(cursor: lmdb.Cursor, after: bytes) -> bool:
    """Place the cursor at the first key that is greater than `after`; False when there is none."""
    if not after:
        return bool(cursor.first())
    valid = cursor.set_range(after)
    if valid and bytes(cursor.key()) == after:
        valid = cursor.next()
    return bool(valid)


def _clear(transaction: lmdb.Transaction, prefix: bytes) -> None:
    with transaction.cursor() as cursor:
        valid = cursor.set_range(prefix)
        while valid and bytes(cursor.key()).startswith(prefix):
            valid = cursor.delete()  # moves to the next one
