"""All channels of one machine: by name, by number, and which of them may differ from what is stored.

A number is given once and never again, so that keys of a deleted channel cannot be taken for those of a later one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from zmqbroker.broker.bindings import Bindings
from zmqbroker.broker.claims import Claims
from zmqbroker.broker.defaults import Defaults
from zmqbroker.broker.entries import LiveEntries
from zmqbroker.broker.limits import MachineLimits
from zmqbroker.broker.queue import Queue
from zmqbroker.broker.ranges import SortedKeys
from zmqbroker.broker.records import Moment
from zmqbroker.broker.store import EventsStore
from zmqbroker.broker.store_consumer import StoreConsumer
from zmqbroker.broker.timetable import Agenda
from zmqbroker.commands import ANY_INCARNATION, CONSUMER_MARK, Delivery, Said, is_consumer, is_store, store_of
from zmqbroker.errors import Busy, ChannelNotFound, RequestError, Unsupported

__all__ = ["Channels", "unsendable"]

#: Names that a search looks at in one go: some 2 ms, where all of the channels that there may be are some 20 ms.
_LOOKED_AT = 20_000


class Channels:
    """The queues, and what they share."""

    def __init__(self, limits: MachineLimits) -> None:
        self.claims = Claims()
        self.entries = LiveEntries()
        self.agenda = Agenda()
        self.defaults = Defaults(limits)
        self.bindings = Bindings(limits)
        self.next_number = 1
        self.limits = limits
        self._by_number: dict[int, Queue] = {}  # in ascending order
        self._by_name: dict[str, Queue] = {}
        self._names = SortedKeys[str]()  # the same, so that a page of them costs no sorting
        self._touched: dict[int, Queue] = {}  # by number; a deleted one is here until that is stored

    def __iter__(self) -> Iterator[Queue]:
        """All queues, by number."""
        return iter(self._by_number.values())

    def named(self, name: str) -> Queue | None:
        """The queue of that name; looking is no touch."""
        return self._by_name.get(name)

    def numbered(self, number: int) -> Queue | None:
        """The queue with that number; looking is no touch."""
        return self._by_number.get(number)

    def names(self) -> list[str]:
        """All names, ascending by code points."""
        return [name for names in self._names.parts_above("") for name in names]

    def page(self, search: str, after: str, count_max: int) -> tuple[list[str], str | None]:
        """Up to so many of the names behind `after` that have a text in them, and the name to go on behind; None: that is all.

        It looks at some `_LOOKED_AT` names, so it may find fewer, or none.
        """
        found: list[str] = []
        looked_at = 0
        for names in self._names.parts_above(after):
            found += [name for name in names if search in name] if search else names
            looked_at += len(names)
            if len(found) > count_max:
                return found[:count_max], found[count_max - 1]
            if looked_at >= _LOOKED_AT:
                return found, names[-1]
        return found, None

    def touch(self, number: int) -> Queue:
        """The queue with that number, which is about to change."""
        queue = self._by_number[number]
        self._touched[number] = queue
        return queue

    def find(self, name: str, incarnation: int = ANY_INCARNATION) -> Queue | ChannelNotFound:
        """The queue of that name, which is about to change."""
        queue = self._by_name.get(name)
        if queue is None:
            return ChannelNotFound(f"no channel is called {name!r}")
        if incarnation not in (ANY_INCARNATION, queue.incarnation):
            return ChannelNotFound(f"channel {name!r} is of incarnation {queue.incarnation}, not {incarnation}")
        self._touched[queue.number] = queue
        return queue

    def find_or_create(self, name: str, incarnation: int, moment: Moment) -> Queue | RequestError:
        """The queue of that name, which is sent to, made if need be, and where its use is to make it."""
        if CONSUMER_MARK in name:
            return unsendable(name)
        queue = self._by_name.get(name)
        if queue is not None and incarnation == ANY_INCARNATION:  # as a rule
            self._touched[queue.number] = queue
            return queue
        if queue is not None or incarnation != ANY_INCARNATION:
            return self.find(name, incarnation)
        return self.unusable(name) or self.create(name, {}, moment)

    def unusable(self, name: str) -> ChannelNotFound | None:
        """Why using a channel that is not there does not make it, if so."""
        if self.defaults.creates_on_use(name):
            return None
        return ChannelNotFound(f"no channel is called {name!r}, and using it makes none: create_on_use is false for it")

    def create(self, name: str, said: Said, moment: Moment) -> Queue | Busy:
        """A new queue with the settings that are said, and the defaults for names like this one."""
        if full := self.refusal(1):
            return full
        queue = self.add(self.next_number, name, moment.entry_index)
        queue.settings = self.defaults.complete(name, said)
        return queue

    def refusal(self, count: int) -> Busy | None:
        """Why so many channels more cannot be made, if so."""
        if len(self._by_name) + count <= self.limits.channels_max:
            return None
        text = f"there are {self.limits.channels_max} channels, the most a group may have"
        return Busy(text, retry_ms=self.limits.retry_ms)

    def add(self, number: int, name: str, incarnation: int) -> Queue:
        """A new queue; numbers rise."""
        assert number >= self.next_number
        self.next_number = number + 1
        queue = self._made(name, (number, name, incarnation, self.limits, self.claims, self.entries, self.agenda))
        self._by_number[number] = self._by_name[name] = queue
        self._names.add(name)
        return self.touch(number)

    def _made(self, name: str, parts: tuple[Any, ...]) -> Queue:
        if is_store(name):
            return EventsStore(self.touch, *parts)
        if is_consumer(name):
            store = self._by_name.get(store_of(name))
            assert isinstance(store, EventsStore), "a store is there before its consumers, and no shorter than they are"
            return StoreConsumer(store, *parts)
        return Queue(*parts)

    def remove(self, queue: Queue) -> list[Delivery]:
        """Delete a queue with all that is in it, and a store with its consumers; those who wait there get nothing."""
        deliveries: list[Delivery] = []
        if isinstance(queue, EventsStore):
            for number in sorted(queue.consumers):
                deliveries += self.remove(self.touch(number))
        queue.clear()
        for waiter in list(queue.waiting):  # without a look at who could be served, or be active, instead
            queue.drop_waiter(waiter)
            deliveries.append(Delivery(waiter.key, queue.name, ()))
        self.agenda.put(queue.number, None)
        del self._by_number[queue.number], self._by_name[queue.name]
        self._names.remove(queue.name)
        return deliveries

    def take_touched(self) -> list[Queue]:
        """The queues that may differ from what is stored; from now on they do not."""
        touched = list(self._touched.values())
        self._touched.clear()
        return touched


def unsendable(name: str) -> Unsupported:
    """The refusal of what is sent to a consumer of an events store."""
    return Unsupported(f"channel {name!r} is a consumer of an events store: publish to the store")
