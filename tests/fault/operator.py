"""What an operator does from the command line while a fault test runs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.processes import Cluster, Node, cluster, wait_until

__all__ = ["change", "command", "newcomer", "until_heard", "verified_cluster", "verify"]

#: A newcomer copies what there is, on a machine that is busy with the load.
PATIENCE_MS = 60_000


def command(nodes: Cluster, *words: str, expected: int = 0) -> str:
    """Run `zmqbroker WORDS --url …`; its standard output. AssertionError on another exit status than `expected`."""
    whole = [sys.executable, "-m", "zmqbroker", *words, "--url", nodes.url, "--timeout-ms", str(PATIENCE_MS)]
    ended = subprocess.run(whole, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=2 * PATIENCE_MS / 1000)
    logs = "\n".join(f"--- {node.name}\n{node.log()[-1500:]}" for node in nodes.nodes.values())
    assert ended.returncode == expected, f"{words} ended with {ended.returncode}\n{ended.stdout}\n{ended.stderr}\n{logs}"
    return ended.stdout


def change(nodes: Cluster, *words: str) -> list[str]:
    """Run `zmqbroker cluster WORDS`; the names of those who vote afterwards."""
    rows: list[dict[str, Any]] = json.loads(command(nodes, "cluster", *words, "--json"))["members"]
    return [row["name"] for row in rows if row["voter"]]


def verify(nodes: Cluster, without: Iterable[Node] = ()) -> None:
    """Every node has the same state at one index, but those that do not answer."""
    silent = sorted(node.name for node in without)
    found = json.loads(command(nodes, "cluster", "verify", "--json", expected=3 if silent else 0))
    assert sorted(found["unreachable"]) == silent, found


@contextmanager
def verified_cluster(directory: Path, size: int = 3, **settings: Any) -> Iterator[Cluster]:
    """A running cluster, as `tests.processes.cluster` makes it; in the end all nodes that run have the same state."""
    with cluster(directory, size, **settings) as nodes:
        yield nodes
        verify(nodes, [node for node in nodes.nodes.values() if not node.running])


def newcomer(nodes: Cluster, name: str, client_port: int, peer_port: int, like: Node) -> Node:
    """A node that could join, configured like a member; not started yet. It is one of `nodes` from now on."""
    settings = dict(like.environment)
    own = f"{name}=127.0.0.1:{peer_port}"
    settings.update(
        ZMQBROKER_NODE_NAME=name,
        ZMQBROKER_NODE_DATA_DIR=str(like.directory.parent / name),
        ZMQBROKER_LISTEN_CLIENT=f"tcp://127.0.0.1:{client_port}",
        ZMQBROKER_LISTEN_PEER=f"127.0.0.1:{peer_port}",
        ZMQBROKER_CLUSTER_PEERS=f"{like.environment['ZMQBROKER_CLUSTER_PEERS']},{own}",
    )
    settings.pop("ZMQBROKER_NODE_ADVERTISE", None)
    node = nodes.nodes[name] = Node(name, client_port, settings, like.directory.parent)
    return node


def until_heard(node: Node) -> None:
    """Wait until a newcomer knows that it is no member: then the members have heard of it, too."""
    wait_until(lambda: "to take it in" in node.log(), 30, f"{node.name} to say that it could join")
