"""`python -m bench.consumers`: many consumers on one queue, what they cost while nothing happens, and how fair it is.

Each consumer is a DEALER socket with a session of its own at the leader, all of them in this one process. They do what the
Python client's `consume` does where nothing comes: `--receives` RECEIVEs wait at a time, each for `--wait-ms`, and a PING goes
out three times in a session's timeout. First nothing is sent for `--idle-s`; then `--messages` are, and every consumer acks
what it gets and asks again at once. Fair is when all get about as many. Every message must come exactly once.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

import zmq

from bench.flow import batch_frame
from bench.load import BenchError, Connection, check, check_parts
from bench.macro import Context, find_leader
from bench.meter import cpu_s
from bench.plan import SEED
from bench.single import run_single
from tests.processes import Cluster
from zmqbroker.commands import Receipt
from zmqbroker.wire.frames import Reply, decode_header
from zmqbroker.wire.requests import AckRequest, Hello, Ping, ReceiveRequest, SendBatch, StatsRequest

__all__ = ["Crowd", "measure", "spread"]

NODES = 3
CHANNEL = "crowd"
BODY_BYTES, BATCH_BYTES = 128, 16 << 10
#: Batches of the sender that are not confirmed yet.
WINDOW = 4
#: Three in the session's timeout, as the Python client does.
PING_S = 5.0
#: Without any answer for so long a measurement has failed.
SILENCE_S = 30

Row = dict[str, Any]


class Crowd:
    """All consumers, and one sender, over sockets of their own."""

    def __init__(self, context: Context, endpoint: str, size: int, receive: ReceiveRequest, receives: int) -> None:
        self._receive = receive
        self.sender = Connection(context, endpoint)
        self.consumers = [Connection(context, endpoint) for _ in range(size)]
        self.counts = [0] * size  # messages that came, by consumer
        self.parts: list[tuple[int, int]] = []
        self.confirmed = self.acked = self.empty = 0  # batches sent, messages, and waits that ended with nothing
        self._poller = zmq.Poller()
        self._numbers: dict[zmq.Socket[bytes], int] = {}
        for number, consumer in enumerate(self.consumers):
            consumer.ask(Hello(Random(f"{SEED} {number}").randbytes(16)))
            self._poller.register(consumer.socket, zmq.POLLIN)
            self._numbers[consumer.socket] = number
            for _ in range(receives):
                consumer.post(receive)
        self._poller.register(self.sender.socket, zmq.POLLIN)
        # Spread over the interval, as clients that started at different times are.
        now = time.monotonic()
        self._pings = [now + PING_S * number / size for number in range(size)]
        self._next_ping = 0

    def work(self, timeout_s: float) -> bool:
        """Take what has come, wait for it if need be; whether anything came."""
        self._ping()
        ready = self._poller.poll(int(timeout_s * 1000))
        for socket, _ in ready:
            number = self._numbers.get(socket)
            while True:
                try:
                    frames = socket.recv_multipart(zmq.DONTWAIT)
                except zmq.Again:
                    break
                check(frames[0])
                if number is None:
                    self.confirmed += 1
                else:
                    self._take(number, frames[0])
        return bool(ready)

    def _take(self, number: int, header: bytes) -> None:
        if header[3] == Reply.PONG:
            return
        code, _, fields = decode_header(header)
        if code == Reply.ACKED:
            self.acked += fields["count"]
            return
        consumer, pieces = self.consumers[number], fields["pieces"]
        self.empty += not pieces
        if pieces:
            self.parts += [(first, last) for _, first, last, *_ in pieces]
            self.counts[number] += sum(last - first + 1 for _, first, last, *_ in pieces)
            consumer.post(AckRequest(CHANNEL, tuple(Receipt(*piece[:3]) for piece in pieces)))
        consumer.post(self._receive)

    def _ping(self) -> None:
        now = time.monotonic()
        while self._pings[self._next_ping] <= now:
            self.consumers[self._next_ping].post(Ping())
            self._pings[self._next_ping] += PING_S
            self._next_ping = (self._next_ping + 1) % len(self._pings)

    def idle(self, seconds: float) -> None:
        """Only wait."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.work(min(left, 0.05))

    def pass_on(self, count: int) -> int:
        """Send about `count` messages and wait until all of them are acked; how many there were."""
        batch, size = batch_frame(CHANNEL, BODY_BYTES, BATCH_BYTES)
        batches = -(-count // size)
        sent, silent_since = 0, time.monotonic()
        while self.confirmed < batches or self.acked < batches * size:
            while sent < batches and sent - self.confirmed < WINDOW:
                self.sender.post(SendBatch(batch))
                sent += 1
            now = time.monotonic()
            if self.work(0.05):
                silent_since = now
            elif now - silent_since > SILENCE_S:
                raise BenchError(f"{self.acked} of {batches * size} messages were acked, then nothing came any more")
        check_parts(self.parts, batches * size)
        return batches * size

    def stats(self) -> dict[str, object]:
        """The queue's counters, with the sender idle."""
        return self.sender.ask(StatsRequest(CHANNEL))

    def close(self) -> None:
        """Close all sockets."""
        for connection in (self.sender, *self.consumers):
            connection.close()


def spread(counts: Sequence[int]) -> Row:
    """The messages of the consumer with the fewest, of the one in the middle, and of the one with the most."""
    return {"min": min(counts), "median": median(counts), "max": max(counts)}


class _Clock:
    """Processor time of each node and of this client since the start."""

    def __init__(self, pids: dict[str, int]) -> None:
        self._paths = {name: Path(f"/proc/{pid}/stat") for name, pid in pids.items()}
        self._started = self._now()

    def _now(self) -> tuple[float, float, dict[str, float]]:
        return time.monotonic(), time.process_time(), {name: cpu_s(path) for name, path in self._paths.items()}

    def stop(self) -> Row:
        """Seconds, and percent of one core for everybody."""
        (since, client, nodes), (now, client_now, nodes_now) = self._started, self._now()
        seconds = now - since
        return {
            "seconds": round(seconds, 2),
            "node_percent": {name: round(100 * (nodes_now[name] - nodes[name]) / seconds, 2) for name in nodes},
            "client_percent": round(100 * (client_now - client) / seconds, 2),
        }


@contextmanager
def _cluster(directory: Path, volume: str, sockets: int) -> Iterator[tuple[Cluster, Context, str]]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # the nodes inherit it
    context = Context()
    context.set(zmq.MAX_SOCKETS, sockets + 100)
    cluster = Cluster(directory, NODES, volume=volume)
    try:
        for node in cluster.nodes.values():
            node.start()
        yield cluster, context, find_leader(context, [node.endpoint for node in cluster.nodes.values()])
    finally:
        context.destroy(linger=0)
        cluster.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def measure(directory: Path, chosen: argparse.Namespace) -> Row:
    """The idle time, without consumers first, and then the messages. Raises `BenchError`."""
    receive = ReceiveRequest(CHANNEL, count_max=chosen.max, wait_ms=chosen.wait_ms, consumer=1)
    with _cluster(directory, chosen.volume, chosen.consumers) as (cluster, context, leader):
        pids = {
            f"{node.name}{' (leader)' if node.endpoint == leader else ''}": node.process.pid
            for node in cluster.nodes.values()
            if node.process is not None
        }
        time.sleep(chosen.settle_s)  # else it pays for the start, too
        clock = _Clock(pids)
        time.sleep(chosen.idle_s / 4)
        alone = clock.stop()
        crowd = Crowd(context, leader, chosen.consumers, receive, chosen.receives)
        crowd.idle(chosen.settle_s)
        crowd.empty, clock = 0, _Clock(pids)
        crowd.idle(chosen.idle_s)
        idle: Row = {**clock.stop(), "waits_ended": crowd.empty}
        clock = _Clock(pids)
        count = crowd.pass_on(chosen.messages)
        busy = clock.stop()
        stats = crowd.stats()
        crowd.close()
    return {
        "without_consumers": alone,
        "idle": idle,
        "messages": {**busy, "count": count, "messages_per_s": round(count / busy["seconds"])},
        "per_consumer": spread(crowd.counts),
        "counters": {name: stats[name] for name in ("consumers", "delivered", "redelivered", "acked")},
    }


def main() -> int:
    """Run it, print the result and write it to bench/results."""
    parser = argparse.ArgumentParser(prog="python -m bench.consumers", description="Many consumers on one queue.")
    parser.add_argument("--consumers", type=int, default=1_000)
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--max", type=int, default=10, help="messages that one RECEIVE takes at most")
    parser.add_argument("--receives", type=int, default=1, help="RECEIVEs that each consumer has waiting")
    parser.add_argument("--wait-ms", type=int, default=10_000, help="how long one RECEIVE waits")
    parser.add_argument("--idle-s", type=float, default=60.0)
    parser.add_argument("--settle-s", type=float, default=2.0, help="before what is measured")
    parser.set_defaults(volume="ephemeral")
    return run_single("consumers", "many consumers on one queue", parser, measure)


if __name__ == "__main__":
    sys.exit(main())
