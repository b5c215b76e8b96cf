"""`python -m bench.readers`: what readers of an events store cost the leader, by processor time.

Events are published at one rate, in small batches, while nobody reads, one reader, and `--readers` of them; then as many
durable consumers that ack what they get. All readers are at the leader, each over a connection of its own, and follow the tail.
The cases take turns, `--rounds` times; the figure is the median of the leader's processor time for a million events.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import zmq

from bench.flow import Consumer, Part, batch_frame
from bench.load import BenchError, Connection, check
from bench.macro import Context, find_leader
from bench.meter import cpu_s
from bench.single import run_single
from tests.processes import Cluster
from zmqbroker.wire.frames import decode_header
from zmqbroker.wire.requests import OpenConsumerRequest, ReadRequest, SendBatch

__all__ = ["CASES", "Reader", "measure"]

NODES = 3
BODY_BYTES = 128
#: What is measured: a kind of reader, and whether there is one of them or many.
CASES = (("nobody", 0), ("reader", 1), ("reader", 2), ("durable", 1), ("durable", 2))
#: Requests of a durable consumer that wait at a time, as those of the Python client.
WINDOW = 2
#: Without any answer for so long a measurement has failed.
SILENCE_S = 30.0

Row = dict[str, Any]


class Reader:
    """One connection that reads a store from its first event on, with one READ under way."""

    eager = False

    def __init__(self, connection: Connection, channel: str) -> None:
        self.connection, self._channel = connection, channel
        self.received = self.reads = 0
        self._ask(1)

    def _ask(self, sequence: int) -> None:
        self.connection.post(ReadRequest(self._channel, "sequence", sequence, 1024, wait_ms=10_000))

    def step(self) -> bool:
        """Take what came and ask for more."""
        came = False
        for header in _headers(self.connection):
            came = True
            check(header)
            fields = decode_header(header)[2]
            self.received += sum(last - first + 1 for _, first, last, *_ in fields["pieces"])
            self.reads += 1
            self._ask(fields["next"])
        return came


class _Paced:
    """A publisher whose batches are due at a rate; what was not sent in time is caught up."""

    eager = False

    def __init__(self, connection: Connection, channel: str, rate: int, batch: int) -> None:
        self.connection = connection
        self._frame, self._size = batch_frame(channel, BODY_BYTES, BODY_BYTES * batch)
        self._interval_s = self._size / rate
        self._due_s = time.monotonic()
        self.count = self.confirmed = 0  # events that were sent, and confirmed
        self.held = False  # sends nothing new while True

    def step(self) -> bool:
        """Take confirms, and send what is due."""
        came = False
        for header in _headers(self.connection):
            came = True
            check(header)
            self.confirmed += self._size
        while self._due_s <= time.monotonic() and not self.held:
            self._due_s += self._interval_s
            self.connection.post(SendBatch(self._frame))
            self.count += self._size
        return came


def _headers(connection: Connection) -> Iterator[bytes]:
    """The headers of what has come."""
    while True:
        try:
            yield connection.socket.recv_multipart(zmq.DONTWAIT)[0]
        except zmq.Again:
            return


def _readers(context: Context, leader: str, kind: str, channel: str, count: int) -> list[Reader | Consumer]:
    found: list[Reader | Consumer] = []
    for number in range(count):
        connection = Connection(context, leader)
        if kind == "reader":
            found.append(Reader(connection, channel))
            continue
        name = f"{channel}>consumer-{number}"
        connection.ask(OpenConsumerRequest(name, "first"))
        found.append(Consumer(connection, name, window=WINDOW, receive_bytes=1 << 20))
    return found


def _run(publisher: _Paced, readers: Sequence[Reader | Consumer], count: int) -> None:
    """Publish so many events, until everybody has them."""
    parts: list[Part] = [publisher, *readers]
    poller = zmq.Poller()
    for part in parts:
        poller.register(part.connection.socket, zmq.POLLIN)
    silent_since = time.monotonic()
    while publisher.confirmed < publisher.count or not publisher.held or any(r.received < publisher.count for r in readers):
        publisher.held = publisher.count >= count
        poller.poll(1)
        now_s = time.monotonic()
        if sum(part.step() for part in parts):
            silent_since = now_s
        elif now_s - silent_since > SILENCE_S:
            raise BenchError(f"nothing came for {SILENCE_S} s: {[reader.received for reader in readers]} of {publisher.count}")


def _case(context: Context, leader: str, stat: Path, case: tuple[str, int], channel: str, chosen: argparse.Namespace) -> Row:
    kind, many = case
    readers = _readers(context, leader, kind, channel, (0, 1, chosen.readers)[many])
    publisher = _Paced(Connection(context, leader), channel, chosen.rate, chosen.batch)
    began, began_cpu = time.monotonic(), cpu_s(stat)
    _run(publisher, readers, chosen.events)
    seconds, spent = time.monotonic() - began, cpu_s(stat) - began_cpu
    for part in (publisher, *readers):
        part.connection.close()
    return {
        "leader_cpu_s_per_million": round(spent * 1e6 / publisher.count, 2),
        "events_per_s": round(publisher.count / seconds),
        "reads_per_batch": round(sum(getattr(reader, "reads", 0) for reader in readers) * chosen.batch / publisher.count, 2),
    }


def measure(directory: Path, chosen: argparse.Namespace) -> Row:
    """All cases in turn. Raises `BenchError`."""
    context = Context()
    cluster = Cluster(directory, NODES, volume=chosen.volume)
    rows: dict[str, list[Row]] = {}
    try:
        cluster.start()
        leader = find_leader(context, [node.endpoint for node in cluster.nodes.values()])
        (pid,) = [node.process.pid for node in cluster.nodes.values() if node.process and node.endpoint == leader]
        stat = Path(f"/proc/{pid}/stat")
        for number in range(chosen.rounds + 1):
            for kind, many in CASES:
                name = f"{kind}-{(0, 1, chosen.readers)[many]}"
                row = _case(context, leader, stat, (kind, many), f"events_store:{name}.{number}", chosen)
                if number:  # the first round warms up
                    rows.setdefault(name, []).append(row)
    finally:
        context.destroy(linger=0)
        cluster.close()
    found: Row = {name: {key: median(row[key] for row in several) for key in several[0]} for name, several in rows.items()}
    for kind in ("reader", "durable"):
        one, many = (found[f"{kind}-{count}"]["leader_cpu_s_per_million"] for count in (1, chosen.readers))
        found[f"{kind}s_to_one"] = round(many / max(one, 0.01), 2)  # a run that is short has spent no step of the clock
    return {**found, "rounds": rows}


def main() -> int:
    """Run it, print the result and write it to bench/results."""
    parser = argparse.ArgumentParser(prog="python -m bench.readers", description="What readers of an events store cost.")
    parser.add_argument("--readers", type=int, default=10)
    parser.add_argument("--rate", type=int, default=4_000, help="events a second; with more readers wake less often")
    parser.add_argument("--batch", type=int, default=10, help="events of one batch")
    parser.add_argument("--events", type=int, default=8_000, help="of one case in one round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.set_defaults(volume="ephemeral")
    return run_single("readers", "readers of an events store", parser, measure)


if __name__ == "__main__":
    sys.exit(main())
