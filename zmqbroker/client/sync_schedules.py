"""Schedules for threads: what `Schedules` does, one call after the other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zmqbroker.client.aio import Client

if TYPE_CHECKING:
    from zmqbroker.client.sync import SyncClient

__all__ = ["SyncSchedules"]


class SyncSchedules:
    """All schedules of a cluster. Made by `SyncClient.schedules`; see `Schedules` for what each call does and raises."""

    def __init__(self, client: SyncClient, inner: Client) -> None:
        self._client = client
        self._inner = inner

    def create(self, name: str, channel: str, body: bytes, **options: Any) -> bool:
        """Send `body` to a channel again and again; False when this schedule is there already."""
        return self._client.run(self._create(name, channel, body, options))

    def delete(self, name: str) -> None:
        """Delete a schedule; what it has sent stays."""
        self._client.run(self._delete(name))

    # `client.schedules` is to be used inside the loop only.

    async def _create(self, name: str, channel: str, body: bytes, options: dict[str, Any]) -> bool:
        return await self._inner.schedules.create(name, channel, body, **options)

    async def _delete(self, name: str) -> None:
        await self._inner.schedules.delete(name)

    async def _found(self, search: str) -> list[dict[str, Any]]:
        return [row async for row in self._inner.schedules.list(search)]

    def list(self, search: str = "") -> list[dict[str, Any]]:
        """The schedules with `search` in their names, by name."""
        return self._client.run(self._found(search))
