"""Committed state in LMDB: the durable StateStore.

One environment, one database. Keys are the group as u16 big-endian followed by the caller's key; the group alone is the key of
its applied_index (u64 little-endian). The group + 0x4000 alone is the key of the installed snapshot's index and term, u64 each;
the group + 0x8000 and an index, u64 big-endian, are the key of a body. So groups end at 0x3fff. Every value begins with the
crc32c of key and value, u32 little-endian. Never
`writemap`: a full disk would be a SIGBUS (reference/zeromq-and-lmdb.md §4.3). Read transactions are short, because an idle one
keeps every freed page.

Invariant: applied_index and the changes it stands for are in one transaction. Every error of LMDB leaves as a StorageError.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import lmdb

from zmqbroker.checksum import crc32c
from zmqbroker.errors import Corruption, StorageError
from zmqbroker.storage.interfaces import Item

__all__ = ["KEY_SIZE_MAX", "LmdbState", "map_size_of"]

_GROUP = struct.Struct(">H")
_CRC = struct.Struct("<I")
_INDEX = struct.Struct("<Q")
_PLACE = struct.Struct("<QQ")
_BODY = struct.Struct(">HQ")
#: Added to the group in the keys of what is no state; groups are below both.
_INSTALLED, _BODIES = 0x4000, 0x8000
_SLICE_COUNT = 1000  # records per read transaction of `load`
_MAP_SIZE_MIN = 1 << 30
_ENGINE = 0  # LMDB 0.9: its format is read by every release of the last ten years; that of 1.0 is months old
_MAP_SIZE_STEP = 1 << 20  # LMDB wants a multiple of the page size

#: Largest key that a caller may use: LMDB's 511 bytes less the group.
KEY_SIZE_MAX = 511 - _GROUP.size

_DAMAGE = (
    lmdb.CorruptedError,
    lmdb.InvalidError,
    lmdb.VersionMismatchError,  # the format's version never changes
    lmdb.PageNotFoundError,
    lmdb.CursorFullError,  # a tree that leads back to itself
    lmdb.BadChecksumError,
)


@contextmanager
def _mapped(path: Path) -> Iterator[None]:
    """Turn LMDB's errors into ours."""
    try:
        yield
    except _DAMAGE as error:
        raise Corruption(f"{path}: the state store is damaged: {error}") from error
    except lmdb.MapFullError as error:
        raise StorageError(f"{path}: the state store has reached its map size: {error}") from error
    except lmdb.Error as error:
        raise StorageError(f"{path}: the state store failed: {error}") from error


def map_size_of(path: Path) -> int:
    """A map size that the volume of `path` is full before: address space, not memory or disk."""
    volume = os.statvfs(path)
    return max(volume.f_frsize * volume.f_blocks, _MAP_SIZE_MIN) // _MAP_SIZE_STEP * _MAP_SIZE_STEP


