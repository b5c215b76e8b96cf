"""`python -m bench.behind`: what it costs to bring up a follower that missed more than the others keep of their log.

Three nodes. One follower is killed, gigabytes are published that nobody receives, then it is started again while publishing
goes on. Two figures: seconds until it has all, and the rate of publishing meanwhile, beside that of the time before. What was
refused for lack of room, and the rate of the time after, show whether that was paid for by sends; when the snapshot was made,
had arrived and was installed, where the seconds went. The publisher sends as fast as it is let (`--rate 0`) or at a fixed rate.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import zmq

from bench.load import BenchError, Connection, build_requests, check
from bench.macro import NODES, find_leader
from bench.plan import PublishCase
from bench.single import run_single
from tests.processes import Cluster, Node
from zmqbroker.wire.frames import Reply, decode_header

BATCH_BYTES = 256 << 10
BODY_BYTES = 1 << 10
BEFORE_S = 20.0
#: Longer than a snapshot is kept that nobody is sent any more.
AFTER_S = 35.0
#: The follower has this long; ten times what is asked for.
CATCH_UP_S = 1200.0
#: A refused publisher waits so long.
PAUSE_S = 0.02
#: Requests of the background publisher that may be unanswered.
WINDOW = 8


def _is_confirmed(reply: bytes) -> bool:
    """Whether a send was confirmed; False when there was no room for it. Raises `BenchError` for anything else."""
    if reply[3] == Reply.ERROR and decode_header(reply)[2]["code"] == "STORAGE_FULL":
        return False
    check(reply)
    return True


def _case(count: int) -> PublishCase:
    return PublishCase(
        name="behind",
        body_bytes=BODY_BYTES,
        batch_bytes=BATCH_BYTES,
        request_count=count,
        warmup_count=0,
        window=WINDOW,
        sequenced=False,
    )


@dataclass(slots=True)
class Publisher:
    """Publishes from a thread of its own until it is stopped, and notes when each batch was confirmed."""

    connection: Connection
    rate: int  # messages per second; 0: as many as go
    confirmed_s: list[float] = field(default_factory=list)
    refused: int = 0  # batches, because the bodies of earlier ones had not left the log yet
    failure: str = ""
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """The thread."""
        try:
            self._publish()
        except (BenchError, zmq.ZMQError) as error:
            self.failure = str(error) or type(error).__name__
        finally:
            self.connection.close()

    def _publish(self) -> None:
        socket, under_way, started = self.connection.socket, 0, time.perf_counter()
        (_, body), *_ = build_requests(_case(1), 1)
        per_batch, sent = BATCH_BYTES // BODY_BYTES, 0
        while not self.stop.is_set() or under_way:
            due = self.rate == 0 or sent * per_batch <= (time.perf_counter() - started) * self.rate
            if under_way < WINDOW and due and not self.stop.is_set():
                (header, _), *_ = build_requests(_case(1), self.connection.take_ids(1))
                socket.send_multipart([header, body])
                under_way, sent = under_way + 1, sent + 1
            elif under_way and (under_way == WINDOW or self.stop.is_set() or socket.poll(2)):
                if _is_confirmed(socket.recv()):
                    self.confirmed_s.append(time.perf_counter())
                else:
                    self.refused += 1
                    time.sleep(PAUSE_S)
                under_way -= 1
            elif not under_way:
                time.sleep(0.002)

    def rate_between(self, start_s: float, end_s: float) -> float:
        """Messages per second confirmed in a stretch of time."""
        count = sum(start_s <= moment < end_s for moment in self.confirmed_s)
        return count * (BATCH_BYTES // BODY_BYTES) / (end_s - start_s)

    def slowest_second(self, start_s: float, end_s: float) -> float:
        """The lowest rate of a whole second in a stretch of time."""
        seconds = range(int(end_s - start_s))
        return min((self.rate_between(start_s + number, start_s + number + 1) for number in seconds), default=0.0)


def _counters(cluster: Cluster, node: Node) -> dict[str, int]:
    info = cluster.info(node.name, timeout_ms=5_000)
    return dict(info["counters"]) if info else {}


#: Stages of a snapshot, and the counter that tells of its end at the node that does it.
STAGES = (("made_s", "snapshots_made"), ("arrived_s", "snapshots_sent"), ("installed_s", "snapshots_installed"))


def _note_stages(cluster: Cluster, found: dict[str, float], elapsed_s: float) -> None:
    """Note when each stage of the snapshot was first seen to have ended."""
    seen = [_counters(cluster, node) for node in cluster.nodes.values()]
    for stage, name in STAGES:
        if any(counters.get(name) for counters in seen):
            found.setdefault(stage, round(elapsed_s, 2))


def measure(directory: Path, volume: str, behind_bytes: int, budget_bytes: int, rate: int) -> dict[str, Any]:
    """Run it against a new cluster below `directory`. Raises `BenchError`."""
    settings = {"ZMQBROKER_STORAGE_LOG_BUDGET_BYTES": str(budget_bytes)}
    cluster = Cluster(directory, NODES, volume=volume, environment=settings)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    try:
        cluster.start()
        endpoint = find_leader(context, [node.endpoint for node in cluster.nodes.values()])
        away = next(node for node in cluster.nodes.values() if node.endpoint != endpoint)
        away.kill()
        found: dict[str, Any] = {"fill_per_s": round(_fill(context, endpoint, behind_bytes))}
        publisher = Publisher(Connection(context, endpoint), rate)
        thread = threading.Thread(target=publisher.run)
        thread.start()
        try:
            found.update(_bring_up(cluster, away, publisher))
        finally:
            publisher.stop.set()
            thread.join(60)
        if publisher.failure:
            raise BenchError(publisher.failure)
        return found
    finally:
        context.destroy(linger=0)
        cluster.close()


def _fill(context: zmq.Context[zmq.Socket[bytes]], endpoint: str, size: int) -> float:
    """Publish `size` bytes, as fast as there is room for them; messages per second."""
    publisher, started = Publisher(Connection(context, endpoint), 0), time.perf_counter()
    thread = threading.Thread(target=publisher.run)
    thread.start()
    while thread.is_alive() and len(publisher.confirmed_s) * BATCH_BYTES < size:
        time.sleep(0.1)
    publisher.stop.set()
    thread.join()
    if publisher.failure:
        raise BenchError(publisher.failure)
    return len(publisher.confirmed_s) * (BATCH_BYTES // BODY_BYTES) / (time.perf_counter() - started)


def _bring_up(cluster: Cluster, away: Node, publisher: Publisher) -> dict[str, Any]:
    time.sleep(BEFORE_S)
    refused = [publisher.refused]
    started = time.perf_counter()
    away.start()
    stages: dict[str, float] = {}
    while not cluster.caught_up(away):
        if publisher.failure or time.perf_counter() - started > CATCH_UP_S:
            raise BenchError(publisher.failure or f"{away.name} has not caught up in {CATCH_UP_S:.0f} s")
        _note_stages(cluster, stages, time.perf_counter() - started)
        time.sleep(0.1)
    ended = time.perf_counter()
    refused.append(publisher.refused)
    _note_stages(cluster, stages, ended - started)
    time.sleep(AFTER_S)
    refused.append(publisher.refused)
    before = publisher.rate_between(started - BEFORE_S + 1, started)
    during = publisher.rate_between(started, ended)
    made = sum(_counters(cluster, node).get("snapshots_made", 0) for node in cluster.nodes.values())
    return {
        **stages,
        "caught_up_s": round(ended - started, 2),
        "refused_batches_before": refused[0],
        "refused_batches": refused[1] - refused[0],
        "refused_batches_after": refused[2] - refused[1],
        "snapshots_made": made,
        "snapshots_installed": _counters(cluster, away).get("snapshots_installed", 0),
        "before_per_s": round(before),
        "during_per_s": round(during),
        "after_per_s": round(publisher.rate_between(ended, ended + AFTER_S - 1)),
        "ratio": round(during / before, 3),
        "slowest_second_per_s": round(publisher.slowest_second(started, ended)),
        "before_median_second_per_s": round(
            median(publisher.rate_between(started - n - 1, started - n) for n in range(int(BEFORE_S) - 1))
        ),
    }


def main() -> int:
    """Run it, print the result and write it to bench/results."""
    parser = argparse.ArgumentParser(prog="python -m bench.behind", description="A follower that missed much.")
    parser.add_argument("--behind-bytes", type=int, default=2 << 30)
    parser.add_argument("--budget-bytes", type=int, default=1 << 30, help="log that each node keeps (default: 1 GiB)")
    parser.add_argument("--rate", type=int, default=20_000, help="messages of 1 KiB per second meanwhile; 0: as many as go")
    return run_single(
        "behind",
        "a follower far behind",
        parser,
        lambda directory, chosen: measure(directory, chosen.volume, chosen.behind_bytes, chosen.budget_bytes, chosen.rate),
    )


if __name__ == "__main__":
    sys.exit(main())
