"""When many short-lived things are due: they come and go by the thousand, and hardly one lives until its deadline.

Items are kept in steps of time, so that one costs two look-ups however many there are, and one that has ended leaves nothing
behind but an empty step. Time is the caller's, in nanoseconds of any clock.
"""

from __future__ import annotations

from collections.abc import Hashable
from heapq import heappop, heappush
from typing import Generic, TypeVar

__all__ = ["STEP_NS", "Deadlines"]

Item = TypeVar("Item", bound=Hashable)

#: How late an item may be found due. An hour, the longest timeout of a call, has 72,000 steps: that bounds the empty ones.
STEP_NS = 50_000_000


class Deadlines(Generic[Item]):
    """Items by the step of time after their deadline."""

    def __init__(self) -> None:
        self._steps: dict[int, dict[Item, None]] = {}  # step -> its items, in the order of their coming
        self._order: list[int] = []  # a heap of the keys of `_steps`

    def add(self, item: Item, deadline_ns: int) -> None:
        """Have `due` tell of an item from its deadline on, up to a step late."""
        step = deadline_ns // STEP_NS + 1
        items = self._steps.get(step)
        if items is None:
            self._steps[step] = {item: None}
            heappush(self._order, step)
        else:
            items[item] = None

    def discard(self, item: Item, deadline_ns: int) -> None:
        """Forget an item that was added with that deadline, if it is still here."""
        items = self._steps.get(deadline_ns // STEP_NS + 1)
        if items is not None and item in items:
            del items[item]

    def due(self, now_ns: int) -> list[Item]:
        """The items whose deadline has passed, which are forgotten; never one too early."""
        found: list[Item] = []
        while self._order and self._order[0] * STEP_NS <= now_ns:
            found.extend(self._steps.pop(heappop(self._order)))
        return found
