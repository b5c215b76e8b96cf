"""A cluster of real node processes on loopback, for integration and fault tests.

Each node is `python -m zmqbroker.server` with its configuration in the environment, its data below a directory of the test, and
its standard error in a file there. Processes are ended by their own id, whatever happens to the test.
"""

from __future__ import annotations

import atexit
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Protocol

from tests.raw import Raw
from zmqbroker.wire.frames import Request

__all__ = ["Cluster", "Node", "Process", "cluster", "free_ports", "stays", "wait_until"]


#: Ports of this process: a socket per port, whose abstract name other test processes on this machine find taken.
_reservations: dict[int, socket.socket] = {}


@atexit.register
def _end_reservations() -> None:
    for reservation in _reservations.values():
        reservation.close()


def free_ports(count: int) -> list[int]:
    """Ports for this process alone: no other test uses them and nobody listens there at this moment.

    They are outside the range that outgoing connections are given.
    """
    ports: list[int] = []
    for port in random.SystemRandom().sample(range(20_000, 32_000), 12_000):
        if len(ports) == count:
            return ports
        if port not in _reservations and _reserve(port):
            ports.append(port)
    raise AssertionError(f"no {count} free ports")


def _reserve(port: int) -> bool:
    reservation = socket.socket(socket.AF_UNIX)
    try:
        reservation.bind(f"\0zmqbroker-test-port-{port}")
        with socket.socket() as candidate:
            candidate.bind(("127.0.0.1", port))
    except OSError:
        reservation.close()
        return False
    _reservations[port] = reservation
    return True


def wait_until(condition: Callable[[], Any], timeout_s: float, what: str) -> Any:
    """The first true value of `condition`; AssertionError when there was none in time."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"not within {timeout_s} s: {what}")


def stays(condition: Callable[[], Any], duration_s: float, what: str) -> None:
    """AssertionError as soon as `condition` is false; it is looked at again and again for `duration_s`."""
    end = time.monotonic() + duration_s
    while time.monotonic() < end:
        assert condition(), f"no longer: {what}"
        time.sleep(0.02)


def _is_stopped(thread: Path) -> bool:
    """Whether a thread, named by its directory in /proc, is stopped: state T, or t under a tracer."""
    _, _, rest = (thread / "stat").read_text().rpartition(")")
    return rest.split()[0] in "Tt"


class Process(Protocol):
    """What a test needs of a running process."""

    pid: int

    def poll(self) -> int | None:
        """The exit status; None while it runs."""
        ...

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end; the exit status."""
        ...

    def send_signal(self, sig: int) -> None:
        """Send a signal."""
        ...


