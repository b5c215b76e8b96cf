"""Events as a user of asyncio meets them: publish, and iterate over what others publish. At most once, and nothing is stored.

    await client.events("orders.new").publish(b"...")
    async for event in client.events("orders.*").subscribe(): ...

All of it goes over the client's home connection. What is published in one pass of the event loop under one name is one batch.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from types import TracebackType
from typing import NamedTuple

from zmqbroker.client.consumer import Consuming
from zmqbroker.client.framing import batch_frame
from zmqbroker.client.home import Pushed
from zmqbroker.client.home_driver import HomeDriver
from zmqbroker.client.message import Content, Piece, encode_message
from zmqbroker.client.parcel import OVERHEAD_BYTES, Parcel
from zmqbroker.errors import (
    BrokerError,
    DeadlineExceeded,
    InvalidChannel,
    LocalProtocolError,
    RemoteProtocolError,
    RequestError,
)
from zmqbroker.wire.batch import COUNT_MAX, Buffer
from zmqbroker.wire.codec import decode_batch
from zmqbroker.wire.headers import MessageHeaders
from zmqbroker.wire.realtime_requests import (
    CREDIT_BYTES_DEFAULT,
    CREDIT_BYTES_MAX,
    CREDIT_DEFAULT,
    CREDIT_MAX,
    name_fault,
    subscription_fault,
)
from zmqbroker.wire.requests import GrantRequest, PublishRequest, SubscribeRequest

__all__ = ["Event", "Events", "EventsSubscription", "PublishResult"]

#: A batch of this size fits whatever `message_bytes_max` is (PROTOCOL §5); a larger message travels alone.
_BATCH_BYTES = 256 << 10


class Event(Content):
    """What was published: `body`, `channel`, `id`, `metadata`, `tags`, `client_id`, `trace`, `time_unix_ns`; no sequence."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<Event of {self.channel!r}: {len(self.raw_body)} bytes>"


class PublishResult(NamedTuple):
    """Where an event went."""

    nodes: int  # that it was given to
    subscribers: int  # that are known to want it, each group counted once


class _Outgoing(NamedTuple):
    """What is published under one name in one pass of the loop, and who waits until it is sent."""

    parcel: Parcel
    sent: asyncio.Future[PublishResult | None]
    confirm: bool