class LmdbState:
    """A StateStore in a directory. Made by `LmdbState.open`."""

    def __init__(self, path: Path, environment: lmdb.Environment) -> None:
        self._path = path
        self._environment = environment

    @classmethod
    def open(cls, path: Path, *, sync: bool, map_size: int | None = None) -> LmdbState:
        """Open the environment at `path`, made if it is not there; `sync` True makes every commit durable.

        Raises Corruption when it is damaged and StorageError when LMDB or the operating system refuses.
        """
        try:
            path.mkdir(parents=True, exist_ok=True)
            size = map_size if map_size is not None else map_size_of(path)
        except OSError as error:
            raise StorageError(f"{path}: the state store cannot be opened: {error}") from error
        with _mapped(path):
            environment = lmdb.open(str(path), map_size=size, max_dbs=0, sync=sync, mode=0o600, lib_version=_ENGINE)
            environment.reader_check()
        return cls(path, environment)

    def applied_index(self, group: int) -> int:
        """Index of the last entry whose effects are stored; 0 for a new group. Raises Corruption."""
        key = _GROUP.pack(group)
        value = self._get(key)
        if value is None:
            return 0
        if len(value) != _INDEX.size:
            raise Corruption(f"{self._path}: group {group}: applied_index has {len(value)} bytes")
        return int(_INDEX.unpack(value)[0])

    def get(self, group: int, key: bytes) -> bytes | None:
        """The value of one key; None when there is none. Raises Corruption."""
        return self._get(_GROUP.pack(group) + key)

    def load(self, group: int) -> Iterator[tuple[bytes, bytes]]:
        """All keys and values of a group in key order. Raises Corruption.

        Read in slices, each a transaction of its own: what is committed meanwhile may or may not be seen.
        """
        key = prefix = _GROUP.pack(group)
        while records := self._slice(prefix, key):
            for key, stored in records:
                yield key[_GROUP.size :], self._checked(key, stored)

    def _slice(self, prefix: bytes, after: bytes) -> list[tuple[bytes, bytes]]:
        """Up to _SLICE_COUNT records of a group whose keys are greater than `after`."""
        found: list[tuple[bytes, bytes]] = []
        with _mapped(self._path), self._environment.begin() as transaction, transaction.cursor() as cursor:
            valid = cursor.set_range(after)
            if valid and cursor.key() == after:
                valid = cursor.next()
            while valid and len(found) < _SLICE_COUNT and cursor.key().startswith(prefix):
                found.append(cursor.item())
                valid = cursor.next()
        return found

    def _checked(self, key: bytes, stored: bytes) -> bytes:
        value = stored[_CRC.size :]
        if len(stored) < _CRC.size or _CRC.unpack_from(stored)[0] != crc32c(value, crc32c(key)):
            raise Corruption(f"{self._path}: the value of key {key.hex()} is damaged")
        return value

    def commit(
        self,
        group: int,
        applied_index: int,
        changes: Iterable[tuple[bytes, bytes | None]],
        dead_bodies: Iterable[int] = (),
    ) -> None:
        """Apply `changes` (None deletes), drop bodies and move `applied_index`, all or nothing.

        Raises StorageError, also for a key that is empty or longer than KEY_SIZE_MAX bytes; nothing is changed then.
        """
        prefix = _GROUP.pack(group)
        with _mapped(self._path), self._environment.begin(write=True) as transaction:
            for key, value in changes:
                if value is None:
                    transaction.delete(self._key(prefix, key))
                else:
                    self._put(transaction, self._key(prefix, key), value)
            for index in dead_bodies:
                transaction.delete(_BODY.pack(_BODIES | group, index))
            self._put(transaction, prefix, _INDEX.pack(applied_index))

    def _key(self, prefix: bytes, key: bytes) -> bytes:
        if not 0 < len(key) <= KEY_SIZE_MAX:
            raise StorageError(f"{self._path}: a key has {len(key)} bytes; 1 to {KEY_SIZE_MAX} are allowed")
        return prefix + key

    def install(self, group: int, index: int, term: int, items: Iterable[Item], bodies: Iterable[tuple[int, bytes]]) -> None:
        """Replace all that is stored of a group by a snapshot at `index`, whose entry had `term`, all or nothing.

        One transaction, whatever the size: LMDB spills what its memory does not hold. Raises StorageError, or whatever the
        iterables raise; nothing is changed then.
        """
        prefix = _GROUP.pack(group)
        with _mapped(self._path), self._environment.begin(write=True) as transaction:
            for doomed in (prefix, _GROUP.pack(_BODIES | group)):
                self._delete_all(transaction, doomed)
            for key, value in items:
                self._put(transaction, self._key(prefix, key), value)
            for body_index, body in bodies:
                self._put(transaction, _BODY.pack(_BODIES | group, body_index), body)
            self._put(transaction, prefix, _INDEX.pack(index))
            self._put(transaction, _GROUP.pack(_INSTALLED | group), _PLACE.pack(index, term))

    def _delete_all(self, transaction: lmdb.Transaction, prefix: bytes) -> None:
        with transaction.cursor() as cursor:
            valid = cursor.set_range(prefix)
            while valid and bytes(cursor.key()).startswith(prefix):
                valid = cursor.delete()  # moves to the next one

    def installed(self, group: int) -> tuple[int, int]:
        """Index and term of the snapshot that was installed last; (0, 0) for none. Raises Corruption."""
        value = self._get(_GROUP.pack(_INSTALLED | group))
        if value is None:
            return 0, 0
        index, term = _PLACE.unpack(value)
        return index, term

    def body(self, group: int, index: int) -> bytes | None:
        """The payload of an entry that a snapshot brought; None when there is none. Raises Corruption."""
        return self._get(_BODY.pack(_BODIES | group, index))

    def body_indexes(self, group: int) -> list[int]:
        """The indexes of all bodies, ascending."""
        prefix, found = _GROUP.pack(_BODIES | group), []
        with _mapped(self._path), self._environment.begin() as transaction, transaction.cursor() as cursor:
            valid = cursor.set_range(prefix)
            while valid and cursor.key().startswith(prefix):
                found.append(int(_BODY.unpack(cursor.key())[1]))
                valid = cursor.next()
        return found

    def _get(self, key: bytes) -> bytes | None:
        with _mapped(self._path), self._environment.begin() as transaction:
            stored = transaction.get(key)
        return None if stored is None else self._checked(key, stored)

    def _put(self, transaction: lmdb.Transaction, key: bytes, value: bytes) -> None:
        transaction.put(key, _CRC.pack(crc32c(value, crc32c(key))) + value)

    def close(self) -> None:
        """Close the environment."""
        self._environment.close()
