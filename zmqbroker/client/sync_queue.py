"""Queues of the client for threads: the names of `queue`, `held` and `consumer` without `await`."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import os
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Unpack, cast, overload

from zmqbroker.client.consumer import Consumer
from zmqbroker.client.held import Message
from zmqbroker.client.message import Content, Explained, SendResult
from zmqbroker.client.options import ConsumeOptions, HandleOptions, PeekOptions, ProducerOptions, ReceiveOptions
from zmqbroker.client.producer import Producer
from zmqbroker.client.queue import Queue
from zmqbroker.client.sync_producer import SyncProducer
from zmqbroker.client.sync_transaction import SyncTransaction
from zmqbroker.client.transaction import SendOptions
from zmqbroker.client.worker import WorkerSettings
from zmqbroker.errors import LocalProtocolError
from zmqbroker.wire.batch import Buffer
from zmqbroker.wire.compression import Compression
from zmqbroker.wire.send_requests import QUORUM

if TYPE_CHECKING:
    from zmqbroker.client.sync import SyncClient

__all__ = ["SyncConsumer", "SyncMessage", "SyncQueue"]


class SyncMessage(Content):
    """A received message. It is ready again for others when it is not acked within its visibility timeout."""

    __slots__ = ()

    def ack(self) -> None:
        """Finish the message for good. Raises StaleReceipt when it was not held any more."""
        self._queue().ack((self,))

    def ack_and_send(
        self, channel: str, body: Buffer, *, timeout_ms: int | None = None, **options: Unpack[SendOptions]
    ) -> SendResult:
        """Ack it and send another message in one step: both happen, or neither; see `Queue.transaction`."""
        return self._queue().ack_and_send((self,), channel, body, timeout_ms=timeout_ms, **options)

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


class SyncQueue:
    """One queue. Made by `SyncClient.queue`."""

    def __init__(self, client: SyncClient, name: str) -> None:
        self._client = client
        self.name = name

    @property
    def _queue(self) -> Queue:
        return self._client.inner_queue(self.name)

    @overload
    def send(
        self,
        body: Buffer,
        *,
        id: str | None = ...,
        metadata: str | None = ...,
        tags: Mapping[str, str] | None = ...,
        trace: str | None = ...,
        delay_ms: int = ...,
        expiry_ms: int = ...,
        priority: int = ...,
        group: str = ...,
        expected_sequence: int | None = ...,
        confirm: Literal["quorum"] = ...,
        compression: Compression | None = ...,
        timeout_ms: int | None = ...,
    ) -> SendResult:
        """Wait for the confirm."""

    @overload
    def send(
        self,
        body: Buffer,
        *,
        id: str | None = ...,
        metadata: str | None = ...,
        tags: Mapping[str, str] | None = ...,
        trace: str | None = ...,
        delay_ms: int = ...,
        expiry_ms: int = ...,
        priority: int = ...,
        group: str = ...,
        expected_sequence: int | None = ...,
        confirm: Literal["none"],
        compression: Compression | None = ...,
        timeout_ms: int | None = ...,
    ) -> None:
        """Wait for nothing."""

    def send(
        self,
        body: Buffer,
        *,
        id: str | None = None,
        metadata: str | None = None,
        tags: Mapping[str, str] | None = None,
        trace: str | None = None,
        delay_ms: int = 0,
        expiry_ms: int = 0,
        priority: int = 0,
        group: str = "",
        expected_sequence: int | None = None,
        confirm: Any = QUORUM,
        compression: Compression | None = None,
        timeout_ms: int | None = None,
    ) -> SendResult | None:
        """Store one message and wait for the confirm, or with `confirm` "none" for nothing; see `Queue.send`."""
        headers: dict[str, Any] = {"id": id, "metadata": metadata, "tags": tags, "trace": trace}
        treatment: dict[str, Any] = {"delay_ms": delay_ms, "expiry_ms": expiry_ms, "priority": priority, "group": group}
        common: dict[str, Any] = {"expected_sequence": expected_sequence, "confirm": confirm, "timeout_ms": timeout_ms}
        common["compression"] = compression
        send = cast(Callable[..., Coroutine[Any, Any, SendResult | None]], self._queue.send)
        return self._client.run(send(body, **headers, **treatment, **common))

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

    def transaction(self, *messages: SyncMessage, timeout_ms: int | None = None) -> SyncTransaction:
        """A block that acks messages and sends others in one step; see `Queue.transaction`."""
        given = cast(tuple[Message, ...], messages)
        return SyncTransaction(self._client, self._queue.transaction(*given, timeout_ms=timeout_ms))

    def ack_and_send(
        self,
        messages: Iterable[SyncMessage],
        channel: str,
        body: Buffer,
        *,
        timeout_ms: int | None = None,
        **options: Unpack[SendOptions],
    ) -> SendResult:
        """Ack messages and send one in one step; see `Queue.transaction`."""
        given = cast(Iterable[Message], messages)
        return self._client.run(self._queue.ack_and_send(given, channel, body, timeout_ms=timeout_ms, **options))

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