class Events:
    """The events of one name, or of all that match a pattern. Made by `Client.events`."""

    def __init__(self, name: str, home: HomeDriver, active: set[Consuming], timeout_ms: int) -> None:
        self.name = name
        self._home, self._active, self._timeout_ms = home, active, timeout_ms
        self._open: dict[bool, _Outgoing] = {}  # by whether they are confirmed
        self._sending: set[asyncio.Task[None]] = set()

    # --- publishing --------------------------------------------------------------------------------------------------------

    async def publish(
        self,
        body: Buffer,
        *,
        id: str | None = None,
        metadata: str | None = None,
        tags: Mapping[str, str] | None = None,
        trace: str | None = None,
        confirm: bool = False,
        timeout_ms: int | None = None,
    ) -> PublishResult | None:
        """Hand an event to whoever has subscribed at this moment.

        Returns as soon as a connection has taken it, with None; with `confirm` the node tells where it went. Raises
        InvalidChannel for a name with wildcards, MessageTooLarge, or DeadlineExceeded when no node took it in time.
        """
        if fault := name_fault(self.name):
            raise InvalidChannel(fault)
        self._home.check_usable()
        headers = MessageHeaders(metadata, tags, self._home.client_id or None, trace)
        message = encode_message(body, id, headers, self._home.message_bytes_max)
        size = len(message.body) + len(message.id) + len(message.headers) + OVERHEAD_BYTES
        outgoing = self._open.get(confirm)
        if outgoing is None or not outgoing.parcel.takes(len(message.body), size):
            outgoing = self._begin(confirm, timeout_ms or self._timeout_ms)
        outgoing.parcel.append(message.body, message.id, message.headers)
        return await asyncio.shield(outgoing.sent)

    async def wait_idle(self) -> None:
        """Wait until nothing is being published any more, whatever becomes of it."""
        await asyncio.gather(*self._sending, return_exceptions=True)

    def _begin(self, confirm: bool, timeout_ms: int) -> _Outgoing:
        """A parcel that is open until the end of this pass, and is then sent."""
        parcel = Parcel([], 0, 0, 0)
        parcel.size_max, parcel.count_max, parcel.body_size_max = _BATCH_BYTES, COUNT_MAX, self._home.message_bytes_max
        loop = asyncio.get_running_loop()
        outgoing = self._open[confirm] = _Outgoing(parcel, loop.create_future(), confirm)
        task = loop.create_task(self._send(outgoing, timeout_ms))  # it begins in the next pass
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)
        return outgoing

    async def _send(self, outgoing: _Outgoing, timeout_ms: int) -> None:
        if self._open.get(outgoing.confirm) is outgoing:
            del self._open[outgoing.confirm]
        outgoing.parcel.seal()
        try:
            batch = batch_frame(self.name, [outgoing.parcel], 0, 0, compress=False)
            result = None
            if outgoing.confirm:
                answer = await self._home.ask(PublishRequest(batch, True), timeout_ms)
                result = PublishResult(answer.field("nodes", int), answer.field("subscribers", int))
            else:
                await self._home.give(PublishRequest(batch), timeout_ms)
        except BrokerError as error:
            outgoing.sent.set_exception(error)
            outgoing.sent.exception()  # whoever waits is told; nobody may be left who does
        except asyncio.CancelledError:
            outgoing.sent.cancel()
            raise
        else:
            outgoing.sent.set_result(result)

    # --- subscribing -------------------------------------------------------------------------------------------------------

    def subscribe(
        self, *, group: str = "", credit: int = CREDIT_DEFAULT, credit_bytes: int = CREDIT_BYTES_DEFAULT
    ) -> EventsSubscription:
        """Events from now on: `async for event in subscription`, best inside `async with subscription`.

        Those that subscribe to the same pattern with the same `group` share what comes. Up to `credit` events of
        `credit_bytes` together wait here; what is published when the credit is used up is missed, and counted. Raises
        InvalidChannel or LocalProtocolError.
        """
        if fault := subscription_fault(self.name):
            raise InvalidChannel(fault)
        for name, value, high in (("credit", credit, CREDIT_MAX), ("credit_bytes", credit_bytes, CREDIT_BYTES_MAX)):
            if type(value) is not int or not 1 <= value <= high:
                raise LocalProtocolError(f"{name} is {value!r}, allowed is 1 to {high}")
        request = SubscribeRequest(0, self.name, "events", group, credit, credit_bytes)
        return EventsSubscription(self._home, request, self._active, self._timeout_ms)


class _Arrived:
    """A batch that came, as far as it was not taken."""

    __slots__ = ("begin", "count", "events", "size")

    def __init__(self, begin: int, count: int, size: int, events: Iterator[Event]) -> None:
        self.begin, self.count, self.size, self.events = begin, count, size, events


