"""Publishing to JetStream at its best: with a window, as fast-ingest batches, one at a time.

As with ours, nothing is retried: an error or a silence ends the measurement with `BenchError`.
"""

from __future__ import annotations

import json
from collections import deque
from typing import Any, Protocol

from bench.load import BODIES, BenchError, Figures
from bench.meter import Meter
from bench.peers.nats_server import SUBJECT
from bench.peers.nats_wire import NatsConnection, publication
from bench.peers.sending import bodies_of, send_one_by_one

__all__ = [
    "INBOX",
    "Acks",
    "FastSender",
    "Sender",
    "WindowedSender",
    "fast_bursts",
    "json_messages",
    "publish",
    "publish_one_by_one",
]

INBOX, BATCH_INBOX = b"_i.p", b"_i.b"
#: Messages that the server confirms together in a fast-ingest batch may be under way this many times.
FLOWS_OUTSTANDING = 5


class Acks:
    """Counts the confirms in what comes. Raises BenchError when one is an error."""

    def __init__(self, inbox: bytes = INBOX) -> None:
        self._mark = b"MSG %b " % inbox
        self._rest = b""

    def take(self, data: bytes) -> int:
        """How many more there are."""
        data = self._rest + data
        end = data.rfind(b"\r\n") + 2
        if end == 1:
            end = 0
        whole, self._rest = data[:end], data[end:]
        if b'"error"' in whole or whole.startswith(b"-ERR"):
            raise BenchError(f"NATS refused a message: {whole[:400]!r}")
        return whole.count(self._mark)


class Sender(Protocol):
    """Publishes so many messages; `fill` and `take` in turn until it is `done`, then perhaps again."""

    connection: NatsConnection

    @property
    def done(self) -> bool:
        """Whether all messages are confirmed."""
        ...

    def begin(self, count: int) -> None:
        """The next messages."""
        ...

    def fill(self) -> None:
        """Queue what may be sent."""
        ...

    def take(self, data: bytes) -> None:
        """What has come. Raises BenchError when it is a refusal."""
        ...


class WindowedSender:
    """Messages with a confirm each and at most `window` unconfirmed; a write has `burst`, which divides window and counts."""

    def __init__(self, port: int, body_bytes: int, *, window: int, burst: int) -> None:
        assert window % burst == 0, "a window is a multiple of a burst"
        self.connection, self._acks = NatsConnection(port, [INBOX]), Acks()
        self._window, self._burst, bodies = window, burst, bodies_of(body_bytes)
        self._block = b"".join(publication(SUBJECT, INBOX, bodies[number % BODIES]) for number in range(burst))
        self._count = self._sent = self._confirmed = 0

    @property
    def done(self) -> bool:
        """Whether all messages are confirmed."""
        return self._confirmed >= self._count

    def begin(self, count: int) -> None:
        """The next messages."""
        assert count % self._burst == 0, "a count is a multiple of a burst"
        self._count, self._sent, self._confirmed = count, 0, 0

    def fill(self) -> None:
        """Queue a burst when there is room for it and the one before has left."""
        room = self._window - (self._sent - self._confirmed)
        if not self.connection.writing and self._sent < self._count and room >= self._burst:
            self.connection.write(self._block)
            self._sent += self._burst

    def take(self, data: bytes) -> None:
        """Count confirms."""
        self._confirmed += self._acks.take(data)


class FastSender:
    """Fast-ingest batches, one for each of `counts`, that the server confirms every `flow` messages."""

    def __init__(self, port: int, body_bytes: int, counts: tuple[int, ...], *, flow: int) -> None:
        self.connection, self._flow, bodies = NatsConnection(port, [BATCH_INBOX + b".>"]), flow, bodies_of(body_bytes)
        self._batches = iter([fast_bursts(bodies, count, flow, b"%d" % number) for number, count in enumerate(counts)])
        self._bursts: deque[tuple[int, bytes]] = deque()
        self._rest = b""
        self._count = self._sent = self._confirmed = self._window = 0
        self.done = True

    def begin(self, count: int) -> None:
        """The next batch."""
        self._bursts, self._count, self.done = deque(next(self._batches)), count, False
        self._sent, self._confirmed, self._window = 0, 0, 1

    def fill(self) -> None:
        """Queue a burst when there is room for it and the one before has left."""
        room = self._window - (self._sent - self._confirmed)
        if self._bursts and not self.connection.writing and room >= self._bursts[0][0]:
            count, data = self._bursts.popleft()
            self.connection.write(data)
            self._sent += count

    def take(self, data: bytes) -> None:
        """See how far the batch is confirmed."""
        answers, self._rest = json_messages(self._rest + data)
        for answer in answers:
            if "error" in answer:
                raise BenchError(f"NATS refused a batch: {answer['error']}")
            if "stream" not in answer:
                self._confirmed, self._window = max(self._confirmed, answer.get("seq", 0)), self._flow * FLOWS_OUTSTANDING
                continue
            if answer.get("count", self._count) != self._count:  # the confirm of the whole batch
                raise BenchError(f"NATS stored {answer['count']} of {self._count} messages")
            self.done = True


def fast_bursts(bodies: list[bytes], count: int, flow: int, name: bytes) -> list[tuple[int, bytes]]:
    """Writes of a batch: the first message alone, whose answer opens the window, then half of what is confirmed together.

    The reply subject says it all: <inbox>.<batch>.<flow>.<on a gap>.<sequence>.<0: first, 1: more, 2: last>.$FI
    """
    frames = [
        publication(SUBJECT, b"%b.%b.%d.fail.%d.%d.$FI" % (BATCH_INBOX, name, flow, number, kind), bodies[number % len(bodies)])
        for number in range(1, count + 1)
        for kind in (0 if number == 1 else 2 if number == count else 1,)
    ]
    step = max(1, flow // 2)
    starts = [0, *range(1, count, step)]
    parts = [frames[start:end] for start, end in zip(starts, [*starts[1:], count], strict=True)]
    return [(len(part), b"".join(part)) for part in parts]


def json_messages(data: bytes) -> tuple[list[dict[str, Any]], bytes]:
    """The bodies of all MSGs that have come whole, and what is left."""
    found = []
    while (line_end := data.find(b"\r\n")) >= 0:
        head, start = data[:line_end], line_end + 2
        if head.startswith(b"MSG"):
            size = int(head.split()[-1])
            if len(data) < start + size + 2:
                break
            found.append(json.loads(data[start : start + size]))
            start += size + 2
        elif head.startswith(b"-ERR"):
            raise BenchError(f"NATS refused what was sent: {head!r}")
        data = data[start:]
    return found, data


def _run(sender: Sender, count: int) -> None:
    sender.begin(count)
    while not sender.done:
        sender.fill()
        sender.take(sender.connection.exchange())


def publish(sender: Sender, meter: Meter, body_bytes: int, counts: tuple[int, int]) -> Figures:
    """Publish the messages of the warm-up and then the measured ones, and close the connection."""
    _run(sender, counts[0])
    meter.start()
    _run(sender, counts[1])
    spent = meter.stop()
    sender.connection.close()
    return Figures(counts[1], counts[1] * body_bytes, spent)


def publish_one_by_one(port: int, meter: Meter, body_bytes: int, counts: tuple[int, int]) -> Figures:
    """Publish each message after the confirm of the one before."""
    frames = [publication(SUBJECT, INBOX, body) for body in bodies_of(body_bytes)]
    return send_one_by_one(NatsConnection(port, [INBOX]), frames, Acks().take, meter, body_bytes, counts)
