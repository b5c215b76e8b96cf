"""What turns a session into a living client: sockets, clock, timer and futures of one event loop.

Every input (a message, a connection event, a call, the timer) goes into the session; then `_settle` carries out what the
session asks for: frames to send, futures to resolve, connections to make, when to wake. It decides nothing about the
protocol. One driver belongs to one loop of one process; in a forked child it refuses to work, because the sockets are the
parent's. Bounds are the session's; names are resolved in the loop's executor.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable
from random import SystemRandom
from typing import Any

import zmq

from zmqbroker.client.connection import Connection
from zmqbroker.client.contact import Trouble
from zmqbroker.client.home_driver import HomeDriver
from zmqbroker.client.parcel import Parcel
from zmqbroker.client.pipeline import FOREVER_NS, Pipeline, PipelineSettings
from zmqbroker.client.posting import Posts
from zmqbroker.client.resolving import address_of
from zmqbroker.client.session import Answer, Session
from zmqbroker.errors import BrokerError, DeadlineExceeded, LocalProtocolError
from zmqbroker.wire.requests import AnyRequest, Info, Send, encode_request

__all__ = ["Driver"]

#: The pause before a new connection to a node, doubled with every failure in a row.
_RECONNECT_S = 0.05
_RECONNECT_MAX_S = 1.0
#: Messages without a confirm are offered again after this when a full pipe has not taken them, or when there is no connection.
_OFFER_FULL_S, _OFFER_CLOSED_S = 0.005, 0.05


class _Link:
    """The way to one endpoint: being made, connected, or waiting to be tried again."""

    def __init__(self) -> None:
        self.connection: Connection | None = None
        self.connecting: asyncio.Task[None] | None = None
        self.retry: asyncio.TimerHandle | None = None
        self.pause_s = _RECONNECT_S

    def close(self) -> None:
        if self.connection is not None:
            self.connection.close()
        if self.retry is not None:
            self.retry.cancel()
        if self.connecting is not None:
            self.connecting.cancel()


class Driver:
    """Runs one session. All methods are called on its loop."""

    def __init__(self, seeds: tuple[str, ...], client_id: str) -> None:
        self.client_id = client_id
        self.closed = False
        self._loop = asyncio.get_running_loop()
        self._process_id = os.getpid()
        self._session = Session(seeds, os.urandom(16), client_id, SystemRandom(), time.monotonic_ns())
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._links: dict[str, _Link] = {}
        self._seeds = seeds
        self._home: HomeDriver | None = None  # made when it is first used
        self._posts = Posts()
        self._posted: list[asyncio.Future[None]] = []  # waiting until there are none
        self._offering: asyncio.TimerHandle | None = None  # set while posts wait for room in a pipe
        self._settling = False  # whether a call of _settle is on its way
        self._timer: asyncio.TimerHandle | None = None
        self._timer_ns = FOREVER_NS  # when the timer fires
        self._progress: dict[Callable[[], None], None] = {}  # to be called whenever something ended
        self._settle()

    # --- requests ----------------------------------------------------------------------------------------------------

    @property
    def message_bytes_max(self) -> int:
        """The largest body that the cluster takes, as far as it is known."""
        return self._session.message_bytes_max

    @property
    def worth_closing(self) -> bool:
        """Whether the session may hold messages, and a node is there to be told that it ends."""
        return self._session.worth_closing

    def submit(self, request: AnyRequest, timeout_ms: int) -> asyncio.Future[Answer]:
        """Start a request; the future ends with the answer or a `BrokerError`."""
        return self.submit_named(request, timeout_ms)[0]

    def submit_named(self, request: AnyRequest, timeout_ms: int) -> tuple[asyncio.Future[Answer], int]:
        """The same, and the id of the request."""
        self.check_usable()
        future: asyncio.Future[Answer] = self._loop.create_future()
        request_id = self._session.submit(request, future, time.monotonic_ns() + timeout_ms * 1_000_000)
        self._settle_soon()
        return future, request_id

    def post(self, request: Send) -> None:
        """Send a request once, which nobody answers; without a connection it waits for one. Raises Busy."""
        self.check_usable()
        self._posts.add(encode_request(self._session.new_id(), request))
        self._settle_soon()

    async def wait_posted(self, timeout_ms: int) -> None:
        """Wait until a node has read every post so far. Raises BrokerError."""
        if self._posts:
            posted: asyncio.Future[None] = self._loop.create_future()
            self._posted.append(posted)
            try:
                async with asyncio.timeout(timeout_ms / 1000):
                    await posted
            except TimeoutError as error:
                raise DeadlineExceeded(f"{len(self._posts)} messages without a confirm still wait for a connection") from error
        await self.submit(Info(), timeout_ms)  # what one connection brings is read in order

    @property
    def home(self) -> HomeDriver:
        """The connection for what never enters the log."""
        self.check_usable()
        if self._home is None:
            session = self._session
            self._home = HomeDriver(self._context, self._seeds, session.session, self.client_id, session.new_id, SystemRandom())
        return self._home

    def forget(self, future: asyncio.Future[Answer]) -> None:
        """Nobody waits for that request any more."""
        self._session.forget(future)

    def pipeline(self, channel: str, settings: PipelineSettings) -> Pipeline:
        """A new producer."""
        self.check_usable()
        return self._session.pipeline(channel, settings)

    def activate(self, pipeline: Pipeline) -> None:
        """Something was appended to a pipeline, or its flush was asked for."""
        self.check_usable()
        self._session.activate(pipeline)
        self._settle_soon()

    def on_progress(self, callback: Callable[[], None], wanted: bool) -> None:
        """Call `callback` from now on whenever something ended, or no longer."""
        if wanted:
            self._progress[callback] = None
        else:
            self._progress.pop(callback, None)

    def check_usable(self) -> None:
        """Raises LocalProtocolError in a forked child, in another event loop, and after close."""
        if os.getpid() != self._process_id:
            raise LocalProtocolError(
                f"this client belongs to process {self._process_id}; a forked process ({os.getpid()}) must make its own"
            )
        if asyncio.get_running_loop() is not self._loop:
            raise LocalProtocolError("this client belongs to another event loop; each loop must make its own")
        if self.closed:
            raise self.closed_error()

    def closed_error(self) -> LocalProtocolError:
        """What a call on a closed client gets."""
        return LocalProtocolError("this client is closed")

    async def close(self) -> None:
        """End everything under way, close the sockets. May be repeated."""
        if self.closed:
            return
        self.closed = True
        if os.getpid() != self._process_id:
            return  # the sockets are the parent's
        self._session.abort()
        self._complete()
        for timer in (self._timer, self._offering):
            if timer is not None:
                timer.cancel()
        for posted in self._posted:
            posted.cancel()
        if self._home is not None:
            await self._home.close()
        tasks = [link.connecting for link in self._links.values() if link.connecting is not None]
        for link in self._links.values():
            link.close()
        self._links.clear()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._context.term()

    # --- connections -------------------------------------------------------------------------------------------------

    def on_ready(self, connection: Connection) -> None:
        """A connection stands."""
        self._links[connection.endpoint].pause_s = _RECONNECT_S
        self._session.connected(connection.endpoint, time.monotonic_ns())
        self._settle()

    def on_messages(self, connection: Connection, messages: list[list[bytes]]) -> None:
        """Messages came."""
        now_ns = time.monotonic_ns()
        for frames in messages:
            self._session.received(connection.endpoint, frames, now_ns)
        self._settle()

    def on_gone(self, connection: Connection) -> None:
        """A connection is gone."""
        self._failed(connection.endpoint, connection.trouble)

    def _failed(self, endpoint: str, trouble: Trouble) -> None:
        link = self._links[endpoint]
        link.connection = link.connecting = None
        link.retry = self._loop.call_later(link.pause_s, self._retry, link)
        link.pause_s = min(2 * link.pause_s, _RECONNECT_MAX_S)
        self._session.lost(endpoint, time.monotonic_ns(), trouble)
        self._settle()

    def _retry(self, link: _Link) -> None:
        link.retry = None
        self._settle()

    def _connect_wanted(self) -> None:
        for endpoint in self._session.take_urgent():
            self._hurry(endpoint)
        wanted = self._session.wanted()
        for endpoint in wanted:
            link = self._links.setdefault(endpoint, _Link())
            if link.connection is None and link.connecting is None and link.retry is None:
                link.connecting = self._loop.create_task(self._connect(endpoint, link))
        for endpoint in self._links.keys() - wanted:
            self._links.pop(endpoint).close()

    def _hurry(self, endpoint: str) -> None:
        """The others say that this node leads: it must be there again, whatever earlier attempts met."""
        link = self._links.get(endpoint)
        if link is not None and link.retry is not None and link.retry.when() > self._loop.time() + _RECONNECT_S:
            link.retry.cancel()
            link.retry = self._loop.call_later(_RECONNECT_S, self._retry, link)

    async def _connect(self, endpoint: str, link: _Link) -> None:
        try:
            address = await address_of(endpoint)
            link.connection = Connection(self._context, endpoint, address, self)
        except (OSError, zmq.ZMQError) as error:  # a name that nobody knows, an address that cannot be, no descriptor left
            self._failed(endpoint, Trouble.UNKNOWN if isinstance(error, socket.gaierror) else Trouble.UNREACHABLE)
        else:
            link.connecting = None

    # --- carrying out ------------------------------------------------------------------------------------------------

    def _settle_soon(self) -> None:
        """Settle in the next pass of the loop, once for all calls of this one: they share batches and system calls."""
        if not self._settling:
            self._settling = True
            self._loop.call_soon(self._settle)

    def _settle(self) -> None:
        """Do what the session asks for."""
        self._settling = False
        if self.closed:
            return
        for endpoint, frames in self._session.pump(time.monotonic_ns()):
            link = self._links.get(endpoint)
            if link is not None and link.connection is not None:
                link.connection.send(frames)
        if self._posts:
            self._send_posts()
        self._connect_wanted()
        self._complete()
        self._set_timer()

    def _send_posts(self) -> None:
        """Let a connection take what is sent without a confirm, as much as its pipe has room for."""
        link = self._links.get(self._session.open_target(time.monotonic_ns()) or "")
        connection = link.connection if link is not None else None
        if connection is not None:
            self._posts.send(connection.offer)
        if self._posts:
            if self._offering is None:
                pause_s = _OFFER_CLOSED_S if connection is None else _OFFER_FULL_S
                self._offering = self._loop.call_later(pause_s, self._offer_again)
            return
        for posted in self._posted:
            if not posted.done():
                posted.set_result(None)
        self._posted.clear()

    def _offer_again(self) -> None:
        self._offering = None
        self._settle()

    def _complete(self) -> None:
        completions = self._session.take_completions()
        for token, value, error in completions:
            if isinstance(token, Parcel):
                token.tell()
            else:
                _resolve_future(token, value, error)
        if completions or self.closed:
            for callback in list(self._progress):
                callback()

    def _set_timer(self) -> None:
        wake_ns = self._session.wake_ns(time.monotonic_ns())
        if self._timer is not None:
            if wake_ns >= self._timer_ns:
                return  # it fires early and is set again: cheaper than to move it with every message
            self._timer.cancel()
        self._timer_ns = wake_ns
        self._timer = self._loop.call_later(max(0, wake_ns - time.monotonic_ns()) / 1e9, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        for link in list(self._links.values()):
            if link.connection is not None:
                link.connection.look_again()
        self._session.tick(time.monotonic_ns())
        self._settle()


def _resolve_future(future: asyncio.Future[Any], value: Any, error: BrokerError | None) -> None:
    if future.done():
        return  # cancelled by its owner
    if error is None:
        future.set_result(value)
        return
    future.set_exception(error)
    future.exception()  # an error that nobody awaits is told by the producer's flush and not by the loop
