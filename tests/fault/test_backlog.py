"""A backlog of many times the log's budget: it waits in the store, and nothing of it is lost when every node dies as it moves.

The budget is the smallest that there is, so that bodies move all the time, and the cache holds nothing: what is received comes
from the log's files or from the store.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.fault.conftest import Note
from tests.fault.operator import verified_cluster
from tests.processes import Cluster, cluster, wait_until
from zmqbroker import SyncClient
from zmqbroker.errors import StorageFull
from zmqbroker.server.application import EXIT_DAMAGED

BUDGET_BYTES = 256 << 10
SIZE = 8192
COUNT = 12 * BUDGET_BYTES // SIZE
SETTINGS = {
    "ZMQBROKER_STORAGE_SEGMENT_BYTES": str(64 << 10),
    "ZMQBROKER_STORAGE_LOG_BUDGET_BYTES": str(BUDGET_BYTES),
    "ZMQBROKER_STORAGE_CACHE_BYTES_MAX": "0",
    "ZMQBROKER_STORAGE_FLUSH_MS": "5",
    "ZMQBROKER_STORAGE_SCRUB_BYTES_PER_S": str(1 << 30),
}
PATIENCE_S = 60.0


def numbered(number: int) -> bytes:
    """A body that says which one it is, from its beginning to its end."""
    return number.to_bytes(8, "big") * (SIZE // 8)


def kill_all_and_restart(nodes: Cluster) -> None:
    """SIGKILL to every node before anything else happens, then start them again."""
    for node in nodes.nodes.values():
        node.signal(signal.SIGKILL)
    for node in nodes.nodes.values():
        node.kill()
    nodes.start()
    nodes.leader()


def stored_bytes(nodes: Cluster) -> int:
    """Size of the smallest file of bodies."""
    return min((node.directory / "bodies" / "data.mdb").stat().st_size for node in nodes.nodes.values())


def logs_are_small(nodes: Cluster) -> bool:
    """Whether every node's log has come down to its budget."""
    found = [nodes.info(name) for name in nodes.nodes]
    return all(info is not None and info["log"]["used_bytes"] <= BUDGET_BYTES for info in found)


@pytest.mark.parametrize("volume", ["ephemeral", "persistent"])
def test_backlog_of_many_budgets_outlives_the_death_of_all_nodes_while_it_moves(
    tmp_path: Path, note: Note, volume: str
) -> None:
    with verified_cluster(tmp_path, volume=volume, environment=SETTINGS) as nodes, SyncClient(nodes.url) as client:
        queue = client.queue("backlog")
        for number in range(COUNT):
            queue.send(numbered(number))
            if number % (COUNT // 4) == COUNT // 8:
                kill_all_and_restart(nodes)
        wait_until(lambda: logs_are_small(nodes), PATIENCE_S, "small logs")
        note(f"{volume}: {COUNT * SIZE >> 10} KiB wait, {stored_bytes(nodes) >> 10} KiB at least are the files of bodies")
        assert stored_bytes(nodes) > COUNT * SIZE - 2 * BUDGET_BYTES
        kill_all_and_restart(nodes)
        found: list[bytes] = []
        while len(found) < COUNT:
            messages = queue.receive(max=20, wait_ms=30_000)
            assert messages, f"only {len(found)} of {COUNT} messages"
            found += [message.body for message in messages]
            queue.ack(messages)
            if COUNT // 2 <= len(found) < COUNT // 2 + len(messages):
                kill_all_and_restart(nodes)
        assert found == [numbered(number) for number in range(COUNT)]
        assert queue.stats()["depth"] == 0


def change_body(path: Path, number: int) -> None:
    """Change one byte in the middle of a stored body, behind the node's back."""
    content = path.read_bytes()
    place = content.index(numbered(number)[: SIZE // 2]) + SIZE // 4
    with path.open("r+b") as file:
        file.seek(place)
        file.write(bytes([content[place] ^ 1]))


def test_damaged_body_that_nobody_asks_for_is_found_and_ends_the_node(tmp_path: Path) -> None:
    with cluster(tmp_path, 1, environment=SETTINGS) as nodes:
        (node,) = nodes.nodes.values()
        with SyncClient(nodes.url) as client:
            for number in range(COUNT // 2):
                client.queue("backlog").send(numbered(number))
        wait_until(lambda: logs_are_small(nodes), PATIENCE_S, "a small log")
        assert node.stop() == 0
        change_body(node.directory / "bodies" / "data.mdb", 7)
        node.start()
        wait_until(lambda: not node.running, PATIENCE_S, "the end of the node")
        assert node.stop() == EXIT_DAMAGED
        assert "bodies: the value of key 0001" in node.log()
        assert "nothing was deleted" in node.log()


#: Mounts a small volume where the bodies go, visible to the node alone, and becomes the node.
SMALL_VOLUME = 'mount -t tmpfs -o size=1m none "$1" && shift && exec "$@"'


def can_mount(directory: Path) -> bool:
    """Whether this user may mount something in a namespace of its own."""
    words = ["unshare", "--map-root-user", "--mount", "sh", "-c", SMALL_VOLUME, "sh", str(directory), "true"]
    return shutil.which("unshare") is not None and subprocess.run(words, capture_output=True, timeout=30).returncode == 0


def send(queue: Any, number: int) -> bool:
    """Send a body; False when there is no room for it."""
    try:
        queue.send(numbered(number), timeout_ms=2_000)
    except StorageFull:
        return False
    return True


def test_node_whose_volume_of_bodies_is_full_goes_on_and_needs_no_restart_when_there_is_room(tmp_path: Path) -> None:
    if not can_mount(tmp_path):
        pytest.skip("this user may not mount a volume")
    with cluster(tmp_path, 1, environment=SETTINGS) as nodes:
        (node,) = nodes.nodes.values()
        assert node.stop() == 0
        bodies = node.directory / "bodies"
        node.command[:] = ["unshare", "--map-root-user", "--mount", "sh", "-c", SMALL_VOLUME, "sh", str(bodies)]
        nodes.start()
        nodes.leader()
        with SyncClient(nodes.url) as client:
            queue = client.queue("backlog")
            sent = 0
            while sent < COUNT and send(queue, sent):
                sent += 1
            assert sent < COUNT
            assert sent * SIZE > BUDGET_BYTES
            assert "bodies: the volume is full" in node.log()
            received: list[bytes] = []
            while len(received) < sent:
                messages = queue.receive(max=20, wait_ms=30_000)
                received += [message.body for message in messages]
                queue.ack(messages)
            assert received == [numbered(number) for number in range(sent)]
            wait_until(lambda: logs_are_small(nodes), PATIENCE_S, "a small log")
            again = sent * 3 // 4  # not all: what is used again is in pieces
            assert again * SIZE > 2 * BUDGET_BYTES, "more than the log may hold"
            for number in range(again):
                queue.send(numbered(number), timeout_ms=30_000)
            assert queue.stats()["depth"] == again
        assert node.log().count("codec compiled") + node.log().count("codec pure") == 2, "it was not started again"
