"""`zmqbroker cluster verify` against real nodes, one of whose states was changed behind its back."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgpack

from tests.processes import Cluster, cluster, wait_until
from zmqbroker import SyncClient
from zmqbroker.storage import LmdbState


def verify(nodes: Cluster) -> subprocess.CompletedProcess[str]:
    """Run the command."""
    words = ["cluster", "verify", "--url", nodes.url, "--timeout-ms", "5000"]
    return subprocess.run(
        [sys.executable, "-m", "zmqbroker", *words], capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=120
    )


def falsify(directory: Path, channel: str) -> None:
    """Let the stored state of a node that does not run claim that one more message of a channel was acked."""
    state = LmdbState.open(directory / "state", sync=False)
    ((key, value),) = [(key, value) for key, value in state.load(1) if key[0] == 1 and msgpack.unpackb(value)[0] == channel]
    fields = msgpack.unpackb(value)
    fields[4][0] += 1
    state.commit(1, state.applied_index(1), [(key, msgpack.packb(fields))])
    state.close()


def test_verify_finds_the_node_and_the_channel_that_differ(tmp_path: Path) -> None:
    with cluster(tmp_path) as nodes, SyncClient(nodes.url) as client:
        for channel in ("bills", "orders", "parcels"):
            client.queue(channel).send(b"message")
        third = nodes.nodes["node-3"]
        wait_until(lambda: nodes.caught_up(third), 30, "node-3 to have all")
        ended = verify(nodes)
        assert (ended.returncode, ended.stderr) == (0, "")
        assert "3 nodes have equal state at index " in ended.stdout

        assert third.stop() == 0
        nodes.leader()
        ended = verify(nodes)
        assert ended.returncode == 3, ended.stderr
        assert ended.stderr.startswith("zmqbroker: not compared, because they do not answer: node-3 ("), ended.stderr
        falsify(third.directory, "orders")
        third.start()
        wait_until(lambda: nodes.caught_up(third), 30, "node-3 to be back")
        ended = verify(nodes)
        assert ended.returncode == 6, ended.stdout + ended.stderr
        assert "node-1 and node-3 differ at index " in ended.stderr
        assert ": channel 'orders'" in ended.stderr
        assert ended.stdout == ""
