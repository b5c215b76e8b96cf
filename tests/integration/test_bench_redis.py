"""`zmqbroker bench --target redis` against real Redis servers, and against what is none."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path

import pytest

from bench.peers.redis_server import find_server, redis_cluster
from bench.peers.redis_wire import RedisConnection
from tests.servers import scripted_server
from zmqbroker.cli.app import run
from zmqbroker.cli.exits import Exit

pytestmark = pytest.mark.long  # half a minute, mostly of Redis
SERVER = find_server() or ""
needs_redis = pytest.mark.skipif(not SERVER, reason="needs redis-server on PATH, which the Debian package brings")


def bench(port: int, *arguments: str) -> int:
    """Run the command."""
    return run(["bench", "--target", "redis", "--url", f"redis://127.0.0.1:{port}", *arguments])


def keys(port: int) -> bytes:
    """How many keys there are."""
    connection = RedisConnection(port)
    try:
        return connection.ask(b"DBSIZE")
    finally:
        connection.close()


@needs_redis
def test_bench_redis_receives_all_and_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with redis_cluster(SERVER, tmp_path, sync=False) as cluster:
        assert bench(cluster.port, "--count", "3000", "--size", "64", "--producers", "3", "--json") == Exit.DONE
        figures = json.loads(capsys.readouterr().out)
        assert (figures["target"], figures["sent"], figures["received"]) == ("redis", 3000, 3000)
        assert figures["confirm"] == "WAIT for 1 of 2 replicas"
        assert bench(cluster.port, "--rate", "2000", "--count", "400", "--batch", "1", "--json") == Exit.DONE
        figures = json.loads(capsys.readouterr().out)
        assert figures["received"] == 400
        assert figures["start_ms"]["p50"] > 0
        assert keys(cluster.port) == b"0"


@needs_redis
def test_bench_redis_without_the_replicas_confirms_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("zmqbroker.cli.bench_redis._WAIT_MS", 100)
    with redis_cluster(SERVER, tmp_path, sync=False) as cluster:
        for pid in cluster.pids[1:]:
            os.kill(pid, signal.SIGSTOP)
        try:
            assert bench(cluster.port, "--count", "10", "--producers", "1") == Exit.UNREACHABLE
            assert "not 1 replicas of Redis in 100 ms" in capsys.readouterr().err
        finally:
            for pid in cluster.pids[1:]:
                os.kill(pid, signal.SIGCONT)


@needs_redis
def test_bench_redis_of_a_replica_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with redis_cluster(SERVER, tmp_path, sync=False) as cluster:
        connection = RedisConnection(cluster.port)
        ports = re.findall(rb"slave\d:ip=127.0.0.1,port=(\d+)", connection.ask(b"INFO", b"replication"))
        connection.close()
        assert bench(int(ports[0]), "--count", "10") == Exit.UNREACHABLE
    assert "is no primary of Redis" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("said", "status", "fault"),
    [
        (b"220 mail\r\n", Exit.UNREACHABLE, "is no Redis server"),
        (b"*1\r\n" * 100, Exit.UNREACHABLE, "is no Redis server"),
        (b"+OK\r\n", Exit.UNREACHABLE, "is no primary of Redis"),
        (b"-NOAUTH Authentication required.\r\n", Exit.USAGE, "NOAUTH"),
    ],
    ids=["mail", "deep", "other", "password"],
)
def test_bench_redis_of_something_else_is_refused(
    said: bytes, status: Exit, fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with scripted_server(said) as port:
        assert bench(port, "--count", "10") == status
    assert fault in capsys.readouterr().err


def test_bench_redis_url_of_another_kind_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "--target", "redis", "--url", "tcp://127.0.0.1:1"]) == Exit.USAGE
    assert "it must be redis://host:port" in capsys.readouterr().err


def test_bench_redis_without_a_url_asks_its_own_port(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("ZMQBROKER_URL", raising=False)
    monkeypatch.setattr("zmqbroker.cli.bench_redis.PORT", 1)
    assert run(["bench", "--target", "redis", "--count", "1"]) == Exit.USAGE
    assert "127.0.0.1" in capsys.readouterr().err


def test_bench_redis_cannot_explain(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "--target", "redis", "--explain", "--count", "1"]) == Exit.USAGE
    assert "--target redis cannot answer" in capsys.readouterr().err