class Node:
    """One node's process and files."""

    def __init__(
        self, name: str, client_port: int, environment: dict[str, str], directory: Path, command: Sequence[str] = ()
    ) -> None:
        self.name = name
        self.endpoint = f"tcp://127.0.0.1:{client_port}"
        self.directory = directory / name
        self.environment = environment  # its configuration
        self.command = list(command)  # what stands in front of the node's own words
        self._log_path = directory / f"{name}.log"
        self._log: IO[bytes] | None = None
        self.process: Process | None = None

    def start(self) -> None:
        """Start the process."""
        assert self.process is None or self.process.poll() is not None, f"{self.name} runs already"
        if self._log is None:
            self._log = self._log_path.open("ab")
        self.process = subprocess.Popen(
            [*self.command, sys.executable, "-m", "zmqbroker.server"],
            env={**os.environ, **self.environment},
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
        )

    @property
    def running(self) -> bool:
        """Whether the process is alive."""
        return self.process is not None and self.process.poll() is None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process."""
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        self.signal(signal.SIGKILL)
        assert self.process is not None
        self.process.wait(10)

    def pause(self) -> None:
        """SIGSTOP, and wait until no thread of the process runs any more."""
        self.signal(signal.SIGSTOP)
        assert self.process is not None
        threads = Path(f"/proc/{self.process.pid}/task")
        wait_until(lambda: all(_is_stopped(thread) for thread in threads.iterdir()), 10, f"{self.name} stopped")

    def resume(self) -> None:
        """SIGCONT."""
        self.signal(signal.SIGCONT)

    def stop(self, timeout_s: float = 15) -> int:
        """SIGTERM; the exit status."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout_s)

    def log(self) -> str:
        """What the node said on standard error."""
        return self._log_path.read_text(errors="replace") if self._log_path.exists() else ""

    def close(self) -> None:
        """End the process and the log file."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.send_signal(signal.SIGKILL)
            self.process.wait(10)
        if self._log is not None:
            self._log.close()
            self._log = None


class Cluster:
    """N nodes that form one cluster."""

    def __init__(
        self,
        directory: Path,
        size: int = 3,
        *,
        volume: str = "ephemeral",
        environment: dict[str, str] | None = None,
        command: Callable[[str], Sequence[str]] = lambda name: (),
    ) -> None:
        ports = free_ports(2 * size)
        names = [f"node-{number}" for number in range(1, size + 1)]
        peers = ",".join(f"{name}=127.0.0.1:{ports[2 * number + 1]}" for number, name in enumerate(names))
        self.nodes: dict[str, Node] = {}
        for number, name in enumerate(names):
            settings = {
                "ZMQBROKER_STORAGE_RESERVE_SEGMENTS": "1",  # many nodes on one disk, which is not full
                "ZMQBROKER_NODE_NAME": name,
                "ZMQBROKER_NODE_DATA_DIR": str(directory / name),
                "ZMQBROKER_CLUSTER_PEERS": peers,
                "ZMQBROKER_CLUSTER_VOLUME": volume,
                "ZMQBROKER_LISTEN_CLIENT": f"tcp://127.0.0.1:{ports[2 * number]}",
                "ZMQBROKER_LISTEN_PEER": f"127.0.0.1:{ports[2 * number + 1]}",
                **(environment or {}),
            }
            self.nodes[name] = Node(name, ports[2 * number], settings, directory, command(name))

    @classmethod
    def of(cls, nodes: dict[str, Node]) -> Cluster:
        """A cluster of nodes that run already."""
        found = cls.__new__(cls)
        found.nodes = nodes
        return found

    @property
    def url(self) -> str:
        """A URL with every node in it."""
        hosts = ",".join(node.endpoint.removeprefix("tcp://") for node in self.nodes.values())
        return f"zmqbroker://{hosts}"

    def start(self, timeout_s: float = 30) -> None:
        """Start every node and wait for a leader."""
        for node in self.nodes.values():
            node.start()
        self.leader(timeout_s)

    def info(self, name: str, timeout_ms: int = 1000) -> dict[str, Any] | None:
        """NODE of one node, None when it does not answer."""
        try:
            with Raw(self.nodes[name].endpoint) as raw:
                return raw.ask(Request.INFO, timeout_ms=timeout_ms).fields
        except TimeoutError:
            return None

    def leadership(self, without: Collection[Node] = ()) -> tuple[int, Node] | None:
        """The highest term in which a running node says that it leads, and that node; `without` some that cannot answer."""
        best: tuple[int, Node] | None = None
        for node in self.nodes.values():
            info = self.info(node.name) if node.running and node not in without else None
            for group in info["groups"] if info else ():
                if group["role"] == "leader" and (best is None or group["term"] > best[0]):
                    best = (group["term"], node)
        return best

    def leader(self, timeout_s: float = 15) -> Node:
        """The node that leads, as soon as there is one."""
        try:
            found: tuple[int, Node] = wait_until(self.leadership, timeout_s, "a leader")
        except AssertionError:
            logs = "\n".join(f"--- {node.name}\n{node.log()[-2000:]}" for node in self.nodes.values())
            raise AssertionError(f"no leader in {timeout_s} s\n{logs}") from None
        return found[1]

    def caught_up(self, node: Node) -> bool:
        """Whether a node has applied what the leader had committed when it was asked."""
        assert node.running, f"{node.name} ended by itself\n{node.log()[-4000:]}"
        leading = self.leadership()
        fields = self.info(leading[1].name) if leading else None
        own = self.info(node.name)
        if not fields or not own or not fields["groups"] or not own["groups"]:
            return False
        return bool(own["groups"][0]["applied_index"] >= fields["groups"][0]["commit_index"])

    def close(self) -> None:
        """End every process."""
        for node in self.nodes.values():
            node.close()


@contextmanager
def cluster(directory: Path, size: int = 3, **settings: Any) -> Iterator[Cluster]:
    """A running cluster, ended whatever happens."""
    running = Cluster(directory, size, **settings)
    try:
        running.start()
        yield running
    finally:
        running.close()
