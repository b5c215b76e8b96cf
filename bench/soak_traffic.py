"""What a soak sends and receives: open-loop sends of mixed sizes into two channels, one read at once and one read late.

Each body says which message it is and is looked at from its first to its last byte when it comes back; each must come, and
none may come again after its ack. Memory is bounded by what is under way, whatever the time. Latencies run from the instant at
which a send was due, not from when there was time for it: a cluster, or this client, that stalls for a second makes late all
that was due in it.
"""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random

from hdrh.histogram import HdrHistogram

from bench.load import BenchError
from bench.plan import SEED
from zmqbroker.client.aio import Client
from zmqbroker.client.producer import Producer
from zmqbroker.client.queue import Queue

__all__ = ["LATE", "NOW", "SIZE_MAX", "SIZE_MIN", "Ledger", "Traffic", "Windows", "check_body", "draw_sends", "make_body"]

NOW, LATE = "now", "late"
SIZE_MIN, SIZE_MAX = 100, 1_000_000
#: Half of the messages below this size travel in batches of about BATCH_BYTES, as from a producer that has many of them.
SMALL_BYTES, BATCH_BYTES = 4096, 32 << 10
#: Sends wait, and become late, when so much is unconfirmed: what the client's memory is bounded by.
UNCONFIRMED_BYTES_MAX = 64 << 20
RECEIVE_COUNT_MAX, RECEIVE_BYTES, RECEIVE_WAIT_MS = 256, 1 << 20, 1000
#: A message that is held longer than its channel's delay and this is somebody else's again, which would be a failure here.
VISIBILITY_MS = 600_000
#: Microseconds, with three significant digits, up to ten minutes.
HISTOGRAM_US_MAX, HISTOGRAM_DIGITS = 600_000_000, 3

#: Number of the message in its channel from 1, its size, and when it was due on this process's clock in ns; then the rest.
_HEAD = struct.Struct("<QQQ")
_STARTS = 1 << 16
_POOL = Random(SEED).randbytes(SIZE_MAX + _STARTS)
#: Every so manieth body is zeros behind its head: the log writes such sectors in another way.
_ZEROS_EVERY = 16
_ZEROS = bytes(SIZE_MAX)


def _rest(number: int, size: int) -> memoryview:
    """What follows the head."""
    start = number * 4099 % _STARTS
    view = memoryview(_ZEROS) if number % _ZEROS_EVERY == 0 else memoryview(_POOL)[start:]
    return view[: size - _HEAD.size]


def make_body(number: int, size: int, due_ns: int) -> bytes:
    """The body of a message."""
    return _HEAD.pack(number, size, due_ns) + _rest(number, size)


def check_body(body: bytes) -> tuple[int, int]:
    """Its number, and when it was due. Raises `BenchError` when it is not what was sent."""
    if len(body) < SIZE_MIN:
        raise BenchError(f"a body of {len(body)} bytes came, which nobody sent")
    number, size, due_ns = _HEAD.unpack_from(body)
    if len(body) != size or memoryview(body)[_HEAD.size :] != _rest(number, size):
        raise BenchError(f"message {number} of {size} bytes came back with {len(body)}, not as it was sent")
    return number, due_ns


def draw_sends(chance: Random) -> Iterator[tuple[str, list[int]]]:
    """Channel, and sizes of the messages that are sent together, for ever: sizes are log-uniform."""

    def size(largest: int) -> int:
        return int(SIZE_MIN * (largest / SIZE_MIN) ** chance.random())

    while True:
        channel, sizes = chance.choice((NOW, LATE)), [size(SIZE_MAX)]
        if sizes[0] < SMALL_BYTES and chance.random() < 0.5:
            while sum(sizes) < BATCH_BYTES:
                sizes.append(size(SMALL_BYTES))
        yield channel, sizes


