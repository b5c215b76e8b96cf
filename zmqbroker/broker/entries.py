"""Which log entries still hold a live message, so that the log may be trimmed below the lowest.

Counts stored batches per entry; it knows nothing of bodies or segments (docs/PROTOCOL.md §9).
"""

from __future__ import annotations

from collections import OrderedDict

__all__ = ["LiveEntries"]


class LiveEntries:
    """Live batches per entry index."""

    __slots__ = ("_counts",)

    def __init__(self) -> None:
        # Ordered by index, since entries are added in their order; unlike a dict it finds its first key in constant time
        # after any number of removals.
        self._counts: OrderedDict[int, int] = OrderedDict()

    def add(self, index: int) -> None:
        """One more live batch in entry `index`, which is not below any index added before."""
        self._counts[index] = self._counts.get(index, 0) + 1

    def remove(self, index: int) -> None:
        """One live batch less in entry `index`."""
        count = self._counts[index] - 1
        if count:
            self._counts[index] = count
        else:
            del self._counts[index]

    def __contains__(self, index: int) -> bool:
        """True when entry `index` has a live batch."""
        return index in self._counts

    def lowest(self, after: int = 0) -> int | None:
        """The lowest index above `after` that has a live batch."""
        return next((index for index in self._counts if index > after), None)
