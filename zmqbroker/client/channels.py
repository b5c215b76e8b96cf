"""Channels as a whole: create, change, delete, list, describe.

Settings are given by name, as docs/PROTOCOL.md §3 names them: `delivery_limit`, `dead_letter`, `delay_ms`, `expiry_ms`,
`max_messages`, `max_bytes`, `overflow`, `max_in_flight`. What is not given has its default, which is "no such rule".
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Any

from zmqbroker.client.driver import Driver
from zmqbroker.client.message import check_channel
from zmqbroker.commands import ChannelSettings, CreateChannel, DeleteChannel, UpdateChannel
from zmqbroker.errors import InvalidRequest
from zmqbroker.wire.queue_requests import ListChannels, ManageRequest
from zmqbroker.wire.requests import StatsRequest

__all__ = ["Channels"]


class Channels:
    """All channels of a cluster. Made by `Client.channels`."""

    def __init__(self, driver: Driver, timeout_ms: int) -> None:
        self._driver = driver
        self._timeout_ms = timeout_ms

    async def create(self, name: str, **settings: Any) -> bool:
        """Create a channel; False when it is there with these settings already.

        Raises ChannelExists, naming what differs, when it is there with others, and InvalidRequest for a setting that is wrong.
        """
        return await self._change(CreateChannel(_checked(name), _settings(settings)))

    async def update(self, name: str, **settings: Any) -> bool:
        """Change these settings of a channel and keep the others; False when they were so. Raises ChannelNotFound.

        Two updates at the same time may undo each other's: the last one wins.
        """
        _settings(settings)  # an unknown name is found before anything is asked
        there = (await self.describe(_checked(name))).get("settings", {})
        return await self._change(UpdateChannel(name, _settings(there | settings)))

    async def delete(self, name: str) -> None:
        """Delete a channel with all that is in it. Raises ChannelNotFound."""
        await self._change(DeleteChannel(_checked(name)))

    async def describe(self, name: str) -> dict[str, Any]:
        """Counters and settings of a channel, as docs/PROTOCOL.md §3 names them for CHANNEL. Raises ChannelNotFound."""
        request = StatsRequest(_checked(name), forward=True)
        return (await self._driver.submit(request, self._timeout_ms)).fields

    async def list(self, search: str = "") -> AsyncIterator[dict[str, Any]]:
        """The channels with `search` in their names, by name, each as `describe` tells it."""
        after, more = "", True
        while more:
            request = ListChannels(search, after, forward=True)
            fields = (await self._driver.submit(request, self._timeout_ms)).fields
            for row in fields["channels"]:
                yield row
            more = fields["more"] and bool(fields["channels"])
            after = fields["channels"][-1]["channel"] if more else ""

    async def _change(self, command: CreateChannel | UpdateChannel | DeleteChannel) -> bool:
        return bool((await self._driver.submit(ManageRequest(command), self._timeout_ms)).fields["changed"])


def _checked(name: str) -> str:
    check_channel(name)
    return name


def _settings(given: dict[str, Any]) -> ChannelSettings:
    known = asdict(ChannelSettings())
    unknown = next((name for name in given if name not in known), None)
    if unknown is not None:
        raise InvalidRequest(f"setting {unknown!r} is not known; there are {', '.join(known)}")
    return ChannelSettings(**given)
