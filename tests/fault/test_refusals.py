"""Starts that must be refused: one clear line on standard error, exit status 2, and nothing in the directory changed by it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import Cluster, Node, free_ports
from tests.raw import Raw
from zmqbroker.wire.frames import Reply, Request

USAGE = 2


def alone(directory: Path, **settings: str) -> Node:
    """A node that is a cluster by itself, with its own data directory and free ports; `settings` are further variables."""
    client, peer = free_ports(2)
    environment = {
        "ZMQBROKER_NODE_DATA_DIR": str(directory / "data"),
        "ZMQBROKER_LISTEN_CLIENT": f"tcp://127.0.0.1:{client}",
        "ZMQBROKER_LISTEN_PEER": f"127.0.0.1:{peer}",
        **settings,
    }
    return Node("node-1", client, environment, directory)


def refusal(environment: dict[str, str]) -> list[str]:
    """What a node says on standard error that must not start; it says nothing on standard output."""
    ended = subprocess.run(
        [sys.executable, "-m", "zmqbroker.server"],
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (USAGE, ""), ended
    return ended.stderr.splitlines()


def has_run(node: Node) -> None:
    """Let a node run until it serves, and stop it."""
    node.start()
    try:
        with Raw(node.endpoint) as raw:
            assert raw.ask(Request.SEND, {"channel": "kept", "forward": True}, [b"kept"]).command in (Reply.SENT, Reply.ERROR)
        assert node.stop() == 0
    finally:
        node.close()


@pytest.mark.parametrize("listener", ["ZMQBROKER_LISTEN_CLIENT", "ZMQBROKER_LISTEN_PEER"])
def test_start_port_in_use_is_refused(tmp_path: Path, listener: str) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        address = f"127.0.0.1:{other.getsockname()[1]}"
        endpoint = f"tcp://{address}"
        setting = endpoint if listener == "ZMQBROKER_LISTEN_CLIENT" else address
        (line,) = refusal({**alone(tmp_path).environment, listener: setting})
    assert f"cannot listen on {endpoint}: Address already in use" in line


def test_start_directory_in_use_is_refused(tmp_path: Path) -> None:
    node = alone(tmp_path)
    node.start()
    try:
        with Raw(node.endpoint) as raw:
            raw.ask(Request.PING)
            (line,) = refusal({**node.environment, **_other_ports()})
            assert node.process is not None
            assert f"{tmp_path / 'data'}: in use by another node (pid {node.process.pid})" in line
            assert raw.ask(Request.PING).command == Reply.PONG
    finally:
        node.close()


def _other_ports() -> dict[str, str]:
    client, peer = free_ports(2)
    return {"ZMQBROKER_LISTEN_CLIENT": f"tcp://127.0.0.1:{client}", "ZMQBROKER_LISTEN_PEER": f"127.0.0.1:{peer}"}


@pytest.mark.parametrize(
    ("settings", "belongs"),
    [
        ({"ZMQBROKER_CLUSTER_NAME": "other"}, "belongs to cluster 'zmqbroker', not 'other'"),
        ({"ZMQBROKER_NODE_NAME": "node-9"}, "belongs to node 'node-1', not 'node-9'"),
        ({"ZMQBROKER_CLUSTER_VOLUME": "persistent"}, "belongs to volume mode 'ephemeral', not 'persistent'"),
        ({"ZMQBROKER_OWNER": "dev"}, "belongs to the command 'serve', not 'dev'"),
    ],
)
def test_start_directory_of_another_use_is_refused(tmp_path: Path, settings: dict[str, str], belongs: str) -> None:
    node = alone(tmp_path)
    has_run(node)
    identity = (tmp_path / "data" / "identity.json").read_bytes()
    (line,) = refusal({**node.environment, **settings})
    assert f"{tmp_path / 'data'}: {belongs}" in line
    assert (tmp_path / "data" / "identity.json").read_bytes() == identity


def test_start_directory_of_another_cluster_with_the_same_names_is_refused(tmp_path: Path) -> None:
    first = tmp_path / "first"
    second = tmp_path / "second"
    first.mkdir()
    second.mkdir()
    nodes = Cluster(first)
    try:
        nodes.start()
        for node in nodes.nodes.values():
            assert node.stop() == 0
        for node in nodes.nodes.values():
            node.environment["ZMQBROKER_NODE_DATA_DIR"] = str(second / node.name)
        nodes.start()
        stray = nodes.nodes["node-1"]
        assert stray.stop() == 0
        lines = refusal({**stray.environment, "ZMQBROKER_NODE_DATA_DIR": str(first / "node-1")})
        (line,) = [line for line in lines if " ERROR " in line]
        assert f"{first / 'node-1'} belongs to cluster" in line
        assert "but node-2, node-3 to another" in line
        nodes.leader()
    finally:
        nodes.close()


def test_start_faulty_configuration_names_every_fault(tmp_path: Path) -> None:
    lines = refusal(
        {
            **alone(tmp_path).environment,
            "ZMQBROKER_RAFT_TICK_MS": "fast",
            "ZMQBROKER_CLUSTER_VOLUME": "floppy",
            "ZMQBROKER_LISTEN_PEER": "nowhere",
            "ZMQBROKER_STORAGE_SIZE": "1",
        }
    )
    assert len(lines) == 4
    for part in (
        "RAFT_TICK_MS: 'fast'",
        "CLUSTER_VOLUME: 'floppy'",
        "LISTEN_PEER: 'nowhere'",
        "STORAGE_SIZE: there is no such",
    ):
        assert [line for line in lines if part in line], f"{part} in {lines}"
    assert not (tmp_path / "data").exists()


def test_start_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (line,) = refusal({"ZMQBROKER_CONFIG": str(tmp_path / "missing.toml")})
    assert "missing.toml" in line


def test_start_without_identity_beside_data_is_refused(tmp_path: Path) -> None:
    """An identity that is gone is not made anew: the node might vote twice."""
    node = alone(tmp_path)
    has_run(node)
    (tmp_path / "data" / "identity.json").unlink()
    node.start()
    assert node.process is not None
    try:
        assert node.process.wait(30) == 6
    finally:
        node.close()
    assert "is missing, but the data of a node is there" in node.log()
    assert (tmp_path / "data" / "log").exists()
