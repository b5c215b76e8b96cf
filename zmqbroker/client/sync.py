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
import contextlib
import os
import threading
import weakref
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, TypeVar, Unpack, cast

from zmqbroker.client.aio import Client
from zmqbroker.client.consumer import Consumer
from zmqbroker.client.message import Content, Explained, SendResult
from zmqbroker.client.options import ConsumeOptions, HandleOptions, PeekOptions, ProducerOptions, ReceiveOptions
from zmqbroker.client.producer import Producer
from zmqbroker.client.queue import Message, Queue
from zmqbroker.client.sync_channels import SyncChannels
from zmqbroker.client.sync_producer import SyncProducer
from zmqbroker.client.worker import WorkerSettings
from zmqbroker.errors import LocalProtocolError
from zmqbroker.wire.batch import Buffer
from zmqbroker.wire.compression import Compression

__all__ = ["SyncClient", "SyncConsumer", "SyncMessage", "SyncQueue"]

_Result = TypeVar("_Result")


class SyncMessage(Content):
    """A received message. It is ready again for others when it is not acked within its visibility timeout."""

    __slots__ = ()

    def ack(self) -> None:
        """Finish the message for good. Raises StaleReceipt when it was not held any more."""
        self._queue().ack((self,))

    def nack(self, *, delay_ms: int = 0, behind: bool = False) -> None:
        """Give it back; see `Message.nack`."""
        self._queue().nack((self,), delay_ms=delay_ms, behind=behind)

    def reject(self, reason: str = "") -> None:
        """Move it to the channel's dead-letter channel. Raises InvalidRequest when there is none."""
        self._queue().reject((self,), reason)

    def requeue(self, to: str) -> None:
        """Move it to another channel."""
        self._queue().requeue((self,), to)

    def extend(self, visibility_ms: int) -> None:
        """Hold it for so long from now on."""
        self._queue().extend((self,), visibility_ms)

    def _queue(self) -> SyncQueue:
        owner: SyncClient = self.piece.owner
        return owner.queue(self.channel)


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

    def info(self) -> dict[str, Any]:
        """What a node tells of itself and its cluster (PROTOCOL §7)."""
        return self.run(self._current().info())

    @property
    def channels(self) -> SyncChannels:
        """Channels as a whole."""
        return SyncChannels(self, self._current())

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


