"""Route tables: names that stand for lists of destinations, the same on every replica.

A leader looks a route up when it takes a message, and the entry holds what it stood for then. That is right because it answers
SET_ROUTE only when that is applied here, and it is needed because a frame names its channel: the entry must hold one for each.
Source: docs/PROTOCOL.md §3, SET_ROUTE.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import msgpack

from zmqbroker.broker.dirty import Dirty
from zmqbroker.broker.limits import MachineLimits
from zmqbroker.broker.parts import ROUTE, pack
from zmqbroker.broker.records import Moment
from zmqbroker.commands import DESTINATION_SEPARATOR, ROUTES, DeleteRoute, Result, RouteChanged, SetRoute
from zmqbroker.errors import Busy, Corruption, InvalidRequest, RouteNotFound

__all__ = ["ROUTE_KEY", "Routes"]

#: Kind, and the number of what made the route.
ROUTE_KEY = struct.Struct(">BQ")


class Routes:
    """All routes of one machine."""

    def __init__(self, limits: MachineLimits) -> None:
        self._limits = limits
        self._numbers: dict[str, int] = {}  # by name: assigning number of the command that made it, which names it in the store
        self._by_number: dict[int, tuple[str, str]] = {}  # name and destinations
        self._dirty: Dirty[int] = Dirty()

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """Every route with its destinations, by name."""
        return iter(sorted(self._by_number.values()))

    def get(self, name: str) -> str | None:
        """The destinations that a route stands for; None when there is none."""
        number = self._numbers.get(name)
        return None if number is None else self._by_number[number][1]

    def change(self, command: SetRoute | DeleteRoute, moment: Moment) -> Result:
        """Make a route, change it, or delete it."""
        number = self._numbers.get(command.name)
        if isinstance(command, DeleteRoute):
            if number is None:
                return RouteNotFound(f"no route is called {command.name!r}")
            del self._numbers[command.name], self._by_number[number]
            self._dirty.deleted(number)
            return RouteChanged(command.name, changed=True)
        for part in command.destinations.split(DESTINATION_SEPARATOR):
            if part.startswith(f"{ROUTES}:"):
                return InvalidRequest(f"route {command.name!r} names {part!r}: a route stands for no other route")
        if number is None:
            if len(self._numbers) >= self._limits.routes_max:
                text = f"there are {self._limits.routes_max} routes, the most a group may have"
                return Busy(text, retry_ms=self._limits.retry_ms)
            self._add(moment.assigning, command.name, command.destinations)
        elif self._by_number[number][1] == command.destinations:
            return RouteChanged(command.name, changed=False)
        else:
            self._by_number[number] = command.name, command.destinations
            self._dirty.changed(number)
        return RouteChanged(command.name, changed=True)

    def _add(self, number: int, name: str, destinations: str) -> None:
        self._numbers[name] = number
        self._by_number[number] = name, destinations
        self._dirty.created(number)

    # --- storing --------------------------------------------------------------------------------------------------------

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """All keys and values."""
        return ((ROUTE_KEY.pack(ROUTE, number), pack(*route)) for number, route in self._by_number.items())

    def changes(self) -> Iterator[tuple[bytes, bytes | None]]:
        """The changed keys with their values, None for deleted ones; from now on they count as stored."""
        for number in self._dirty.take():
            route = self._by_number.get(number)
            yield ROUTE_KEY.pack(ROUTE, number), None if route is None else pack(*route)

    def restore(self, key: bytes, value: bytes) -> None:
        """Add what is under a key, in the order of keys; it counts as stored. Raises Corruption, TypeError or ValueError."""
        name, destinations = msgpack.unpackb(value)
        if type(name) is not str or type(destinations) is not str:
            raise TypeError(f"a route is {name!r}, for {destinations!r}")
        if name in self._numbers:
            raise Corruption(f"the state has route {name!r} twice")
        self._add(ROUTE_KEY.unpack(key)[1], name, destinations)
        self._dirty.take()