class Windows:
    """Latencies by the stretch of time in which they began; what remains behind the last whole one belongs to that."""

    def __init__(self, seconds: float, window_s: float) -> None:
        self.window_s = window_s
        self.count = max(1, int(seconds / window_s))
        self._histograms = [HdrHistogram(1, HISTOGRAM_US_MAX, HISTOGRAM_DIGITS) for _ in range(self.count)]

    def number(self, at_s: float) -> int:
        """The window that a moment belongs to, from 0."""
        return min(int(at_s / self.window_s), self.count - 1)

    def note(self, at_s: float, length_s: float) -> None:
        """Count a latency."""
        length_us = min(max(1, int(length_s * 1e6)), HISTOGRAM_US_MAX)
        self._histograms[self.number(at_s)].record_value(length_us)

    def summary(self, number: int) -> dict[str, float]:
        """Count and percentiles of a window."""
        histogram = self._histograms[number]
        found: dict[str, float] = {"count": histogram.get_total_count()}
        for name, percentile in (("p50_ms", 50), ("p99_ms", 99), ("p999_ms", 99.9), ("max_ms", 100)):
            found[name] = histogram.get_value_at_percentile(percentile) / 1000
        return found


@dataclass(slots=True)
class Ledger:
    """Which messages of one channel were sent and which are finished; of the latter all up to `low`, and those `ahead`."""

    sent: int = 0
    sent_bytes: int = 0
    low: int = 0
    ahead: set[int] = field(default_factory=set)
    redelivered: int = 0

    def send(self, size: int) -> int:
        """The number of one more message."""
        self.sent += 1
        self.sent_bytes += size
        return self.sent

    def finish(self, number: int) -> None:
        """Note that its ack was confirmed. Raises `BenchError` when it was before, or when there is no such message."""
        if not 0 < number <= self.sent:
            raise BenchError(f"message {number} came, {self.sent} were sent")
        if number <= self.low or number in self.ahead:
            raise BenchError(f"message {number} came again after its ack")
        self.ahead.add(number)
        while self.low + 1 in self.ahead:
            self.low += 1
            self.ahead.remove(self.low)

    def summary(self) -> dict[str, int]:
        """Counts of messages, and bytes of bodies."""
        return {"sent": self.sent, "sent_bytes": self.sent_bytes, "finished": self.finished, "redelivered": self.redelivered}

    @property
    def finished(self) -> int:
        """Messages that are."""
        return self.low + len(self.ahead)


