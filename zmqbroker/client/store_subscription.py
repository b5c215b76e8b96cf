"""Events of a store for one reader that keeps its own position: an iterator that asks for more before it runs dry.

One READ is under way while what the one before brought is handled, so at most two answers wait here besides that. The cursor
is here (`cursor`): after a failover the same events come next, none left out and none twice. What retention took before it was
read is told: by PositionGone, or to `on_gap`, in its place among the events.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from types import TracebackType

from zmqbroker.client.consumer import Consuming
from zmqbroker.client.cursor import WAIT_MS, Cursor, Gap
from zmqbroker.client.driver import Driver
from zmqbroker.client.message import Content, Messages, read_messages
from zmqbroker.client.session import Answer
from zmqbroker.errors import BrokerError, PositionGone

__all__ = ["StoreSubscription", "StoredEvent"]

#: Answers that wait here to be taken, with the one that is under way.
_ANSWERS_MAX = 2


class StoredEvent(Content):
    """An event that was read. Nobody acks it: its reader's position is the reader's own."""

    __slots__ = ()


class StoreSubscription:
    """Events of one store: `async for event in subscription`, best inside `async with`, which fixes where it begins."""

    def __init__(
        self,
        driver: Driver,
        channel: str,
        cursor: Cursor,
        timeout_ms: int,
        active: set[Consuming],
        on_gap: Callable[[Gap], object] | None = None,
    ) -> None:
        self._driver, self._channel, self._cursor = driver, channel, cursor
        self._timeout_ms = timeout_ms + WAIT_MS
        self._active = active  # it is in there from the first request to the end of close
        self._on_gap = on_gap
        self._came: deque[Messages[StoredEvent] | PositionGone] = deque()  # in order; a PositionGone stands for a gap
        self._under_way: asyncio.Future[Answer] | None = None
        self._timer: asyncio.TimerHandle | None = None  # set while a limited reader must not ask
        self._change = asyncio.Event()  # set when something came, or the subscription stops
        self._error: BrokerError | None = None
        self._stopping = False
        self._closing = False
        self._closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def __aiter__(self) -> AsyncIterator[StoredEvent]:
        return self._iterate()

    async def __aenter__(self) -> StoreSubscription:
        """Find the place where it begins: what is published from now on is behind it."""
        try:
            while not self._cursor.position and self._error is None and not self._stopping:
                self._ask()
                self._change.clear()
                await self._change.wait()
            if self._error is not None:
                raise self._error
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def take(self) -> Sequence[StoredEvent]:
        """The events of one answer as soon as there are any; none when the subscription has stopped.

        Raises PositionGone in the place of events that are no longer kept; the next call goes on behind them.
        """
        while not self._stopping:
            self._ask()
            if self._came:
                came = self._came.popleft()
                self._ask()  # the next ones, while these are handled
                if not isinstance(came, PositionGone):
                    return came
                if self._on_gap is None:
                    raise came
                self._on_gap(Gap(came.fields["missed"], came.first))
                continue
            if self._error is not None:
                raise self._error
            self._change.clear()
            await self._change.wait()
        return []

    def stop(self) -> None:
        """End the iteration the next time it asks for an event."""
        self._stopping = True
        self._change.set()

    async def wait_closed(self) -> None:
        """Wait until whoever iterates has asked for the next event, found that there is none, and closed."""
        await asyncio.shield(self._closed)

    async def close(self) -> None:
        """Stop. May be repeated."""
        if self._closing:
            return
        self._closing = True
        self.stop()
        if self._under_way is not None:
            self._driver.forget(self._under_way)
            self._under_way.cancel()
        if self._timer is not None:
            self._timer.cancel()
        self._came.clear()
        self._active.discard(self)
        self._closed.set_result(None)

    async def _iterate(self) -> AsyncIterator[StoredEvent]:
        try:
            while events := await self.take():
                for event in events:
                    yield event
                    if self._stopping:
                        return
        finally:
            await self.close()

    def _ask(self) -> None:
        """Have the next READ under way, if there is room for its answer and it is time."""
        if self._stopping or self._error is not None or self._under_way is not None or self._timer is not None:
            return
        if len(self._came) >= _ANSWERS_MAX:
            return
        self._active.add(self)
        pause_ns = self._cursor.ready_ns - time.monotonic_ns()
        if pause_ns > 0:
            self._timer = asyncio.get_running_loop().call_later(pause_ns / 1e9, self._resume)
            return
        self._under_way = self._driver.submit(self._cursor.request(), self._timeout_ms)
        self._under_way.add_done_callback(self._answered)

    def _resume(self) -> None:
        self._timer = None
        self._ask()

    def _answered(self, future: asyncio.Future[Answer]) -> None:
        if future.cancelled():
            return  # by close
        self._under_way = None
        try:
            answer = future.result()
            events = read_messages(None, self._channel, *answer, StoredEvent, self._driver.message_bytes_max)
            self._cursor.answered(answer, events.receipts, time.monotonic_ns())
            if events:
                self._came.append(events)
            self._ask()
        except PositionGone as error:
            gap = self._cursor.gone(error)
            self._came.append(PositionGone(error.message, missed=gap.missed, first=gap.first))
        except BrokerError as error:
            self._error = error
        self._change.set()
