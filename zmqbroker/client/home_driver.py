"""What turns a home into a connection: sockets, clock, timer and futures of one event loop.

It connects when it is first used and stays connected from then on. What users say in one pass of the loop is sent at its end;
what a full pipe refuses waits in order, and whoever publishes waits with it. It decides nothing about the protocol.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random
from typing import Any, Protocol

import zmq

from zmqbroker.client.answer import Answer
from zmqbroker.client.connection import Connection
from zmqbroker.client.home import FOREVER_NS, Ended, Home, Part, Pushed, Subscribed
from zmqbroker.client.resolving import address_of
from zmqbroker.errors import BrokerError, DeadlineExceeded, LocalProtocolError
from zmqbroker.wire.batch import Buffer
from zmqbroker.wire.requests import AnyRequest, Ping, SubscribeRequest, UnsubscribeRequest

__all__ = ["HomeDriver", "Subscriber"]

#: The pause before a new connection, doubled with every failure in a row.
_RECONNECT_S, _RECONNECT_MAX_S = 0.02, 1.0
#: What a full pipe refused is offered again after this.
_OFFER_S = 0.005
#: A node that lives takes what was said last in a round trip; one that does not is not waited for any longer.
_FAREWELL_MS = 1_000


class Subscriber(Protocol):
    """Who is told what comes for a subscription."""

    def on_subscribed(self, error: BrokerError | None) -> None:
        """It stands (again): what comes now counts from the beginning. With an error it ended."""

    def on_pushed(self, pushed: Pushed) -> None:
        """Something came for it."""


class HomeDriver:
    """Runs one home. All methods are called on its loop."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        seeds: Sequence[str],
        session: bytes,
        client_id: str,
        new_id: Callable[[], int],
        random: Random,
    ) -> None:
        self.client_id = client_id
        self.closed = False
        self._process_id = os.getpid()
        self._loop = asyncio.get_running_loop()
        self._context = context
        self._home = Home(seeds, session, client_id, new_id, random)
        self._connection: Connection | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._pause_s = _RECONNECT_S
        self._retry: asyncio.TimerHandle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_ns = 0  # when it fires
        self._offering: asyncio.TimerHandle | None = None
        self._offers: deque[tuple[Sequence[Buffer], asyncio.Future[None]]] = deque()  # bounded by those who wait for them
        self._settling = False
        self._said = False  # whether anything was sent that is not answered: only then is close to wait for it
        self._parts: dict[asyncio.Future[Answer], Callable[[Answer], None]] = {}  # of requests under way, who takes parts
        self._numbers = 0  # of subscriptions, ever
        self._subscribers: dict[int, Subscriber] = {}
        self._routes: dict[int, Callable[[Pushed], None]] = {}  # reply code -> who takes what is pushed with it

    # --- users -------------------------------------------------------------------------------------------------------------

    @property
    def message_bytes_max(self) -> int:
        """The largest body that the node takes, as far as it is known."""
        return self._home.message_bytes_max

    @property
    def node(self) -> str:
        """The name of the node that is home now; empty without one."""
        return self._home.node

    def route(self, command: int, take: Callable[[Pushed], None]) -> None:
        """Have everything that is pushed with a reply code taken by one function, and by no subscriber."""
        self._routes[command] = take

    def submit(
        self, request: AnyRequest, timeout_ms: int, on_part: Callable[[Answer], None] | None = None
    ) -> tuple[asyncio.Future[Answer], int]:
        """Start a request; the future ends with the answer, or its last part, or a BrokerError. Its id comes with it.

        `on_part` takes the parts before.
        """
        self.check_usable()
        future: asyncio.Future[Answer] = self._loop.create_future()
        if on_part is not None:
            self._parts[future] = on_part
            future.add_done_callback(self._parts.pop)
        request_id = self._home.request(request, future, time.monotonic_ns() + timeout_ms * 1_000_000)
        self._settle_soon()
        return future, request_id

    def forget(self, request_id: int) -> None:
        """Nobody waits for the answer to a request any more, if it has not ended yet."""
        self._home.forget(request_id)

    async def ask(self, request: AnyRequest, timeout_ms: int) -> Answer:
        """The answer to a request. Raises BrokerError."""
        future, request_id = self.submit(request, timeout_ms)
        try:
            return await future
        finally:
            self._home.forget(request_id)

    async def give(self, request: AnyRequest, timeout_ms: int) -> None:
        """Send what is not answered, and wait until a connection has taken it. Raises DeadlineExceeded: it was not sent."""
        self.check_usable()
        taken: asyncio.Future[None] = self._loop.create_future()
        self._offers.append((self._home.frames_of(request), taken))
        self._said = True
        self._settle_soon()
        try:
            async with asyncio.timeout(timeout_ms / 1000):
                await taken
        except TimeoutError as error:
            raise DeadlineExceeded("no node took it in time", outcome_unknown=False) from error

    def say(self, request: AnyRequest) -> None:
        """Send what is not answered if there is a connection: what is of no use on another one."""
        if self._home.say(request):
            self._said = True
            self._settle_soon()

    def subscribe(self, request: SubscribeRequest, subscriber: Subscriber) -> int:
        """Subscribe, under a number that is chosen here, now and after every move."""
        self.check_usable()
        self._numbers += 1
        self._subscribers[self._numbers] = subscriber
        self._home.subscribe(replace(request, subscription=self._numbers))
        self._settle_soon()
        return self._numbers

    def unsubscribe(self, number: int, *, keep: bool = False) -> None:
        """End a subscription; it is told nothing more, but with `keep` until `let_go`: what it has may not be over."""
        if not keep:
            self.let_go(number)
        if self._home.unsubscribe(number):
            self.say(UnsubscribeRequest(number))

    def let_go(self, number: int) -> None:
        """Tell a subscriber nothing more."""
        self._subscribers.pop(number, None)

    def check_usable(self) -> None:
        """Raises LocalProtocolError in a forked child, in another event loop, and after close."""
        if os.getpid() != self._process_id:
            raise LocalProtocolError(
                f"this client belongs to process {self._process_id}; a forked process ({os.getpid()}) must make its own"
            )
        if asyncio.get_running_loop() is not self._loop:
            raise LocalProtocolError("this client belongs to another event loop; each loop must make its own")
        if self.closed:
            raise LocalProtocolError("this client is closed")

    async def close(self) -> None:
        """End everything, once the node has what was said last: an answer, the end of a subscription. May be repeated."""
        try:
            await self._farewell()
        finally:
            await self._end()

    async def _farewell(self) -> None:
        """Wait until the node has all that was said; it takes what one connection brings in order, so one answer will do."""
        if self._said and not self.closed and self._home.stands:
            self._said = False
            last, _ = self.submit(Ping(), _FAREWELL_MS)
            await asyncio.wait([last])

    async def _end(self) -> None:
        if self.closed:
            return
        self.closed = True
        self._home.end_all()
        self._tell()
        for subscriber in list(self._subscribers.values()):
            subscriber.on_subscribed(LocalProtocolError("this client was closed"))
        self._subscribers.clear()
        for _, taken in self._offers:
            if not taken.done():
                taken.set_exception(LocalProtocolError("this client was closed"))
        for timer in (self._retry, self._timer, self._offering):
            if timer is not None:
                timer.cancel()
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.gather(self._connecting, return_exceptions=True)
        if self._connection is not None:
            self._connection.close()

    # --- the connection ------------------------------------------------------------------------------------------------------

    def on_ready(self, connection: Connection) -> None:
        """The connection stands."""
        self._pause_s = _RECONNECT_S
        self._home.connected(time.monotonic_ns())
        self._settle()

    def on_messages(self, connection: Connection, messages: list[list[bytes]]) -> None:
        """Messages came."""
        now_ns = time.monotonic_ns()
        for frames in messages:
            self._home.received(frames, now_ns)
        self._settle()

    def on_gone(self, connection: Connection) -> None:
        """The connection is gone, or never came to be."""
        self._lost()

    def _lost(self) -> None:
        self._connection = self._connecting = None
        self._home.lost()
        self._retry = self._loop.call_later(self._pause_s, self._try_again)
        self._pause_s = min(2 * self._pause_s, _RECONNECT_MAX_S)
        self._settle()

    def _try_again(self) -> None:
        self._retry = None
        self._settle()

    async def _connect(self) -> None:
        endpoint = self._home.endpoint
        try:
            self._connection = Connection(self._context, endpoint, await address_of(endpoint), self)
        except (OSError, zmq.ZMQError):  # a name that nobody knows, an address that cannot be, no descriptor left
            self._lost()
        else:
            self._connecting = None

    # --- carrying out --------------------------------------------------------------------------------------------------------

    def _settle_soon(self) -> None:
        """Settle in the next pass of the loop, once for all calls of this one."""
        if not self._settling:
            self._settling = True
            self._loop.call_soon(self._settle)

    def _settle(self) -> None:
        """Do what the home asks for."""
        self._settling = False
        if self.closed:
            return
        if self._connection is None and self._connecting is None and self._retry is None:
            self._connecting = self._loop.create_task(self._connect())
        if self._connection is not None and self._home.stands:
            for frames in self._home.take_frames():
                self._connection.send(frames)
            self._offer(self._connection)
        self._tell()
        self._set_timer()

    def _offer(self, connection: Connection) -> None:
        while self._offers:
            frames, taken = self._offers[0]
            if not taken.done():
                if not connection.offer(frames):
                    if self._offering is None:
                        self._offering = self._loop.call_later(_OFFER_S, self._offer_again)
                    return
                taken.set_result(None)
            self._offers.popleft()

    def _offer_again(self) -> None:
        self._offering = None
        self._settle()

    def _tell(self) -> None:
        for happened in self._home.take_happened():
            match happened:
                case Ended():
                    _resolve(happened)
                case Part():
                    if (on_part := self._parts.get(happened.token)) is not None:
                        on_part(happened.answer)
                case Subscribed():
                    subscriber = self._subscribers.get(happened.number)
                    if subscriber is not None:
                        subscriber.on_subscribed(happened.error)
                case Pushed():
                    self._take(happened)

    def _take(self, pushed: Pushed) -> None:
        route = self._routes.get(pushed.command)
        subscriber = self._subscribers.get(pushed.fields.get("subscription", -1))
        if route is not None:
            route(pushed)
        elif subscriber is not None:
            subscriber.on_pushed(pushed)

    def _set_timer(self) -> None:
        wake_ns = self._home.wake_ns()
        if self._timer is not None:
            if wake_ns >= self._timer_ns:
                return  # it fires early and is set again: cheaper than to move it with every message
            self._timer.cancel()
            self._timer = None
        if wake_ns >= FOREVER_NS:
            return
        self._timer_ns = wake_ns
        self._timer = self._loop.call_later(max(0, wake_ns - time.monotonic_ns()) / 1e9, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        if self._connection is not None:
            self._connection.look_again()
        if not self._home.tick(time.monotonic_ns()) and self._connection is not None:
            self._connection.close()
            self._lost()
        self._settle()


def _resolve(ended: Ended) -> None:
    future: asyncio.Future[Any] = ended.token
    if future.done():
        return  # cancelled by its owner
    if ended.error is None:
        future.set_result(ended.answer)
        return
    future.set_exception(ended.error)
    future.exception()  # an error that nobody awaits is no news for the loop
