"""How long a failover takes, as a client sees it: many trials with real processes, printed as percentiles.

    python -m tests.fault.failover_trials [--trials 50] [--fault kill] [--volume persistent] [--json bench/results/NAME.json]

Three nodes, and in this process three clients: one sends a message at a time, one keeps a window of them under way, one
receives and acks. In each trial the leader is killed (SIGKILL), stopped (SIGSTOP, later SIGCONT) or told to hand over; then the
cluster is made whole and in sync again. Per trial: the longest time between two confirms that ended after the signal and began
before a node said that it leads (the gap), the longest time that one message waited until the trial was over, errors that a
caller saw, and when a node first said that it leads, which tells the servers' time from the client's. Every wait is bounded.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import zmq

from bench.report import environment
from tests.processes import Cluster, Node, cluster, wait_until
from zmqbroker import Client
from zmqbroker.errors import BrokerError
from zmqbroker.wire.frames import Request, decode_header, encode_header

__all__ = ["FAULTS", "Trial", "main", "percentiles", "run", "table"]

FAULTS = ("kill", "stop", "transfer")
CHANNEL = "trials"
SEED = 8
#: Messages that the second publisher has under way.
WINDOW = 64
#: Pauses of the publishers: a steady load that leaves the processors to the failover.
PAUSE_S = 0.001
#: Confirms after the election until a trial counts as over.
CONFIRMS_AFTER = 50
#: The longest that any step of a trial may take.
PATIENCE_S = 30.0
#: How often the nodes are asked who leads.
POLL_MS = 3


class Publisher:
    """Sends for ever, and remembers when each message was sent and confirmed."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.confirms: list[tuple[int, int]] = []  # (sent, confirmed), monotonic ns, in the order of the confirms
        self.errors: list[str] = []

    async def one_at_a_time(self, url: str) -> None:
        """A message when the one before is confirmed."""
        async with Client(url) as client:
            queue = client.queue(CHANNEL)
            while True:
                await self._confirmed(queue.send(b"one at a time"))
                await asyncio.sleep(PAUSE_S)

    async def window(self, url: str) -> None:
        """`WINDOW` messages under way."""
        async with Client(url) as client, client.queue(CHANNEL).producer(linger_ms=1) as producer:
            slots = asyncio.Semaphore(WINDOW)

            async def send() -> None:
                async with slots:
                    await self._confirmed(await producer.send(b"one of many"))

            async with asyncio.TaskGroup() as group:
                while True:
                    while not slots.locked():
                        group.create_task(send())
                        await asyncio.sleep(0)
                    await asyncio.sleep(PAUSE_S)

    async def _confirmed(self, result: Any) -> None:
        sent_ns = time.monotonic_ns()
        try:
            await result
        except BrokerError as error:
            self.errors.append(repr(error))
        else:
            self.confirms.append((sent_ns, time.monotonic_ns()))