class EventsSubscription:
    """Events of one subscription. It subscribes when it is first used, and again when the connection was lost."""

    def __init__(self, home: HomeDriver, request: SubscribeRequest, active: set[Consuming], timeout_ms: int) -> None:
        self._home, self._request, self._timeout_ms = home, request, timeout_ms
        self._active = active  # it is in there from its beginning to its end
        self._number = 0  # 0: not subscribed yet
        self._begin = 0  # how often it began: what came before a reconnect has no credit to give back
        self._stands = asyncio.Event()  # the node has said so, or it has ended
        self._arrived: deque[_Arrived] = deque()  # at most what the credit allows, and what came before a reconnect
        self._came = asyncio.Event()
        self._ended = False
        self._error: BrokerError | None = None
        self._taken_count = self._taken_bytes = 0  # since it began the last time
        self._granted_count = self._granted_bytes = 0  # of these, as many as the node knows of
        self._missed = 0  # before it began the last time
        self._missed_now = 0

    @property
    def missed(self) -> int:
        """Events that came too fast for it, as far as it was told; what passed by between two connections nobody knows."""
        return self._missed + self._missed_now

    async def wait_ready(self) -> EventsSubscription:
        """Wait until the node has the subscription; other nodes hear of it within milliseconds. Raises BrokerError."""
        self._start()
        try:
            async with asyncio.timeout(self._timeout_ms / 1000):
                await self._stands.wait()
        except TimeoutError as error:
            raise DeadlineExceeded("no node took the subscription in time", outcome_unknown=False) from error
        if self._error is not None:
            raise self._error
        return self

    def __aiter__(self) -> AsyncIterator[Event]:
        self._start()
        return self

    async def __anext__(self) -> Event:
        """The next event. Raises BrokerError when the subscription was refused or the client closed."""
        self._start()
        while True:
            while self._arrived:
                event = next(self._arrived[0].events, None)
                if event is not None:
                    return event
                self._give_back(self._arrived.popleft())
            if self._ended:
                if self._error is not None:
                    raise self._error
                raise StopAsyncIteration
            self._came.clear()
            await self._came.wait()

    async def take(self, wait_ms: int | None = None) -> Sequence[Event]:
        """All events that are here, at least one; none when the subscription has ended, or nothing came for `wait_ms`."""
        try:
            async with asyncio.timeout(wait_ms / 1000 if wait_ms is not None else None):
                first = await anext(self)
        except (StopAsyncIteration, TimeoutError):
            return []
        found = [first, *self._arrived[0].events]
        while self._arrived:
            found += self._arrived[0].events
            self._give_back(self._arrived.popleft())
        return found

    def stop(self) -> None:
        """End the subscription; what is here can still be iterated over, and then the iteration ends."""
        if not self._ended:
            self._end(None)
            if self._number and not self._home.closed:
                self._home.unsubscribe(self._number)

    async def wait_closed(self) -> None:
        """It has no messages that anybody else could get: nothing is to be waited for."""

    async def close(self) -> None:
        """End the subscription, as `stop` does. May be repeated."""
        self.stop()

    async def __aenter__(self) -> EventsSubscription:
        return await self.wait_ready()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _start(self) -> None:
        if not self._number and not self._ended:
            self._number = self._home.subscribe(self._request, self)
            self._active.add(self)

    def _end(self, error: BrokerError | None) -> None:
        self._ended, self._error = True, error
        self._active.discard(self)
        self._stands.set()
        self._came.set()

    # --- credit --------------------------------------------------------------------------------------------------------------

    def _give_back(self, arrived: _Arrived) -> None:
        """A batch was taken: the node may send as much more, and hears of it when half of the credit is used up."""
        if arrived.begin != self._begin or self._ended:
            return
        self._taken_count += arrived.count
        self._taken_bytes += arrived.size
        request = self._request
        new_count, new_bytes = self._taken_count - self._granted_count, self._taken_bytes - self._granted_bytes
        if 2 * new_count >= request.credit or 2 * new_bytes >= request.credit_bytes:
            self._granted_count, self._granted_bytes = self._taken_count, self._taken_bytes
            granted = self._taken_count + request.credit, self._taken_bytes + request.credit_bytes
            self._home.say(GrantRequest(self._number, *granted))

    # --- as a Subscriber -----------------------------------------------------------------------------------------------------

    def on_subscribed(self, error: BrokerError | None) -> None:
        """It stands (again), with all of its credit; or it has ended."""
        if error is not None:
            if not self._ended:
                self._end(error)
            return
        self._begin += 1
        self._taken_count = self._taken_bytes = self._granted_count = self._granted_bytes = 0
        self._missed, self._missed_now = self.missed, 0
        self._stands.set()

    def on_pushed(self, pushed: Pushed) -> None:
        """Events came, or word of how many did not."""
        missed = pushed.fields.get("missed")
        if isinstance(missed, int):
            self._missed_now = missed
        try:
            for frame in pushed.bodies:
                self._arrived.append(self._read(pushed, frame))
        except RemoteProtocolError as error:
            self._home.unsubscribe(self._number)
            self._end(error)
        self._came.set()

    def _read(self, pushed: Pushed, frame: Buffer) -> _Arrived:
        time_unix_ns = pushed.fields.get("time_unix_ns")
        if not isinstance(time_unix_ns, int):
            raise RemoteProtocolError(f"EVENTS say time_unix_ns is {time_unix_ns!r}")
        try:
            batch = decode_batch(frame)
        except RequestError as error:  # malformed, or damaged on its way
            raise RemoteProtocolError(f"EVENTS have a body frame that is not a batch: {error}") from error
        piece = Piece(None, batch.header.channel, (0, 0, 0, 0, time_unix_ns), batch, None, self._home.message_bytes_max)
        events = map(Event, [piece] * len(batch.bodies), range(len(batch.bodies)), batch.bodies)
        return _Arrived(self._begin, len(batch.bodies), len(frame), events)
