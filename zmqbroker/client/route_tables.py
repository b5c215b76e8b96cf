"""Routes and bindings: rules of the cluster for where messages go."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from zmqbroker.client.driver import Driver
from zmqbroker.commands import EVENTS, QUEUES, DeleteBinding, DeleteRoute, RoutingRule, SetBinding, SetRoute
from zmqbroker.errors import InvalidRequest, RemoteProtocolError
from zmqbroker.wire.destinations import STORED, joined, read_destinations
from zmqbroker.wire.queue_requests import ManageRequest
from zmqbroker.wire.requests import ListBindings, ListRoutes
from zmqbroker.wire.routing_requests import route_fault, source_fault

__all__ = ["Bindings", "Routes"]


class _Rules:
    """What both have in common."""

    def __init__(self, driver: Driver, timeout_ms: int) -> None:
        self._driver = driver
        self._timeout_ms = timeout_ms

    async def _change(self, command: RoutingRule) -> bool:
        return (await self._driver.submit(ManageRequest(command), self._timeout_ms)).field("changed", bool)

    async def _list(
        self, kind: type[ListRoutes | ListBindings], search: str, field: str, key: str
    ) -> AsyncIterator[dict[str, Any]]:
        after, more = "", True
        while more:
            answer = await self._driver.submit(kind(search, after, forward=True), self._timeout_ms)
            rows, more = answer.field(field, list), answer.field("more", bool)
            for row in rows:
                after = _name_of(row, key, after)
                yield row
            more = more and bool(rows)


def _name_of(row: object, key: str, after: str) -> str:
    """What names a row of a list that goes on behind `after`. It rises, so that no list is without end."""
    name = row.get(key) if isinstance(row, dict) else None
    if not isinstance(name, str) or name <= after:
        raise RemoteProtocolError(f"a list behind {after!r} goes on with {row!r}")
    return name


class Routes(_Rules):
    """All route tables of a cluster: names that stand for lists of destinations. Made by `Client.routes`."""

    async def set(self, name: str, destinations: str) -> bool:
        """Have a route stand for these destinations, and for nothing else; False when it did already.

        `destinations` is a list as for `Client.send`, without routes. Raises InvalidRequest or InvalidChannel for what is
        wrong, and Busy when there are too many.
        """
        if fault := route_fault(name):
            raise InvalidRequest(fault)
        return await self._change(SetRoute(name, joined(read_destinations(destinations, (*STORED, EVENTS)))))

    async def delete(self, name: str) -> None:
        """Delete a route. Raises RouteNotFound."""
        await self._change(DeleteRoute(name))

    def list(self, search: str = "") -> AsyncIterator[dict[str, Any]]:
        """The routes with `search` in their names, by name, each as docs/PROTOCOL.md §3 has it for ROUTES."""
        return self._list(ListRoutes, search, "routes", "name")


class Bindings(_Rules):
    """All bindings of a cluster: what is published where a pattern fits goes to queues, too. Made by `Client.bindings`."""

    async def set(self, source: str, queues: str) -> bool:
        """Feed queues, and no others, with what is published where the source's pattern fits; False when it was so already.

        `source` is `events:` or `events_store:` and a pattern of names; `queues` a list with `;` between. Raises InvalidRequest
        or InvalidChannel for what is wrong, and Busy when there are too many.
        """
        if fault := source_fault(source):
            raise InvalidRequest(fault)
        return await self._change(SetBinding(source, joined(read_destinations(queues, (QUEUES,)))))

    async def delete(self, source: str) -> bool:
        """Feed no queue from a source any more; False when none was. What is in the queues stays."""
        return await self._change(DeleteBinding(source))

    def list(self, search: str = "") -> AsyncIterator[dict[str, Any]]:
        """The bindings with `search` in their sources, by source, each as docs/PROTOCOL.md §3 has it for BINDINGS."""
        return self._list(ListBindings, search, "bindings", "source")
