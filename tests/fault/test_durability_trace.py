"""Persistent mode seen by the kernel: a majority's fdatasync returns before each confirm is sent.

SIGKILL keeps the page cache, so a test that only kills processes cannot tell a synced log from one that is not. Here every node
runs under strace from its first instruction, and the traces are compared with what the client was told.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from functools import partial
from pathlib import Path

import pytest

from tests.fault.conftest import Note
from tests.fault.trace import STRACE, Call, Publish, parse, proofs, unproven
from tests.processes import Cluster, Node, cluster, wait_until
from tests.raw import Raw, new_request_id
from zmqbroker.wire.frames import Reply, Request

ROUNDS = [pytest.param(25, id="short"), pytest.param(1000, id="long", marks=pytest.mark.long)]


def tracing_fault() -> str:
    """Why processes cannot be traced here; empty when they can."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    trial = subprocess.run([*STRACE, "-o", os.devnull, "true"], capture_output=True, text=True, timeout=30, check=False)
    return f"strace does not work here: {trial.stderr.strip()}" if trial.returncode else ""


@pytest.fixture(scope="module", autouse=True)
def _tracing() -> None:
    if fault := tracing_fault():
        pytest.skip(fault)


def publish_alone(nodes: Cluster, count: int, confirm: str) -> tuple[str, list[Publish]]:
    """Send messages to the leader, each after the confirm of the one before; the leader's name and what was sent."""
    leader = nodes.leader()
    publishes = []
    with Raw(leader.endpoint) as raw:
        for _ in range(count):
            publish = Publish(new_request_id(), os.urandom(16).hex().encode(), time.time())
            answer = raw.ask(Request.SEND, {"channel": "traced"}, [publish.token], request_id=publish.request_id)
            assert answer.command == Reply.SENT, answer
            assert answer.fields["confirm"] == confirm
            publishes.append(publish)
    return leader.name, publishes


def traced_run(directory: Path, volume: str, count: int, confirm: str) -> tuple[str, list[Publish], dict[str, list[Call]]]:
    """Three traced nodes that confirm `count` messages one at a time; the leader, the messages and the traces."""
    files = {f"node-{number}": directory / f"node-{number}.trace" for number in (1, 2, 3)}
    with cluster(directory, 3, volume=volume, command=lambda name: [*STRACE, "-o", str(files[name])]) as nodes:
        leader, publishes = publish_alone(nodes, count, confirm)
        for node in nodes.nodes.values():
            assert node.stop() == 0
            wait_until(partial(_has_ended, files[node.name], node), 20, f"the end of {node.name}'s trace")
    return leader, publishes, {name: parse(file.read_text().splitlines()) for name, file in files.items()}


def _has_ended(trace: Path, node: Node) -> bool:
    """Whether strace, which outlives the node by a moment, has written the node's end."""
    assert node.process is not None
    return re.search(rf"^{node.process.pid} +\S+ \+\+\+ exited with", trace.read_text(), re.MULTILINE) is not None


@pytest.mark.timeout(600)
@pytest.mark.parametrize("count", ROUNDS)
def test_persistent_confirm_follows_sync_of_majority(tmp_path: Path, note: Note, count: int) -> None:
    leader, publishes, traces = traced_run(tmp_path, "persistent", count, "quorum+fsync")
    assert len(publishes) == count
    assert unproven(publishes, traces, leader, majority=2) == []
    held = [proofs(publish, traces, leader) or set() for publish in publishes]
    note(f"{count} confirms; the leader itself had synced {sum(leader in nodes for nodes in held)} of them before it confirmed")


def test_ephemeral_confirm_has_no_sync_and_the_checker_sees_it(tmp_path: Path) -> None:
    leader, publishes, traces = traced_run(tmp_path, "ephemeral", 5, "quorum")
    assert len(unproven(publishes, traces, leader, majority=2)) == 5
    for publish in publishes:
        assert proofs(publish, traces, leader) == set(), "confirmed, and on nobody's disk as far as the kernel was told"
