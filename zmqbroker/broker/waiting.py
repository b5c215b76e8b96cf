"""The receives of one channel that wait for messages, served in the order of their arrival.

One that needs more messages than are ready is passed over and does not hold up those behind it. Waiters are grouped by what
they need, so that choosing costs the number of different needs (one, as a rule) and not the number of waiters.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

from zmqbroker.broker.claims import Waiter
from zmqbroker.broker.dirty import Dirty

__all__ = ["WaitingReceives"]


class WaitingReceives:
    """Waiting receives, by order number."""

    __slots__ = ("_by_need", "_waiters", "dirty")

    def __init__(self) -> None:
        self._waiters: dict[int, Waiter] = {}
        # count_min -> its waiters, oldest first; no empty group. Ordered dicts find their first key in constant time.
        self._by_need: dict[int, OrderedDict[int, Waiter]] = {}
        self.dirty: Dirty[int] = Dirty()  # order numbers

    def __len__(self) -> int:
        """Number of waiting receives."""
        return len(self._waiters)

    def __iter__(self) -> Iterator[Waiter]:
        """All waiters, oldest first."""
        return iter(self._waiters.values())

    def get(self, order: int) -> Waiter | None:
        """The waiter with that order number."""
        return self._waiters.get(order)

    def add(self, waiter: Waiter) -> None:
        """Add a waiter, newer than all others."""
        self._waiters[waiter.order] = waiter
        self._by_need.setdefault(waiter.command.count_min, OrderedDict())[waiter.order] = waiter
        self.dirty.created(waiter.order)

    def remove(self, waiter: Waiter) -> None:
        """Remove a waiter that is present."""
        del self._waiters[waiter.order]
        group = self._by_need[waiter.command.count_min]
        del group[waiter.order]
        if not group:
            del self._by_need[waiter.command.count_min]
        self.dirty.deleted(waiter.order)

    def next_served(self, ready_count: int) -> Waiter | None:
        """The oldest waiter that needs no more than `ready_count` messages."""
        heads = [next(iter(group)) for need, group in self._by_need.items() if need <= ready_count]
        return self._waiters[min(heads)] if heads else None