class Traffic:
    """Everything that is sent and received in one soak. Times are seconds from its start."""

    def __init__(self, url: str, seconds: float, window_s: float, rate_bytes: int, late_s: float) -> None:
        self._url, self._seconds, self._rate_bytes, self._late_s = url, seconds, rate_bytes, late_s
        self.ledgers = {NOW: Ledger(), LATE: Ledger()}
        self.sends = Windows(seconds, window_s)  # from due to confirmed
        self.deliveries = Windows(seconds, window_s)  # from due to received, in the channel that is read at once
        self.starts = Windows(seconds, window_s)  # from due to begun: what this client is late by itself
        self.late_age_s = 0.0  # age of what was received last in the other channel
        self.published = asyncio.Event()  # everything is sent and confirmed, or nothing more is to be
        self.published_s = 0.0  # when that was
        self.received = asyncio.Event()  # everything is
        self._ending = asyncio.Event()
        self._unconfirmed_bytes = 0
        self._confirmed = asyncio.Event()  # some send has been since it was cleared
        self._began_ns = time.perf_counter_ns()

    @property
    def now_s(self) -> float:
        """Since the start."""
        return (time.perf_counter_ns() - self._began_ns) / 1e9

    def progress(self) -> dict[str, float]:
        """What belongs into a sample."""
        found: dict[str, float] = {"unconfirmed_bytes": self._unconfirmed_bytes, "late_age_s": round(self.late_age_s, 1)}
        for name, ledger in self.ledgers.items():
            found[f"{name}_waiting"] = ledger.sent - ledger.finished
        return found

    def end(self) -> None:
        """Send nothing more."""
        self._ending.set()

    async def run(self, timeout_ms: int) -> None:
        """Send for the time given, and receive everything. Raises `BenchError` and BrokerError, in an ExceptionGroup."""
        self._began_ns = time.perf_counter_ns()
        async with (
            Client(self._url, timeout_ms=timeout_ms) as sender,
            Client(self._url, timeout_ms=timeout_ms) as receiver,
            asyncio.TaskGroup() as group,
        ):
            group.create_task(self._publish(sender))
            for channel, delay_s in ((NOW, 0.0), (LATE, self._late_s)):
                group.create_task(self._receive(receiver.queue(channel), self.ledgers[channel], delay_s))
        self.received.set()

    # --- sending -----------------------------------------------------------------------------------------------------

    async def _publish(self, client: Client) -> None:
        queues = {name: client.queue(name) for name in self.ledgers}
        producers = {name: queue.producer() for name, queue in queues.items()}
        due_s = 0.0
        async with asyncio.TaskGroup() as group:
            for channel, sizes in draw_sends(Random(SEED)):
                if due_s >= self._seconds or not await self._until_due(due_s):
                    break
                self.starts.note(due_s, self.now_s - due_s)
                due_ns = self._began_ns + int(due_s * 1e9)
                bodies = [make_body(self.ledgers[channel].send(size), size, due_ns) for size in sizes]
                self._unconfirmed_bytes += sum(sizes)
                group.create_task(self._send(queues[channel], producers[channel], bodies, due_s))
                due_s += sum(sizes) / self._rate_bytes
        self.published_s = self.now_s
        self.published.set()

    async def _until_due(self, due_s: float) -> bool:
        """Wait for that time, and for room; False when sending is to end."""
        with suppress(TimeoutError):
            async with asyncio.timeout(max(due_s - self.now_s, 0)):
                await self._ending.wait()
        while self._unconfirmed_bytes > UNCONFIRMED_BYTES_MAX and not self._ending.is_set():
            self._confirmed.clear()
            await self._confirmed.wait()
        return not self._ending.is_set()

    async def _send(self, queue: Queue, producer: Producer, bodies: list[bytes], due_s: float) -> None:
        if len(bodies) == 1:
            await queue.send(bodies[0])
        else:
            await asyncio.gather(*[await producer.send(body) for body in bodies])
        self.sends.note(due_s, self.now_s - due_s)
        self._unconfirmed_bytes -= sum(map(len, bodies))
        self._confirmed.set()

    # --- receiving ---------------------------------------------------------------------------------------------------

    async def _receive(self, queue: Queue, ledger: Ledger, delay_s: float) -> None:
        visibility_ms = int(delay_s * 1000) + VISIBILITY_MS
        while not (self.published.is_set() and ledger.finished == ledger.sent):
            messages = await queue.receive(
                RECEIVE_COUNT_MAX, wait_ms=RECEIVE_WAIT_MS, visibility_ms=visibility_ms, max_bytes=RECEIVE_BYTES
            )
            found = [check_body(message.body) for message in messages]
            if found and delay_s:
                await self._until_old(found[-1][1], delay_s)
            else:
                for _, due_ns in found:
                    self.deliveries.note(self._at_s(due_ns), self.now_s - self._at_s(due_ns))
            await queue.ack(messages)
            ledger.redelivered += sum(message.delivery_count > 1 for message in messages)
            for number, _ in found:
                ledger.finish(number)

    async def _until_old(self, due_ns: int, delay_s: float) -> None:
        """Wait until a message has waited long enough, or nothing more is sent: then there is nothing to wait for."""
        with suppress(TimeoutError):
            async with asyncio.timeout(max(self._at_s(due_ns) + delay_s - self.now_s, 0)):
                await self.published.wait()
        self.late_age_s = self.now_s - self._at_s(due_ns)

    def _at_s(self, due_ns: int) -> float:
        return (due_ns - self._began_ns) / 1e9
