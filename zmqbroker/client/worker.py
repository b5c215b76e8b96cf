"""A callback for every message, several at a time: the loop that most programs would write around a queue.

A message is received when there is somebody free to handle it, never before. While a handler works on it, it is held: its
visibility is extended again and again, up to `max_hold_ms`. A handler that returns acks it; one that raises gives it back with
a delay that doubles with each delivery; `Rejected` moves it to the dead-letter channel.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from zmqbroker.errors import BrokerError, LocalProtocolError, RequestError, StaleReceipt
from zmqbroker.wire.requests import ReceiveRequest

if TYPE_CHECKING:
    from zmqbroker.client.held import Message
    from zmqbroker.client.queue import Queue

__all__ = ["Handler", "Rejected", "Worker", "WorkerSettings"]

Handler = Callable[[Any], Awaitable[object]]

#: How long one RECEIVE waits at the broker before it is asked anew.
_WAIT_MS = 10_000
#: After a receive that failed (no majority for the whole time limit, say) the next one waits so long.
_PAUSE_S = 1.0
#: A message's visibility is extended when this part of it is over.
_EXTEND_PART = 3

log = logging.getLogger("zmqbroker.client")


class Rejected(Exception):
    """Raised by a handler for a message that can never be processed; its text is the reason that goes with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """How messages are handled; times in milliseconds."""

    concurrency: int = 8  # handlers at a time
    visibility_ms: int = 30_000  # what a message is held for beyond its handler's death
    max_hold_ms: int = 600_000  # a handler that takes longer loses its message to others
    backoff_ms: int = 1_000  # delay before a message whose handler raised comes again, the first time
    backoff_max_ms: int = 300_000
    priority: int = 0  # 0 to 9; consumers of a lower one get nothing while a handler is free

    def __post_init__(self) -> None:
        if self.concurrency < 1:
            raise LocalProtocolError(f"concurrency is {self.concurrency}, allowed is 1 and more")

    def delay_ms(self, delivery_count: int) -> int:
        """The delay after so many deliveries: doubled with each, up to the limit."""
        return min(self.backoff_ms << min(delivery_count - 1, 32), self.backoff_max_ms)


class Worker:
    """Handles the messages of one queue until it is stopped. Made and run by `Queue.handle`."""

    def __init__(self, queue: Queue, number: int, handler: Handler, settings: WorkerSettings) -> None:
        self._queue = queue
        self._number = number  # as a consumer
        self._handler = handler
        self._settings = settings
        self._busy: dict[asyncio.Task[None], tuple[Message, float]] = {}  # handlers, and since when they have their message
        self._receiving: asyncio.Task[list[Message]] | None = None
        self._stopping = asyncio.Event()
        self._closed = asyncio.Event()

    def stop(self) -> None:
        """Receive nothing more; handlers finish what they have."""
        self._stopping.set()
        if self._receiving is not None:
            self._receiving.cancel()

    async def wait_closed(self) -> None:
        """Wait until the last handler has ended."""
        await self._closed.wait()

    async def run(self) -> None:
        """Work until `stop`; when it is cancelled, handlers are too, and their messages go back."""
        extending = asyncio.create_task(self._extend_all())
        try:
            while not self._stopping.is_set():
                await self._wait_for_room()
                for message in await self._receive():
                    task = asyncio.create_task(self._handle(message))
                    self._busy[task] = message, time.monotonic()
                    task.add_done_callback(self._busy.pop)
            await asyncio.gather(*self._busy)
        finally:
            left = [message for message, _ in self._busy.values()]
            for task in (extending, *self._busy):
                task.cancel()
            await asyncio.gather(extending, *self._busy, return_exceptions=True)
            if left:
                with contextlib.suppress(BrokerError):  # a client that is closing gives them back itself
                    await self._queue.nack(left)
            self._queue.close_consumer(self._number)
            self._closed.set()

    async def _wait_for_room(self) -> None:
        while len(self._busy) >= self._settings.concurrency:
            await asyncio.wait(self._busy, return_when=asyncio.FIRST_COMPLETED)

    async def _receive(self) -> list[Message]:
        room = self._settings.concurrency - len(self._busy)
        request = ReceiveRequest(
            self._queue.name,
            count_max=room,
            wait_ms=_WAIT_MS,
            visibility_ms=self._settings.visibility_ms,
            consumer=self._number,
            consumer_priority=self._settings.priority,
        )
        self._receiving = asyncio.create_task(self._queue.take(request))
        try:
            return await self._receiving
        except asyncio.CancelledError:
            if not self._stopping.is_set():
                raise
            return []
        except RequestError as error:
            if not error.retryable:
                raise
            log.warning("queue %r: cannot receive: %s", self._queue.name, error)
            await asyncio.sleep(_PAUSE_S)
            return []

    async def _handle(self, message: Message) -> None:
        try:
            await self._settle(message)
        except StaleReceipt:
            pass  # the handler has settled it itself, or took too long: then others have it
        except BrokerError as error:
            log.warning("queue %r: message %d comes again: %s", self._queue.name, message.sequence, error)

    async def _settle(self, message: Message) -> None:
        queue = self._queue
        (outcome,) = await asyncio.gather(self._handler(message), return_exceptions=True)
        if isinstance(outcome, Rejected):
            await queue.reject((message,), str(outcome))
        elif isinstance(outcome, Exception):
            log.error("queue %r: the handler of message %d failed", queue.name, message.sequence, exc_info=outcome)
            await queue.nack((message,), delay_ms=self._settings.delay_ms(message.delivery_count))
        elif isinstance(outcome, BaseException):
            raise outcome
        else:
            await queue.ack((message,))

    async def _extend_all(self) -> None:
        settings = self._settings
        while True:
            await asyncio.sleep(settings.visibility_ms / _EXTEND_PART / 1000)
            oldest = time.monotonic() - settings.max_hold_ms / 1000
            held = [message for message, since in self._busy.values() if since > oldest]
            if held:
                with contextlib.suppress(RequestError):  # some are settled by now; what cannot be extended comes again
                    await self._queue.extend(held, settings.visibility_ms)