class SyncQueue:
    """One queue. Made by `SyncClient.queue`."""

    def __init__(self, client: SyncClient, name: str) -> None:
        self._client = client
        self.name = name

    @property
    def _queue(self) -> Queue:
        return self._client.inner_queue(self.name)

    def send(
        self,
        body: Buffer,
        *,
        id: str | None = None,
        metadata: str | None = None,
        tags: Mapping[str, str] | None = None,
        delay_ms: int = 0,
        expiry_ms: int = 0,
        priority: int = 0,
        compression: Compression | None = None,
        timeout_ms: int | None = None,
    ) -> SendResult:
        """Store one message and wait for the confirm; see `Queue.send`."""
        treatment = {"delay_ms": delay_ms, "expiry_ms": expiry_ms, "priority": priority}
        rest: dict[str, Any] = {"compression": compression, "timeout_ms": timeout_ms, **treatment}
        return self._client.run(self._queue.send(body, id=id, metadata=metadata, tags=tags, **rest))

    def explain(self, body: Buffer, *, timeout_ms: int | None = None) -> Explained:
        """Store one message by itself, and tell how long each step took; see `Queue.explain`."""
        return self._client.run(self._queue.explain(body, timeout_ms=timeout_ms))

    def producer(self, **settings: Unpack[ProducerOptions]) -> SyncProducer:
        """A producer for many messages. Settings are those of `Queue.producer`."""
        return SyncProducer(self._client, self._client.run(self._producer(settings)))

    def receive(self, max: int = 1, **options: Unpack[ReceiveOptions]) -> list[SyncMessage]:
        """Up to `max` messages. Options are those of `Queue.receive`."""
        return cast(list[SyncMessage], self._client.run(self._queue.receive(max, **options)))

    def consume(self, **options: Unpack[ConsumeOptions]) -> SyncConsumer:
        """An iterator over the queue's messages. Options are those of `Queue.consume`."""
        return SyncConsumer(self._client, self._client.run(self._consumer(options)))

    def handle(self, handler: Callable[[SyncMessage], object], **settings: Unpack[HandleOptions]) -> None:
        """Call `handler` with every message, in up to `concurrency` threads, until the client is drained or closed.

        What becomes of a message, and the settings, are those of `Queue.handle`.
        """
        count = WorkerSettings(**settings).concurrency
        with concurrent.futures.ThreadPoolExecutor(count, "zmqbroker-handler") as threads:
            self._client.run(self._handle(handler, threads, settings))

    async def _handle(
        self, handler: Callable[[SyncMessage], object], threads: concurrent.futures.Executor, settings: HandleOptions
    ) -> None:
        loop = asyncio.get_running_loop()
        await self._queue.handle(lambda message: loop.run_in_executor(threads, handler, cast(Any, message)), **settings)

    def ack(self, messages: Iterable[SyncMessage]) -> None:
        """Finish messages for good. Raises StaleReceipt naming those that were not held any more; the others are acked."""
        self._client.run(self._queue.ack(cast(Iterable[Message], messages)))

    def nack(self, messages: Iterable[SyncMessage], *, delay_ms: int = 0, behind: bool = False) -> None:
        """Give messages back; see `Queue.nack`."""
        self._client.run(self._queue.nack(cast(Iterable[Message], messages), delay_ms=delay_ms, behind=behind))

    def reject(self, messages: Iterable[SyncMessage], reason: str = "") -> None:
        """Move messages to the dead-letter channel; see `Queue.reject`."""
        self._client.run(self._queue.reject(cast(Iterable[Message], messages), reason))

    def requeue(self, messages: Iterable[SyncMessage], to: str) -> None:
        """Move messages to another channel; see `Queue.requeue`."""
        self._client.run(self._queue.requeue(cast(Iterable[Message], messages), to))

    def extend(self, messages: Iterable[SyncMessage], visibility_ms: int) -> None:
        """Hold messages for so long from now on."""
        self._client.run(self._queue.extend(cast(Iterable[Message], messages), visibility_ms))

    def peek(self, max: int = 1, **options: Unpack[PeekOptions]) -> list[Content]:
        """Look at messages without touching them. Options are those of `Queue.peek`."""
        return self._client.run(self._queue.peek(max, **options))

    def purge(self, *, in_flight: bool = False) -> int:
        """Finish all messages that nobody holds, or all; how many there were. Raises ChannelNotFound."""
        return self._client.run(self._queue.purge(in_flight=in_flight))

    def delete(self, sequences: Iterable[int]) -> int:
        """Finish messages that nobody holds by their sequences; see `Queue.delete`."""
        return self._client.run(self._queue.delete(sequences))

    def redrive(self, *, to: str = "", origin: str = "", max: int = 0) -> int:
        """Move messages that nobody holds to a channel, or each to where it came from; see `Queue.redrive`."""
        return self._client.run(self._queue.redrive(to=to, origin=origin, max=max))

    def stats(self) -> dict[str, Any]:
        """The queue's counters, as PROTOCOL §3 names them for CHANNEL. Raises ChannelNotFound when nobody has used it."""
        return self._client.run(self._queue.stats())

    async def _producer(self, settings: ProducerOptions) -> Producer:
        return await self._queue.producer(**settings).__aenter__()

    async def _consumer(self, options: ConsumeOptions) -> Consumer[Message]:
        return self._queue.consume(**options)


class SyncConsumer:
    """Messages of one queue: `for message in consumer`, best inside `with consumer`."""

    def __init__(self, client: SyncClient, consumer: Consumer[Message]) -> None:
        self._client = client
        self._consumer = consumer
        self._process_id = os.getpid()

    def __iter__(self) -> Iterator[SyncMessage]:
        try:
            while messages := self._client.run(self._take()):
                yield from cast(list[SyncMessage], messages)
        finally:
            self.close()

    async def _take(self) -> Sequence[Message]:
        if os.getpid() != self._process_id:
            raise LocalProtocolError(f"this consumer belongs to process {self._process_id}; a forked process must make its own")
        return await self._consumer.take()

    def close(self) -> None:
        """Stop, and return to the queue what was not acked. May be repeated."""
        if os.getpid() != self._process_id:
            return  # what it holds is the parent's
        with contextlib.suppress(LocalProtocolError):  # a closed client has returned everything
            self._client.run(self._consumer.close())

    def __enter__(self) -> SyncConsumer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


_clients: weakref.WeakSet[SyncClient] = weakref.WeakSet()


def _forget_parent() -> None:
    for client in list(_clients):
        client.forget_parent()


if hasattr(os, "register_at_fork"):  # pragma: no branch - everywhere but on Windows
    os.register_at_fork(after_in_child=_forget_parent)
