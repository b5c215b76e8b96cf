"""Events of a store for a durable consumer: the broker keeps its position, as the queue that the consumer is.

It is opened with the first event that is asked for, or by `async with`. An exclusive one takes the consumer over from whoever
had it. With automatic acks an event is acked when the next one was asked for, so that one whose handling was cut short comes
again; acks are gathered, and none is left behind when the iteration ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from types import TracebackType
from typing import NamedTuple

from zmqbroker.client.consumer import Consumer
from zmqbroker.client.cursor import Start
from zmqbroker.client.driver import Driver
from zmqbroker.client.held import Message
from zmqbroker.client.queue import Queue
from zmqbroker.client.session import Answer
from zmqbroker.errors import BrokerError, StaleReceipt
from zmqbroker.wire.store_requests import OpenConsumerRequest

__all__ = ["DurableSubscription", "Opened", "opened"]

#: Events that are acked together, and the longest time that one waits for that in ns, with automatic acks.
_ACKS_MAX, _ACKS_NS = 256, 250_000_000


class Opened(NamedTuple):
    """A durable consumer is there."""

    position: int  # sequence of the event that comes next, if it is not one that returned
    created: bool  # False: it was there already, and where it was to begin did not count
    first: int  # sequence of the oldest event that the store keeps
    last: int  # that of the newest


def opened(answer: Answer) -> Opened:
    """What CONSUMER says. Raises RemoteProtocolError."""
    numbers = (answer.field(name, int) for name in ("position", "first", "last"))
    position, first, last = numbers
    return Opened(position, answer.field("created", bool), first, last)


class DurableSubscription:
    """Events for one durable consumer: `async for event in durable`, best inside `async with`."""

    def __init__(
        self,
        driver: Driver,
        queue: Queue,
        consumer: Consumer[Message],
        start: Start,
        timeout_ms: int,
        *,
        exclusive: bool,
        auto: bool,
        rate_limit: int | None,
    ) -> None:
        self.auto = auto  # whether events are acked when the next one is asked for
        self._driver, self._queue, self._consumer, self._timeout_ms = driver, queue, consumer, timeout_ms
        self._request = OpenConsumerRequest(queue.name, *start, exclusive=exclusive, consumer=consumer.number)
        self._opened: Opened | None = None
        self._rate, self._ready_ns = rate_limit, 0  # nothing is taken before that
        self._handled: list[Message] = []  # to be acked together
        self._began_ns = 0  # since when the first of them waits for that

    def __aiter__(self) -> AsyncIterator[Message]:
        return self._iterate()

    async def __aenter__(self) -> DurableSubscription:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def open(self) -> Opened:
        """Make or find the consumer, once. Raises PositionGone when it is to begin at an event that is gone."""
        if self._opened is None:
            self._opened = opened(await self._driver.submit(self._request, self._timeout_ms))
        return self._opened

    async def take(self) -> Sequence[Message]:
        """Events as they come, some together; none when it has stopped. Who takes them acks them, or says that by `note`."""
        await self.open()
        pause_ns = self._ready_ns - time.monotonic_ns()
        if pause_ns > 0:
            await asyncio.sleep(pause_ns / 1e9)
        events = await self._consumer.take()
        if self._rate is not None:
            self._ready_ns = max(self._ready_ns, time.monotonic_ns()) + len(events) * 1_000_000_000 // self._rate
        return events

    def note(self, event: Message) -> bool:
        """With automatic acks: an event was handled; True when it is time to `settle`."""
        if not self._handled:
            self._began_ns = time.monotonic_ns()
        self._handled.append(event)
        return len(self._handled) >= _ACKS_MAX or time.monotonic_ns() - self._began_ns >= _ACKS_NS

    async def settle(self) -> None:
        """Ack the events that were noted. One that was held too long comes again, which is no error. Raises BrokerError."""
        handled, self._handled = self._handled, []
        if handled:
            with contextlib.suppress(StaleReceipt):
                await self._queue.ack(handled)

    async def close(self) -> None:
        """Stop; events that are not acked come again, to whoever reads on. May be repeated."""
        with contextlib.suppress(BrokerError):  # what could not be acked comes again
            await self.settle()
        await self._consumer.close()

    async def _iterate(self) -> AsyncIterator[Message]:
        try:
            while events := await self.take():
                for event in events:
                    yield event
                    if self.auto and self.note(event):
                        await self.settle()
                    if self._consumer.stopping:
                        return  # the rest comes again
                await self.settle()
        finally:
            await self.close()
