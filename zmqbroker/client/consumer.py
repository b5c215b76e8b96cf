"""Push with credit: an iterator over a queue's messages that asks for more before it runs dry.

Two RECEIVE requests are kept at the broker, each for half of the credit, under one consumer number; one is asked again when
all messages it brought have been taken. So at most `credit` messages wait here, and while one half is handled the
other is on its way. Messages come in the order of their sequence as far as both halves are here.

Where nothing comes one of them is enough: so an idle consumer costs the broker half.

Closing returns to the queue, at once, what was not acked (CLOSE of the consumer). An error that the session could not
cure within its time limit ends the iteration with that error, after what was already here.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Any, Generic, Protocol

from zmqbroker.client.driver import Driver
from zmqbroker.client.message import Messages, Received
from zmqbroker.client.session import Answer
from zmqbroker.errors import BrokerError
from zmqbroker.wire.batch import Buffer
from zmqbroker.wire.frames import U64_MAX
from zmqbroker.wire.requests import CloseRequest, ReceiveRequest

__all__ = ["CLOSE_MS", "Consumer", "Consuming"]

#: How long one RECEIVE waits at the broker before it is asked anew.
_WAIT_MS = 10_000
#: How long to wait for the answer to CLOSE; without one, the messages return when the session expires.
CLOSE_MS = 5_000


class Consuming(Protocol):
    """What a client that drains stops, and waits for."""

    def stop(self) -> None:
        """Take nothing more."""

    async def wait_closed(self) -> None:
        """Wait until whoever has messages is through with them."""


class _Lane(Generic[Received]):
    """One of the two halves."""

    def __init__(self, request: ReceiveRequest) -> None:
        self.request = request
        self.under_way: asyncio.Future[Answer] | None = None
        self.head: Received | None = None  # the next message; None: all that came have been taken
        self.rest: Iterator[Received] = iter(())  # those behind it
        self.rests = False  # its last wait ended with nothing, and nothing came since: the other one waits for both
        self._untouched: Messages[Received] | None = None  # all that came, while none has been taken

    def put(self, messages: Messages[Received]) -> None:
        """What came, to a lane that has nothing."""
        if messages:
            self.rest, self._untouched = iter(messages), messages
            self.head = next(self.rest)

    def pop(self) -> Received:
        """The next message, of a lane that has one."""
        message, self.head, self._untouched = self.head, next(self.rest, None), None
        assert message is not None
        return message

    def take(self) -> Sequence[Received]:
        """All messages."""
        untouched, head, rest = self._untouched, self.head, self.rest
        self.clear()
        if untouched is not None:
            return untouched
        return [] if head is None else [head, *rest]

    def clear(self) -> None:
        """There are no messages."""
        self.head, self.rest, self._untouched = None, iter(()), None


class Consumer(Generic[Received]):
    """Messages of one queue: `async for message in consumer`, best inside `async with consumer`."""

    def __init__(
        self,
        driver: Driver,
        requests: tuple[ReceiveRequest, ...],
        timeout_ms: int,
        read: Callable[[dict[str, Any], Sequence[Buffer]], Messages[Received]],
        active: set[Consuming],
    ) -> None:
        self._driver = driver
        self._timeout_ms = timeout_ms + _WAIT_MS
        self._read = read  # what makes messages of a reply
        self._active = active  # it is in there from the first request to the end of close
        self._lanes = [_Lane[Received](request) for request in requests]
        self._change = asyncio.Event()  # set when a lane got something, or the consumer stops
        self._error: BrokerError | None = None
        self._changes = 0  # how often a lane got something, or the consumer was stopped
        self._stopping = False
        self._closing = False
        self._closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @staticmethod
    def requests(ask: ReceiveRequest, credit: int) -> tuple[ReceiveRequest, ...]:
        """What the lanes ask for: `credit` messages together, for the consumer that asks so."""
        lanes = 1 if credit == 1 else 2
        return (replace(ask, count_max=credit // lanes, wait_ms=_WAIT_MS),) * lanes

    @property
    def number(self) -> int:
        """By which the broker knows it among the consumers of its session."""
        return self._lanes[0].request.consumer

    @property
    def stopping(self) -> bool:
        """True when nothing more is to be taken."""
        return self._stopping

    def __aiter__(self) -> AsyncIterator[Received]:
        return self._iterate()

    async def __aenter__(self) -> Consumer[Received]:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def take(self) -> Sequence[Received]:
        """All messages of one half as soon as there are any; none when the consumer has stopped.

        They are made as they are looked at, each time anew; acked together they need not be.
        """
        lane = await self._ready_lane()
        return [] if lane is None else lane.take()

    def stop(self) -> None:
        """End the iteration the next time it asks for a message."""
        self._stopping = True
        self._changed()

    async def wait_closed(self) -> None:
        """Wait until whoever iterates has asked for the next message, found that there is none, and closed."""
        await asyncio.shield(self._closed)

    async def close(self) -> None:
        """Stop, and return to the queue what was not acked. May be repeated."""
        if self._closing:
            await self.wait_closed()
            return
        self._closing = True
        self.stop()
        try:
            await self._return_messages()
        finally:
            self._active.discard(self)
            self._closed.set_result(None)

    async def _return_messages(self) -> None:
        for lane in self._lanes:
            if lane.under_way is not None:
                self._driver.forget(lane.under_way)
                lane.under_way.cancel()
            lane.clear()
        with contextlib.suppress(BrokerError):  # closed already, or nobody leads now: then the session's end returns them
            await self._driver.submit(CloseRequest(self._lanes[0].request.consumer), CLOSE_MS)

    async def _iterate(self) -> AsyncIterator[Received]:
        try:
            while (lane := await self._ready_lane()) is not None:
                changes, limit = self._changes, self._limit(lane)
                while lane.head is not None and changes == self._changes and lane.head.sequence <= limit:
                    yield lane.pop()
        finally:
            await self.close()

    async def _ready_lane(self) -> _Lane[Received] | None:
        """The lane that holds the lowest sequence, once any lane holds one; None when stopped. Raises what ended a RECEIVE."""
        while not self._stopping:
            self._active.add(self)
            if self._error is None:
                self._ask()
            ready = [lane for lane in self._lanes if lane.head is not None]
            if ready:
                return min(ready, key=_head_sequence)
            if self._error is not None:
                raise self._error
            self._change.clear()
            await self._change.wait()
        return None

    def _limit(self, lane: _Lane[Received]) -> int:
        """The sequence behind which it is another lane's turn, as long as nothing changes."""
        heads = [other.head.sequence for other in self._lanes if other is not lane and other.head is not None]
        return min(heads, default=U64_MAX)

    def _ask(self) -> None:
        for lane in self._lanes:
            others_wait = any(other.under_way is not None for other in self._lanes)
            if lane.under_way is None and lane.head is None and not (lane.rests and others_wait):
                lane.under_way = self._driver.submit(lane.request, self._timeout_ms)
                lane.under_way.add_done_callback(partial(self._answered, lane))

    def _answered(self, lane: _Lane[Received], future: asyncio.Future[Answer]) -> None:
        if future.cancelled():
            return  # by close
        lane.under_way = None
        try:
            lane.put(self._read(*future.result()))
            lane.rests = lane.head is None
            if not lane.rests:
                for other in self._lanes:
                    other.rests = False
        except BrokerError as error:
            self._error = error
        self._changed()

    def _changed(self) -> None:
        self._changes += 1
        self._change.set()


def _head_sequence(lane: _Lane[Received]) -> int:
    assert lane.head is not None
    return lane.head.sequence
