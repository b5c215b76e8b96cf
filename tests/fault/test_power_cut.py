"""The power of all three nodes fails at once, under load, again and again: nothing that was acknowledged is lost.

Persistent volumes, real file systems; tests/fault/power_cut.py says how the power is cut. `make fault-long` makes fifty more
and adds up all of them in power-cut-ledger.json.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.fault.conftest import Note
from tests.fault.cut_ledger import CutLedger
from tests.fault.history import History, check
from tests.fault.load import Load
from tests.fault.operator import verify
from tests.fault.power_cut import Volume, cut_power, powerless, volumes
from tests.processes import Cluster, wait_until
from tests.raw import Raw
from zmqbroker.wire.frames import Request

CHANNEL = "power"
NAMES = ["node-1", "node-2", "node-3"]
RATE = 400  # a second and producer
PATIENCE_S = 60.0
#: How often the power fails again before the nodes have started, and how long that takes about.
AGAIN, START_S = 0.2, 1.0
#: How long new nodes take from their start to their first leader, and a little more.
FORMING_S = 1.5
LEDGER = Path(__file__).resolve().parents[2] / "power-cut-ledger.json"
#: Small segments, so that cuts also hit the making and the deleting of them.
SETTINGS = {"ZMQBROKER_STORAGE_SEGMENT_BYTES": str(1 << 20), "ZMQBROKER_STORAGE_LOG_BUDGET_BYTES": str(64 << 20)}
TIMES = [pytest.param(2, id="short"), *(pytest.param(10, id=f"long_{n}", marks=pytest.mark.long) for n in range(1, 6))]


@pytest.fixture(scope="module", autouse=True)
def _power() -> None:
    if fault := powerless():
        pytest.skip(fault)


class Run:
    """Three nodes on volumes of their own, with producers and consumers at work."""

    def __init__(self, nodes: Cluster, disks: list[Volume], producers: Load, consumers: Load) -> None:
        self.nodes = nodes
        self._disks = disks
        self._producers, self._consumers = producers, consumers
        self._chance = random.SystemRandom()
        self.cuts_ns: list[int] = []  # when each was

    def work(self) -> None:
        """Let the load get on, to some random moment."""
        goal = self._producers.done + self._chance.randint(1, 1500)
        wait_until(lambda: self._producers.done >= goal, PATIENCE_S, "confirms")
        time.sleep(self._chance.uniform(0, 0.2))

    def cut(self) -> None:
        """Cut everybody's power, and start all nodes again; sometimes it fails again while they start."""
        self._cut()
        while self._chance.random() < AGAIN:
            for node in self.nodes.nodes.values():
                node.start()
            time.sleep(self._chance.uniform(0, START_S))
            self._cut()
        self.nodes.start()

    def _cut(self) -> None:
        self.cuts_ns.append(time.monotonic_ns())
        cut_power(self.nodes, self._disks)

    def end(self) -> History:
        """Stop sending, empty the queue; what the clients saw."""
        history = self._producers.finish(PATIENCE_S)
        wait_until(lambda: stats(self.nodes)["depth"] == 0, PATIENCE_S, "an empty queue")
        return history + self._consumers.finish(PATIENCE_S)


@contextmanager
def running(directory: Path, *, lie: str = "") -> Iterator[Run]:
    """A run, ended whatever happens: processes first, then their disks. `lie`: what tests/fault/lying_disk.py is told."""
    command = [sys.executable, "-m", "tests.fault.lying_disk", lie] if lie else []
    settings = {**SETTINGS, "ZMQBROKER_PURE": "1"} if lie else SETTINGS
    with volumes(directory, NAMES) as disks:
        nodes = Cluster(directory, volume="persistent", environment=settings, command=lambda name: command)
        try:
            nodes.start()
            with (
                Load("produce", nodes.url, CHANNEL, directory / "produce", clients=3, rate=RATE) as producers,
                Load("consume", nodes.url, CHANNEL, directory / "consume", clients=2) as consumers,
            ):
                yield Run(nodes, disks, producers, consumers)
        finally:
            nodes.close()


