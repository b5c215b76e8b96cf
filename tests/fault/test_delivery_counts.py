"""How often a message was delivered is known after every crash: a consumer may rely on it to give up on a message."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fault.operator import verified_cluster
from tests.processes import Cluster
from zmqbroker import SyncClient


def nothing(nodes: Cluster) -> None:
    """No fault."""


def kill_leader(nodes: Cluster) -> None:
    """The leader dies and comes back."""
    leader = nodes.leader()
    leader.kill()
    nodes.leader()
    leader.start()


def kill_all(nodes: Cluster) -> None:
    """All die at once and come back."""
    for node in nodes.nodes.values():
        node.signal(signal.SIGKILL)
    for node in nodes.nodes.values():
        node.kill()
    nodes.start()


FAULTS: list[Callable[[Cluster], None]] = [nothing, kill_leader, kill_all, kill_leader]


@pytest.mark.parametrize("volume", ["persistent", pytest.param("ephemeral", marks=pytest.mark.long)])
def test_delivery_count_goes_on_through_failovers_and_crashes_of_all(tmp_path: Path, volume: str) -> None:
    with verified_cluster(tmp_path, volume=volume) as nodes, SyncClient(nodes.url) as client:
        queue = client.queue("counted")
        sequence = queue.send(b"again and again").sequence
        seen = []
        for fault in FAULTS:
            fault(nodes)
            (message,) = queue.receive(wait_ms=60_000, visibility_ms=300)
            seen.append((message.sequence, message.delivery_count))
        assert seen == [(sequence, count) for count in range(1, len(FAULTS) + 1)]
        kill_leader(nodes)
        (message,) = queue.receive(wait_ms=60_000, visibility_ms=600_000)
        assert message.delivery_count == len(FAULTS) + 1
        kill_all(nodes)
        message.ack()  # held through the crash, so nobody else got it meanwhile
        assert queue.stats()["depth"] == 0
