"""A Redis primary with two replicas on this machine, each with an append-only file.

`redis-server` is the one on PATH (Debian's package `redis-server`). This is replication, not consensus: nobody is elected, and
a replica that is promoted later need not have what WAIT counted on another.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.load import BenchError
from bench.peers.processes import processes
from bench.peers.redis_wire import RedisConnection
from tests.processes import free_ports

__all__ = ["KEY", "RedisCluster", "find_server", "redis_cluster", "server_version"]

NODES = 3
KEY = b"q"
#: Seconds for the servers to start and the replicas to have the primary's (empty) data.
START_TIMEOUT_S = 30
_RETRY_S = 0.05


def find_server() -> str | None:
    """The binary on PATH; None when there is none."""
    return shutil.which("redis-server")


def server_version(binary: str) -> str:
    """What the binary says of itself, such as 7.0.15."""
    done = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True)
    return done.stdout.partition("v=")[2].split()[0]


class RedisCluster:
    """A running primary and its replicas."""

    def __init__(self, port: int, pids: list[int]) -> None:
        self.port, self.pids = port, pids  # the primary's port; everybody's processes

    def new_stream(self) -> int:
        """Delete the stream, which the next XADD makes anew; the primary's port."""
        connection = RedisConnection(self.port)
        connection.ask(b"DEL", KEY)
        connection.close()
        return self.port

    def wait(self) -> None:
        """Until the primary serves and its replicas follow it."""
        end = time.monotonic() + START_TIMEOUT_S
        while not self._is_followed():
            if time.monotonic() > end:
                raise BenchError(f"Redis at port {self.port} and its replicas did not start in {START_TIMEOUT_S} s")
            time.sleep(_RETRY_S)

    def _is_followed(self) -> bool:
        try:
            connection = RedisConnection(self.port)
        except OSError:
            return False  # it starts
        try:
            return connection.ask(b"INFO", b"replication").count(b"state=online") == NODES - 1
        finally:
            connection.close()


@contextmanager
def redis_cluster(binary: str, directory: Path, *, sync: bool) -> Iterator[RedisCluster]:
    """A new primary with replicas below `directory`, ended whatever happens; `sync` makes all fsync before they answer."""
    ports = free_ports(NODES)
    with processes() as running:
        for number, port in enumerate(ports):
            data = directory / f"r{number}"
            data.mkdir()
            command = [binary, *_settings(port, data, sync=sync)]
            running.start(
                command + (["--replicaof", "127.0.0.1", str(ports[0])] if number else []), directory / f"r{number}.log"
            )
        cluster = RedisCluster(ports[0], running.pids)
        cluster.wait()
        yield cluster


def _settings(port: int, data: Path, *, sync: bool) -> list[str]:
    settings = {
        "bind": "127.0.0.1",
        "port": str(port),
        "dir": str(data),
        "appendonly": "yes",
        "appendfsync": "always" if sync else "everysec",
        "auto-aof-rewrite-percentage": "0",  # no rewrite while the clock runs
        "save": "",
        "repl-diskless-sync-delay": "0",
        "client-output-buffer-limit": "replica 0 0 0",  # a replica that is late is not dropped
    }
    return [word for name, value in settings.items() for word in (f"--{name}", *(value.split() or [""]))]
