"""Disks on which a sync takes 200 ms: at a follower nobody notices, a leader hands over, and where all are slow nobody does."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.fault.conftest import Note
from tests.fault.operator import verify
from tests.fault.slow import slow_disk, why_not
from tests.processes import Cluster, Node, cluster, stays, wait_until
from zmqbroker import SyncClient

PATIENCE_S = 60.0


@contextmanager
def persistent_cluster(directory: Path) -> Iterator[tuple[Cluster, SyncClient]]:
    """Three nodes that sync; in the end all have the same state."""
    if reason := why_not():
        pytest.skip(reason)
    with cluster(directory, volume="persistent") as nodes, SyncClient(nodes.url) as client:
        yield nodes, client
        verify(nodes)


class Sends:
    """Messages that are sent one after the other; every one is confirmed."""

    def __init__(self, client: SyncClient) -> None:
        self._queue = client.queue("jobs")
        self.count = 0

    def __call__(self) -> bool:
        """Send one; True, so that it can be what `stays` looks at."""
        self.count += 1
        return self._queue.send(b"%d" % self.count, timeout_ms=60_000).sequence == self.count


def group(nodes: Cluster, node: Node) -> dict[str, Any]:
    """What a node says of its group."""
    info = nodes.info(node.name, timeout_ms=10_000)
    assert info is not None, f"{node.name} does not answer"
    return dict(info["groups"][0])


def found_slow(nodes: Cluster, node: Node) -> bool:
    """Whether a node was found slow lately."""
    info = nodes.info(node.name, timeout_ms=10_000)
    return info is not None and bool(info["disk"]["slow"])


def test_slow_follower_does_not_slow_the_cluster(tmp_path: Path, note: Note) -> None:
    with persistent_cluster(tmp_path) as (nodes, client):
        send, leader = Sends(client), nodes.leader()
        follower = next(node for node in nodes.nodes.values() if node is not leader)
        term = group(nodes, leader)["term"]
        with slow_disk(follower) as disk:
            send()
            wait_until(lambda: disk.syncs > 0, PATIENCE_S, "a sync that is held up")
            before, started_s = disk.syncs, time.monotonic()
            for _ in range(300):
                send()
            syncs = disk.syncs - before
            note(f"300 messages one at a time in {time.monotonic() - started_s:.2f} s; {syncs} syncs at the slow follower")
            assert syncs < 150, "whoever waits for that disk waits for a sync with each message"
        wait_until(lambda: nodes.caught_up(follower), PATIENCE_S, "the follower to catch up")
        assert group(nodes, leader)["term"] == term


def test_slow_leader_hands_over_once_and_sends_go_on(tmp_path: Path, note: Note) -> None:
    with persistent_cluster(tmp_path) as (nodes, client):
        send, first = Sends(client), nodes.leader()
        send()
        term = group(nodes, first)["term"]
        with slow_disk(first):
            started_s = time.monotonic()
            wait_until(lambda: send() and nodes.leader() is not first, PATIENCE_S, "another leader")
            note(f"another leader after {time.monotonic() - started_s:.2f} s and {send.count} messages")
            second = nodes.leader()
            assert "has been behind what the others had committed: leadership goes to" in first.log()
            assert found_slow(nodes, first)
            stays(lambda: send() and group(nodes, second)["role"] == "leader", 3, "that leader")
        assert group(nodes, second)["term"] == term + 1, "one handover, no election"
        stays(lambda: send() and group(nodes, second)["role"] == "leader", 1, "that leader when the other disk is well again")
        assert all(node.running for node in nodes.nodes.values())


def test_leader_stays_when_all_disks_are_slow(tmp_path: Path) -> None:
    with persistent_cluster(tmp_path) as (nodes, client):
        send, leader = Sends(client), nodes.leader()
        send()
        term = group(nodes, leader)["term"]
        with ExitStack() as stack:
            disks = [stack.enter_context(slow_disk(node)) for node in nodes.nodes.values()]
            stays(lambda: send() and group(nodes, leader)["term"] == term, 6, "the leader")
            assert all(disk.syncs > 3 for disk in disks)
        assert group(nodes, leader)["role"] == "leader"
