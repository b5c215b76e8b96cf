"""One node's disk begins to fail, under load: that node ends with a clear last line, the others go on, and nothing is lost.

strace is attached to the running node and gives EIO to the calls that some of its files see. What a failed write has left in
the page cache cannot be known, so the node may neither go on nor try again (the shared reference on Raft, §4, pitfall 35).
The disk is whole again when the node is started anew.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.fault.conftest import Note
from tests.fault.history import check
from tests.fault.load import Load
from tests.fault.operator import verified_cluster
from tests.fault.test_durability_trace import tracing_fault
from tests.processes import Cluster, Node, wait_until
from tests.raw import Raw
from zmqbroker.raft.messages import Role
from zmqbroker.wire.frames import Request

CHANNEL = "failing"
RATE = 300  # a second and producer
WORK = 1_000
PATIENCE_S = 60.0
EXIT_INTERNAL = 70
#: So that messages are read from the log's files.
NO_CACHE = {"ZMQBROKER_STORAGE_CACHE_BYTES_MAX": "0"}


@dataclass(frozen=True, slots=True)
class Failure:
    """Which calls fail, and of which files of a data directory."""

    calls: str
    files: tuple[str, ...]


SYNCS, WRITES = "fsync,fdatasync", "pwrite64,pwritev,pwritev2,write,writev"
LOG, STORE = "log/*", "**/data.mdb"
LOG_SYNC, LOG_WRITE, LOG_READ = Failure(SYNCS, (LOG,)), Failure(WRITES, (LOG,)), Failure("pread64,preadv,preadv2,read", (LOG,))
STORE_SYNC, STORE_WRITE = Failure(f"{SYNCS},msync", (STORE,)), Failure(WRITES, (STORE,))
#: Then what the node does to close its log fails, too.
STORE_AND_NAMES = Failure(f"{WRITES},unlink,unlinkat,rename", (STORE, "log/spare*"))
LONG = pytest.mark.long
CASES = [
    pytest.param(Role.LEADER, LOG_SYNC, id="leader_log_sync"),
    pytest.param(Role.FOLLOWER, LOG_SYNC, id="follower_log_sync", marks=LONG),
    pytest.param(Role.LEADER, LOG_WRITE, id="leader_log_write", marks=LONG),
    pytest.param(Role.FOLLOWER, LOG_WRITE, id="follower_log_write"),
    pytest.param(Role.LEADER, LOG_READ, id="leader_log_read"),
    pytest.param(Role.LEADER, STORE_SYNC, id="leader_store_sync", marks=LONG),
    pytest.param(Role.FOLLOWER, STORE_SYNC, id="follower_store_sync"),
    pytest.param(Role.LEADER, STORE_WRITE, id="leader_store_write"),
    pytest.param(Role.FOLLOWER, STORE_WRITE, id="follower_store_write", marks=LONG),
    pytest.param(Role.FOLLOWER, STORE_AND_NAMES, id="follower_store_and_names"),
]


@pytest.fixture(scope="module", autouse=True)
def _tracing() -> None:
    if fault := tracing_fault():
        pytest.skip(fault)


@contextmanager
def failing(node: Node, failure: Failure) -> Iterator[None]:
    """From now on these calls of the node get EIO."""
    assert node.process is not None
    files = [str(path) for pattern in failure.files for path in node.directory.glob(pattern)]
    assert files, f"{node.directory} has no {failure.files}"
    command = ["strace", "-f", "-p", str(node.process.pid), "-o", "/dev/null", "-e", f"trace={failure.calls}"]
    for file in files:
        command += ["-P", file]
    command += ["-e", f"inject={failure.calls}:error=EIO"]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as tracer:
        try:
            yield
        finally:
            tracer.terminate()


def in_role(nodes: Cluster, role: Role) -> Node:
    """The leader, or one that is not."""
    leader = nodes.leader()
    return leader if role is Role.LEADER else next(node for node in nodes.nodes.values() if node is not leader)


def work(load: Load, what: str) -> None:
    """Let a load get on."""
    goal = load.done + WORK
    wait_until(lambda: load.done >= goal, PATIENCE_S, what)


def stats(nodes: Cluster) -> dict[str, int]:
    """The queue's counters, as the leader knows them."""
    with Raw(nodes.leader().endpoint) as raw:
        return raw.ask(Request.STATS, {"channel": CHANNEL}).fields


@pytest.mark.timeout(240)
@pytest.mark.parametrize(("role", "failure"), CASES)
def test_failing_disk_ends_its_node_and_nothing_is_lost(tmp_path: Path, note: Note, role: Role, failure: Failure) -> None:
    with (
        verified_cluster(tmp_path, volume="persistent", environment=NO_CACHE) as nodes,
        Load("produce", nodes.url, CHANNEL, tmp_path / "produce", clients=2, rate=RATE) as producers,
        Load("consume", nodes.url, CHANNEL, tmp_path / "consume", clients=2) as consumers,
    ):
        work(producers, "confirms before the disk fails")
        victim = in_role(nodes, role)
        with failing(victim, failure):
            wait_until(lambda: not victim.running, PATIENCE_S, f"the end of {victim.name}")
        assert victim.process is not None
        assert victim.process.wait(10) == EXIT_INTERNAL
        last_line = victim.log().splitlines()[-1]
        assert "Input/output error" in last_line, victim.log()[-3000:]
        assert "Traceback" not in victim.log()
        work(producers, "confirms of the two others")
        victim.start()
        wait_until(lambda: nodes.caught_up(victim), PATIENCE_S, f"{victim.name} to catch up")
        work(producers, "confirms of all")
        history = producers.finish()
        wait_until(lambda: stats(nodes)["depth"] == 0, PATIENCE_S, "an empty queue")
        history += consumers.finish()
        assert check(history, stats(nodes)["last_sequence"]) == []
    note(f"{len(history.confirmed)} confirmed; the node's last line: {last_line.partition(': ')[2]}")
