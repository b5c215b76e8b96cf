"""The client of every measurement: raw DEALER sockets and frames that were built before the clock started.

It costs a node's client as little as Python can, so that a figure is the server's. Every reply is checked: an ERROR, a message
delivered twice or not at all, or silence ends the measurement with `BenchError`; nothing is retried. Latencies are kept as
they were measured and go into an HdrHistogram after the clock stopped.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

import zmq
from hdrh.histogram import HdrHistogram

from bench.meter import Meter, Spent
from bench.plan import SEED, ConsumeCase, EndToEndCase, PublishCase
from zmqbroker.commands import Receipt
from zmqbroker.server.zmqio import ZmqIo
from zmqbroker.wire.codec import encode_batch
from zmqbroker.wire.frames import Reply, decode_header, request_id_of
from zmqbroker.wire.requests import (
    AckRequest,
    AnyRequest,
    CloseRequest,
    ReceiveRequest,
    Send,
    SendBatch,
    encode_request,
)

__all__ = ["BenchError", "Connection", "Figures", "build_requests", "consume", "end_to_end", "producer_of", "publish"]

#: No request of a healthy cluster takes that long; a RECEIVE waits less.
TIMEOUT_MS = 30_000
RECEIVE_WAIT_MS = 20_000
#: The largest that a MESSAGES reply may be asked to hold; the bytes are what bounds it.
RECEIVE_COUNT_MAX = 65_535
#: Small requests of one burst, and bytes of replies taken in one go.
BURST, REPLY_BYTES_MAX = 64, 16 << 20
#: Different bodies that a case sends in turn.
BODIES = 64
#: Latencies are recorded in microseconds, with three significant digits, up to a minute.
HISTOGRAM_US_MAX, HISTOGRAM_DIGITS = 60_000_000, 3


class BenchError(Exception):
    """A measurement that is not worth anything, and why."""


@dataclass(slots=True)
class Figures:
    """What one case measured."""

    message_count: int
    body_bytes: int
    spent: Spent
    latencies_ns: list[int] = field(default_factory=list)  # in no promised order; empty when the case measures none

    def summary(self) -> dict[str, float]:
        """Rates and percentiles, under the names of the result file."""
        seconds = self.spent.seconds
        found = {
            "seconds": round(seconds, 4),
            "messages_per_s": round(self.message_count / seconds, 1),
            "mb_per_s": round(self.body_bytes / seconds / 1e6, 3),
            "server_cores": round(self.spent.server_cpu_s / seconds, 3),
            "client_cores": round(self.spent.client_cpu_s / seconds, 3),
            "server_cpu_us_per_message": round(self.spent.server_cpu_s * 1e6 / self.message_count, 2),
        }
        if self.latencies_ns:
            histogram = HdrHistogram(1, HISTOGRAM_US_MAX, HISTOGRAM_DIGITS)
            for latency_ns in self.latencies_ns:
                histogram.record_value(max(1, latency_ns // 1000))
            for name, percentile in (("p50_ms", 50), ("p99_ms", 99), ("max_ms", 100)):
                found[name] = histogram.get_value_at_percentile(percentile) / 1000
        return found


class Connection:
    """One DEALER to one node."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], endpoint: str, timeout_ms: int = TIMEOUT_MS) -> None:
        self.endpoint = endpoint
        self.socket = context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.SNDTIMEO, timeout_ms)
        self.socket.setsockopt(zmq.RCVTIMEO, timeout_ms)
        self.socket.connect(endpoint)
        self._next_id = 1

    def take_ids(self, count: int) -> int:
        """The first of `count` request ids that nobody else uses on this connection."""
        first = self._next_id
        self._next_id += count
        return first

    def post(self, request: AnyRequest) -> int:
        """Send a request and wait for nothing; its id."""
        request_id = self.take_ids(1)
        self.socket.send_multipart(encode_request(request_id, request))
        return request_id

    def receive(self) -> list[bytes]:
        """The next reply that is no ERROR."""
        try:
            frames = self.socket.recv_multipart()
        except zmq.Again:
            raise BenchError(f"no reply from {self.endpoint} in time") from None
        check(frames[0])
        return frames

    def ask(self, request: AnyRequest) -> dict[str, object]:
        """Send a request and wait for its reply's fields; replies to others are passed over."""
        request_id = self.post(request)
        while True:
            frames = self.receive()
            if request_id_of(frames[0]) == request_id:
                return decode_header(frames[0])[2]

    def close(self) -> None:
        """Close the socket."""
        self.socket.close(0)


