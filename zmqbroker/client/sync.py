"""The client for threads: the asyncio client in a thread of its own, and the same names without `await`.

    with SyncClient("zmqbroker://127.0.0.1") as client:
        client.queue("orders").send(b"...")

It holds no logic but the way into the loop and back. All of it may be used from any thread at the same time. In a forked child
the client and its queues get a thread, a connection and a session of their own when they are first used there; producers,
consumers and messages stay the parent's.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import threading
import weakref
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, TypeVar, Unpack, cast

from zmqbroker.client.aio import Client
from zmqbroker.client.destinations import DestinationResult
from zmqbroker.client.held import Message
from zmqbroker.client.queue import Queue
from zmqbroker.client.store import Store
from zmqbroker.client.sync_channels import SyncChannels
from zmqbroker.client.sync_commands import SyncCommand, SyncQuery
from zmqbroker.client.sync_events import SyncEvents
from zmqbroker.client.sync_queue import SyncMessage, SyncQueue
from zmqbroker.client.sync_routing import SyncBindings, SyncRoutes
from zmqbroker.client.sync_schedules import SyncSchedules
from zmqbroker.client.sync_store import SyncStore
from zmqbroker.client.transaction import SendOptions
from zmqbroker.errors import LocalProtocolError
from zmqbroker.wire.batch import Buffer

__all__ = ["SyncClient"]

_Result = TypeVar("_Result")


class _LoopClient(Client):
    """The client inside the thread; its queues make messages for threads."""

    def __init__(self, owner: SyncClient, url: str | None, options: dict[str, Any]) -> None:
        super().__init__(url, **options)
        self._message_class = cast(type[Message], SyncMessage)
        self._message_owner = owner


class SyncClient:
    """A connection to a cluster. Use it inside `with`, or call `close`. Options are those of `Client`."""

    def __init__(self, url: str | None = None, **options: Any) -> None:
        self._url, self._options = url, options
        self._lock = threading.Lock()
        self._closed = False
        self._queues: dict[str, SyncQueue] = {}  # two threads may make one twice: both are the same queue
        self._ancestors: list[object] = []  # what belongs to the processes that this one was forked from; never to be freed
        self._begin()
        _clients.add(self)

    def _begin(self) -> None:
        """Make what belongs to this process."""
        self._process_id = os.getpid()
        self._client = _LoopClient(self, self._url, self._options)
        self._inner: dict[str, Queue] = {}
        self._inner_stores: dict[str, Store] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="zmqbroker-client", daemon=True)
        self._thread.start()

    def queue(self, name: str) -> SyncQueue:
        """The queue of that name. Raises InvalidChannel."""
        queue = self._queues.get(name)
        if queue is None:
            self.inner_queue(name)
            queue = self._queues[name] = SyncQueue(self, name)
        return queue

    def inner_queue(self, name: str) -> Queue:
        """The queue in the loop of this process."""
        client = self._current()
        queue = self._inner.get(name)
        if queue is None:
            queue = self._inner[name] = self.run(self._make_queue(client, name))
        return queue

    def command(self, name: str) -> SyncCommand:
        """The commands of a name. Raises InvalidChannel."""
        return SyncCommand(self, name)

    def query(self, name: str) -> SyncQuery:
        """The queries of a name. Raises InvalidChannel."""
        return SyncQuery(self, name)

    def events(self, name: str) -> SyncEvents:
        """The events of a name, or for `subscribe` of a pattern."""
        return SyncEvents(self, name)

    def inner(self) -> Client:
        """The client in the loop of this process, to be used there."""
        return self._current()

    def store(self, name: str) -> SyncStore:
        """The events store of that name. Raises InvalidChannel."""
        self.inner_store(name)
        return SyncStore(self, name)

    def inner_store(self, name: str) -> Store:
        """The events store in the loop of this process."""
        client = self._current()
        store = self._inner_stores.get(name)
        if store is None:
            store = self._inner_stores[name] = self.run(self._make_store(client, name))
        return store

    def info(self) -> dict[str, Any]:
        """What a node tells of itself and its cluster (PROTOCOL §7)."""
        return self.run(self._current().info())

    @property
    def channels(self) -> SyncChannels:
        """Channels as a whole."""
        return SyncChannels(self, self._current())

    @property
    def schedules(self) -> SyncSchedules:
        """Messages that are sent again and again."""
        return SyncSchedules(self, self._client)

    @property
    def routes(self) -> SyncRoutes:
        """Names that stand for lists of destinations."""
        return SyncRoutes(self, self._current())

    @property
    def bindings(self) -> SyncBindings:
        """What feeds queues beside those who send to them."""
        return SyncBindings(self, self._current())

    def send(
        self,
        to: str,
        body: Buffer,
        *,
        expected_sequence: int | None = None,
        timeout_ms: int | None = None,
        **options: Unpack[SendOptions],
    ) -> list[DestinationResult]:
        """Send one message to several destinations; see `Client.send`."""
        sending = self._current().send(to, body, expected_sequence=expected_sequence, timeout_ms=timeout_ms, **options)
        return self.run(sending)

    def drain(self, timeout_ms: int = 30_000) -> None:
        """Stop receiving, let handlers finish the message they have, send what producers hold, close.

        Handlers run in other threads; called from the one that iterates, it would wait for itself until `timeout_ms`.
        """
        try:
            self.run(self._current().drain(timeout_ms))
        finally:
            self.close()

    def close(self) -> None:
        """End at once what is under way; messages that are not acked go back to their queues. May be repeated."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            if os.getpid() != self._process_id:
                return  # a forked child that did not use it
        asyncio.run_coroutine_threadsafe(self._client.close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def run(self, action: Coroutine[Any, Any, _Result]) -> _Result:
        """Run a coroutine of the inner client in its loop, and wait for the result."""
        if os.getpid() != self._process_id:
            self._current()
        with self._lock:
            if self._closed:
                action.close()
                raise LocalProtocolError("this client is closed")
            future = asyncio.run_coroutine_threadsafe(action, self._loop)
        try:
            return future.result()
        except concurrent.futures.CancelledError as error:
            raise LocalProtocolError("this client was closed") from error
        except BaseException:
            future.cancel()  # Ctrl-C in the waiting thread ends the request too
            raise

    def post(self, callback: Callable[[], object]) -> None:
        """Have the loop call `callback` soon. Raises LocalProtocolError after close."""
        with self._lock:  # what is posted before the end of the loop runs
            if self._closed:
                raise LocalProtocolError("this client is closed")
            self._loop.call_soon_threadsafe(callback)

    def forget_parent(self) -> None:
        """This is a forked child: loop, thread and session are the parent's, and another thread may have held the lock."""
        self._lock = threading.Lock()
        self._ancestors += [self._client, self._loop, self._thread]

    def _current(self) -> Client:
        """The client in the loop of this process; a forked child gets its own when it asks first."""
        if os.getpid() != self._process_id:
            with self._lock:
                if os.getpid() != self._process_id and not self._closed:
                    self._begin()
        return self._client

    def __enter__(self) -> SyncClient:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    async def _make_queue(self, client: Client, name: str) -> Queue:
        return client.queue(name)

    async def _make_store(self, client: Client, name: str) -> Store:
        return client.store(name)

    def _serve(self) -> None:
        """The thread: runs the loop until `close` stops it, then ends what is left in it."""
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
            self._loop.run_until_complete(self._end_tasks())
        finally:
            self._loop.close()

    async def _end_tasks(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._loop.shutdown_asyncgens()
        await self._loop.shutdown_default_executor()


_clients: weakref.WeakSet[SyncClient] = weakref.WeakSet()


def _forget_parent() -> None:
    for client in list(_clients):
        client.forget_parent()


if hasattr(os, "register_at_fork"):  # pragma: no branch - everywhere but on Windows
    os.register_at_fork(after_in_child=_forget_parent)
