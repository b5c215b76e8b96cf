"""Committed state and the bodies that have left the log, in LMDB: the durable StateStore.

Two environments, because values of many pages and the churn of small records must not share one: a fragmented list of free
pages makes every large commit slow (reference/zeromq-and-lmdb.md §4.6.1).

`state/`: the group as u16 big-endian followed by the caller's key; the group alone is the key of its applied_index, and of
count and digest of all the group's keys (u64 little-endian each), the group + 0x4000 that of the installed snapshot's index and
term (u64 each), the group + 0x8000 that of the mark of the bodies (u64). So groups end at 0x3fff. `bodies/`, beside it: the
group and an entry's index, u64 big-endian.

Invariants: applied_index, the changes it stands for, and what they do to count and digest are in one transaction; a body is
durable before anything in `state/` says so, and is dropped only after nothing there needs it. Source: DESIGN §5,
docs/STORAGE.md §8.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain, islice
from pathlib import Path

from zmqbroker.errors import Corruption, NoRoom, StorageError
from zmqbroker.storage.engine import Change, Tally
from zmqbroker.storage.headroom import Headroom
from zmqbroker.storage.interfaces import Item, Scrubbed
from zmqbroker.storage.lmdb_environment import LmdbEnvironment

__all__ = ["KEY_SIZE_MAX", "TRANSACTION_BYTES", "LmdbState"]

_STATE_KIND, _BODIES_KIND = b"ZBSTATE\0", b"ZBBODIES"
_GROUP = struct.Struct(">H")
_INDEX = struct.Struct("<Q")
_APPLIED = struct.Struct("<QQQ")
_PLACE = struct.Struct("<QQ")
_BODY = struct.Struct(">HQ")
#: Added to the group in the keys of what is no state; groups are below both.
_INSTALLED, _MARK = 0x4000, 0x8000
_SLICE_COUNT = 1000  # records per read transaction of `load`
_SLICE_BYTES = 1 << 20
#: Keys of a group, at most, that a scrub counts in one step: what is flushed meanwhile waits some tenths of a second.
_SCRUB_COUNT = 250_000
#: Bodies of one transaction: LMDB keeps the pages of a transaction in memory, and the thread should be free again soon.
TRANSACTION_BYTES = 8 << 20
#: Bodies dropped in one transaction: many large ones at once make the next commits slow (reference §4.6.2).
_DROP_COUNT = 128

#: Largest key that a caller may use: LMDB's 511 bytes less the group.
KEY_SIZE_MAX = 511 - _GROUP.size


def _slices(changes: Iterable[Change]) -> Iterator[list[Change]]:
    """Changes in lists of a bounded number."""
    waiting = iter(changes)
    while some := list(islice(waiting, _SLICE_COUNT)):
        yield some


def _pieces(bodies: Iterable[tuple[int, bytes]]) -> Iterator[list[tuple[int, bytes]]]:
    """Bodies in lists of TRANSACTION_BYTES, or one body more."""
    some: list[tuple[int, bytes]] = []
    size = 0
    for index, body in bodies:
        some.append((index, body))
        size += len(body)
        if size >= TRANSACTION_BYTES:
            yield some
            some, size = [], 0
    if some:
        yield some


class LmdbState:
    """A StateStore in a directory and the directory `bodies` beside it. Made by `LmdbState.open`."""

    def __init__(self, path: Path, state: LmdbEnvironment, bodies: LmdbEnvironment, headroom: Headroom | None) -> None:
        self._path = path
        self._state = state
        self._bodies = bodies
        self._headroom = headroom  # None: nothing is ever written
        if headroom is not None:
            headroom.restore()

    @classmethod
    def open(cls, path: Path, *, sync: bool, map_size: int | None = None) -> LmdbState:
        """Open the store at `path`, made if it is not there; `sync` True makes every commit durable.

        `map_size` is that of each environment, by default the size of the volume. Raises Corruption when one is damaged and
        StorageError when it is of another version, or LMDB or the operating system refuses.
        """
        state = LmdbEnvironment.open(path, _STATE_KIND, sync=sync, map_size=map_size)
        try:
            bodies = LmdbEnvironment.open(path.with_name("bodies"), _BODIES_KIND, sync=sync, map_size=map_size)
        except BaseException:
            state.close()
            raise
        return cls(path, state, bodies, Headroom(path / "headroom"))

    @classmethod
    def open_read_only(cls, path: Path) -> LmdbState:
        """Open the store of a node that does not run, without changing a byte of it; it is for reading alone.

        Raises Corruption when it is damaged and StorageError when LMDB or the operating system refuses.
        """
        state = LmdbEnvironment.open_read_only(path, _STATE_KIND)
        try:
            bodies = LmdbEnvironment.open_read_only(path.with_name("bodies"), _BODIES_KIND)
        except BaseException:
            state.close()
            raise
        return cls(path, state, bodies, None)

    # --- state -------------------------------------------------------------------------------------------------------

    def applied_index(self, group: int) -> int:
        """Index of the last entry whose effects are stored; 0 for a new group. Raises Corruption."""
        return self._applied(group)[0]

    def _applied(self, group: int) -> tuple[int, Tally]:
        """applied_index, and the tally of the group's keys."""
        value = self._state.get(_GROUP.pack(group))
        if value is None:
            return 0, Tally(0, 0)
        if len(value) != _APPLIED.size:
            raise Corruption(f"{self._path}: group {group}: applied_index has {len(value)} bytes")
        applied_index, count, digest = _APPLIED.unpack(value)
        return applied_index, Tally(count, digest)

    def get(self, group: int, key: bytes) -> bytes | None:
        """The value of one key; None when there is none. Raises Corruption."""
        return self._state.get(_GROUP.pack(group) + key)

    def load(self, group: int) -> Iterator[tuple[bytes, bytes]]:
        """All keys and values of a group in key order. Raises Corruption; at the end, too, when they are not all there.

        Read in slices, each a transaction of its own: what is committed meanwhile may or may not be seen.
        """
        key = prefix = _GROUP.pack(group)
        while records := self._state.slice(prefix, key, _SLICE_COUNT, _SLICE_BYTES):
            for key, value in records:
                yield key[_GROUP.size :], value
        self._check_tally(group)

    def _check_tally(self, group: int) -> None:
        """See that all keys of a group are there, and no others. Raises Corruption.

        Checksums say of a value that it is the one of its key, but not that a key is gone, nor that a value is an older one.
        """
        before = self._applied(group)
        found = self._state.tally(_GROUP.pack(group))
        if found == before[1] or self._applied(group) != before:  # another one: there was a commit meanwhile
            return
        raise Corruption(
            f"{self._path}: group {group}: the state of index {before[0]} is not whole: it has {found.count} keys with digest "
            f"{found.digest:016x}, and had {before[1].count} with {before[1].digest:016x}"
        )

    def commit(self, group: int, applied_index: int, changes: Iterable[tuple[bytes, bytes | None]]) -> None:
        """Apply `changes` (None deletes) and move `applied_index`, all or nothing.

        Raises NoRoom, or StorageError, also for a key that is empty or longer than KEY_SIZE_MAX bytes; nothing is changed
        then.
        """
        self._freeing(partial(self._commit, group, applied_index, list(changes)))

    def _freeing(self, work: Callable[[], None]) -> None:
        """Do what may free room elsewhere: when the volume is full, once more with the room that was kept for it."""
        try:
            work()
        except NoRoom:
            if self._headroom is None or not self._headroom.release():
                raise
            work()
        else:
            if self._headroom is not None:
                self._headroom.restore()

    def _commit(self, group: int, applied_index: int, changes: list[tuple[bytes, bytes | None]]) -> None:
        prefix = _GROUP.pack(group)
        self._state.write_tallied([list(self._keyed(prefix, changes))], prefix, _INDEX.pack(applied_index))

    def _keyed(self, prefix: bytes, changes: Iterable[Change]) -> Iterator[Change]:
        return ((self._key(prefix, key), value) for key, value in changes)

    def _key(self, prefix: bytes, key: bytes) -> bytes:
        if not 0 < len(key) <= KEY_SIZE_MAX:
            raise StorageError(f"{self._path}: a key has {len(key)} bytes; 1 to {KEY_SIZE_MAX} are allowed")
        return prefix + key

    def install(self, group: int, index: int, term: int, items: Iterable[Item], bodies: Iterable[tuple[int, bytes]]) -> None:
        """Replace the state of a group by a snapshot at `index`, whose entry had `term`, all or nothing; `bodies` come first.

        One transaction for the state, whatever its size: LMDB spills what its memory does not hold. Raises StorageError, or
        whatever the iterables raise; the state is as it was then, and bodies that were stored are there. Bodies of before
        stay until they are dropped.
        """
        prefix = _GROUP.pack(group)
        self.put_bodies(group, bodies)
        place = [
            (_GROUP.pack(_INSTALLED | group), _PLACE.pack(index, term)),
            (_GROUP.pack(_MARK | group), _INDEX.pack(index)),
        ]
        changes = _slices(chain(self._keyed(prefix, items), place))
        self._state.write_tallied(changes, prefix, _INDEX.pack(index), clear=True)

    def installed(self, group: int) -> tuple[int, int]:
        """Index and term of the snapshot that was installed last; (0, 0) for none. Raises Corruption."""
        value = self._state.get(_GROUP.pack(_INSTALLED | group))
        if value is None:
            return 0, 0
        index, term = _PLACE.unpack(value)
        return index, term

    # --- bodies ------------------------------------------------------------------------------------------------------

    def put_bodies(self, group: int, bodies: Iterable[tuple[int, bytes]]) -> None:
        """Store the payloads of entries, durable when it returns, in transactions of TRANSACTION_BYTES or one body.

        Storing one again changes nothing: entries of one index that were committed are equal. Raises as `commit`; the bodies
        of earlier transactions are there then.
        """
        for some in _pieces(bodies):
            self._bodies.write([(_BODY.pack(group, index), body) for index, body in some])

    def drop_bodies(self, group: int, indexes: Iterable[int]) -> None:
        """Delete bodies, those that there are, in transactions of a bounded number. Raises as `put_bodies`."""
        waiting = iter(indexes)
        while some := list(islice(waiting, _DROP_COUNT)):
            try:
                self._drop(group, some)
            except NoRoom:  # to delete takes room too: one by one the least, and each makes some for the next
                for index in some:
                    self._freeing(partial(self._drop, group, [index]))

    def _drop(self, group: int, indexes: Iterable[int]) -> None:
        self._bodies.write([(_BODY.pack(group, index), None) for index in indexes])

    def mark_bodies(self, group: int, index: int) -> None:
        """Say that all bodies up to `index` which the state needs are stored. Raises as `commit`."""
        self._freeing(partial(self._mark, group, index))

    def _mark(self, group: int, index: int) -> None:
        self._state.write([(_GROUP.pack(_MARK | group), _INDEX.pack(index))])

    def bodies_mark(self, group: int) -> int:
        """What `mark_bodies`, or `install`, said last; 0 for nothing. Raises Corruption."""
        value = self._state.get(_GROUP.pack(_MARK | group))
        if value is None:
            return 0
        if len(value) != _INDEX.size:
            raise Corruption(f"{self._path}: group {group}: the mark of the bodies has {len(value)} bytes")
        return int(_INDEX.unpack(value)[0])

    def body(self, group: int, index: int) -> bytes | None:
        """The payload of an entry; None when it is not stored. Raises Corruption."""
        return self._bodies.get(_BODY.pack(group, index))

    def body_indexes(self, group: int) -> list[int]:
        """The indexes of all bodies, ascending; the bodies are not read."""
        key = prefix = _GROUP.pack(group)
        found: list[int] = []
        while keys := self._bodies.keys(prefix, key, _SLICE_COUNT):
            found += [int(_BODY.unpack(key)[1]) for key in keys]
            key = keys[-1]
        return found

    # --- both --------------------------------------------------------------------------------------------------------

    def scrub(self, after: Scrubbed | None, bytes_max: int) -> tuple[Scrubbed | None, int]:
        """See `StateStore`: first the state, then whether it is whole, then the bodies."""
        place, key = (0, b"") if after is None else after
        records = (self._state, self._bodies)[place].slice(b"", key, _SLICE_COUNT, bytes_max)
        if records:
            return (place, records[-1][0]), sum(len(key) + len(value) for key, value in records)
        if place:
            return None, 0
        for group in self._groups():
            if self._applied(group)[1].count <= _SCRUB_COUNT:
                self._check_tally(group)
        return (1, b""), 0

    def _groups(self) -> Iterator[int]:
        """All groups that have a state."""
        key = b""
        while keys := self._state.keys(b"", key, 1):
            (group,) = _GROUP.unpack_from(keys[0])
            if group >= _INSTALLED:
                return
            yield group
            key = _GROUP.pack(group) + b"\xff" * KEY_SIZE_MAX  # nothing of the group is behind it

    def reusable_bytes(self) -> int:
        """Bytes of the files that hold nothing any more: what is stored next goes there first. Raises StorageError."""
        return self._state.reusable_bytes() + self._bodies.reusable_bytes()

    def close(self) -> None:
        """Close both environments."""
        self._bodies.close()
        self._state.close()
