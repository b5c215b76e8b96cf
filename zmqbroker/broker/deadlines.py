"""What falls due when: a heap of deadlines with lazy deletion.

Deadlines are instants in nanoseconds since 1970 UTC and carry the order number of what they belong to; equal ones fall due in
that order, on every replica. Knows nothing of clocks: `now` is always passed in.
"""

from __future__ import annotations

from heapq import heappop, heappush

__all__ = ["Deadlines"]

#: Dead heap entries that are tolerated before the live ones are looked at; below it a rebuild costs more than it frees.
SLACK = 64


class Deadlines:
    """A set of order numbers with one deadline each."""

    __slots__ = ("_deadlines", "_heap")

    def __init__(self) -> None:
        self._deadlines: dict[int, int] = {}  # order -> deadline; the truth
        self._heap: list[tuple[int, int]] = []  # (deadline, order) of all of _deadlines, and dead ones

    def add(self, order: int, deadline_unix_ns: int) -> None:
        """Add an order number that was never used before."""
        self._deadlines[order] = deadline_unix_ns
        heappush(self._heap, (deadline_unix_ns, order))

    def discard(self, order: int) -> None:
        """Forget a deadline; nothing when it is unknown or was taken."""
        self._deadlines.pop(order, None)
        if len(self._heap) > 2 * len(self._deadlines) + SLACK:
            self._heap = sorted((deadline, order) for order, deadline in self._deadlines.items())

    def earliest(self) -> int | None:
        """The next deadline, None without any."""
        while self._heap and self._heap[0][1] not in self._deadlines:
            heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def take_due(self, now_unix_ns: int) -> list[int]:
        """Remove and return the order numbers whose deadline is not after now, by (deadline, order)."""
        due: list[int] = []
        while self._heap and self._heap[0][0] <= now_unix_ns:
            _, order = heappop(self._heap)
            if self._deadlines.pop(order, None) is not None:
                due.append(order)
        return due
