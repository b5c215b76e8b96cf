"""Sending: a pipeline with room in it, and the producer that a user holds.

`Sender` lets messages into a pipeline while it has room and keeps the others waiting, in order, so that memory is bounded
whatever the number of tasks. `Producer` is its public face. Numbering, batches and retries are the pipeline's.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from types import TracebackType

from zmqbroker.client.driver import Driver
from zmqbroker.client.message import SendResult, encode_message
from zmqbroker.client.pipeline import Item, PipelineSettings
from zmqbroker.wire.batch import Buffer

__all__ = ["Producer", "Sender"]

#: A sender that never waits for room lets the loop have its turn after this much, so that batches leave while it goes on.
_BURST_BYTES = 256 << 10


class Sender:
    """Lets messages into one pipeline."""

    def __init__(self, driver: Driver, channel: str, settings: PipelineSettings) -> None:
        self._driver = driver
        self._pipeline = driver.pipeline(channel, settings)
        self._entrants: deque[tuple[Item, asyncio.Future[None]]] = deque()  # waiting for room, in order
        self._burst_bytes = 0  # appended since the loop last had its turn
        self._idle: list[asyncio.Future[None]] = []  # waiting until nothing is pending

    @property
    def busy(self) -> bool:
        """Whether any message has not ended yet."""
        return self._pipeline.pending_count > 0 or bool(self._entrants)

    async def send(self, item: Item) -> asyncio.Future[SendResult]:
        """Wait for room; the future of the result."""
        if self._entrants or not self._pipeline.has_room(item.size):
            self._driver.check_usable()
            admitted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._entrants.append((item, admitted))
            self._watch()
            await admitted
        else:
            self._driver.activate(self._pipeline)
            self._pipeline.append(item)
            self._burst_bytes += item.size
            if self._burst_bytes >= _BURST_BYTES:
                self._burst_bytes = 0
                await asyncio.sleep(0)
        future: asyncio.Future[SendResult] = item.token
        return future

    async def wait_idle(self) -> None:
        """Send what waits for company, and wait until nothing is pending."""
        if self.busy:
            idle: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._idle.append(idle)
            self._watch()
            self._pipeline.flushing = True
            self._driver.activate(self._pipeline)
            await idle

    async def flush(self) -> None:
        """Wait until nothing is pending. Raises the first failure since the last flush, whoever saw it before."""
        await self.wait_idle()
        failure, self._pipeline.failure = self._pipeline.failure, None
        if failure is not None:
            raise failure

    def _watch(self) -> None:
        self._driver.on_progress(self._on_progress, bool(self._entrants or self._idle))

    def _on_progress(self) -> None:
        let_in = False
        while self._entrants and (self._driver.closed or self._pipeline.has_room(self._entrants[0][0].size)):
            item, admitted = self._entrants.popleft()
            if admitted.done():
                continue  # its sender was cancelled while it waited
            if self._driver.closed:
                admitted.set_exception(self._driver.closed_error())
                continue
            self._pipeline.append(item)
            admitted.set_result(None)
            let_in = True
        if not self.busy:
            for idle in self._idle:
                if not idle.done():
                    idle.set_result(None)
            self._idle.clear()
        self._pipeline.flushing = bool(self._idle)
        self._watch()
        if let_in:
            self._driver.activate(self._pipeline)


class Producer:
    """Sends many messages to one channel, in order, in batches, each stored exactly once.

    `send` waits only while too much is pending and returns a future. `flush`, and leaving the `async with` block, waits for
    all and raises the first failure since the last flush. A message that failed with an unknown outcome may be stored.
    """

    def __init__(self, sender: Sender, driver: Driver, timeout_ms: int, active: set[Producer]) -> None:
        self._sender = sender
        self._driver = driver
        self._timeout_ms = timeout_ms
        self._active = active  # it is in there while its block is

    async def send(
        self,
        body: Buffer,
        *,
        id: str | None = None,
        metadata: str | None = None,
        tags: Mapping[str, str] | None = None,
        timeout_ms: int | None = None,
    ) -> asyncio.Future[SendResult]:
        """Send a message after all earlier ones; await the returned future for its result."""
        encoded = encode_message(body, id, metadata, tags, self._driver.message_bytes_max)
        return await self._sender.send(self._driver.item(*encoded, timeout_ms or self._timeout_ms))

    async def flush(self) -> None:
        """Wait until every message sent so far has ended. Raises the first failure since the last flush."""
        await self._sender.flush()

    async def __aenter__(self) -> Producer:
        self._active.add(self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                await self.flush()
        finally:
            self._active.discard(self)
