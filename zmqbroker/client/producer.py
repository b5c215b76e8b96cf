"""Sending: a pipeline with room in it, and the producer that a user holds.

`Sender` lets parcels of messages into a pipeline while it has room and keeps the others waiting, in order, so that memory is
bounded whatever the number of tasks. `Producer` is its public face. Numbering, batches and retries are the pipeline's.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Mapping, Sequence
from types import TracebackType

from zmqbroker.client.confirm import BatchConfirm, Confirm
from zmqbroker.client.driver import Driver
from zmqbroker.client.message import Encoded, encode_message
from zmqbroker.client.parcel import OVERHEAD_BYTES, Parcel, split_bodies
from zmqbroker.client.pipeline import Pipeline, PipelineSettings
from zmqbroker.wire.batch import Buffer
from zmqbroker.wire.columns import NO_TREATMENT, Treatment
from zmqbroker.wire.headers import MessageHeaders, encode_message_headers

__all__ = ["Producer", "Sender"]

#: A sender that never waits for room lets the loop have its turn after this much, so that batches leave while it goes on.
_BURST_BYTES = 256 << 10


class Sender:
    """Lets parcels into one pipeline."""

    def __init__(self, driver: Driver, channel: str, settings: PipelineSettings) -> None:
        self.pipeline: Pipeline = driver.pipeline(channel, settings)
        self.settings = settings
        self._driver = driver
        self._entrants: deque[tuple[Parcel, asyncio.Future[None]]] = deque()  # waiting for room, in order
        self._burst_bytes = 0  # in parcels, since the loop last had its turn
        self._idle: list[asyncio.Future[None]] = []  # waiting until nothing is pending

    @property
    def busy(self) -> bool:
        """Whether any message has not ended yet."""
        return self.pipeline.pending_count > 0 or bool(self._entrants)

    async def send(self, message: Encoded, timeout_ms: int, *, share: bool, expected_sequence: int | None = None) -> Confirm:
        """Wait for room; the confirm of one message.

        `share`: the next messages, until the loop has its turn, may end at the same deadline as this one. One that is only
        for a channel with a certain last sequence shares nothing.
        """
        size = len(message.body) + len(message.id) + len(message.headers) + OVERHEAD_BYTES
        open_parcel = self.pipeline.open
        if share and open_parcel is not None and open_parcel.takes(len(message.body), size):
            return Confirm(open_parcel, open_parcel.append(*message))
        self._driver.check_usable()
        now_ns = time.monotonic_ns()
        parcel = Parcel([], 0, now_ns, now_ns + timeout_ms * 1_000_000)
        parcel.expected_sequence = expected_sequence
        confirm = Confirm(parcel, parcel.append(*message))
        parcel.seal()
        await self._let_in(parcel, share)
        return confirm

    async def send_batch(self, bodies: Sequence[bytes], timeout_ms: int) -> BatchConfirm:
        """Wait for room; the confirms of many messages."""
        self._driver.check_usable()
        settings, now_ns = self.settings, time.monotonic_ns()
        size_max = min(settings.batch_bytes, settings.pending_bytes_max)
        deadline_ns, body_size_max = now_ns + timeout_ms * 1_000_000, self._driver.message_bytes_max
        headers = encode_message_headers(MessageHeaders(client_id=self._driver.client_id or None))
        parcels = split_bodies(bodies, headers, size_max, settings.batch_messages, body_size_max, now_ns, deadline_ns)
        for parcel in parcels:
            await self._let_in(parcel, share=False)
        return BatchConfirm(parcels)

    def admit(self, parcel: Parcel) -> None:
        """Send a parcel whose sender has seen to it that there is room; in a closed client it fails."""
        if self._driver.closed:
            parcel.failed(self._driver.closed_error())
            parcel.tell()
        else:
            self._driver.activate(self.pipeline)
            self.pipeline.append(parcel)

    async def wait_idle(self) -> None:
        """Send what waits for company, and wait until nothing is pending."""
        if self.busy:
            idle: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._idle.append(idle)
            self._watch()
            self.pipeline.flushing = True
            self._driver.activate(self.pipeline)
            await idle

    async def flush(self) -> None:
        """Wait until nothing is pending. Raises the first failure since the last flush, whoever saw it before."""
        await self.wait_idle()
        failure, self.pipeline.failure = self.pipeline.failure, None
        if failure is not None:
            raise failure

    async def _let_in(self, parcel: Parcel, share: bool) -> None:
        """Append a parcel when there is room, after those that wait already."""
        if self._entrants or not self.pipeline.has_room(parcel.size):
            self.pipeline.seal()  # nobody overtakes
            self._driver.check_usable()
            admitted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._entrants.append((parcel, admitted))
            self._watch()
            await admitted
            return
        self._driver.activate(self.pipeline)
        full = self.pipeline.open
        self._burst_bytes += parcel.size + (full.size if full is not None else 0)
        if share:
            self.pipeline.begin(parcel, self._driver.message_bytes_max)
        else:
            self.pipeline.append(parcel)
        if self._burst_bytes >= _BURST_BYTES:
            self._burst_bytes = 0
            await asyncio.sleep(0)

    def _watch(self) -> None:
        self._driver.on_progress(self._on_progress, bool(self._entrants or self._idle))

    def _on_progress(self) -> None:
        let_in = False
        while self._entrants and (self._driver.closed or self.pipeline.has_room(self._entrants[0][0].size)):
            parcel, admitted = self._entrants.popleft()
            if admitted.done():
                continue  # its sender was cancelled while it waited
            if self._driver.closed:
                admitted.set_exception(self._driver.closed_error())
                continue
            self.pipeline.append(parcel)
            admitted.set_result(None)
            let_in = True
        if not self.busy:
            for idle in self._idle:
                if not idle.done():
                    idle.set_result(None)
            self._idle.clear()
        self.pipeline.flushing = bool(self._idle)
        self._watch()
        if let_in:
            self._driver.activate(self.pipeline)


class Producer:
    """Sends many messages to one channel, in order, in batches, each stored exactly once.

    `send` waits only while too much is pending and returns the message's confirm, to be awaited or not. `flush`, and leaving
    the `async with` block, waits for all and raises the first failure since the last flush. A message that failed with an
    unknown outcome may be stored.
    """

    def __init__(self, sender: Sender, driver: Driver, timeout_ms: int, active: set[Producer]) -> None:
        self.sender = sender
        self.timeout_ms = timeout_ms
        self._pipeline = sender.pipeline
        self._driver = driver
        self.client_id = driver.client_id or None  # which its messages carry
        self._active = active  # it is in there while its block is

    @property
    def message_bytes_max(self) -> int:
        """The largest body that the cluster takes, as far as it is known."""
        return self._driver.message_bytes_max

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
        timeout_ms: int | None = None,
    ) -> Confirm:
        """Send a message after all earlier ones; await the returned confirm for its result.

        `trace`, `delay_ms`, `expiry_ms`, `priority` and `group` are those of `Queue.send`.
        """
        parcel = self._pipeline.open
        plain = id is None and metadata is None and tags is None and trace is None and timeout_ms is None
        plain = plain and self.client_id is None
        treated = delay_ms or expiry_ms or priority or group
        if plain and not treated and parcel is not None and type(body) is bytes:
            # `Parcel.takes` and `append` once more, since a call of either would cost as much as all of this.
            bodies, size = parcel.bodies, len(body)
            place, total = len(bodies), parcel.size + size + OVERHEAD_BYTES
            if total <= parcel.size_max and size <= parcel.body_size_max and place < parcel.count_max:
                bodies.append(body)
                parcel.size = total
                return Confirm(parcel, place)
        headers = MessageHeaders(metadata, tags, self.client_id, trace)
        treatment = Treatment(delay_ms, expiry_ms, priority, group) if treated else NO_TREATMENT
        encoded = encode_message(body, id, headers, self._driver.message_bytes_max, treatment)
        return await self.sender.send(encoded, timeout_ms or self.timeout_ms, share=timeout_ms is None)

    async def send_batch(self, bodies: Sequence[bytes], *, timeout_ms: int | None = None) -> BatchConfirm:
        """Send messages after all earlier ones, waiting only for room; their confirms, to be awaited together or one by one.

        Each is a message of its own: those that do not fit into one batch travel, and end, apart. Nothing is sent when one of
        them cannot be: raises LocalProtocolError or MessageTooLarge. Cancelled while it waits for room, it has sent the first
        of them.
        """
        return await self.sender.send_batch(bodies, timeout_ms or self.timeout_ms)

    async def flush(self) -> None:
        """Wait until every message sent so far has ended. Raises the first failure since the last flush."""
        await self.sender.flush()

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
