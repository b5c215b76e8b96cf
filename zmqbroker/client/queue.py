"""Queues as a user of asyncio meets them: send, receive, ack, and messages that know their queue."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Unpack

from zmqbroker.client.acks import AckGatherer
from zmqbroker.client.consumer import CLOSE_MS, Consumer, Consuming
from zmqbroker.client.driver import Driver
from zmqbroker.client.message import (
    Content,
    Explained,
    Messages,
    SendResult,
    check_channel,
    encode_message,
    read_messages,
    receipts_of,
)
from zmqbroker.client.options import HandleOptions
from zmqbroker.client.pipeline import PipelineSettings
from zmqbroker.client.producer import Producer, Sender
from zmqbroker.client.session import Answer
from zmqbroker.client.settling import settle
from zmqbroker.client.worker import Worker, WorkerSettings
from zmqbroker.commands import DeleteMessages, Extend, Manage, Nack, Purge, Receipt, Redrive, Reject, Requeue, Settle
from zmqbroker.errors import BrokerError, DeadlineExceeded, LocalProtocolError, RemoteProtocolError
from zmqbroker.wire.batch import Buffer
from zmqbroker.wire.columns import Treatment
from zmqbroker.wire.compression import Compression, is_compression
from zmqbroker.wire.frames import U32_MAX
from zmqbroker.wire.requests import (
    RECEIPTS_MAX,
    RECEIVE_SIZE_DEFAULT,
    VISIBILITY_MS_DEFAULT,
    CloseRequest,
    ManageRequest,
    PeekRequest,
    ReceiveRequest,
    Send,
    SettleRequest,
    StatsRequest,
)

__all__ = ["Book", "Message", "Queue"]

#: Batches under way and bytes pending that a user may ask for. The broker keeps 128 results per producer (PROTOCOL §4).
_WINDOW_MAX = 128
#: A batch of this size fits whatever `message_bytes_max` is (PROTOCOL §5); a larger message travels alone.
_BATCH_BYTES_MAX = 1_000_000
_BATCH_MESSAGES_MAX = 65_535
_LINGER_MS_MAX = 60_000


class Message(Content):
    """A received message. It is ready again for others when it is not acked within its visibility timeout."""

    __slots__ = ()

    async def ack(self) -> None:
        """Finish the message for good. Raises StaleReceipt when it was not held any more, as all of these do."""
        await self.piece.owner.ack((self,))

    async def nack(self, *, delay_ms: int = 0, behind: bool = False) -> None:
        """Give it back: ready again in its place, now or after a delay, or behind all others."""
        await self.piece.owner.nack((self,), delay_ms=delay_ms, behind=behind)

    async def reject(self, reason: str = "") -> None:
        """Move it to the channel's dead-letter channel. Raises InvalidRequest when there is none."""
        await self.piece.owner.reject((self,), reason)

    async def requeue(self, to: str) -> None:
        """Move it to another channel."""
        await self.piece.owner.requeue((self,), to)

    async def extend(self, visibility_ms: int) -> None:
        """Hold it for so long from now on."""
        await self.piece.owner.extend((self,), visibility_ms)


