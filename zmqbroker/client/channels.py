"""Channels as a whole: create, change, delete, list, describe.

Settings are given by name, as docs/PROTOCOL.md §3 names them: `delivery_limit`, `dead_letter`, `delay_ms`, `expiry_ms`,
`max_messages`, `max_bytes`, `overflow`, `max_in_flight`, `dedup_window_ms`, `single_active`, `max_age_ms`. What is not given
has its default: what `set_defaults` said of such names, or else "no such rule".
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from zmqbroker.client.driver import Driver
from zmqbroker.client.message import check_channel
from zmqbroker.client.session import Answer
from zmqbroker.commands import CREATE_ON_USE, ChannelSettings, CreateChannel, DeleteChannel, SetDefaults, UpdateChannel
from zmqbroker.errors import InvalidRequest, RemoteProtocolError
from zmqbroker.wire.queue_requests import ListChannels, ManageRequest, explicit_settings
from zmqbroker.wire.requests import ListDefaults, StatsRequest
from zmqbroker.wire.rule_requests import pattern_fault

__all__ = ["Channels"]

#: Channels asked for at a time: a node makes so many rows in less than 3 ms, and does nothing else meanwhile.
_PAGE = 250


class Channels:
    """All channels of a cluster. Made by `Client.channels`."""

    def __init__(self, driver: Driver, timeout_ms: int) -> None:
        self._driver = driver
        self._timeout_ms = timeout_ms

    async def create(self, name: str, **settings: Any) -> bool:
        """Create a channel; False when it is there with these settings already.

        What is not given has its default for such names. Raises ChannelExists, naming what differs, when it is there with
        others, and InvalidRequest for a setting that is wrong.
        """
        return await self._change(CreateChannel(_checked(name), _settings(settings), explicit_settings(settings)))

    async def update(self, name: str, **settings: Any) -> bool:
        """Change these settings of a channel and keep the others; False when they were so. Raises ChannelNotFound.

        Two updates at the same time may undo each other's: the last one wins.
        """
        _settings(settings)  # an unknown name is found before anything is asked
        there = (await self._stats(name)).field("settings", dict)
        wanted = there | settings
        return await self._change(UpdateChannel(name, _settings(wanted), explicit_settings(wanted)))

    async def delete(self, name: str) -> None:
        """Delete a channel with all that is in it. Raises ChannelNotFound."""
        await self._change(DeleteChannel(_checked(name)))

    async def describe(self, name: str) -> dict[str, Any]:
        """Counters and settings of a channel, as docs/PROTOCOL.md §3 names them for CHANNEL. Raises ChannelNotFound."""
        return (await self._stats(name)).fields

    async def list(self, search: str = "") -> AsyncIterator[dict[str, Any]]:
        """The channels with `search` in their names, by name, each as `describe` tells it."""
        after, more = "", True
        while more:
            request = ListChannels(search, after, _PAGE, forward=True)
            answer = await self._driver.submit(request, self._timeout_ms)
            rows, more, last = answer.field("channels", list), answer.field("more", bool), after
            for row in rows:
                last = _name_of(row, last)
                yield row
            after = _after(answer, after, last) if more else after

    async def set_defaults(self, pattern: str, **settings: Any) -> bool:
        """Say what channels have that will be made, where nobody says otherwise; False when it was said already.

        `pattern` is a name whose tokens between dots may be `*`, and the last one `>`: any one token, any that follow. Of
        several patterns that fit, the most specific one that says a setting counts. It takes the place of all that was said
        of the pattern. `create_on_use=False`: using such a channel does not make it. No channel that is there changes.
        """
        if fault := pattern_fault(pattern):
            raise InvalidRequest(fault)
        _settings({name: value for name, value in settings.items() if name != CREATE_ON_USE})
        return await self._change(SetDefaults(pattern, settings))

    async def delete_defaults(self, pattern: str) -> bool:
        """Forget what was said of a pattern; False when nothing was."""
        return await self._change(SetDefaults(pattern))

    async def list_defaults(self) -> dict[str, dict[str, Any]]:
        """The patterns of which something is said, each with that."""
        answer = await self._driver.submit(ListDefaults(forward=True), self._timeout_ms)
        rows = answer.field("defaults", list)
        try:
            return {row["pattern"]: dict(row["settings"]) for row in rows}
        except (TypeError, KeyError, ValueError) as error:
            raise RemoteProtocolError(f"DEFAULTS has what are no defaults: {rows!r}") from error

    async def _stats(self, name: str) -> Answer:
        return await self._driver.submit(StatsRequest(_checked(name), forward=True), self._timeout_ms)

    async def _change(self, command: CreateChannel | UpdateChannel | DeleteChannel | SetDefaults) -> bool:
        return (await self._driver.submit(ManageRequest(command), self._timeout_ms)).field("changed", bool)


def _checked(name: str) -> str:
    check_channel(name)
    return name


def _name_of(row: object, after: str) -> str:
    """The name of a channel in a list that goes on behind `after`. Names rise, so that no list is without end."""
    name = row.get("channel") if isinstance(row, dict) else None
    if not isinstance(name, str) or name <= after:
        raise RemoteProtocolError(f"CHANNELS has what is no channel behind {after!r}: {row!r}")
    return name


def _after(answer: Answer, after: str, last: str) -> str:
    """Where to go on. It rises, and leaves out nothing that came, so that no list is without end."""
    found = answer.fields.get("after", last)
    if not isinstance(found, str) or not after < found or found < last:
        raise RemoteProtocolError(f"CHANNELS behind {after!r} goes on behind {found!r}")
    return found


def _settings(given: dict[str, Any]) -> ChannelSettings:
    known = ChannelSettings.__dataclass_fields__
    unknown = next((name for name in given if name not in known), None)
    if unknown is not None:
        raise InvalidRequest(f"setting {unknown!r} is not known; there are {', '.join(known)}")
    return ChannelSettings(**given)