async def consume(url: str) -> None:
    """Keep the queue short."""
    async with Client(url) as client:
        queue = client.queue(CHANNEL)
        async with queue.consume(credit=512) as consumer:
            while messages := await consumer.take():
                try:
                    await queue.ack(messages)
                except BrokerError as error:
                    print(f"ack: {error!r}", file=sys.stderr)


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """What one publisher saw of one trial."""

    gap_ms: float  # longest time between two confirms, over the signal or between it and the election
    until_ms: float  # from the signal to the end of that
    wait_ms: float  # longest time that a message waited for its confirm
    errors: list[str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """One trial."""

    fault: str
    elected_ms: float  # from the signal until a node said that it leads
    terms: int  # by how many the term has grown
    seen: dict[str, Seen] = field(default_factory=dict)


class Watch:
    """Asks all nodes who leads, over connections that stand."""

    def __init__(self, nodes: Iterable[Node]) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._sockets: dict[zmq.Socket[bytes], Node] = {}
        for node in nodes:
            socket = self._context.socket(zmq.DEALER)
            socket.setsockopt(zmq.LINGER, 0)
            socket.setsockopt(zmq.IMMEDIATE, 1)
            socket.setsockopt(zmq.RECONNECT_IVL, 20)
            socket.connect(node.endpoint)
            self._sockets[socket] = node

    def leader(self, after_term: int, timeout_s: float = PATIENCE_S) -> tuple[int, Node]:
        """The first node that says that it leads in a later term, and that term. AssertionError when none does."""
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            for socket in self._sockets:
                if int(socket.getsockopt(zmq.EVENTS)) & zmq.POLLOUT:
                    socket.send(encode_header(Request.PING, 1, {}), zmq.NOBLOCK)
            for socket, node in self._sockets.items():
                while int(socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
                    fields = decode_header(socket.recv_multipart()[0])[2]
                    if fields.get("role") == "leader" and fields["term"] > after_term:
                        return int(fields["term"]), node
            time.sleep(POLL_MS / 1000)
        raise AssertionError(f"no leader after term {after_term} in {timeout_s} s")

    def close(self) -> None:
        """Close the connections."""
        for socket in self._sockets:
            socket.close(0)
        self._context.term()


class Trials:
    """Runs trials on one cluster under the load of the publishers."""

    def __init__(self, nodes: Cluster, publishers: Sequence[Publisher]) -> None:
        self._nodes, self._publishers = nodes, publishers
        self._random = random.Random(SEED)
        self._watch = Watch(nodes.nodes.values())

    def run(self, fault: str) -> Trial:
        """One trial, from a whole cluster to a whole cluster."""
        self._in_sync()
        time.sleep(self._random.uniform(0.3, 0.6))  # so that the trials meet every phase of ticks and heartbeats
        # Not what the watch heard last: a node that was stopped may have told it of its old leadership.
        term, leader = wait_until(self._nodes.leadership, PATIENCE_S, "a leader")
        marks = [max(0, len(publisher.confirms) - 1) for publisher in self._publishers]
        wrong = [len(publisher.errors) for publisher in self._publishers]
        begin_ns = inflict(fault, leader, self._nodes)
        later, _ = self._watch.leader(term)
        elected_ns = time.monotonic_ns()
        for publisher in self._publishers:
            enough = len(publisher.confirms) + CONFIRMS_AFTER
            wait_until(lambda p=publisher, n=enough: len(p.confirms) >= n, PATIENCE_S, "confirms")  # type: ignore[misc]
        seen = {
            publisher.name: _seen(publisher.confirms[mark:], begin_ns, elected_ns, publisher.errors[errors:])
            for publisher, mark, errors in zip(self._publishers, marks, wrong, strict=True)
        }
        if fault == "kill":
            leader.start()
        elif fault == "stop":
            leader.resume()
        return Trial(fault=fault, elected_ms=(elected_ns - begin_ns) / 1e6, terms=later - term, seen=seen)

    def _in_sync(self) -> None:
        def whole() -> bool:
            return all(self._nodes.caught_up(node) for node in self._nodes.nodes.values())

        wait_until(whole, PATIENCE_S, "all nodes in sync")

    def close(self) -> None:
        """Close the connections."""
        self._watch.close()


def inflict(fault: str, leader: Node, nodes: Cluster) -> int:
    """Do to the leader what the trial is about; when that began, monotonic ns."""
    if fault == "transfer":
        return asyncio.run(_hand_over(nodes.url))
    begin_ns = time.monotonic_ns()
    if fault == "kill":
        leader.kill()
    else:
        leader.pause()
    return begin_ns


async def _hand_over(url: str) -> int:
    async with Client(url) as client:
        await client.info()
        begin_ns = time.monotonic_ns()
        await client.cluster.transfer()
        return begin_ns


def left_out(fault: str) -> str:
    """Why a fault cannot be tried with this version; empty when it can."""
    return "this client cannot hand leadership over" if fault == "transfer" and not hasattr(Client, "cluster") else ""


def _seen(confirms: Sequence[tuple[int, int]], begin_ns: int, elected_ns: int, errors: list[str]) -> Seen:
    """From the confirms since just before the signal."""
    times = [confirmed for _, confirmed in confirms]
    gaps = [(later - earlier, later) for earlier, later in pairwise(times) if later > begin_ns and earlier <= elected_ns]
    gap, end = max(gaps)
    wait = max(confirmed - sent for sent, confirmed in confirms if confirmed > begin_ns)
    return Seen(gap_ms=gap / 1e6, until_ms=(end - begin_ns) / 1e6, wait_ms=wait / 1e6, errors=errors)


async def run(directory: Path, faults: Sequence[str], trials: int, volume: str, note: Callable[[str], None]) -> list[Trial]:
    """All trials on one cluster below `directory`."""
    publishers = [Publisher("one at a time"), Publisher(f"window of {WINDOW}")]
    done: list[Trial] = []
    with cluster(directory, volume=volume) as nodes:

        def control() -> None:
            runner = Trials(nodes, publishers)
            try:
                for fault in faults:
                    if reason := left_out(fault):
                        note(f"{fault}: left out, {reason}")
                        continue
                    done.extend(runner.run(fault) for _ in range(trials))
            finally:
                runner.close()

        loads = [publishers[0].one_at_a_time(nodes.url), publishers[1].window(nodes.url), consume(nodes.url)]
        tasks = [asyncio.create_task(load) for load in loads]
        try:
            work = asyncio.create_task(asyncio.to_thread(control))
            await asyncio.wait([work, *tasks], return_when=asyncio.FIRST_COMPLETED)
            for task in (work, *tasks):
                if task.done():
                    task.result()  # a load ends only by failing
            await work
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    return done


# --- what came out ---------------------------------------------------------------------------------------------------


def percentiles(values: Iterable[float]) -> dict[str, float]:
    """Minimum, median, p90, p99 and maximum, by nearest rank."""
    ordered = sorted(values)
    ranks = {name: max(1, math.ceil(share * len(ordered))) for name, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99))}
    return {"min": ordered[0], **{name: ordered[rank - 1] for name, rank in ranks.items()}, "max": ordered[-1]}


