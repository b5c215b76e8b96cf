"""The messages of a channel that can be received now, and in which order: by priority, then by sequence."""

from __future__ import annotations

from zmqbroker.broker.ranges import Range, RangeMap, TrackedRangeMap

__all__ = ["Ready"]


class Ready(TrackedRangeMap[int]):
    """Ready ranges, each with the deliveries so far; those of a higher priority than 0 are in a lane of their own, too."""

    __slots__ = ("_lanes",)

    def __init__(self) -> None:
        super().__init__()
        self._lanes: dict[int, RangeMap[int]] = {}  # by priority; none of them is empty

    def prioritize(self, first: int, last: int, priority: int, deliveries: int) -> None:
        """Say of messages that were just added that their priority is not 0."""
        self._lanes.setdefault(priority, RangeMap()).add(first, last, deliveries)

    def cut(self, first: int, last: int) -> list[Range[int]]:
        """As `RangeMap.cut`."""
        for priority in list(self._lanes):
            self._lanes[priority].cut(first, last)
            if not self._lanes[priority].count:
                del self._lanes[priority]
        return super().cut(first, last)

    def lanes(self) -> list[RangeMap[int]]:
        """From the highest priority to the lowest, which is last: when those before it were taken, it has what is left."""
        return [*(self._lanes[priority] for priority in sorted(self._lanes, reverse=True)), self]