def check(header: bytes) -> None:
    """Raise `BenchError` when a reply is ERROR."""
    if header[3] == Reply.ERROR:
        fields = decode_header(header)[2]
        raise BenchError(f"the broker refused a request: {fields['code']}: {fields['message']}")


# --- publishing ------------------------------------------------------------------------------------------------------


def producer_of(case: PublishCase) -> int:
    """The producer of a case; 0 when it goes without."""
    return Random(f"{SEED} {case.name}").getrandbits(63) + 1 if case.sequenced else 0


def build_requests(case: PublishCase, first_id: int) -> list[tuple[bytes, bytes]]:
    """Header and body frame of every request of a case, warm-up included; the channel is called as the case."""
    chance, producer = Random(SEED), producer_of(case)
    bodies = [chance.randbytes(case.body_bytes) for _ in range(BODIES)]
    per_request, channel = case.bodies_per_request, case.name.encode()
    batch_bodies = (bodies * (per_request // BODIES + 1))[:per_request]
    requests = []
    for number in range(case.warmup_count + case.request_count):
        sequence = number * per_request + 1 if producer else 0
        request: Send | SendBatch
        if case.batch_bytes:
            request = SendBatch(encode_batch(channel, batch_bodies, producer, sequence))
        else:
            request = Send(case.name, bodies[number % BODIES], producer, sequence)
        header, body = encode_request(first_id + number, request)
        requests.append((bytes(header), bytes(body)))
    return requests


def publish(
    connection: Connection, meter: Meter, case: PublishCase, requests: Sequence[tuple[bytes, bytes]], first_id: int
) -> Figures:
    """Send all requests and wait for every confirm; the clock starts when those of the warm-up have come."""
    warmup_count = case.warmup_count
    exchange = _exchange if case.batch_bytes or case.window == 1 else _exchange_many
    exchange(connection, requests[:warmup_count], first_id, case.window)
    meter.start()
    latencies_ns = exchange(connection, requests[warmup_count:], first_id + warmup_count, case.window)
    spent = meter.stop()
    message_count = case.request_count * case.bodies_per_request
    return Figures(message_count, message_count * case.body_bytes, spent, latencies_ns)


def _exchange(connection: Connection, requests: Sequence[tuple[bytes, bytes]], first_id: int, window: int) -> list[int]:
    """Send requests with a window; nanoseconds from send to reply of each. Replies may come in any order."""
    send, receive, now_ns = connection.socket.send, connection.socket.recv, time.perf_counter_ns
    total, sent, confirmed = len(requests), 0, 0
    begun_ns, taken_ns = [0] * total, [0] * total
    try:
        while confirmed < total:
            while sent < total and sent - confirmed < window:
                header, body = requests[sent]
                begun_ns[sent] = now_ns()
                send(header, zmq.SNDMORE)
                send(body)
                sent += 1
            reply = receive()  # a SENT is one frame
            number = int.from_bytes(reply[4:12], "little") - first_id
            if reply[3] != Reply.SENT or not 0 <= number < sent or taken_ns[number]:
                check(reply)
                raise BenchError(f"a reply nobody waits for: {reply[:12].hex()}")
            taken_ns[number] = now_ns() - begun_ns[number]
            confirmed += 1
    except zmq.Again:
        raise BenchError(f"{connection.endpoint} stopped answering after {confirmed} of {total} requests") from None
    return taken_ns


def _exchange_many(connection: Connection, requests: Sequence[tuple[bytes, bytes]], first_id: int, window: int) -> list[int]:
    """The same for small requests, which go out in bursts and whose replies are taken as they lie there."""
    io, now_ns = ZmqIo(connection.socket), time.perf_counter_ns
    total, sent, confirmed = len(requests), 0, 0
    begun_ns, taken_ns = [0] * total, [0] * total
    while confirmed < total:
        burst = requests[sent : sent + min(window - (sent - confirmed), BURST)]
        begun_ns[sent : sent + len(burst)] = [now_ns()] * len(burst)
        went = io.send_all(burst)
        sent += went
        replies = io.drain(window, REPLY_BYTES_MAX)
        if not replies and not went and not connection.socket.poll(TIMEOUT_MS):
            raise BenchError(f"{connection.endpoint} stopped answering after {confirmed} of {total} requests")
        arrived_ns = now_ns()
        for (reply,) in replies:
            number = int.from_bytes(reply[4:12], "little") - first_id
            if reply[3] != Reply.SENT or not 0 <= number < sent or taken_ns[number]:
                check(reply)
                raise BenchError(f"a reply nobody waits for: {reply[:12].hex()}")
            taken_ns[number] = arrived_ns - begun_ns[number]
        confirmed += len(replies)
    return taken_ns


# --- consuming -------------------------------------------------------------------------------------------------------


def consume(connection: Connection, meter: Meter, case: ConsumeCase, source: PublishCase) -> Figures:
    """Receive and ack everything in the channel of `source`; every message must come exactly once."""
    total = (source.warmup_count + source.request_count) * source.bodies_per_request
    receive = ReceiveRequest(
        source.name, count_max=RECEIVE_COUNT_MAX, size_max=case.receive_bytes, wait_ms=RECEIVE_WAIT_MS, consumer=1
    )
    parts: list[tuple[int, int]] = []
    received = acked = 0
    meter.start()
    for _ in range(case.window):
        connection.post(receive)
    while acked < total:
        header, *batches = connection.receive()
        code, _, fields = decode_header(header)
        if code == Reply.ACKED:
            acked += fields["count"]
            continue
        pieces = fields["pieces"]
        if not pieces or len(batches) != len(pieces):
            raise BenchError(f"{len(batches)} batches for {len(pieces)} pieces after {received} of {total} messages")
        parts += [(first, last) for _, first, last, _, _ in pieces]
        received += sum(last - first + 1 for _, first, last, _, _ in pieces)
        connection.post(AckRequest(source.name, tuple(Receipt(*piece[:3]) for piece in pieces)))
        if received < total:
            connection.post(receive)
    spent = meter.stop()
    connection.ask(CloseRequest(1))
    check_parts(parts, total)
    return Figures(total, total * source.body_bytes, spent)


def check_parts(parts: Sequence[tuple[int, int]], total: int) -> None:
    """Raise `BenchError` unless the ranges hold each of the sequences 1 to `total` once."""
    expected = 1
    for first, last in sorted(parts):
        if first != expected:
            raise BenchError(f"sequence {min(first, expected)} was delivered {'twice' if first < expected else 'never'}")
        expected = last + 1
    if expected != total + 1:
        raise BenchError(f"{expected - 1} messages were delivered, {total} were sent")


def end_to_end(publisher: Connection, consumer: Connection, meter: Meter, case: EndToEndCase) -> Figures:
    """From the send to the arrival at a consumer whose RECEIVE waits, one message at a time."""
    receive = ReceiveRequest(case.name, wait_ms=RECEIVE_WAIT_MS, consumer=1)
    body = Random(SEED).randbytes(case.body_bytes)
    first_id = publisher.take_ids(case.warmup_count + case.request_count)
    latencies_ns: list[int] = []
    consumer.post(receive)
    for number in range(case.warmup_count + case.request_count):
        if number == case.warmup_count:
            meter.start()
        message = encode_request(first_id + number, Send(case.name, body))
        sent_ns = time.perf_counter_ns()
        publisher.socket.send_multipart(message)
        reply = consumer.receive()
        latencies_ns.append(time.perf_counter_ns() - sent_ns)
        publisher.receive()
        pieces = decode_header(reply[0])[2].get("pieces")
        if not pieces or len(reply) != 2 or not reply[1].endswith(body):
            raise BenchError(f"message {number} did not come as it was sent: {pieces}")
        # The ACK is behind the next RECEIVE: once it is confirmed, the RECEIVE waits at the leader.
        consumer.post(receive)
        consumer.ask(AckRequest(case.name, (Receipt(*pieces[0][:3]),)))
    spent = meter.stop()
    consumer.ask(CloseRequest(1))
    measured = latencies_ns[case.warmup_count :]
    return Figures(len(measured), len(measured) * case.body_bytes, spent, measured)