def summary(done: Sequence[Trial]) -> dict[str, dict[str, dict[str, float]]]:
    """fault -> what was measured -> percentiles in ms."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for fault in dict.fromkeys(trial.fault for trial in done):
        mine = [trial for trial in done if trial.fault == fault]
        rows = {"signal to a leader": percentiles(trial.elected_ms for trial in mine)}
        for name in mine[0].seen:
            rows[f"{name}: gap between confirms"] = percentiles(trial.seen[name].gap_ms for trial in mine)
            rows[f"{name}: signal to confirm"] = percentiles(trial.seen[name].until_ms for trial in mine)
            rows[f"{name}: longest wait"] = percentiles(trial.seen[name].wait_ms for trial in mine)
        found[fault] = rows
    return found


def table(done: Sequence[Trial]) -> Iterator[str]:
    """The lines of a table for people, in ms."""
    for fault, rows in summary(done).items():
        mine = [trial for trial in done if trial.fault == fault]
        errors = sum(len(seen.errors) for trial in mine for seen in trial.seen.values())
        more = sum(trial.terms > 1 for trial in mine)
        yield f"{fault}: {len(mine)} trials, {errors} errors seen by callers, {more} with more than one new term (ms)"
        yield f"  {'':42}{'min':>9}{'p50':>9}{'p90':>9}{'p99':>9}{'max':>9}"
        for what, row in rows.items():
            yield f"  {what:42}" + "".join(f"{value:9.1f}" for value in row.values())


def main() -> None:
    """Run the trials that the command line asks for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--fault", choices=FAULTS, action="append")
    parser.add_argument("--volume", choices=("ephemeral", "persistent"), default="ephemeral")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="zmqbroker-trials-") as name:
        about = environment(sys.argv[1:], Path(name))
        done = asyncio.run(run(Path(name), given.fault or FAULTS, given.trials, given.volume, print))
    print(f"volume {given.volume}, three nodes and their clients on {about['host']['processors']} processors")
    for line in table(done):
        print(line)
    if given.json:
        about["command"] = " ".join(["python", "-m", "tests.fault.failover_trials", *sys.argv[1:]])
        document = {"benchmark": "failover of three nodes on one machine", **about, "volume": given.volume, "seed": SEED}
        document |= {"summary": summary(done), "trials": [asdict(trial) for trial in done]}
        given.json.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
