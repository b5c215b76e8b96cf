"""A node that stayed away longer than the others keep their log gets a snapshot, also when somebody dies in the middle of it.

The nodes have tiny segments, so that a few megabytes are more log than is kept for a node that is away, and short ticks, so
that a node soon counts as away.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.fault.conftest import Note
from tests.processes import Cluster, Node, cluster, wait_until
from zmqbroker import SyncClient

SEGMENT_BYTES = 64 << 10
SETTINGS = {
    "ZMQBROKER_STORAGE_SEGMENT_BYTES": str(SEGMENT_BYTES),
    "ZMQBROKER_STORAGE_FLUSH_MS": "20",
    "ZMQBROKER_RAFT_TICK_MS": "5",
    "ZMQBROKER_RAFT_HEARTBEAT_TICKS": "10",
    "ZMQBROKER_RAFT_ELECTION_TICKS": "100",
}
PATIENCE_S = 60.0
#: Log that is kept for a node that is away: 16 marks of a quarter of a segment; this is several times as much.
PASSING_BYTES = 24 * SEGMENT_BYTES


def numbered(number: int, size: int) -> bytes:
    """A body that says which one it is, from its beginning to its end."""
    return number.to_bytes(8, "big") * (size // 8)


def pass_through(client: SyncClient, count: int, size: int) -> None:
    """Messages that are sent and acked: log that nobody needs any more but a node that is away."""
    queue = client.queue("passing")
    for number in range(count):
        queue.send(numbered(number, size))
    got = 0
    while got < count:
        messages = queue.receive(max=100, wait_ms=10_000)
        queue.ack(messages)
        got += len(messages)


def log_bytes(nodes: Cluster, node: Node) -> int:
    """What a node's log occupies."""
    info = nodes.info(node.name)
    return int(info["log"]["used_bytes"]) if info else 1 << 60


def counter(nodes: Cluster, node: Node, name: str) -> int:
    """A counter of a node; 0 while it does not answer."""
    info = nodes.info(node.name)
    return int(info["counters"].get(name, 0)) if info else 0


