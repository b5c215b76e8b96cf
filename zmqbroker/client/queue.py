"""Queues as a user of asyncio meets them: send, receive, ack, and messages that know their queue."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, Unpack, overload

from zmqbroker.client.acks import AckGatherer
from zmqbroker.client.book import Book
from zmqbroker.client.consumer import CLOSE_MS, Consumer
from zmqbroker.client.driver import Driver
from zmqbroker.client.handing import Order
from zmqbroker.client.held import Message
from zmqbroker.client.message import (
    Explained,
    Messages,
    SendResult,
    check_channel,
    check_send,
    encode_message,
    read_messages,
    receipts_of,
)
from zmqbroker.client.options import HandleOptions
from zmqbroker.client.pipeline import PipelineSettings
from zmqbroker.client.producer import Producer, Sender
from zmqbroker.client.session import Answer
from zmqbroker.client.settling import settle
from zmqbroker.client.stored import StoredMessages
from zmqbroker.client.transaction import SendOptions, Transaction, receipts_for
from zmqbroker.client.worker import Worker, WorkerSettings
from zmqbroker.commands import Extend, Nack, Receipt, Reject, Requeue, Settle
from zmqbroker.errors import BrokerError, DeadlineExceeded, LocalProtocolError
from zmqbroker.wire.batch import Buffer
from zmqbroker.wire.columns import Treatment
from zmqbroker.wire.compression import Compression, is_compression
from zmqbroker.wire.consuming_requests import RECEIVE_SIZE_DEFAULT, VISIBILITY_MS_DEFAULT
from zmqbroker.wire.headers import NO_HEADERS, MessageHeaders
from zmqbroker.wire.requests import CONSUMER_PRIORITY_MAX, CloseRequest, ReceiveRequest, Send, SettleRequest
from zmqbroker.wire.send_requests import NO_CONFIRM, QUORUM

__all__ = ["Queue"]

#: Batches under way and bytes pending that a user may ask for. The broker keeps 128 results per producer (PROTOCOL §4).
_WINDOW_MAX = 128
#: A batch of this size fits whatever `message_bytes_max` is (PROTOCOL §5); a larger message travels alone.
_BATCH_BYTES_MAX = 1_000_000
_BATCH_MESSAGES_MAX = 65_535
_LINGER_MS_MAX = 60_000


class Queue(StoredMessages):
    """One queue. Made by `Client.queue`; it exists at the broker as soon as it is used."""

    def __init__(
        self, name: str, driver: Driver, book: Book, timeout_ms: int, make: type[Message], owner: object = None
    ) -> None:
        super().__init__(name, driver, timeout_ms)
        self._book = book
        self._make = make  # the class of its messages, which `owner` acks
        self._owner = owner if owner is not None else self
        self._consumer = book.next_consumer()  # of all calls of `receive`
        self._senders: dict[bool, Sender] = {}  # by whether they compress
        self._posted = False  # whether anything was sent without a confirm since `wait_idle`
        self._acks = AckGatherer(name, lambda request: driver.submit(request, timeout_ms))

    @overload
    async def send(
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
    async def send(
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

    async def send(
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
        confirm: str = QUORUM,
        compression: Compression | None = None,
        timeout_ms: int | None = None,
    ) -> SendResult | None:
        """Store one message and wait for the confirm.

        `trace` is the context of a distributed trace, for the receiver. It can be received after `delay_ms`, until `expiry_ms`
        after now (0: for ever), and before those of a lower `priority` (0 to 9). Of the messages of a `group` one at a time is
        received, in their order; "": it is in none. With `compression="zlib"` the body travels and is stored compressed, where
        that makes it smaller. Calls at the same time are stored in their order (those with compression in one of their own),
        and share batches when more wait than the window takes.

        With `expected_sequence` it is stored only if that is the last sequence of the queue (0: it has had no message); raises
        SequenceMismatch otherwise. With `confirm` "none" it is sent once, as it is, and nobody tells whether it was stored, or
        why not; returns at once, with None. Raises Busy when a thousand such messages wait for a connection.
        """
        headers = MessageHeaders(metadata, tags, self._driver.client_id or None, trace)
        treatment = Treatment(delay_ms, expiry_ms, priority, group)
        encoded = encode_message(body, id, headers, self._driver.message_bytes_max, treatment)
        check_send(expected_sequence, confirm)
        sender = self._sender(is_compression(compression))
        if confirm == NO_CONFIRM:
            said = {"id": id or "", **headers._asdict(), **treatment._asdict(), "expected_sequence": expected_sequence}
            await self._post(Send(self.name, encoded.body, **said, forward=True, confirm=NO_CONFIRM))
            return None
        alone, timeout_ms = timeout_ms or expected_sequence is not None, timeout_ms or self._timeout_ms
        return await (await sender.send(encoded, timeout_ms, share=not alone, expected_sequence=expected_sequence))

    async def _post(self, request: Send) -> None:
        """Send what nobody answers."""
        self._driver.post(request)
        self._posted = True
        await asyncio.sleep(0)  # a sender that never waits must let the loop send

    async def explain(self, body: Buffer, *, timeout_ms: int | None = None) -> Explained:
        """Store one message by itself, and tell how long each step of its confirm took.

        Without a producer, so a retry after a lost answer may store it twice.
        """
        data = encode_message(body, None, NO_HEADERS, self._driver.message_bytes_max).body
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
        consumer_priority: int = 0,
        auto_ack: bool = False,
        timeout_ms: int | None = None,
    ) -> list[Message]:
        """Up to `max` messages as soon as `min` are ready, or what there is after `wait_ms`.

        Each is in flight for `visibility_ms`, then it is ready again; with `auto_ack` it is finished as it is delivered. While
        the call waits, those of a lower `consumer_priority` (0 to 9) get nothing that it could take. When it is cancelled or
        times out, what may have been assigned to it goes back at once. All calls are one consumer where only one at a time
        gets messages (`single_active`).
        """
        request = ReceiveRequest(
            *(self.name, min, max, max_bytes, wait_ms, visibility_ms, self._consumer),
            consumer_priority=consumer_priority,
            auto_ack=auto_ack,
        )
        return await self.take(request, timeout_ms)

    async def take(self, request: ReceiveRequest, timeout_ms: int | None = None) -> list[Message]:
        """The messages of one RECEIVE; what may have been assigned to it goes back when the call is cancelled or times out."""
        timeout_ms = request.wait_ms + (timeout_ms or self._timeout_ms)
        future, request_id = self._driver.submit_named(request, timeout_ms)
        try:
            answer = await future
        except (asyncio.CancelledError, DeadlineExceeded):
            self._driver.forget(future)
            self.close_consumer(request.consumer, request_id)
            raise
        return list(self._read(*answer))

    def consume(
        self,
        *,
        credit: int = 256,
        visibility_ms: int = VISIBILITY_MS_DEFAULT,
        max_bytes: int = RECEIVE_SIZE_DEFAULT,
        auto_ack: bool = False,
        priority: int = 0,
    ) -> Consumer[Message]:
        """An iterator over the queue's messages, with up to `credit` of them (`max_bytes` for each half) kept ready here.

        With `auto_ack` they are finished as they are delivered: those that are kept here when this ends are lost. While it
        waits, consumers of a lower `priority` (0 to 9) get nothing.
        """
        _check("credit", credit, 1, 2 * _BATCH_MESSAGES_MAX)
        _check("priority", priority, 0, CONSUMER_PRIORITY_MAX)
        ask = ReceiveRequest(self.name, 1, 1, max_bytes, 0, visibility_ms, self._book.next_consumer())
        ask = replace(ask, auto_ack=auto_ack, consumer_priority=priority)
        requests = Consumer.requests(ask, credit)
        return Consumer(self._driver, requests, self._timeout_ms, self._read, self._book.consumers)

    async def handle(self, handler: Callable[[Message], Awaitable[object]], **settings: Unpack[HandleOptions]) -> None:
        """Call `handler` with every message, several at a time, until the client is drained or the call cancelled.

        A handler that returns acks its message; one that raises gives it back, to come again after a delay that doubles;
        `Rejected` moves it to the dead-letter channel. Settings are those of `WorkerSettings`: `concurrency`,
        `visibility_ms`, `max_hold_ms`, `backoff_ms`, `backoff_max_ms`, `priority`.
        """
        worker = Worker(self, self._book.next_consumer(), handler, WorkerSettings(**settings))
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

    def transaction(self, *messages: Message, timeout_ms: int | None = None) -> Transaction:
        """A block that acks messages of this queue and sends others, to any channels, in one step: all of it, or nothing.

            async with orders.transaction(message) as step:
                step.send("invoices", body)

        It is done when the block ends, once, also when answers are lost; what fails is raised there and nothing was done:
        StaleReceipt when a message was not held any more (`outcome_unknown` where an earlier attempt may have done it),
        ChannelFull, MessageTooLarge and others. An exception in the block leaves the messages held. One without sends acks.
        """
        order = Order(self.name, receipts_for(self.name, messages), {})

        async def commit(filled: Order) -> dict[str, list[SendResult]]:
            if not filled.batches:
                await self.ack(messages)
                return {}
            return await self._book.hand_overs.run(self._driver, filled, timeout_ms or self._timeout_ms)

        return Transaction(order, commit, self._driver.message_bytes_max, self._driver.client_id or None)

    async def ack_and_send(
        self,
        messages: Iterable[Message],
        channel: str,
        body: Buffer,
        *,
        timeout_ms: int | None = None,
        **options: Unpack[SendOptions],
    ) -> SendResult:
        """Ack messages and send one in one step; see `transaction`."""
        async with self.transaction(*messages, timeout_ms=timeout_ms) as step:
            step.send(channel, body, **options)
        return step.results[0]

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

    async def wait_idle(self) -> None:
        """Wait until every `send` under way has ended, and a node has read those that nobody confirms."""
        for sender in list(self._senders.values()):
            await sender.wait_idle()
        if self._posted:
            self._posted = False
            await self._driver.wait_posted(self._timeout_ms)

    def _sender(self, compress: bool) -> Sender:
        """What `send` sends with; made when it is first used."""
        if compress not in self._senders:
            self._senders[compress] = Sender(self._driver, self.name, PipelineSettings(compress=compress))
        return self._senders[compress]

    def _read(self, fields: dict[str, Any], bodies: Sequence[Buffer]) -> Messages[Message]:
        return read_messages(self._owner, self.name, fields, bodies, self._make, self._driver.message_bytes_max)

    def close_consumer(self, consumer: int, request_id: int = 0) -> None:
        """Give back what a consumer of this queue holds, or only what was assigned to one request of it."""
        with contextlib.suppress(BrokerError):
            # Nobody waits for the answer; without one the session's end does the same.
            self._driver.submit(CloseRequest(consumer, request=request_id), CLOSE_MS)


def _check(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise LocalProtocolError(f"{name} is {value}, allowed is {low} to {high}")
