"""Which log entries still hold a live message, so that the log may be trimmed below the lowest.

Counts stored batches per entry; it knows nothing of bodies or segments (docs/PROTOCOL.md §9).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

__all__ = ["LiveEntries"]


class LiveEntries:
    """Live batches per entry index."""

    __slots__ = ("_boundary", "_counts", "_older")

    def __init__(self) -> None:
        # Ordered by index, since entries are added in their order; unlike a dict it finds its first key in constant time
        # after any number of removals.
        self._counts: OrderedDict[int, int] = OrderedDict()
        self._boundary = 0  # `above` was asked for what is above it last
        self._older: dict[int, int] = {}  # the same up to _boundary

    def add(self, index: int) -> None:
        """One more live batch in entry `index`, which has one already, or is above all that were added before.

        So what points into an older entry (what moves, or is a consumer's) is added before what it is made of goes.
        """
        counts = self._side(index)
        counts[index] = counts.get(index, 0) + 1

    def remove(self, index: int) -> None:
        """One live batch less in entry `index`."""
        counts = self._side(index)
        count = counts[index] - 1
        if count:
            counts[index] = count
        else:
            del counts[index]

    def _side(self, index: int) -> dict[int, int]:
        return self._counts if index > self._boundary else self._older

    def __contains__(self, index: int) -> bool:
        """True when entry `index` has a live batch."""
        return index in self._side(index)

    def lowest(self, after: int = 0) -> int | None:
        """The lowest index above `after` that has a live batch. Costs what lies between `after` and that of the call before."""
        return next(self.above(after), None)

    def above(self, after: int) -> Iterator[int]:
        """The indexes above `after` that have a live batch, ascending, until anything changes. Costs as `lowest`."""
        if after < self._boundary:
            self._counts = OrderedDict(sorted({**self._older, **self._counts}.items()))
            self._older, self._boundary = {}, 0
        if after > self._boundary:
            while (index := next(iter(self._counts), after + 1)) <= after:
                self._older[index] = self._counts.pop(index)
            self._boundary = after
        return iter(self._counts)