@contextmanager
def left_behind(
    directory: Path, *, volume: str, live: int, size: int, budget_bytes: int = 4 << 30
) -> Iterator[tuple[Cluster, SyncClient, Node]]:
    """A cluster that has dropped log which the third node, a follower that was killed, would need; `live` messages wait."""
    settings = {**SETTINGS, "ZMQBROKER_STORAGE_LOG_BUDGET_BYTES": str(budget_bytes)}
    with cluster(directory, environment=settings, volume=volume) as nodes, SyncClient(nodes.url) as client:
        client.queue("kept").send(b"from the time before")
        away = next(node for node in nodes.nodes.values() if node is not nodes.leader())
        wait_until(lambda: nodes.caught_up(away), PATIENCE_S, f"{away.name} to have all")
        away.kill()
        others = [node for node in nodes.nodes.values() if node is not away]
        (first,) = client.queue("kept").receive(wait_ms=10_000)
        first.ack()  # else it would hold the log
        pass_through(client, PASSING_BYTES // 8192, 8192)

        def dropped() -> bool:
            pass_through(client, 3, 8192)
            return all(log_bytes(nodes, node) < PASSING_BYTES // 2 for node in others)

        wait_until(dropped, PATIENCE_S, "the log to be dropped")
        for number in range(live):
            client.queue("kept").send(numbered(number, size))
        yield nodes, client, away


def verify(nodes: Cluster) -> None:
    """All nodes have the same state."""
    words = ["cluster", "verify", "--url", nodes.url]
    ended = subprocess.run(
        [sys.executable, "-m", "zmqbroker", *words], capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=120
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.startswith("3 nodes have equal state at index "), ended.stdout


def lead(nodes: Cluster, node: Node) -> None:
    """Hand leadership to a node."""
    words = ["cluster", "transfer", node.name, "--url", nodes.url]
    subprocess.run([sys.executable, "-m", "zmqbroker", *words], check=True, stdin=subprocess.DEVNULL, timeout=120)
    assert nodes.leader() is node


def receive_kept(client: SyncClient, live: int, size: int) -> None:
    """All messages that wait are received, in order and whole, and acked."""
    queue = client.queue("kept")
    found: list[Any] = []
    while len(found) < live:
        messages = queue.receive(max=20, wait_ms=10_000)
        assert messages, f"only {len(found)} of {live} messages"
        found += messages
        queue.ack(messages)
    assert [message.body for message in found] == [numbered(number, size) for number in range(live)]
    assert {message.delivery_count for message in found} == {1}
    assert queue.stats()["depth"] == 0


def installed(nodes: Cluster, node: Node) -> bool:
    """Whether a node has installed a snapshot and caught up."""
    return counter(nodes, node, "snapshots_installed") > 0 and nodes.caught_up(node)


@pytest.mark.parametrize("volume", ["ephemeral", "persistent"])
def test_node_that_stayed_away_gets_a_snapshot_and_leads_with_it(tmp_path: Path, note: Note, volume: str) -> None:
    live, size = 300, 8192
    with left_behind(tmp_path, volume=volume, live=live, size=size) as (nodes, client, away):
        started_s = time.monotonic()
        away.start()
        wait_until(lambda: installed(nodes, away), PATIENCE_S, "a snapshot")
        note(f"{volume}: snapshot of {live * size >> 10} KiB installed {time.monotonic() - started_s:.2f} s after the start")
        lead(nodes, away)
        receive_kept(client, live, size)
        client.queue("kept").send(b"and on it goes")
        verify(nodes)
        away.kill()  # and what it has now outlives its process
        away.start()
        wait_until(lambda: nodes.caught_up(away), PATIENCE_S, f"{away.name} to be back")
        verify(nodes)
        assert not list((away.directory / "snapshots").iterdir())


def incoming(node: Node) -> list[Path]:
    """The part of a snapshot that a node has received."""
    place = node.directory / "snapshots"
    return [place / name for name in os.listdir(place) if name.startswith("incoming")] if place.exists() else []


def in_the_middle(away: Node) -> None:
    """Wait until a snapshot is on its way."""
    wait_until_soon(lambda: [path for path in incoming(away) if path.stat().st_size], "a part of a snapshot")


def wait_until_soon(condition: Callable[[], Any], what: str) -> None:
    """As `wait_until`, without a pause between two looks."""
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, f"not within {PATIENCE_S} s: {what}"
        time.sleep(0.0005)


@pytest.mark.parametrize("killed", ["receiver", "leader"])
def test_node_killed_in_the_middle_of_a_snapshot_costs_only_a_new_beginning(tmp_path: Path, note: Note, killed: str) -> None:
    live, size = 64, 1 << 20
    with left_behind(tmp_path, volume="ephemeral", live=live, size=size) as (nodes, client, away):
        leader = nodes.leader()
        away.start()
        in_the_middle(away)
        victim = away if killed == "receiver" else leader
        victim.kill()
        received = sum(path.stat().st_size for path in incoming(away))
        note(f"{killed} killed after {received >> 10} KiB of {live * size >> 10}")
        assert received < live * size
        victim.start()
        wait_until(lambda: installed(nodes, away), PATIENCE_S, "a snapshot")
        wait_until(lambda: nodes.caught_up(victim), PATIENCE_S, f"{victim.name} to be back")
        lead(nodes, away)
        receive_kept(client, live, size)
        verify(nodes)
        assert not incoming(away)


def test_sends_go_on_while_a_snapshot_is_on_its_way_and_the_log_shrinks_afterwards(tmp_path: Path) -> None:
    """The log behind the snapshot outgrows twice its budget, and comes down when the node that got it has that, too."""
    live, size, budget_bytes = 1024, 64 << 10, 2 << 20
    with left_behind(tmp_path, volume="ephemeral", live=live, size=size, budget_bytes=budget_bytes) as (nodes, client, away):
        leader = nodes.leader()
        away.start()
        in_the_middle(away)
        away.pause()
        refused = counter(nodes, leader, "refused_storage_full")
        more = 4 * budget_bytes // size
        for number in range(live, live + more):
            client.queue("kept").send(numbered(number, size))
        assert log_bytes(nodes, leader) > 3 * budget_bytes
        assert counter(nodes, leader, "refused_storage_full") == refused
        away.resume()
        wait_until(lambda: installed(nodes, away), PATIENCE_S, "a snapshot")
        wait_until(lambda: log_bytes(nodes, leader) <= budget_bytes, PATIENCE_S, "a log within its budget")
        assert counter(nodes, leader, "snapshots_made") == 1
        receive_kept(client, live + more, size)
        verify(nodes)
