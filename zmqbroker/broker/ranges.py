"""Sorted maps of disjoint ranges: the shape of everything a channel knows about its messages.

A range is (first, last, value) over sequences, both ends included. Neighbours with equal values are one range, so a map grows
with what differs and not with the number of messages. Not a general container: adding over a present range is a bug.

Cost: finding, adding and cutting are O(log n) plus a move inside one chunk of at most `CHUNK_MAX` keys, at either end and in
the middle alike.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Generic, NamedTuple, TypeVar

from zmqbroker.broker.dirty import Dirty

__all__ = ["Range", "RangeMap", "SortedKeys", "TrackedRangeMap", "cut_from_list"]

Value = TypeVar("Value")
Key = TypeVar("Key", int, str)

#: Keys per chunk before it is split: moving 512 of them costs less than the interpreter's work for one call.
CHUNK_MAX = 512


class Range(NamedTuple, Generic[Value]):
    """The sequences first..last (both included), all with the same value."""

    first: int
    last: int
    value: Value


def cut_from_list(parts: list[Range[Value]], first: int, last: int) -> list[Range[Value]]:
    """Cut first..last out of a list of disjoint ranges in ascending order, in place; what was cut out, ascending.

    For the few ranges of one assignment, where a map would cost more than it saves.
    """
    if parts and first <= parts[0].first and parts[-1].last <= last:  # as a rule: all of them
        removed = parts[:]
        parts.clear()
        return removed
    low = bisect_left(parts, first, key=_last_of)
    high = bisect_right(parts, last, key=_first_of)
    rest: list[Range[Value]] = []
    removed = []
    for part in parts[low:high]:
        if part.first < first:
            rest.append(Range(part.first, first - 1, part.value))
        if part.last > last:
            rest.append(Range(last + 1, part.last, part.value))
        removed.append(Range(max(part.first, first), min(part.last, last), part.value))
    parts[low:high] = rest
    return removed


def _first_of(part: Range[Value]) -> int:
    return part.first


def _last_of(part: Range[Value]) -> int:
    return part.last


class SortedKeys(Generic[Key]):
    """Distinct integers, or names, in ascending order, kept in short chunks."""

    __slots__ = ("_chunks", "_lowest")

    def __init__(self) -> None:
        self._chunks: list[list[Key]] = []  # each sorted and not empty; all keys of one are below those of the next
        self._lowest: list[Key] = []  # first key of each chunk

    def add(self, key: Key) -> None:
        """Add a key that is absent."""
        if not self._chunks:
            self._chunks.append([key])
            self._lowest.append(key)
            return
        position = max(bisect_right(self._lowest, key) - 1, 0)
        chunk = self._chunks[position]
        chunk.insert(bisect_left(chunk, key), key)
        self._lowest[position] = chunk[0]
        if len(chunk) > CHUNK_MAX:
            upper = chunk[CHUNK_MAX // 2 :]
            del chunk[CHUNK_MAX // 2 :]
            self._chunks.insert(position + 1, upper)
            self._lowest.insert(position + 1, upper[0])

    def remove(self, key: Key) -> None:
        """Remove a key that is present."""
        position = bisect_right(self._lowest, key) - 1
        chunk = self._chunks[position]
        del chunk[bisect_left(chunk, key)]
        if chunk:
            self._lowest[position] = chunk[0]
        else:
            del self._chunks[position], self._lowest[position]

    def __bool__(self) -> bool:
        """True when there is a key."""
        return bool(self._chunks)

    def floor(self, key: Key) -> Key | None:
        """The largest key that is not above `key`."""
        position = bisect_right(self._lowest, key) - 1
        if position < 0:
            return None
        chunk = self._chunks[position]
        return chunk[bisect_right(chunk, key) - 1]

    def first_where(self, holds: Callable[[Key], bool]) -> Key | None:
        """The lowest key for which `holds` is true, which then is so for all above it; it is asked O(log n) times."""
        position = bisect_left(self._chunks, True, key=lambda chunk: holds(chunk[-1]))
        if position == len(self._chunks):
            return None
        chunk = self._chunks[position]
        return chunk[bisect_left(chunk, True, key=holds)]

    def start_from(self, low: Key) -> Iterator[Key]:
        """The keys from `low` on, ascending; the map must not change meanwhile."""
        position = max(bisect_right(self._lowest, low) - 1, 0)
        offset = bisect_left(self._chunks[position], low) if self._chunks else 0
        while position < len(self._chunks):
            chunk = self._chunks[position]
            while offset < len(chunk):
                yield chunk[offset]
                offset += 1
            position, offset = position + 1, 0

    def parts_above(self, key: Key) -> Iterator[list[Key]]:
        """The keys above `key`, ascending, some hundred at a time; the map must not change meanwhile."""
        position = max(bisect_right(self._lowest, key) - 1, 0)
        if self._chunks:
            yield self._chunks[position][bisect_right(self._chunks[position], key) :]
        yield from islice(self._chunks, position + 1, None)


class RangeMap(Generic[Value]):
    """Disjoint ranges in ascending order; adjacent ranges with equal values are merged."""

    __slots__ = ("_keys", "_ranges", "count")

    def __init__(self) -> None:
        self._keys = SortedKeys[int]()
        self._ranges: dict[int, Range[Value]] = {}  # by their first sequence; same keys as _keys
        self.count = 0  # sequences in all ranges together

    def __iter__(self) -> Iterator[Range[Value]]:
        """All ranges, ascending; the map must not change meanwhile."""
        return (self._ranges[key] for key in self._keys.start_from(0))

    def __len__(self) -> int:
        """Number of ranges."""
        return len(self._ranges)

    def get(self, first: int) -> Range[Value] | None:
        """The range that begins at `first`."""
        return self._ranges.get(first)

    def overlapping(self, first: int, last: int) -> list[Range[Value]]:
        """The ranges that share a sequence with first..last, whole, ascending."""
        found: list[Range[Value]] = []
        below = self._keys.floor(first)
        if below is not None:
            part = self._ranges[below]
            if part.last >= last:  # as a rule: one batch, one ready range
                return [part]
            if part.last >= first:
                found.append(part)
        for key in self._keys.start_from(first + 1):
            if key > last:
                break
            found.append(self._ranges[key])
        return found

    def next_from(self, low: int) -> Range[Value] | None:
        """The first range that reaches `low` or beyond."""
        below = self._keys.floor(low)
        if below is not None and self._ranges[below].last >= low:
            return self._ranges[below]
        above = next(self._keys.start_from(low), None)
        return None if above is None else self._ranges[above]

    def floor(self, high: int) -> Range[Value] | None:
        """The last range that begins at `high` or below."""
        below = self._keys.floor(high)
        return None if below is None else self._ranges[below]

    def first_where(self, holds: Callable[[Value], bool]) -> Range[Value] | None:
        """The first range whose value `holds`, as those of all behind it do; it is asked O(log n) times."""
        key = self._keys.first_where(lambda key: holds(self._ranges[key].value))
        return None if key is None else self._ranges[key]

    def starting(self, first: int, count: int) -> list[Range[Value]]:
        """The first `count` ranges that end at `first` or later, whole, ascending."""
        return list(islice(self.upward(first), count))

    def upward(self, first: int) -> Iterator[Range[Value]]:
        """The same of all, each found when it is asked for; the map must not change meanwhile."""
        below = self._keys.floor(first)
        if below is not None and self._ranges[below].last >= first:
            yield self._ranges[below]
        for key in self._keys.start_from(first + 1):
            yield self._ranges[key]

    def overlaps(self, first: int, last: int) -> bool:
        """True when any sequence of first..last is in a range."""
        below = self._keys.floor(last)
        return below is not None and self._ranges[below].last >= first

    def add(self, first: int, last: int, value: Value) -> None:
        """Add first..last, none of which is in a range yet; merges with neighbours of an equal value."""
        assert first <= last
        self.count += last - first + 1
        below = self._keys.floor(last)
        after = self._ranges.get(last + 1)
        if after is not None and after.value == value:
            self._drop(after.first)
            last = after.last
        if below is not None:
            before = self._ranges[below]
            assert before.last < first, "over a present range"
            if before.last == first - 1 and before.value == value:
                first = below
        self._put(first, last, value)

    def cut(self, first: int, last: int) -> list[Range[Value]]:
        """Remove first..last and return the removed parts, ascending; ranges that reach over the ends keep their rest."""
        removed: list[Range[Value]] = []
        parts = self.overlapping(first, last)
        if len(parts) == 1 and parts[0].first == first and parts[0].last == last:  # as a rule: what was assigned is acked
            self._drop(first)
            self.count -= last - first + 1
            return parts
        for part in parts:
            low, high = max(part.first, first), min(part.last, last)
            if part.first < low:
                self._put(part.first, low - 1, part.value)
            else:
                self._drop(part.first)
            if high < part.last:
                self._put(high + 1, part.last, part.value)
            self.count -= high - low + 1
            removed.append(Range(low, high, part.value))
        return removed

    def _put(self, first: int, last: int, value: Value) -> None:
        if first not in self._ranges:
            self._keys.add(first)
        self._ranges[first] = Range(first, last, value)

    def _drop(self, first: int) -> None:
        self._keys.remove(first)
        del self._ranges[first]


class TrackedRangeMap(RangeMap[Value]):
    """A range map that is stored, one key per range: `dirty` names the first sequences whose range changed."""

    __slots__ = ("dirty",)

    def __init__(self) -> None:
        super().__init__()
        self.dirty: Dirty[int] = Dirty()

    def _put(self, first: int, last: int, value: Value) -> None:
        if first in self._ranges:
            self.dirty.changed(first)
        else:
            self.dirty.created(first)
        super()._put(first, last, value)

    def _drop(self, first: int) -> None:
        super()._drop(first)
        self.dirty.deleted(first)
