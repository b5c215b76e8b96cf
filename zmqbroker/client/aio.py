"""The client for asyncio.

    async with Client("zmqbroker://127.0.0.1") as client:
        await client.queue("orders").send(b"...")

It belongs to the event loop and the process that first used it. It holds no logic of the protocol: sockets are the driver's,
requests the session's.
"""

from __future__ import annotations

import asyncio
import os
from types import TracebackType
from typing import Any, Unpack

from zmqbroker.client.book import Book
from zmqbroker.client.channels import Channels
from zmqbroker.client.cluster import Cluster
from zmqbroker.client.commands import Command, Query
from zmqbroker.client.destinations import DestinationResult, routed_message
from zmqbroker.client.driver import Driver
from zmqbroker.client.events import Events
from zmqbroker.client.held import Message
from zmqbroker.client.queue import Queue
from zmqbroker.client.route_tables import Bindings, Routes
from zmqbroker.client.schedules import Schedules
from zmqbroker.client.store import Store
from zmqbroker.client.transaction import SendOptions
from zmqbroker.client.url import DEFAULT_URL, parse_url
from zmqbroker.errors import BrokerError, Busy, LocalProtocolError
from zmqbroker.wire.batch import Buffer
from zmqbroker.wire.destinations import read_destinations
from zmqbroker.wire.requests import CloseRequest, Info

__all__ = ["Client"]

_TIMEOUT_MS = 30_000
#: Queues with their implicit producers are remembered by name; more than this many are a leak of names.
_QUEUES_MAX = 10_000
#: CLOSE of the whole session is a courtesy: its end without one comes after 15 s of silence.
_FAREWELL_MS = 1_000


