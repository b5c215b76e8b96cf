"""Our side of what lies beside the table: publishing beside a consumer, past the log's budget, and confirms at half load."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import zmq

from bench.compare.plan import CONFIRM_ROW, CONSUMED, PAST_BUDGET, ComparePlan, Publishing
from bench.flow import Consumer, Publisher, batch_frame, run
from bench.load import BenchError, Connection, check
from bench.load import Figures as Measured
from bench.macro import NODES, Context, cluster_pids, find_leader
from bench.meter import Meter
from bench.paced import percentiles_ms, run_paced
from tests.processes import Cluster
from zmqbroker.wire.frames import Reply
from zmqbroker.wire.requests import SendBatch

__all__ = ["confirm_at_half_load", "publish_consumed", "publish_past_budget"]

RECEIVES, RECEIVE_BYTES = 8, 256 << 10


def publish_consumed(context: Context, endpoint: str, meter: Meter, item: Publishing) -> dict[str, float]:
    """Publish to a channel whose consumer receives and acks meanwhile; the clock stops when everything is acked too."""
    channel = item.row + CONSUMED
    batch = batch_frame(channel, item.body_bytes, item.batch_bytes)
    publisher = Publisher(Connection(context, endpoint), [batch], item.window)
    consumer = Consumer(Connection(context, endpoint), channel, window=RECEIVES, receive_bytes=RECEIVE_BYTES)

    def publish(count: int) -> int:
        """Publish at least so many more, and wait for all acks; messages confirmed since the first call."""
        until = publisher.confirmed + count
        publisher.held = False

        def done() -> bool:
            publisher.held = publisher.confirmed >= until
            return publisher.held and publisher.idle and consumer.acked == publisher.confirmed

        run([publisher, consumer], done)
        return publisher.confirmed

    warmed_up = publish(item.warmup_count)
    meter.start()
    count = publish(item.count) - warmed_up
    spent = meter.stop()
    publisher.connection.close()
    consumer.connection.close()
    return Measured(count, count * item.body_bytes, spent).summary()


def publish_past_budget(plan: ComparePlan, volume: str, item: Publishing, directory: Path) -> dict[str, float]:
    """Publish `plan.budget_times` the log's budget that nobody receives to a cluster of its own; the clock runs past it.

    A batch that is refused while bodies move to the store is sent again, and that is in the time.
    """
    settings = {
        "ZMQBROKER_STORAGE_LOG_BUDGET_BYTES": str(plan.budget_bytes),
        "ZMQBROKER_STORAGE_SEGMENT_BYTES": str(plan.budget_bytes // 4),
    }
    cluster, context = Cluster(directory, NODES, volume=volume, environment=settings), Context()
    try:
        for node in cluster.nodes.values():
            node.start()
        endpoint = find_leader(context, [node.endpoint for node in cluster.nodes.values()])
        batch = batch_frame(item.row + PAST_BUDGET, item.body_bytes, item.batch_bytes)
        publisher, meter = Publisher(Connection(context, endpoint), [batch], item.window), Meter(cluster_pids(cluster))
        budget_count = plan.budget_bytes // item.body_bytes
        run([publisher], lambda: publisher.confirmed >= budget_count)
        before = publisher.confirmed
        meter.start()
        run([publisher], lambda: publisher.confirmed >= before + (plan.budget_times - 1) * budget_count)
        count, spent = publisher.confirmed - before, meter.stop()
        figures = Measured(count, count * item.body_bytes, spent).summary()
        return {**figures, "refused": sum(publisher.refused.values())}
    finally:
        context.destroy(linger=0)
        cluster.close()


class _ConfirmLane:
    """One connection whose messages are prebuilt batches, and whose arrivals are their confirms."""

    def __init__(self, connection: Connection, frame: bytes) -> None:
        self._connection, self._request = connection, SendBatch(frame)
        self._numbers: dict[int, int] = {}  # request id -> number of its batch
        self._sent = 0

    def descriptors(self) -> Sequence[int]:
        """The socket's."""
        return [self._connection.socket.fileno()]

    def ready(self) -> bool:
        """Whether something is there already: a send may have swallowed the edge that announces it."""
        return bool(self._connection.socket.poll(0))

    def send(self, count: int) -> None:
        """Send batches."""
        for _ in range(count):
            self._numbers[self._connection.post(self._request)] = self._sent
            self._sent += 1

    def take(self) -> list[tuple[int, int]]:
        """Batches that are confirmed."""
        found = []
        with suppress(zmq.Again):
            while True:
                header = self._connection.socket.recv_multipart(zmq.DONTWAIT)[0]
                check(header)
                if header[3] != Reply.SENT:
                    raise BenchError(f"a reply nobody waits for: {header[:12].hex()}")
                number = self._numbers.pop(int.from_bytes(header[4:12], "little"))
                found.append((number, number))
        return found

    def unsettled(self) -> int:
        """Batches without a confirm."""
        return len(self._numbers)


def _saturated_per_s(connection: Connection, batch: tuple[bytes, int], window: int, seconds: float) -> float:
    """Batches a second, as many as go for so long: what a burst reaches that the page cache takes is no rate to halve."""
    publisher = Publisher(connection, [batch], window)
    began_s = time.perf_counter()

    def done() -> bool:
        publisher.held = time.perf_counter() >= began_s + seconds
        return publisher.held and publisher.idle

    run([publisher], done)
    return publisher.confirmed / batch[1] / (time.perf_counter() - began_s)


def confirm_at_half_load(
    context: Context, endpoint: str, meter: Meter, item: Publishing, paced_s: tuple[float, float], *, settle: bool
) -> dict[str, float]:
    """Latency of the confirm, from when a batch was due, at half of the rate that goes for as long as this takes."""
    frame, per_batch = batch_frame(CONFIRM_ROW, item.body_bytes, item.batch_bytes)
    connection = Connection(context, endpoint)
    per_s = max(1, round(_saturated_per_s(connection, (frame, per_batch), item.window, sum(paced_s)) / 2))
    if settle:
        os.sync()
    meter.start()
    paced = run_paced(_ConfirmLane(connection, frame), per_s, int(per_s * paced_s[1]), int(per_s * paced_s[0]))
    spent = meter.stop()
    connection.close()
    cores = round(spent.server_cpu_s / spent.seconds, 3)
    return {"rate": per_s * per_batch, **percentiles_ms(paced.arrivals_ns), "server_cores": cores}
