"""Publishers and consumers that run as fast as they are let, many of them in one loop over raw sockets.

For benchmarks whose question is not a latency but what happens over time, or with many of something. Requests that are refused
for now (BUSY, STORAGE_FULL) are counted, and sent again after the pause that the broker asks for, as a client library does;
any other ERROR, and silence, end the measurement with `BenchError`.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import cycle
from random import Random
from typing import Protocol

import zmq

from bench.load import BODIES, RECEIVE_COUNT_MAX, RECEIVE_WAIT_MS, TIMEOUT_MS, BenchError, Connection, check
from bench.plan import SEED
from zmqbroker.commands import Receipt
from zmqbroker.wire.codec import encode_batch
from zmqbroker.wire.frames import Reply, decode_header
from zmqbroker.wire.requests import AckRequest, ReceiveRequest, SendBatch

__all__ = ["Consumer", "Part", "Publisher", "batch_frame", "run"]

#: Milliseconds that a refused publisher waits when the broker names no time.
PAUSE_MS = 20
REFUSALS = ("BUSY", "STORAGE_FULL")
#: Milliseconds between two looks at what has no socket to announce it: the end, a pause that is over.
_TICK_MS = 10


class Part(Protocol):
    """A publisher or a consumer."""

    connection: Connection

    @property
    def eager(self) -> bool:
        """Whether there is something to do that no message announces."""
        ...

    def step(self) -> bool:
        """Do what can be done without waiting; whether something came."""
        ...


def batch_frame(channel: str, body_bytes: int, batch_bytes: int) -> tuple[bytes, int]:
    """A batch of bodies from the fixed seed for a channel, and its number of messages."""
    chance, count = Random(SEED), max(1, batch_bytes // body_bytes)
    bodies = [chance.randbytes(body_bytes) for _ in range(BODIES)]
    return encode_batch(channel.encode(), (bodies * (count // BODIES + 1))[:count]), count


class Publisher:
    """One connection that sends these batches in turn, with at most `window` of them unanswered."""

    def __init__(self, connection: Connection, batches: Sequence[tuple[bytes, int]], window: int) -> None:
        self.connection = connection
        self._batches, self._window = cycle(batches), window
        self._counts: dict[int, tuple[bytes, int]] = {}  # request id -> its batch, while it is unanswered
        self._again: list[tuple[bytes, int]] = []
        self._resume_s = 0.0  # when to send again after a refusal; 0: there was none
        self.refused: Counter[str] = Counter()
        self.confirmed = 0
        self.held = False  # sends nothing new while True

    @property
    def idle(self) -> bool:
        """Whether everything sent is confirmed."""
        return not self._counts and not self._again

    @property
    def eager(self) -> bool:
        """Whether it may send."""
        if len(self._counts) >= self._window or (self.held and not self._again):
            return False
        return not self._resume_s or time.monotonic() >= self._resume_s

    def step(self) -> bool:
        """Take confirms, then send."""
        came = False
        for header in _replies(self.connection):
            came = True
            self._take(header)
        if self.eager:
            self._resume_s = 0.0
            while len(self._counts) < self._window and (self._again or not self.held):
                batch = self._again.pop() if self._again else next(self._batches)
                self._counts[self.connection.post(SendBatch(batch[0]))] = batch
        return came

    def _take(self, header: bytes) -> None:
        batch = self._counts.pop(int.from_bytes(header[4:12], "little"))
        if header[3] == Reply.SENT:
            self.confirmed += batch[1]
            return
        fields = decode_header(header)[2]
        if fields["code"] not in REFUSALS:
            check(header)
        self.refused[fields["code"]] += 1
        self._again.append(batch)
        self._resume_s = time.monotonic() + fields.get("retry_ms", PAUSE_MS) / 1000


class Consumer:
    """One connection that receives from a channel and acks everything."""

    eager = False

    def __init__(self, connection: Connection, channel: str, *, window: int, receive_bytes: int, consumer: int = 1) -> None:
        self.connection, self._channel = connection, channel
        self._receive = ReceiveRequest(
            channel, count_max=RECEIVE_COUNT_MAX, size_max=receive_bytes, wait_ms=RECEIVE_WAIT_MS, consumer=consumer
        )
        self.received = self.acked = 0
        for _ in range(window):
            connection.post(self._receive)

    def step(self) -> bool:
        """Ack what came and ask for more."""
        came = False
        for header in _replies(self.connection):
            came = True
            check(header)
            fields = decode_header(header)[2]
            if header[3] == Reply.ACKED:
                self.acked += fields["count"]
                continue
            receipts = tuple(Receipt(*piece[:3]) for piece in fields["pieces"])
            if receipts:
                self.received += sum(receipt.last - receipt.first + 1 for receipt in receipts)
                self.connection.post(AckRequest(self._channel, receipts))
            self.connection.post(self._receive)
        return came


def _replies(connection: Connection) -> list[bytes]:
    """The headers of what is there."""
    headers = []
    while True:
        try:
            headers.append(connection.socket.recv_multipart(zmq.DONTWAIT)[0])
        except zmq.Again:
            return headers


def run(parts: Sequence[Part], done: Callable[[], bool]) -> None:
    """Let all run until `done`, which is asked after every pass."""
    by_socket = {part.connection.socket: part for part in parts}
    poller = zmq.Poller()
    for socket in by_socket:
        poller.register(socket, zmq.POLLIN)
    heard_s = time.monotonic()
    for part in parts:
        part.step()
    while not done():
        ready = {by_socket[socket] for socket, _ in poller.poll(_TICK_MS)} | {part for part in parts if part.eager}
        if sum(part.step() for part in ready):
            heard_s = time.monotonic()
        elif time.monotonic() > heard_s + TIMEOUT_MS / 1000:
            raise BenchError(f"nothing came for {TIMEOUT_MS / 1000:g} s")
