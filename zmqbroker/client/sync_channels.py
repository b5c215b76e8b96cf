"""Channels as a whole, for threads: what `Channels` does, one call after the other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zmqbroker.client.aio import Client
from zmqbroker.client.channels import Channels

if TYPE_CHECKING:
    from zmqbroker.client.sync import SyncClient

__all__ = ["SyncChannels"]


class SyncChannels:
    """All channels of a cluster. Made by `SyncClient.channels`; see `Channels` for what each call does and raises."""

    def __init__(self, client: SyncClient, inner: Client) -> None:
        self._client = client
        self._inner = inner

    def create(self, name: str, **settings: Any) -> bool:
        """Create a channel; False when it is there with these settings already."""
        return self._client.run(self._create(name, settings))

    def update(self, name: str, **settings: Any) -> bool:
        """Change these settings of a channel and keep the others; False when they were so."""
        return self._client.run(self._update(name, settings))

    def delete(self, name: str) -> None:
        """Delete a channel with all that is in it."""
        self._client.run(self._delete(name))

    def set_defaults(self, pattern: str, **settings: Any) -> bool:
        """Say what channels have that will be made, where nobody says otherwise; False when it was said already."""
        return self._client.run(self._set_defaults(pattern, settings))

    def delete_defaults(self, pattern: str) -> bool:
        """Forget what was said of a pattern; False when nothing was."""
        return self._client.run(self._delete_defaults(pattern))

    def list_defaults(self) -> dict[str, dict[str, Any]]:
        """The patterns of which something is said, each with that."""
        return self._client.run(self._list_defaults())

    def describe(self, name: str) -> dict[str, Any]:
        """Counters and settings of a channel."""
        return self._client.run(self._describe(name))

    @property
    def _channels(self) -> Channels:
        return self._inner.channels  # to be used inside the loop only

    async def _create(self, name: str, settings: dict[str, Any]) -> bool:
        return await self._channels.create(name, **settings)

    async def _update(self, name: str, settings: dict[str, Any]) -> bool:
        return await self._channels.update(name, **settings)

    async def _set_defaults(self, pattern: str, settings: dict[str, Any]) -> bool:
        return await self._channels.set_defaults(pattern, **settings)

    async def _delete_defaults(self, pattern: str) -> bool:
        return await self._channels.delete_defaults(pattern)

    async def _list_defaults(self) -> dict[str, dict[str, Any]]:
        return await self._channels.list_defaults()

    async def _delete(self, name: str) -> None:
        await self._channels.delete(name)

    async def _describe(self, name: str) -> dict[str, Any]:
        return await self._channels.describe(name)

    async def _found(self, search: str) -> list[dict[str, Any]]:
        return [row async for row in self._channels.list(search)]

    def list(self, search: str = "") -> list[dict[str, Any]]:
        """The channels with `search` in their names, by name, each as `describe` tells it."""
        return self._client.run(self._found(search))
