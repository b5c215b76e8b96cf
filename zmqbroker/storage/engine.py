"""What the store needs of LMDB, and what its two halves share: the compiled ext/_store.pyx and its twin `_store_py` on py-lmdb.

An engine is one environment with its main database only. It puts the crc32c of key and value, u32 little-endian, in front of
every value and checks it whenever the value is read. What LMDB refuses is an `EngineError` with LMDB's own code, whichever
half it was; what to make of it is decided by `lmdb_environment`. One thread at a time writes, any thread reads, nobody closes
meanwhile.

A file is open once in a process: LMDB's locks are those of the process, and closing one of two would release them for both.
So both halves note here which files they have open.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

__all__ = [
    "CORRUPTED",
    "HEAD_SIZE_MAX",
    "MISPLACED",
    "BadValue",
    "Change",
    "Engine",
    "EngineError",
    "OpenFiles",
    "Tallied",
    "Tally",
    "Usage",
]

#: LMDB's code MDB_CORRUPTED, and the text that an engine says with it for a key that the tree's order does not lead to.
CORRUPTED, MISPLACED = -30796, "a key is not where it is looked for"
#: Bytes of a tally's record before its count, at most.
HEAD_SIZE_MAX = 64

#: A key and its new value; None deletes it, if it is there.
Change = tuple[bytes, bytes | None]
#: Size of a page, pages that hold something, pages of the file.
Usage = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Tally:
    """What a record says of all those whose keys begin with its own: docs/STORAGE.md §8."""

    count: int
    digest: int  # the sum of their `record_hash`, modulo 2**64


@dataclass(frozen=True, slots=True)
class Tallied:
    """A look at some records: the last key, b"" when there was none, and their tally."""

    after: bytes
    count: int
    digest: int


class EngineError(Exception):
    """LMDB refused. `code` is its own (negative), or the operating system's (positive); 0: it was not asked at all."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


class BadValue(Exception):
    """The value of `key` does not fit its checksum, or is of no possible size."""

    def __init__(self, key: bytes) -> None:
        super().__init__(f"the value of key {key.hex()} is damaged")
        self.key = key


class Engine(Protocol):
    """One open environment. Everything raises EngineError, what reads values BadValue too."""

    def get(self, key: bytes) -> bytes | None:
        """The value of one key; None when there is none."""
        ...

    def slice(self, prefix: bytes, after: bytes, count_max: int, bytes_max: int) -> list[tuple[bytes, bytes]]:
        """Keys greater than `after` that begin with `prefix`, and their values, in order.

        At most `count_max`, and none after the one that brings the values to `bytes_max` bytes.
        """
        ...

    def keys(self, prefix: bytes, after: bytes, count_max: int) -> list[bytes]:
        """As `slice`, without the values: they are neither read nor checked."""
        ...

    def tally(self, prefix: bytes, after: bytes, count_max: int, bytes_max: int) -> Tallied:
        """The tally of the records that `slice` would give; each key is also looked for from the root of the tree.

        Raises EngineError(CORRUPTED, MISPLACED) for one that is not found there.
        """
        ...

    def apply(
        self,
        slices: Iterable[Sequence[Change]],
        cleared: bytes | None = None,
        tallied: tuple[bytes, bytes] | None = None,
    ) -> None:
        """One transaction: delete all keys that begin with `cleared` (None: nothing), then make all changes, in order.

        `tallied` is a key, and the first bytes of its new value, at most HEAD_SIZE_MAX and always as many: behind them it says
        count and digest, u64 little-endian each, of all longer keys that begin with it, as these changes leave them. Such keys
        are cleared only with it. Nothing of it is done when it raises, whatever `slices` raises included.
        """
        ...

    def usage(self) -> Usage:
        """How the file is used."""
        ...

    def close(self) -> None:
        """Close it; a second time does nothing."""
        ...


class OpenFiles:
    """The files of one environment that this process has open, from `claim` to `release`, or to the end of their owner."""

    _lock = threading.RLock()  # reentrant: the end of an owner may come while one is claimed, by garbage collection
    _claimed: ClassVar[set[tuple[int, int]]] = set()

    def __init__(self) -> None:
        self._own: set[tuple[int, int]] = set()

    def __del__(self) -> None:
        self.release()

    def claim(self, path: Path) -> None:
        """Claim those that there are of data.mdb and lock.mdb in `path`; may be repeated when LMDB has made the second.

        Raises EngineError when another one of this process has them open.
        """
        found = set()
        for name in ("data.mdb", "lock.mdb"):
            try:
                status = os.stat(path / name)
            except OSError:  # whoever opens it will say so
                continue
            found.add((status.st_dev, status.st_ino))
        with self._lock:
            if (found - self._own) & self._claimed:
                raise EngineError(0, f"{path} is already open in this process")
            self._own.update(found)
            self._claimed.update(found)

    def release(self) -> None:
        """Give them up."""
        with self._lock:
            self._claimed.difference_update(self._own)
            self._own.clear()
