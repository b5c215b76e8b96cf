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
    "Jobs",
    "disk",
    "others",
    "processes",
    "refused_by",
    "small_disks",
]

MIB = 1 << 20
LOW_WATER_BYTES = 6 * MIB
SETTINGS = {
    "ZMQBROKER_STORAGE_RESERVE_SEGMENTS": "4",  # as usual: what comes before sends are refused must not take room from acks
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


class Jobs:
    """Numbered messages of 8 KiB through one queue."""

    def __init__(self, client: SyncClient) -> None:
        self._queue = client.queue("jobs")
        self._unknown: set[int] = set()  # numbers that may be stored: leadership moved while they were under way
        self.sent = 0  # the next number
        self.received = 0  # the lowest number that may come next

    def send(self, count: int) -> None:
        """Send so many messages; every one is taken."""
        for _ in range(count):
            self._queue.send(body(self.sent), timeout_ms=60_000)
            self.sent += 1

    def send_until_refused(self, most: int = 10_000) -> StorageFull:
        """Send messages until one is refused; why. AssertionError after so many."""
        for _ in range(most):
            try:
                self._queue.send(body(self.sent), timeout_ms=2_000)
            except StorageFull as error:
                return error
            except DeadlineExceeded:
                self._unknown.add(self.sent)
            self.sent += 1
        raise AssertionError(f"{most} messages were taken")

    def consume(self) -> None:
        """Receive and ack all that was sent: in order, each once."""
        while expected := [number for number in range(self.received, self.sent) if number not in self._unknown]:
            messages = self._queue.receive(max=50, wait_ms=10_000, timeout_ms=60_000)
            assert messages, f"message {expected[0]} of {self.sent} does not come"
            for message in messages:
                while message.body != body(self.received):
                    assert self.received in self._unknown, f"message {self.received} is missing"
                    self.received += 1
                self.received += 1
            self._queue.ack(messages)
        while messages := self._queue.receive(max=50):
            assert all(message.body in map(body, self._unknown) for message in messages)
            self._queue.ack(messages)
        assert self._queue.stats()["depth"] == 0


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
