"""Clusters on small disks, and the messages that fill them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.fault.volumes import small_volume, why_not
from tests.processes import Cluster, Node, cluster
from zmqbroker import SyncClient
from zmqbroker.errors import DeadlineExceeded, StorageFull

__all__ = [
    "LOW_WATER_BYTES",
    "MIB",
    "PATIENCE_S",
    "SETTINGS",
    "body",
    "consume",
    "disk",
    "others",
    "processes",
    "refused_by",
    "send_until_refused",
    "small_disks",
]

MIB = 1 << 20
LOW_WATER_BYTES = 6 * MIB
SETTINGS = {
    "ZMQBROKER_STORAGE_SEGMENT_BYTES": str(128 << 10),
    "ZMQBROKER_STORAGE_FLUSH_MS": "20",
    "ZMQBROKER_STORAGE_LOW_WATER_BYTES": str(LOW_WATER_BYTES),
    "ZMQBROKER_STORAGE_CACHE_BYTES_MAX": "0",
}
BODY_BYTES = 8192
PATIENCE_S = 60.0


@contextmanager
def small_disks(
    directory: Path,
    size: int = 3,
    *,
    mib: int = 24,
    volume: str = "persistent",
    kind: str = "tmpfs",
    settings: Mapping[str, str] | None = None,
    the_same_processes: bool = True,
) -> Iterator[Cluster]:
    """A running cluster whose nodes have small disks; in the end the very same processes run, unless the test ends them."""
    if reason := why_not(kind):
        pytest.skip(reason)
    with ExitStack() as stack:
        for number in range(1, size + 1):
            stack.enter_context(small_volume(directory / f"node-{number}", mib * MIB, kind))
        nodes = stack.enter_context(cluster(directory, size, volume=volume, environment={**SETTINGS, **(settings or {})}))
        pids = processes(nodes)
        yield nodes
        assert not the_same_processes or processes(nodes) == pids, "\n".join(
            node.log()[-2000:] for node in nodes.nodes.values()
        )


def processes(nodes: Cluster) -> dict[str, int]:
    """The processes that run, by node."""
    return {node.name: node.process.pid for node in nodes.nodes.values() if node.process is not None and node.running}


def body(number: int) -> bytes:
    """A body that says which one it is, from its beginning to its end."""
    return number.to_bytes(8, "big") * (BODY_BYTES // 8)


def send_until_refused(client: SyncClient, first: int = 0, most: int = 10_000) -> tuple[int, StorageFull]:
    """Send numbered messages until one is refused; the number of that one, and why."""
    queue, number = client.queue("jobs"), first
    for _ in range(most):
        try:
            queue.send(body(number), timeout_ms=2_000)
        except StorageFull as error:
            return number, error
        except DeadlineExceeded:
            # Leadership moved while it was under way: it is stored if the last of the queue's sequence numbers is its.
            number = max(number, queue.stats()["last_sequence"])
        else:
            number += 1
    raise AssertionError(f"{most} messages were taken")


def consume(client: SyncClient, first: int, last: int) -> None:
    """Receive and ack the messages numbered first to last - 1, in order and each once."""
    queue, expected = client.queue("jobs"), first
    while expected < last:
        messages = queue.receive(max=50, wait_ms=10_000, timeout_ms=60_000)
        assert messages, f"message {expected} of {last} does not come"
        assert [message.body for message in messages] == [body(expected + at) for at in range(len(messages))]
        queue.ack(messages)
        expected += len(messages)
    assert queue.stats()["depth"] == 0


def others(nodes: Cluster, node: Node) -> list[Node]:
    """All nodes but one."""
    return [other for other in nodes.nodes.values() if other is not node]


def disk(nodes: Cluster, node: Node) -> dict[str, Any]:
    """What a node says of its own disk."""
    info = nodes.info(node.name, timeout_ms=10_000)
    assert info is not None, f"{node.name} does not answer"
    return dict(info["disk"])


def refused_by(nodes: Cluster) -> list[str]:
    """The nodes for whose disks the leader refuses sends."""
    info = nodes.info(nodes.leader().name, timeout_ms=10_000)
    return list(info["groups"][0]["sends_refused_by"]) if info else []