class Queue:
    """One queue. Made by `Client.queue`; it exists at the broker as soon as it is used."""

    def __init__(
        self, name: str, driver: Driver, book: Book, timeout_ms: int, make: type[Message], owner: object = None
    ) -> None:
        check_channel(name)
        self.name = name
        self._driver = driver
        self._book = book
        self._timeout_ms = timeout_ms
        self._make = make  # the class of its messages, which `owner` acks
        self._owner = owner if owner is not None else self
        self._senders: dict[bool, Sender] = {}  # by whether they compress
        self._acks = AckGatherer(name, lambda request: driver.submit(request, timeout_ms))

    async def send(
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
        """Store one message and wait for the confirm.

        It can be received after `delay_ms`, until `expiry_ms` after now (0: for ever), and before those of a lower `priority`
        (0 to 9). With `compression="zlib"` its body travels and is stored compressed, where that makes it smaller. Calls at
        the same time are stored in their order (those with compression in one of their own), and share batches when more wait
        than the window takes.
        """
        treatment = Treatment(delay_ms, expiry_ms, priority)
        encoded = encode_message(body, id, metadata, tags, self._driver.message_bytes_max, treatment)
        sender = self._sender(is_compression(compression))
        return await (await sender.send(encoded, timeout_ms or self._timeout_ms, share=timeout_ms is None))

    async def explain(self, body: Buffer, *, timeout_ms: int | None = None) -> Explained:
        """Store one message by itself, and tell how long each step of its confirm took.

        Without a producer, so a retry after a lost answer may store it twice.
        """
        data = encode_message(body, None, None, None, self._driver.message_bytes_max).body
        started_ns = time.monotonic_ns()
        request = Send(self.name, data, forward=True, explain=True)
        fields = (await self._driver.submit(request, timeout_ms or self._timeout_ms)).fields
        total_us = (time.monotonic_ns() - started_ns) // 1000
        result = SendResult(*(fields[name] for name in ("sequence", "time_unix_ns", "duplicate", "confirm")))
        return Explained(result, fields.get("explain", {}), total_us)

    def producer(
        self,
        *,
        linger_ms: int = 1,
        batch_bytes: int = 256 << 10,
        batch_messages: int = 4096,
        window: int = 64,
        pending_bytes_max: int = 16 << 20,
        compression: Compression | None = None,
        timeout_ms: int | None = None,
    ) -> Producer:
        """A producer for many messages: a batch goes out when it has `batch_bytes` or `batch_messages`, or after `linger_ms`.

        At most `window` batches are unanswered, and about `pending_bytes_max` bytes wait in memory. With `compression="zlib"`
        bodies are compressed, all of a batch or, where that does not make them smaller, none. Raises LocalProtocolError when a
        setting is out of its range.
        """
        _check("linger_ms", linger_ms, 0, _LINGER_MS_MAX)
        _check("batch_bytes", batch_bytes, 1, _BATCH_BYTES_MAX)
        _check("batch_messages", batch_messages, 1, _BATCH_MESSAGES_MAX)
        _check("window", window, 1, _WINDOW_MAX)
        settings = PipelineSettings(
            linger_ns=linger_ms * 1_000_000,
            batch_bytes=batch_bytes,
            batch_messages=batch_messages,
            window=window,
            pending_bytes_max=pending_bytes_max,
            compress=is_compression(compression),
        )
        sender = Sender(self._driver, self.name, settings)
        return Producer(sender, self._driver, timeout_ms or self._timeout_ms, self._book.producers)

    async def receive(
        self,
        max: int = 1,
        *,
        min: int = 1,
        wait_ms: int = 0,
        visibility_ms: int = VISIBILITY_MS_DEFAULT,
        max_bytes: int = RECEIVE_SIZE_DEFAULT,
        timeout_ms: int | None = None,
    ) -> list[Message]:
        """Up to `max` messages as soon as `min` are ready, or what there is after `wait_ms`.

        Each is in flight for `visibility_ms`, then it is ready again. When the call is cancelled or times out, what may have
        been assigned to it goes back at once.
        """
        consumer = self._book.next_consumer()
        request = ReceiveRequest(self.name, min, max, max_bytes, wait_ms, visibility_ms, consumer)
        future = self._driver.submit(request, wait_ms + (timeout_ms or self._timeout_ms))
        try:
            answer = await future
        except (asyncio.CancelledError, DeadlineExceeded):
            self._give_back(future, consumer)
            raise
        return list(self._read(*answer))

    def consume(
        self, *, credit: int = 256, visibility_ms: int = VISIBILITY_MS_DEFAULT, max_bytes: int = RECEIVE_SIZE_DEFAULT
    ) -> Consumer[Message]:
        """An iterator over the queue's messages, with up to `credit` of them (`max_bytes` for each half) kept ready here."""
        _check("credit", credit, 1, 2 * _BATCH_MESSAGES_MAX)
        numbers = (self._book.next_consumer(), self._book.next_consumer())[: 1 if credit == 1 else 2]
        requests = Consumer.requests(self.name, numbers, credit, visibility_ms, max_bytes)
        return Consumer(self._driver, requests, self._timeout_ms, self._read, self._book.consumers)

    async def handle(self, handler: Callable[[Message], Awaitable[object]], **settings: Unpack[HandleOptions]) -> None:
        """Call `handler` with every message, several at a time, until the client is drained or the call cancelled.

        A handler that returns acks its message; one that raises gives it back, to come again after a delay that doubles;
        `Rejected` moves it to the dead-letter channel. Settings are those of `WorkerSettings`: `concurrency`,
        `visibility_ms`, `max_hold_ms`, `backoff_ms`, `backoff_max_ms`.
        """
        worker = Worker(self, handler, WorkerSettings(**settings))
        self._book.consumers.add(worker)
        try:
            await worker.run()
        finally:
            self._book.consumers.discard(worker)

    async def ack(self, messages: Iterable[Message]) -> None:
        """Finish messages for good. Raises StaleReceipt naming those that were not held any more; the others are acked."""
        receipts = receipts_of(messages)
        if receipts:
            await self._acks.ack(receipts)

    async def nack(self, messages: Iterable[Message], *, delay_ms: int = 0, behind: bool = False) -> None:
        """Give messages back: ready again in their places, now or after a delay, or behind all others.

        Raises StaleReceipt naming those that were not held any more, as all of these do; with the others it is done. When it
        says `outcome_unknown`, an earlier attempt whose answer was lost may have done it with those, too.
        """
        await self._settle(Nack, messages, delay_ms, behind)

    async def reject(self, messages: Iterable[Message], reason: str = "") -> None:
        """Move messages to the channel's dead-letter channel. Raises InvalidRequest when there is none."""
        await self._settle(Reject, messages, reason)

    async def requeue(self, messages: Iterable[Message], to: str) -> None:
        """Move messages to another channel, where they keep what they were sent with."""
        check_channel(to)
        await self._settle(Requeue, messages, to)

    async def extend(self, messages: Iterable[Message], visibility_ms: int) -> None:
        """Hold messages for so long from now on."""
        await self._settle(Extend, messages, visibility_ms)

    async def _settle(self, kind: Callable[..., Settle], messages: Iterable[Message], *values: Any) -> None:
        def submit(request: SettleRequest) -> asyncio.Future[Answer]:
            return self._driver.submit(request, self._timeout_ms)

        def make(receipts: tuple[Receipt, ...]) -> Settle:
            return kind(b"", self.name, receipts, *values)

        await settle(submit, make, receipts_of(messages))

    async def peek(
        self, max: int = 1, *, first: int = 1, since_unix_ns: int = 0, max_bytes: int = RECEIVE_SIZE_DEFAULT
    ) -> list[Content]:
        """Up to `max` messages from a sequence on, stored at an instant or later, without touching them.

        Ready, delayed and in flight alike. Raises ChannelNotFound.
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

    async def wait_idle(self) -> None:
        """Wait until every `send` under way has ended."""
        for sender in list(self._senders.values()):
            await sender.wait_idle()

    def _sender(self, compress: bool) -> Sender:
        """What `send` sends with; made when it is first used."""
        if compress not in self._senders:
            self._senders[compress] = Sender(self._driver, self.name, PipelineSettings(compress=compress))
        return self._senders[compress]

    def _read(self, fields: dict[str, Any], bodies: Sequence[Buffer]) -> Messages[Message]:
        return read_messages(self._owner, self.name, fields, bodies, self._make, self._driver.message_bytes_max)

    def _give_back(self, future: asyncio.Future[Answer], consumer: int) -> None:
        self._driver.forget(future)
        with contextlib.suppress(BrokerError):
            # Nobody waits for the answer; without one the session's end does the same.
            self._driver.submit(CloseRequest(consumer), CLOSE_MS)


class Book:
    """What is in use at one client: consumer numbers, who consumes, producers that are open."""

    def __init__(self) -> None:
        self.consumers: set[Consuming] = set()
        self.producers: set[Producer] = set()
        self._last_consumer = 0

    def next_consumer(self) -> int:
        """A number that no other consumer of the session has, but after four thousand million of them."""
        self._last_consumer = self._last_consumer % U32_MAX + 1
        return self._last_consumer


def _next_of(answer: Answer, first: int) -> int:
    """Where a redrive from a sequence on goes on; 0: it is through. It rises, so that none is without end."""
    found = answer.fields.get("next", 0)
    if not isinstance(found, int) or 0 != found <= first:
        raise RemoteProtocolError(f"a redrive from sequence {first} on goes on from {found!r}")
    return found


def _check(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise LocalProtocolError(f"{name} is {value}, allowed is {low} to {high}")
