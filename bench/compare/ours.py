"""Our side: three nodes, raw DEALER sockets, prebuilt frames (bench/load.py)."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from random import Random

import zmq

from bench.compare.ours_extra import confirm_at_half_load, publish_consumed, publish_past_budget
from bench.compare.plan import CONFIRM_ROW, CONSUMED, PAST_BUDGET, PURE_ROWS, ComparePlan
from bench.load import BODIES, RECEIVE_COUNT_MAX, RECEIVE_WAIT_MS, BenchError, Connection, check, consume
from bench.macro import NODES, Context, cluster_pids, find_leader, measure_publish
from bench.meter import Meter
from bench.paced import Paced, percentiles_ms, run_paced
from bench.plan import KIB, SEED, ConsumeCase
from tests.processes import Cluster
from zmqbroker.commands import Receipt
from zmqbroker.wire.codec import encode_batch
from zmqbroker.wire.frames import Reply, decode_header
from zmqbroker.wire.requests import AckRequest, ReceiveRequest, SendBatch

__all__ = ["Figures", "measure_ours", "measure_pure", "paced_figures"]

#: RECEIVEs under way: while one is answered and acked others wait at the leader.
RECEIVES = 4
PACED_CHANNEL = "paced"
BATCH_COUNT_MAX = 4096
#: The default of the producer, and best when tried: p50 and p99.9 are nearly twice as high without. NATS gained nothing by one.
LINGER_NS = 1_000_000

Figures = dict[str, dict[str, float]]  # way of doing it -> figure -> value


def measure_ours(plan: ComparePlan, volume: str, rows: Collection[str], rate: int, directory: Path) -> dict[str, Figures]:
    """Every row against a new cluster, a backlog past the log's budget against one of its own; figures by row."""
    found: dict[str, Figures] = {}
    if usual := [row for row in rows if not row.endswith(PAST_BUDGET)]:
        found = _measure_all(plan, usual, rate, Cluster(directory, NODES, volume=volume))
    for item in plan.publishing:
        if item.row + PAST_BUDGET in rows:
            own = directory / "past-budget"
            own.mkdir()
            found[item.row + PAST_BUDGET] = {"batch": publish_past_budget(plan, volume, item, own)}
    return {row: figures for row, figures in found.items() if row in rows}  # without what others were built on


def measure_pure(plan: ComparePlan, volume: str, rows: Collection[str], directory: Path) -> dict[str, Figures]:
    """The rows of `PURE_ROWS` among these, of nodes that use nothing compiled of ours; the client is the same."""
    own = [row for row in rows if row in PURE_ROWS]
    return _measure_all(plan, own, 0, Cluster(directory, NODES, volume=volume, environment={"ZMQBROKER_PURE": "1"}))


def _measure_all(plan: ComparePlan, rows: Collection[str], rate: int, cluster: Cluster) -> dict[str, Figures]:
    context = Context()
    try:
        for node in cluster.nodes.values():
            node.start()
        leader = find_leader(context, [node.endpoint for node in cluster.nodes.values()])
        meter = Meter(cluster_pids(cluster))
        found = _measure(plan, rows, rate, context, leader, meter)
        return found | _measure_extra(plan, rows, context, leader, meter)
    except BenchError as error:
        logs = "\n".join(f"--- {node.name}\n{node.log()[-2000:]}" for node in cluster.nodes.values())
        raise BenchError(f"{error}\n{logs}") from error
    finally:
        context.destroy(linger=0)
        cluster.close()


def _measure(
    plan: ComparePlan, rows: Collection[str], rate: int, context: Context, leader: str, meter: Meter
) -> dict[str, Figures]:
    found: dict[str, Figures] = {}
    first = plan.publishing[0]  # its messages are consumed
    wanted = {*rows, *([first.row] if "consume-ack-128B" in rows else [])}
    for item in (*plan.publishing, plan.single):
        if item.row in wanted:
            figures = measure_publish(context, leader, meter, item.case(), settle=plan.settle, broker=True)
            found[item.row] = {"batch" if item.batch_bytes else "send": figures}
    if "consume-ack-128B" in rows:
        source = first.case()
        case = ConsumeCase(name="consume-ack-128B", source=source.name, window=8, receive_bytes=256 * KIB)
        connection = Connection(context, leader)
        found[case.name] = {"receive": consume(connection, meter, case, source).summary()}
        connection.close()
    if "send-to-handler-128B" in rows and rate:
        lane = OurLane(context, leader, 128)
        warmup_s, measured_s = plan.paced_s
        meter.start()
        paced = run_paced(lane, rate, int(rate * measured_s), int(rate * warmup_s), linger_ns=LINGER_NS)
        found["send-to-handler-128B"] = {"batch": paced_figures(paced, rate, meter)}
        lane.close()
    return found


