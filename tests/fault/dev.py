"""The cluster that `zmqbroker dev` runs, as a test sees it: its nodes can be killed, stopped and started again.

`dev` does not restart its nodes; a node that was killed is started by the test, with the environment that `dev` had given it.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.processes import Cluster, Node

__all__ = ["Adopted", "dev_cluster"]


class Adopted:
    """A process that somebody else started: known by a descriptor, so that a signal never reaches another process."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._descriptor = os.pidfd_open(pid)

    def poll(self) -> int | None:
        """None while it runs; its exit status is its parent's to know, so here it is always 0."""
        return 0 if self._descriptor < 0 or self._ended(0) else None

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end. Raises TimeoutError."""
        if self._descriptor >= 0 and not self._ended(timeout):
            raise TimeoutError(f"process {self.pid} has not ended in {timeout} s")
        return 0

    def send_signal(self, sig: int) -> None:
        """Send a signal, if it still runs."""
        if self.poll() is None:
            signal.pidfd_send_signal(self._descriptor, sig)

    def _ended(self, timeout: float | None) -> bool:
        if not select.select([self._descriptor], [], [], timeout)[0]:
            return False
        os.close(self._descriptor)
        self._descriptor = -1
        return True


def environment_of(pid: int) -> dict[str, str]:
    """The settings of the broker in a process's environment."""
    entries = Path(f"/proc/{pid}/environ").read_text().split("\0")
    pairs = (entry.partition("=") for entry in entries if entry.startswith("ZMQBROKER_"))
    return {name: value for name, _, value in pairs}


@contextmanager
def dev_cluster(directory: Path) -> Iterator[Cluster]:
    """Three nodes of `zmqbroker dev` with their data below `directory`; all are ended whatever happens."""
    command = [sys.executable, "-m", "zmqbroker", "dev", "--json", "--data-dir", str(directory / "dev")]
    with (directory / "dev.err").open("wb") as errors:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, text=True)
    nodes: dict[str, Node] = {}
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, f"dev said nothing: {(directory / 'dev.err').read_text()}"
        for child in json.loads(line)["nodes"]:
            nodes[child["name"]] = _node(child)
        yield Cluster.of(nodes)
    finally:
        for node in nodes.values():
            node.close()
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)


def _node(child: dict[str, str]) -> Node:
    """A node that runs already."""
    pid, log = int(child["pid"]), Path(child["log"])
    node = Node(child["name"], int(child["client"].rpartition(":")[2]), environment_of(pid), log.parent)
    node.process = Adopted(pid)
    return node
