"""What a client of JetStream can do at its best: publish with a window, fast-ingest batches, one at a time; pull and ack.

As with ours, nothing is retried: an error or a silence ends the measurement with `BenchError`. An ack is sent and not
confirmed, as is usual with JetStream, so the last ones need not have been stored when the clock stops; ours are.
"""

from __future__ import annotations

import json
import re
import time
from collections import deque
from collections.abc import Callable
from random import Random
from typing import Any

from bench.load import BODIES, BenchError, Figures
from bench.meter import Meter
from bench.peers.nats_server import STREAM, SUBJECT
from bench.peers.nats_wire import NatsConnection, publication
from bench.plan import SEED

__all__ = [
    "DELIVERIES",
    "INBOX",
    "Acks",
    "Puller",
    "bodies_of",
    "fast_bursts",
    "json_messages",
    "publish_fast",
    "publish_one_by_one",
    "publish_windowed",
    "pull_all",
]

INBOX, BATCH_INBOX, DELIVERIES = b"_i.p", b"_i.b", b"_i.d"
#: Messages that the server confirms together in a fast-ingest batch may be under way this many times.
FLOWS_OUTSTANDING = 5
#: Of one request for messages; the next one is sent when so many are still to come.
PULL_COUNT = 500
_PULL_EXPIRES_NS = 20_000_000_000


def bodies_of(size: int) -> list[bytes]:
    """The bodies that are sent in turn: the same that ours are."""
    chance = Random(SEED)
    return [chance.randbytes(size) for _ in range(BODIES)]


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


def publish_windowed(port: int, meter: Meter, body_bytes: int, counts: tuple[int, int], *, window: int, burst: int) -> Figures:
    """Publish warm-up and measured messages with at most `window` unconfirmed; a write has `burst`, which divides these."""
    assert not any(count % burst for count in (window, *counts)), "counts and window are multiples of a burst"
    connection, acks, bodies = NatsConnection(port, [INBOX]), Acks(), bodies_of(body_bytes)
    block = b"".join(publication(SUBJECT, INBOX, bodies[number % BODIES]) for number in range(burst))

    def run(count: int) -> None:
        sent = confirmed = 0
        while confirmed < count:
            if not connection.writing and sent < count and window - (sent - confirmed) >= burst:
                connection.write(block)
                sent += burst
            confirmed += acks.take(connection.exchange())

    return _measured(connection, meter, body_bytes, counts, run)


def publish_fast(port: int, meter: Meter, body_bytes: int, counts: tuple[int, int], *, flow: int) -> Figures:
    """Two fast-ingest batches (of the warm-up, and the measured one) that the server confirms every `flow` messages."""
    connection, bodies = NatsConnection(port, [BATCH_INBOX + b".>"]), bodies_of(body_bytes)
    batches = iter([fast_bursts(bodies, count, flow, name) for name, count in zip((b"w", b"m"), counts, strict=True)])

    def run(count: int) -> None:
        bursts = deque(next(batches))
        sent, confirmed, window, rest = 0, 0, 1, b""
        while True:
            if bursts and not connection.writing and window - (sent - confirmed) >= bursts[0][0]:
                burst_count, data = bursts.popleft()
                connection.write(data)
                sent += burst_count
            answers, rest = json_messages(rest + connection.exchange())
            for answer in answers:
                if "error" in answer:
                    raise BenchError(f"NATS refused a batch: {answer['error']}")
                if "stream" in answer:  # the confirm of the whole batch
                    if answer.get("count", count) != count:
                        raise BenchError(f"NATS stored {answer['count']} of {count} messages")
                    return
                confirmed, window = max(confirmed, answer.get("seq", 0)), flow * FLOWS_OUTSTANDING

    return _measured(connection, meter, body_bytes, counts, run)


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


def publish_one_by_one(port: int, meter: Meter, body_bytes: int, counts: tuple[int, int]) -> Figures:
    """Publish each message after the confirm of the one before."""
    connection, acks, bodies = NatsConnection(port, [INBOX]), Acks(), bodies_of(body_bytes)
    frames = [publication(SUBJECT, INBOX, body) for body in bodies]
    latencies_ns: list[int] = []

    def run(count: int) -> None:
        latencies_ns.clear()
        for number in range(count):
            started_ns = time.perf_counter_ns()
            connection.write(frames[number % BODIES])
            connection.flush()
            while not acks.take(connection.exchange()):
                pass
            latencies_ns.append(time.perf_counter_ns() - started_ns)

    figures = _measured(connection, meter, body_bytes, counts, run)
    figures.latencies_ns = latencies_ns
    return figures


def _measured(
    connection: NatsConnection, meter: Meter, body_bytes: int, counts: tuple[int, int], run: Callable[[int], None]
) -> Figures:
    """Run the warm-up and the measured part, and close the connection."""
    run(counts[0])
    meter.start()
    run(counts[1])
    spent = meter.stop()
    connection.close()
    return Figures(counts[1], counts[1] * body_bytes, spent)


# --- consuming -------------------------------------------------------------------------------------------------------


class Puller:
    """Keeps requests for messages under way and acks each message that comes."""

    def __init__(self, connection: NatsConnection, consumer: str, body_bytes: int) -> None:
        self._connection = connection
        request = json.dumps({"batch": PULL_COUNT, "expires": _PULL_EXPIRES_NS}).encode()
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{STREAM}.{consumer}".encode()
        self._request = publication(subject, DELIVERIES, request)
        # MSG <subject> <subscription> $JS.ACK.….<stream sequence>.<consumer sequence>.<time>.<pending> <size>
        self._message = re.compile(rb"MSG \S+ \d+ (\S+\.(\d+)\.\d+\.\d+\.\d+) %d\r\n[\s\S]{%d}\r\n" % (body_bytes, body_bytes))
        self._rest = b""
        self._wanted = self._received = 0

    def ask(self) -> None:
        """Ask for more messages when too few are still to come."""
        while self._wanted - self._received <= PULL_COUNT:
            self._connection.write(self._request)
            self._wanted += PULL_COUNT

    def take(self, data: bytes) -> list[int]:
        """The sequences of the messages that have come; their acks are queued."""
        data = self._rest + data
        sequences, acks, end = [], [], 0
        for message in self._message.finditer(data):
            sequences.append(int(message[2]))
            acks.append(b"PUB %b 4\r\n+ACK\r\n" % message[1])
            end = message.end()
        self._rest = data[end:]
        self._received += len(sequences)
        self._connection.write(b"".join(acks))
        self.ask()
        return sequences


def pull_all(port: int, meter: Meter, consumer: str, body_bytes: int, count: int) -> Figures:
    """Pull and ack `count` messages that the stream holds; every one must come once, in order."""
    connection = NatsConnection(port, [DELIVERIES])
    puller = Puller(connection, consumer, body_bytes)
    sequences: list[int] = []
    meter.start()
    puller.ask()
    while len(sequences) < count:
        sequences += puller.take(connection.exchange())
    while connection.writing:
        connection.exchange()
    spent = meter.stop()
    connection.close()
    if sequences[:count] != list(range(1, count + 1)):
        raise BenchError("NATS delivered a message twice, or not at all")
    return Figures(count, count * body_bytes, spent)
