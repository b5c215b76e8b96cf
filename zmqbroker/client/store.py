"""Events stores as a user of asyncio meets them: publish, read, subscribe, and durable consumers.

A store is the channel `events_store:NAME`; a durable consumer of it is received from like a queue, and is one here. Settings
and retention are those of the channel: `client.channels.update(store.channel, max_age_ms=…)`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, Unpack, overload

from zmqbroker.client.book import Book
from zmqbroker.client.channels import Channels
from zmqbroker.client.cursor import Cursor, Gap, start_of
from zmqbroker.client.driver import Driver
from zmqbroker.client.durable import DurableSubscription, Opened, opened
from zmqbroker.client.message import SendResult, read_messages
from zmqbroker.client.options import ProducerOptions
from zmqbroker.client.producer import Producer
from zmqbroker.client.queue import Queue
from zmqbroker.client.store_subscription import StoredEvent, StoreSubscription
from zmqbroker.commands import consumer_of
from zmqbroker.commands.names import STORE_PREFIX
from zmqbroker.errors import InvalidChannel, LocalProtocolError
from zmqbroker.wire.batch import Buffer
from zmqbroker.wire.compression import Compression
from zmqbroker.wire.consuming_requests import RECEIVE_SIZE_DEFAULT, VISIBILITY_MS_DEFAULT
from zmqbroker.wire.frames import name_rule, shown
from zmqbroker.wire.store_requests import ReadRequest, ResetConsumerRequest

__all__ = ["ConsumerInfo", "Store"]

Acks = Literal["auto", "explicit"]

#: Events asked for at a time by a subscription: so many small ones are some 100 kB.
_EVENTS_MAX = 1024


class ConsumerInfo(NamedTuple):
    """A durable consumer and how far it has come."""

    name: str
    position: int  # the lowest sequence that it has not finished
    unread: int  # sequences of the store that it has not come to
    in_flight: int  # events that are handled now
    missed: int  # sequences that the store did not keep until it came to them


class Store:
    """One events store. Made by `Client.store`; it exists at the broker as soon as it is used."""

    def __init__(self, name: str, driver: Driver, book: Book, timeout_ms: int, queue_of: Callable[[str], Queue]) -> None:
        _check_name("events store", name)
        self.name = name
        self.channel = f"{STORE_PREFIX}{name}"
        self._driver, self._book, self._timeout_ms = driver, book, timeout_ms
        self._queue_of = queue_of
        self._queue = queue_of(self.channel)

    # --- publishing --------------------------------------------------------------------------------------------------

    async def publish(
        self,
        body: Buffer,
        *,
        key: str = "",
        id: str | None = None,
        metadata: str | None = None,
        tags: Mapping[str, str] | None = None,
        trace: str | None = None,
        expiry_ms: int = 0,
        expected_sequence: int | None = None,
        compression: Compression | None = None,
        timeout_ms: int | None = None,
    ) -> SendResult:
        """Store one event, exactly once, and wait for the confirm of a majority. Options are those of `Queue.send`.

        Of a `key` the newest event is found by `last`, and the only one that stays, in a store with `keep_latest`; members of
        a group get the events of a key one at a time.
        """
        return await self._queue.send(
            body,
            id=id,
            metadata=metadata,
            tags=tags,
            trace=trace,
            group=key,
            expiry_ms=expiry_ms,
            expected_sequence=expected_sequence,
            compression=compression,
            timeout_ms=timeout_ms,
        )

    def producer(self, **settings: Unpack[ProducerOptions]) -> Producer:
        """A producer for many events; settings are those of `Queue.producer`. The `group` of a message is its key."""
        return self._queue.producer(**settings)

    # --- reading -----------------------------------------------------------------------------------------------------

    async def read(
        self,
        max: int = 1,
        *,
        start: str | None = None,
        sequence: int | None = None,
        time_unix_ns: int | None = None,
        time_delta_ms: int | None = None,
        max_bytes: int = RECEIVE_SIZE_DEFAULT,
        wait_ms: int = 0,
        timeout_ms: int | None = None,
    ) -> list[StoredEvent]:
        """Up to `max` events from one place on: `start` "first" (the default), "last" or "new", a sequence, or an instant.

        It may be fewer than there are: ask on from behind the last one. None means that there are no more, or none within
        `wait_ms` (a minute at most). Raises PositionGone for a sequence that is no longer kept, naming the first one that is.
        """
        place = start_of(start, sequence, time_unix_ns, time_delta_ms, "first")
        request = ReadRequest(self.channel, *place, count_max=max, size_max=max_bytes, wait_ms=wait_ms, forward=True)
        return await self._read(request, timeout_ms)

    async def get(self, sequence: int, *, timeout_ms: int | None = None) -> StoredEvent | None:
        """The event with a sequence; None when it is not there yet, or was deleted. Raises PositionGone as `read` does."""
        place = start_of(None, sequence, None, None)
        found = await self._read(ReadRequest(self.channel, *place, forward=True), timeout_ms)
        return found[0] if found and found[0].sequence == sequence else None

    async def last(self, *, key: str = "", timeout_ms: int | None = None) -> StoredEvent | None:
        """The newest event, or that of a key; None when there is none. Of a key it is known where `keep_latest` is set."""
        found = await self._read(ReadRequest(self.channel, "last", key=key, forward=True), timeout_ms)
        return found[0] if found else None

    async def _read(self, request: ReadRequest, timeout_ms: int | None) -> list[StoredEvent]:
        answer = await self._driver.submit(request, request.wait_ms + (timeout_ms or self._timeout_ms))
        return list(read_messages(None, self.channel, *answer, StoredEvent, self._driver.message_bytes_max))

    # --- subscribing -------------------------------------------------------------------------------------------------

    @overload
    def subscribe(
        self,
        *,
        start: str | None = ...,
        sequence: int | None = ...,
        time_unix_ns: int | None = ...,
        time_delta_ms: int | None = ...,
        rate_limit: int | None = ...,
        on_gap: Callable[[Gap], object] | None = ...,
        max_bytes: int = ...,
    ) -> StoreSubscription:
        """Keep the position here."""

    @overload
    def subscribe(
        self,
        *,
        consumer: str,
        start: str | None = ...,
        sequence: int | None = ...,
        time_unix_ns: int | None = ...,
        time_delta_ms: int | None = ...,
        rate_limit: int | None = ...,
        max_bytes: int = ...,
        ack: Acks = ...,
        exclusive: bool = ...,
        credit: int = ...,
        visibility_ms: int = ...,
    ) -> DurableSubscription:
        """Have the broker keep the position, for one reader."""

    @overload
    def subscribe(
        self,
        *,
        group: str,
        start: str | None = ...,
        sequence: int | None = ...,
        time_unix_ns: int | None = ...,
        time_delta_ms: int | None = ...,
        rate_limit: int | None = ...,
        max_bytes: int = ...,
        ack: Acks = ...,
        credit: int = ...,
        visibility_ms: int = ...,
    ) -> DurableSubscription:
        """The same for a group."""

    def subscribe(
        self,
        *,
        consumer: str = "",
        group: str = "",
        start: str | None = None,
        sequence: int | None = None,
        time_unix_ns: int | None = None,
        time_delta_ms: int | None = None,
        rate_limit: int | None = None,
        on_gap: Callable[[Gap], object] | None = None,
        max_bytes: int = RECEIVE_SIZE_DEFAULT,
        ack: Acks = "auto",
        exclusive: bool = True,
        credit: int = 256,
        visibility_ms: int = VISIBILITY_MS_DEFAULT,
    ) -> StoreSubscription | DurableSubscription:
        """An iterator over events from one place on, by default "new": those that are published from now on.

        Without a name the position is this iterator's own: no event is left out or comes twice, whichever node dies; what
        retention took first is told by PositionGone, or to `on_gap`. With `consumer` the broker keeps the position, from its
        last ack on; it is this reader's alone (`exclusive`), who takes it over from whoever had it. A `group` is one that
        several share. Where one begins counts when it is made. With `ack="auto"` an event is acked when the next one is asked
        for, with "explicit" by `await event.ack()`. `rate_limit`: at most so many events a second, without a name only while
        it is behind.
        """
        place = start_of(start, sequence, time_unix_ns, time_delta_ms)
        _check_subscribe(consumer, group, ack, rate_limit, on_gap)
        if not consumer and not group:
            cursor = Cursor(self.channel, place, _EVENTS_MAX, max_bytes, rate_limit)
            return StoreSubscription(self._driver, self.channel, cursor, self._timeout_ms, self._book.consumers, on_gap)
        queue = self.consumer(consumer or group)
        if rate_limit is not None:
            credit = min(credit, max(rate_limit // 5, 2))  # what waits here is a fifth of a second's
        inner = queue.consume(credit=credit, visibility_ms=visibility_ms, max_bytes=max_bytes)
        shared = {"exclusive": exclusive and not group, "auto": ack == "auto"}
        return DurableSubscription(self._driver, queue, inner, place, self._timeout_ms, rate_limit=rate_limit, **shared)

    # --- durable consumers -------------------------------------------------------------------------------------------

    def consumer(self, name: str) -> Queue:
        """A durable consumer that is there, as the queue that it is: to receive, ack, look at and count."""
        _check_name("consumer", name)
        return self._queue_of(consumer_of(self.channel, name))

    async def reset(
        self,
        consumer: str,
        *,
        start: str | None = None,
        sequence: int | None = None,
        time_unix_ns: int | None = None,
        time_delta_ms: int | None = None,
    ) -> Opened:
        """Have a durable consumer, or a group, go on from another place, by default "first": also below what it has acked.

        What its readers hold is forgotten. Raises ChannelNotFound, or PositionGone.
        """
        place = start_of(start, sequence, time_unix_ns, time_delta_ms, "first")
        _check_name("consumer", consumer)
        request = ResetConsumerRequest(consumer_of(self.channel, consumer), *place)
        return opened(await self._driver.submit(request, self._timeout_ms))

    async def consumers(self) -> list[ConsumerInfo]:
        """The durable consumers and groups of this store, by name."""
        prefix = consumer_of(self.channel, "")
        rows = [row async for row in Channels(self._driver, self._timeout_ms).list(prefix)]
        return [_info(row, prefix) for row in rows if row["channel"].startswith(prefix)]

    async def delete_consumer(self, name: str) -> None:
        """Forget a durable consumer, or a group, and its position. Raises ChannelNotFound."""
        _check_name("consumer", name)
        await Channels(self._driver, self._timeout_ms).delete(consumer_of(self.channel, name))


def _info(row: Mapping[str, Any], prefix: str) -> ConsumerInfo:
    counts = (row.get(name, 0) for name in ConsumerInfo._fields[1:])
    return ConsumerInfo(row["channel"].removeprefix(prefix), *counts)


def _check_name(what: str, name: str) -> None:
    """Raises InvalidChannel when this cannot name a store, or a consumer."""
    if rule := name_rule(name):
        raise InvalidChannel(f"{what} name {shown(name)} {rule}")


def _check_subscribe(consumer: str, group: str, ack: str, rate_limit: int | None, on_gap: object) -> None:
    """Raises LocalProtocolError when no reader can be so."""
    fault = ""
    if consumer and group:
        fault = f"consumer is {consumer!r} and group {group!r}: a group is a consumer that is shared"
    elif ack not in ("auto", "explicit"):
        fault = f"ack is {ack!r}, allowed is 'auto' or 'explicit'"
    elif rate_limit is not None and rate_limit < 1:
        fault = f"rate_limit is {rate_limit}, it must be at least 1 event a second"
    elif on_gap is not None and (consumer or group):
        fault = "on_gap is for readers without a name: a durable consumer counts what it missed"
    if fault:
        raise LocalProtocolError(fault)
