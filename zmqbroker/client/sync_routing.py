"""Routes and bindings for threads: what `Routes` and `Bindings` do, one call after the other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zmqbroker.client.aio import Client

if TYPE_CHECKING:
    from zmqbroker.client.sync import SyncClient

__all__ = ["SyncBindings", "SyncRoutes"]

# `client.routes` and `client.bindings` are to be used inside the loop only.


class SyncRoutes:
    """All route tables of a cluster. Made by `SyncClient.routes`; see `Routes` for what each call does and raises."""

    def __init__(self, client: SyncClient, inner: Client) -> None:
        self._client = client
        self._inner = inner

    def set(self, name: str, destinations: str) -> bool:
        """Have a route stand for these destinations, and for nothing else; False when it did already."""
        return self._client.run(self._set(name, destinations))

    def delete(self, name: str) -> None:
        """Delete a route."""
        self._client.run(self._delete(name))

    async def _set(self, name: str, destinations: str) -> bool:
        return await self._inner.routes.set(name, destinations)

    async def _delete(self, name: str) -> None:
        await self._inner.routes.delete(name)

    async def _found(self, search: str) -> list[dict[str, Any]]:
        return [row async for row in self._inner.routes.list(search)]

    def list(self, search: str = "") -> list[dict[str, Any]]:
        """The routes with `search` in their names, by name."""
        return self._client.run(self._found(search))


class SyncBindings:
    """All bindings of a cluster. Made by `SyncClient.bindings`; see `Bindings` for what each call does and raises."""

    def __init__(self, client: SyncClient, inner: Client) -> None:
        self._client = client
        self._inner = inner

    def set(self, source: str, queues: str) -> bool:
        """Feed queues, and no others, with what is published where the source's pattern fits; False when it was so already."""
        return self._client.run(self._set(source, queues))

    def delete(self, source: str) -> bool:
        """Feed no queue from a source any more; False when none was."""
        return self._client.run(self._delete(source))

    async def _set(self, source: str, queues: str) -> bool:
        return await self._inner.bindings.set(source, queues)

    async def _delete(self, source: str) -> bool:
        return await self._inner.bindings.delete(source)

    async def _found(self, search: str) -> list[dict[str, Any]]:
        return [row async for row in self._inner.bindings.list(search)]

    def list(self, search: str = "") -> list[dict[str, Any]]:
        """The bindings with `search` in their sources, by source."""
        return self._client.run(self._found(search))
