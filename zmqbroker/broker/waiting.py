"""The receives of one channel that wait for messages, served by their priority, then in the order of their arrival.

One that needs more messages than are ready is passed over and does not hold up those behind it. Waiters are grouped by
priority and by what they need, so that choosing costs the number of different ones (one, as a rule) and not the number of
waiters.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

from zmqbroker.broker.claims import Waiter
from zmqbroker.broker.dirty import Dirty

__all__ = ["WaitingReceives"]

#: count_min -> its waiters, oldest first; no empty group. Ordered dicts find their first key in constant time.
_Needs = dict[int, OrderedDict[int, Waiter]]


class WaitingReceives:
    """Waiting receives, by order number."""

    __slots__ = ("_by_priority", "_ranked", "by_order", "dirty")

    def __init__(self) -> None:
        self.by_order: dict[int, Waiter] = {}  # all of them; to be looked at only
        self._by_priority: dict[int, _Needs] = {}  # those that were ever used, ten at most; they may be empty
        self._ranked: list[_Needs] = []  # the same, highest priority first
        self.dirty: Dirty[int] = Dirty()  # order numbers

    def __len__(self) -> int:
        """Number of waiting receives."""
        return len(self.by_order)

    def __iter__(self) -> Iterator[Waiter]:
        """All waiters, oldest first."""
        return iter(self.by_order.values())

    def get(self, order: int) -> Waiter | None:
        """The waiter with that order number."""
        return self.by_order.get(order)

    def add(self, waiter: Waiter) -> None:
        """Add a waiter, newer than all others."""
        order, command = waiter.order, waiter.command
        self.by_order[order] = waiter
        needs = self._by_priority.get(command.consumer_priority)
        if needs is None:
            needs = self._by_priority[command.consumer_priority] = {}
            self._ranked = [self._by_priority[priority] for priority in sorted(self._by_priority, reverse=True)]
        group = needs.get(command.count_min)
        if group is None:
            group = needs[command.count_min] = OrderedDict()
        group[order] = waiter
        self.dirty.created(order)

    def remove(self, waiter: Waiter) -> None:
        """Remove a waiter that is present."""
        order, command = waiter.order, waiter.command
        del self.by_order[order]
        needs = self._by_priority[command.consumer_priority]
        group = needs[command.count_min]
        del group[order]
        if not group:
            del needs[command.count_min]
        self.dirty.deleted(order)

    def next_served(self, ready_count: int) -> Waiter | None:
        """Of the waiters that need no more than `ready_count` messages the oldest one of the highest priority."""
        for needs in self._ranked:
            oldest = 0
            for need, group in needs.items():
                if need <= ready_count:
                    head = next(iter(group))
                    if head < oldest or not oldest:
                        oldest = head
            if oldest:
                return self.by_order[oldest]
        return None

    def most_needed(self) -> int:
        """The most messages that any of them needs; 0 when there is none."""
        return max((need for needs in self._ranked for need in needs), default=0)

    def first(self) -> Waiter | None:
        """The oldest one of the highest priority, whatever it needs."""
        for needs in self._ranked:
            if needs:
                return self.by_order[min(next(iter(group)) for group in needs.values())]
        return None
