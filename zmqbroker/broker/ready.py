"""The messages of a channel that can be received now, and in which order: by priority, then by sequence."""

from __future__ import annotations

from zmqbroker.broker.ranges import Range, RangeMap, TrackedRangeMap

__all__ = ["Ready"]


class Ready(TrackedRangeMap[int]):
    """Ready ranges, each with the deliveries so far; those of a higher priority than 0 are in a lane of their own, too."""

    __slots__ = ("lanes",)

    def __init__(self) -> None:
        super().__init__()
        self.lanes: dict[int, RangeMap[int]] = {}  # by priority; none of them is empty

    def prioritize(self, first: int, last: int, priority: int, deliveries: int) -> None:
        """Say of messages that were just added that their priority is not 0."""
        self.lanes.setdefault(priority, RangeMap()).add(first, last, deliveries)

    def cut(self, first: int, last: int) -> list[Range[int]]:
        """As `RangeMap.cut`."""
        if self.lanes:
            for priority in list(self.lanes):
                self.lanes[priority].cut(first, last)
                if not self.lanes[priority].count:
                    del self.lanes[priority]
        return RangeMap.cut(self, first, last)  # twice as fast as by way of super()

    def in_order(self) -> list[RangeMap[int]]:
        """The lanes from the highest priority on; last all messages: those without a priority when the others are taken."""
        return [*(self.lanes[priority] for priority in sorted(self.lanes, reverse=True)), self]