def _measure_extra(plan: ComparePlan, rows: Collection[str], context: Context, leader: str, meter: Meter) -> dict[str, Figures]:
    """The rows beside the table that need no cluster of their own."""
    found: dict[str, Figures] = {}
    for item in plan.publishing:
        if item.row + CONSUMED in rows:
            found[item.row + CONSUMED] = {"batch": publish_consumed(context, leader, meter, item)}
    if CONFIRM_ROW in rows:
        figures = confirm_at_half_load(context, leader, meter, plan.publishing[0], plan.paced_s, settle=plan.settle)
        found[CONFIRM_ROW] = {"batch": figures}
    return found


def paced_figures(paced: Paced, rate: int, meter: Meter) -> dict[str, float]:
    """What an open loop gave, under the names of the result file."""
    spent = meter.stop()
    starts = percentiles_ms(paced.starts_ns)
    return {
        "rate": rate,
        **percentiles_ms(paced.arrivals_ns),
        "start_p50_ms": starts["p50_ms"],  # how late the client itself was
        "start_p99.9_ms": starts["p99.9_ms"],
        "server_cores": round(spent.server_cpu_s / spent.seconds, 3),
        "client_cores": round(spent.client_cpu_s / spent.seconds, 3),
    }


class OurLane:
    """A connection that sends what is due as one batch, and one that receives and acks."""

    def __init__(self, context: Context, endpoint: str, body_bytes: int) -> None:
        self._sender, self._handler = Connection(context, endpoint), Connection(context, endpoint)
        chance = Random(SEED)
        self._bodies = [chance.randbytes(body_bytes) for _ in range(BODIES)]
        self._sent = self._confirmed = 0
        self._receive = ReceiveRequest(PACED_CHANNEL, count_max=RECEIVE_COUNT_MAX, wait_ms=RECEIVE_WAIT_MS, consumer=1)
        for _ in range(RECEIVES):
            self._handler.post(self._receive)

    def descriptors(self) -> tuple[int, ...]:
        """Both sockets."""
        return self._sender.socket.fileno(), self._handler.socket.fileno()

    def ready(self) -> bool:
        """Whether something is there already: a send may have swallowed the edge that announces it."""
        return any(part.socket.poll(0) for part in (self._sender, self._handler))

    def send(self, count: int) -> None:
        """Send messages as one batch, or several when very many are due."""
        end = self._sent + count
        while self._sent < end:
            bodies = [self._bodies[number % BODIES] for number in range(self._sent, min(end, self._sent + BATCH_COUNT_MAX))]
            self._sender.post(SendBatch(encode_batch(PACED_CHANNEL.encode(), bodies)))
            self._sent += len(bodies)

    def take(self) -> list[tuple[int, int]]:
        """What has arrived."""
        for header, *_ in _waiting(self._sender.socket):
            self._confirmed += decode_header(header)[2]["count"]
        found: list[tuple[int, int]] = []
        for header, *_ in _waiting(self._handler.socket):
            if header[3] == Reply.ACKED:
                continue
            pieces = decode_header(header)[2]["pieces"]
            self._handler.post(self._receive)
            if pieces:
                self._handler.post(AckRequest(PACED_CHANNEL, tuple(Receipt(*piece[:3]) for piece in pieces)))
                found += [(first - 1, last - 1) for _, first, last, _, _ in pieces]
        return found

    def unsettled(self) -> int:
        """Messages without a confirm."""
        return self._sent - self._confirmed

    def close(self) -> None:
        """Close both sockets."""
        self._sender.close()
        self._handler.close()


def _waiting(socket: zmq.Socket[bytes]) -> Iterator[list[bytes]]:
    """Every reply that is there, none of them an ERROR."""
    while True:
        try:
            frames = socket.recv_multipart(zmq.DONTWAIT)
        except zmq.Again:
            return
        check(frames[0])
        yield frames
