"""What is asked of the messages of a queue, whoever holds them: to look, finish, move and count."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from zmqbroker.client.driver import Driver
from zmqbroker.client.message import (
    Content,
    check_channel,
    read_messages,
)
from zmqbroker.client.session import Answer
from zmqbroker.commands import DeleteMessages, Manage, Purge, Redrive
from zmqbroker.errors import RemoteProtocolError
from zmqbroker.wire.consuming_requests import RECEIVE_SIZE_DEFAULT
from zmqbroker.wire.requests import RECEIPTS_MAX, ManageRequest, PeekRequest, StatsRequest

__all__ = ["StoredMessages"]


class StoredMessages:
    """What a `Queue` is but for those who send and receive."""

    def __init__(self, name: str, driver: Driver, timeout_ms: int) -> None:
        check_channel(name)
        self.name = name
        self._driver = driver
        self._timeout_ms = timeout_ms

    async def peek(
        self, max: int = 1, *, first: int = 1, since_unix_ns: int = 0, max_bytes: int = RECEIVE_SIZE_DEFAULT
    ) -> list[Content]:
        """Up to `max` messages from a sequence on, stored at an instant or later, without touching them.

        In whatever state they are. Raises ChannelNotFound.
        """
        request = PeekRequest(self.name, first, since_unix_ns, max, max_bytes, forward=True)
        answer = await self._driver.submit(request, self._timeout_ms)
        return list(read_messages(None, self.name, *answer, Content, self._driver.message_bytes_max))

    async def purge(self, *, in_flight: bool = False) -> int:
        """Finish all messages that nobody holds, or all; how many there were. Raises ChannelNotFound."""
        return await self._count(Purge(self.name, in_flight))

    async def delete(self, sequences: Iterable[int]) -> int:
        """Finish messages that nobody holds by their sequences: so a delayed one is cancelled; how many there were."""
        spans = tuple((sequence, sequence) for sequence in sequences)
        parts = [spans[low : low + RECEIPTS_MAX] for low in range(0, len(spans), RECEIPTS_MAX)]
        return sum([await self._count(DeleteMessages(self.name, part)) for part in parts])

    async def redrive(self, *, to: str = "", origin: str = "", max: int = 0) -> int:
        """Move messages that nobody holds to a channel, or each to where it came from; how many.

        Only those that came from `origin`, if that is given, and `max` of them at most, the oldest first. Some hundred batches
        move at a time: when it fails between, those before have moved.
        """
        count, first = 0, 1
        while first and (not max or count < max):
            answer = await self._manage(Redrive(self.name, to, origin, max and max - count, first))
            count += answer.field("count", int)
            first = _next_of(answer, first)
        return count

    async def _count(self, command: Purge | DeleteMessages) -> int:
        return (await self._manage(command)).field("count", int)

    def _manage(self, command: Manage) -> asyncio.Future[Answer]:
        return self._driver.submit(ManageRequest(command), self._timeout_ms)

    async def stats(self) -> dict[str, Any]:
        """The queue's counters, as PROTOCOL §3 names them for CHANNEL. Raises ChannelNotFound when nobody has used it."""
        return (await self._driver.submit(StatsRequest(self.name, forward=True), self._timeout_ms)).fields


def _next_of(answer: Answer, first: int) -> int:
    """Where a redrive from a sequence on goes on; 0: it is through. It rises, so that none is without end."""
    found = answer.fields.get("next", 0)
    if not isinstance(found, int) or 0 != found <= first:
        raise RemoteProtocolError(f"a redrive from sequence {first} on goes on from {found!r}")
    return found