def stats(nodes: Cluster) -> dict[str, int]:
    """The queue's counters, as the leader knows them."""
    with Raw(nodes.leader().endpoint) as raw:
        return raw.ask(Request.STATS, {"channel": CHANNEL}).fields


@pytest.mark.timeout(900)
@pytest.mark.parametrize("times", TIMES)
def test_power_cut_of_all_nodes_loses_nothing_acknowledged(
    tmp_path: Path, note: Note, request: pytest.FixtureRequest, times: int
) -> None:
    with running(tmp_path) as run:
        for _ in range(times):
            run.work()
            run.cut()
        run.work()
        history = run.end()
        found = check(history, stats(run.nodes)["last_sequence"])
        if "long" in request.node.callspec.id:
            note(entered(run, history, [str(violation) for violation in found]))
        assert found == []
        verify(run.nodes)
    note(
        f"{len(run.cuts_ns)} cuts, {len(history.confirmed)} sends and {len(history.acks)} acks confirmed; {waits(run, history)}"
    )


def entered(run: Run, history: History, violations: list[str]) -> str:
    """Add a run to the ledger; what it says now."""
    ledger = CutLedger.load(LEDGER)
    ledger.cuts += len(run.cuts_ns)
    ledger.confirmed += len(history.confirmed)
    ledger.acked += sum(ack.complete_ns > 0 for ack in history.acks)
    ledger.violations += violations
    ledger.save(LEDGER)
    return ledger.describe()


def waits(run: Run, history: History) -> str:
    """How long clients waited after the cuts: remounting and starting three nodes included."""
    waited = sorted(
        (min(send.complete_ns for send in history.confirmed if send.invoke_ns > at_ns) - at_ns) / 1e6 for at_ns in run.cuts_ns
    )
    return f"next confirm {waited[len(waited) // 2]:.0f} ms after a cut (median), {waited[-1]:.0f} ms at most"


# --- the test of the test: disks that lie are found out ------------------------------------------------------------------


def found_after_a_cut(run: Run) -> list[str]:
    """What is wrong then: what the clients saw, or what nodes say that do not trust their data."""
    run.work()
    try:
        run.cut()
        run.work()
        return [str(violation) for violation in check(run.end(), stats(run.nodes)["last_sequence"])]
    except AssertionError:
        said = [line for node in run.nodes.nodes.values() for line in node.log().splitlines()]
        return [line for line in said if "recovering:" in line]


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("lie", ["log", "log+store"])
def test_power_cut_of_disks_that_do_not_sync_is_found_out(tmp_path: Path, note: Note, lie: str) -> None:
    """Where only the logs lie, the stores know what is lost; else clients miss it, unless somebody else syncs all disks."""
    with running(tmp_path, lie=lie) as run:
        found = found_after_a_cut(run)
        cuts = len(run.cuts_ns)
    assert found
    note(f"after {cuts} cuts: {found[0]}")


# --- before there is anything to lose ------------------------------------------------------------------------------------

ROUNDS = [pytest.param(2, id="short"), pytest.param(30, id="long", marks=pytest.mark.long)]


@pytest.mark.timeout(900)
@pytest.mark.parametrize("rounds", ROUNDS)
def test_power_cut_while_a_cluster_forms_leaves_one_that_forms(tmp_path: Path, rounds: int) -> None:
    chance = random.SystemRandom()
    for number in range(rounds):
        directory = tmp_path / f"{number}"
        with volumes(directory, NAMES) as disks:
            nodes = Cluster(directory, volume="persistent", environment=SETTINGS)
            try:
                for node in nodes.nodes.values():
                    node.start()
                time.sleep(chance.uniform(0, FORMING_S))
                cut_power(nodes, disks)
                nodes.start(PATIENCE_S)
                with Raw(nodes.leader().endpoint) as raw:
                    assert raw.ask(Request.SEND, {"channel": CHANNEL}, [b"first"]).fields["confirm"] == "quorum+fsync"
            finally:
                nodes.close()