class Client:
    """A connection to a cluster. Use it inside `async with`, or call `close`."""

    def __init__(self, url: str | None = None, *, client_id: str = "", timeout_ms: int = _TIMEOUT_MS) -> None:
        """Make a client; it connects when it is first used.

        `url` is by default that of the environment's ZMQBROKER_URL, or zmqbroker://127.0.0.1; `client_id` names this client
        to people; `timeout_ms` ends every request that does not bring its own. Raises ConfigError on a bad URL.
        """
        self._endpoints = parse_url(url if url is not None else os.environ.get("ZMQBROKER_URL", DEFAULT_URL)).endpoints
        self._client_id = client_id
        self._timeout_ms = timeout_ms
        self._driver: Driver | None = None  # made when first used, in the loop that it will belong to
        self._closed = False
        self._queues: dict[str, Queue] = {}
        self._events: dict[str, Events] = {}  # what is published under one name in one pass shares a batch
        self._book = Book()
        self._message_class: type[Message] = Message
        self._message_owner: object = None  # what acks messages; None: their queue

    def queue(self, name: str) -> Queue:
        """The queue of that name. Must be called inside the event loop. Raises InvalidChannel."""
        queue = self._queues.get(name)
        if queue is None:
            if len(self._queues) >= _QUEUES_MAX:
                raise Busy(f"this client uses {_QUEUES_MAX} queues")
            queue = Queue(name, self._running(), self._book, self._timeout_ms, self._message_class, self._message_owner)
            self._queues[name] = queue
        return queue

    def events(self, name: str) -> Events:
        """The events of a name, or for `subscribe` of a pattern. Must be called inside the event loop."""
        events = self._events.get(name)
        if events is None:
            if len(self._events) >= _QUEUES_MAX:
                raise Busy(f"this client uses {_QUEUES_MAX} names of events")
            events = self._events[name] = Events(name, self._running().home, self._book.consumers, self._timeout_ms)
        return events

    def store(self, name: str) -> Store:
        """The events store of that name. Must be called inside the event loop. Raises InvalidChannel."""
        return Store(name, self._running(), self._book, self._timeout_ms, self.queue)

    def command(self, name: str) -> Command:
        """The commands of a name. Must be called inside the event loop. Raises InvalidChannel."""
        return Command(name, self._running().home, self._book, self._timeout_ms)

    def query(self, name: str) -> Query:
        """The queries of a name. Must be called inside the event loop. Raises InvalidChannel."""
        return Query(name, self._running().home, self._book, self._timeout_ms)

    async def info(self) -> dict[str, Any]:
        """What a node tells of itself and its cluster (PROTOCOL §7)."""
        return (await self._running().submit(Info(), self._timeout_ms)).fields

    @property
    def cluster(self) -> Cluster:
        """Members and leadership. Must be used inside the event loop."""
        return Cluster(self._running(), self._timeout_ms)

    @property
    def channels(self) -> Channels:
        """Channels as a whole. Must be used inside the event loop."""
        return Channels(self._running(), self._timeout_ms)

    @property
    def schedules(self) -> Schedules:
        """Messages that are sent again and again. Must be used inside the event loop."""
        return Schedules(self._running(), self._timeout_ms)

    @property
    def routes(self) -> Routes:
        """Names that stand for lists of destinations. Must be used inside the event loop."""
        return Routes(self._running(), self._timeout_ms)

    @property
    def bindings(self) -> Bindings:
        """What feeds queues beside those who send to them. Must be used inside the event loop."""
        return Bindings(self._running(), self._timeout_ms)

    async def send(
        self,
        to: str,
        body: Buffer,
        *,
        expected_sequence: int | None = None,
        timeout_ms: int | None = None,
        **options: Unpack[SendOptions],
    ) -> list[DestinationResult]:
        """Send one message to several destinations: "orders;events:orders.new;events_store:orders;routes:audit".

        Without a prefix it is a queue; a route stands for the destinations that `routes.set` has said. All queues and stores
        take it, or none does: then each result has the `error`, and nothing was published as an event either. Options are
        those of `Queue.send`. It is stored once everywhere, also when answers are lost. Raises InvalidRequest or
        InvalidChannel, which name the part that is wrong, RouteNotFound, MessageTooLarge and others: nothing was sent then,
        unless the error says `outcome_unknown`.
        """
        destinations, driver = read_destinations(to), self._running()
        message = routed_message(body, driver.message_bytes_max, driver.client_id, expected_sequence, options)
        return await self._book.routed_sends.run(driver, destinations, message, timeout_ms or self._timeout_ms)

    async def drain(self, timeout_ms: int = _TIMEOUT_MS) -> None:
        """Stop receiving, let handlers finish the message they have, send what producers hold, close.

        After `timeout_ms` it closes all the same. Raises the first failure of a producer.
        """
        try:
            async with asyncio.timeout(timeout_ms / 1000):
                consumers = list(self._book.consumers)
                for consumer in consumers:
                    consumer.stop()
                for consumer in consumers:
                    await consumer.wait_closed()
                for producer in list(self._book.producers):
                    await producer.flush()
                for queue in list(self._queues.values()):
                    await queue.wait_idle()
                for events in list(self._events.values()):
                    await events.wait_idle()
        except TimeoutError:
            pass  # what did not finish in time ends with its own error
        finally:
            await self.close()

    async def close(self) -> None:
        """End at once what is under way; messages that are not acked go back to their queues. May be repeated."""
        self._closed = True
        if self._driver is None or self._driver.closed:
            return
        for consumer in list(self._book.consumers):
            consumer.stop()
        try:
            if self._driver.worth_closing:
                await self._driver.submit(CloseRequest(), _FAREWELL_MS)
        except BrokerError:
            pass  # without an answer the session ends by its silence
        finally:
            await self._driver.close()

    async def __aenter__(self) -> Client:
        self._running()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _running(self) -> Driver:
        if self._driver is None:
            if self._closed:
                raise LocalProtocolError("this client is closed")
            self._driver = Driver(self._endpoints, self._client_id)
        return self._driver
