"""`python -m bench.half`: how long a confirm takes at half of the rate that a cluster carries.

The saturated rate is measured first, for as long, because a short burst ends in caches; a consumer keeps up all the time. Then
messages are due at half of it, whatever became of those before (bench/paced.py), in batches of what is due, at least 1 ms
apart, and a latency runs from when a message was due to its confirm. A parcel is what counts as one message there: many small
ones are due together, so that the client can keep up with counting.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.compare.ours import LINGER_NS, paced_figures
from bench.compare.plan import FULL, Publishing
from bench.flow import Consumer, Part, Publisher, batch_frame, run
from bench.load import BenchError, Connection, check
from bench.macro import NODES, Context, cluster_pids, find_leader
from bench.meter import Meter
from bench.paced import run_paced
from bench.single import run_single
from tests.processes import Cluster
from zmqbroker.wire.codec import encode_batch
from zmqbroker.wire.requests import SendBatch

__all__ = ["ConfirmLane", "measure"]

CHANNEL = "half"
RECEIVE_BYTES, RECEIVES = 1 << 20, 8
#: Messages of one parcel, by their size in bytes.
PARCELS = {128: 64, 1024: 8}
BATCH_PARCELS_MAX = 64


class ConfirmLane:
    """A connection that sends what is due; a parcel has arrived when its batch is confirmed."""

    def __init__(self, connection: Connection, consumer: Consumer, body_bytes: int, parcel: int) -> None:
        self._connection, self._consumer, self._parcel = connection, consumer, parcel
        self._body = bytes(range(128)) * (body_bytes // 128)
        self._batches: dict[int, bytes] = {}  # number of parcels -> their batch
        self._under_way: dict[int, tuple[int, int]] = {}  # request id -> first and last parcel
        self._sent = 0

    def descriptors(self) -> Sequence[int]:
        """Both sockets."""
        return self._connection.socket.fileno(), self._consumer.connection.socket.fileno()

    def ready(self) -> bool:
        """Whether something is there already."""
        return any(part.socket.poll(0) for part in (self._connection, self._consumer.connection))

    def send(self, count: int) -> None:
        """Send parcels, as one batch or several."""
        while count:
            taken = min(count, BATCH_PARCELS_MAX)
            if taken not in self._batches:
                self._batches[taken] = encode_batch(CHANNEL.encode(), [self._body] * (taken * self._parcel))
            number = self._connection.post(SendBatch(self._batches[taken]))
            self._under_way[number] = self._sent, self._sent + taken - 1
            self._sent += taken
            count -= taken

    def take(self) -> list[tuple[int, int]]:
        """What was confirmed since."""
        self._consumer.step()
        found = []
        while self._connection.socket.poll(0):
            header = self._connection.socket.recv_multipart()[0]
            check(header)
            found.append(self._under_way.pop(int.from_bytes(header[4:12], "little")))
        return found

    def unsettled(self) -> int:
        """Batches without a confirm."""
        return len(self._under_way)


def measure(directory: Path, options: argparse.Namespace) -> dict[str, Any]:
    """The rate and the latencies of each size, on one cluster."""
    cluster, context = Cluster(directory, NODES, volume=options.volume), Context()
    try:
        for node in cluster.nodes.values():
            node.start()
        leader = find_leader(context, [node.endpoint for node in cluster.nodes.values()])
        meter = Meter(cluster_pids(cluster))
        cases = [item for item in FULL.publishing if item.row in ("batched-128B", "batched-1KiB")]
        return {item.row: _half(context, leader, meter, item, options.seconds) for item in cases}
    except BenchError as error:
        logs = "\n".join(f"--- {node.name}\n{node.log()[-2000:]}" for node in cluster.nodes.values())
        raise BenchError(f"{error}\n{logs}") from error
    finally:
        context.destroy(linger=0)
        cluster.close()


def _half(context: Context, leader: str, meter: Meter, item: Publishing, seconds: float) -> dict[str, Any]:
    sender, receiver = Connection(context, leader), Connection(context, leader)
    consumer = Consumer(receiver, CHANNEL, window=RECEIVES, receive_bytes=RECEIVE_BYTES)
    saturated = _saturated(
        Publisher(sender, [batch_frame(CHANNEL, item.body_bytes, item.batch_bytes)], item.window), consumer, seconds
    )
    parcel = PARCELS[item.body_bytes]
    rate = round(saturated / 2 / parcel)
    lane = ConfirmLane(sender, consumer, item.body_bytes, parcel)
    meter.start()
    paced = run_paced(lane, rate, int(rate * seconds), rate, linger_ns=LINGER_NS)
    figures = paced_figures(paced, rate * parcel, meter)
    sender.close()
    receiver.close()
    return {"saturated_messages_per_s": round(saturated), "half": figures}


def _saturated(publisher: Publisher, consumer: Consumer, seconds: float) -> float:
    """Messages a second that are both confirmed and received, after one of warm-up; in the end nothing waits."""
    parts: list[Part] = [publisher, consumer]
    _run_for(parts, 1.0)
    before, began_s = publisher.confirmed, time.perf_counter()
    _run_for(parts, seconds)
    publisher.held = True
    run(parts, lambda: publisher.idle and consumer.acked >= publisher.confirmed)
    return (publisher.confirmed - before) / (time.perf_counter() - began_s)


def _run_for(parts: list[Part], seconds: float) -> None:
    end_s = time.perf_counter() + seconds
    run(parts, lambda: time.perf_counter() >= end_s)


def main() -> int:
    """Run it; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.half", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=10, help="of the open loop, after one of warm-up")
    return run_single("half", "confirms at half of the saturated rate, open loop", parser, measure)


if __name__ == "__main__":
    sys.exit(main())
