"""The nodes of `zmqbroker dev`: their ports, directories and processes on this machine.

    <data directory>/cluster.json   number of nodes and volume; locked while a `dev` runs here
    <data directory>/node-1/        data of a node
    <data directory>/node-1.log     what it said on standard error

Nothing is deleted but what such a directory holds by name. Invariant: a child that was started is waited for.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import shutil
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from zmqbroker.config import CLUSTER_SIZE_MAX, RESERVED_VARIABLES, variable_name
from zmqbroker.errors import ConfigError

__all__ = [
    "Child",
    "NodePlan",
    "child_environment",
    "lock_directory",
    "plan_nodes",
    "port_is_free",
    "settle_size",
    "start",
    "stop",
]

#: First client port, and what separates one node's block of ports (clients, peers, HTTP) and one cluster's from the next.
FIRST_PORT, PORTS_PER_NODE, PORTS_PER_CLUSTER = 5590, 3, 100
#: The clusters of ports that are tried before giving up.
_BLOCKS_MAX = 100
#: How long a node may take to stop on SIGTERM before it is killed.
STOP_TIMEOUT_S = 10
_MARK = "cluster.json"
_LAST_LINES = 5


@dataclass(frozen=True)
class NodePlan:
    """One node to be."""

    name: str
    client_port: int
    peer_port: int
    directory: Path

    @property
    def endpoint(self) -> str:
        """Where its clients connect."""
        return f"tcp://127.0.0.1:{self.client_port}"

    @property
    def log_path(self) -> Path:
        """Where its standard error goes."""
        return self.directory.with_suffix(".log")


@dataclass(frozen=True)
class Child:
    """A running node."""

    plan: NodePlan
    process: asyncio.subprocess.Process

    def last_lines(self) -> str:
        """The end of what it said."""
        with suppress(OSError):
            return "\n".join(self.plan.log_path.read_text(errors="replace").splitlines()[-_LAST_LINES:])
        return ""


def port_is_free(port: int) -> bool:
    """Whether a node could bind the port on the loopback interface now."""
    with socket.socket() as probe:
        # As libzmq does: connections that linger after an earlier node do not keep its port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def plan_nodes(count: int, data_directory: Path, is_free: Callable[[int], bool] = port_is_free) -> list[NodePlan]:
    """Give `count` nodes the first block of ports that is wholly free. Raises ConfigError when there is none."""
    for block in range(_BLOCKS_MAX):
        first = FIRST_PORT + block * PORTS_PER_CLUSTER
        if all(is_free(port) for port in range(first, first + PORTS_PER_NODE * count)):
            return [
                NodePlan(
                    f"node-{number + 1}",
                    first + PORTS_PER_NODE * number,
                    first + PORTS_PER_NODE * number + 1,
                    data_directory / f"node-{number + 1}",
                )
                for number in range(count)
            ]
    raise ConfigError((f"no block of {PORTS_PER_NODE * count} free ports from {FIRST_PORT} on was found",))


def child_environment(plan: NodePlan, plans: list[NodePlan], volume: str, inherited: Mapping[str, str]) -> dict[str, str]:
    """The environment that makes a process of `zmqbroker.server` this node; other settings are inherited."""
    settings = {
        "node.name": plan.name,
        "node.data_dir": str(plan.directory),
        "node.advertise": plan.endpoint,
        "cluster.name": "dev",
        "cluster.peers": ",".join(f"{other.name}=127.0.0.1:{other.peer_port}" for other in plans),
        "cluster.volume": volume,
        "listen.client": plan.endpoint,
        "listen.peer": f"127.0.0.1:{plan.peer_port}",
    }
    # To try things out, on one disk: a full one is not to be expected, and nine nodes with four spare segments each take 2 GiB.
    thrifty = {variable_name("storage", "reserve_segments"): "1"}
    kept = {name: value for name, value in inherited.items() if name not in RESERVED_VARIABLES - {"ZMQBROKER_PURE"}}
    ours = {variable_name(*key.split(".")): value for key, value in settings.items()}
    return {**thrifty, **kept, **ours, "ZMQBROKER_OWNER": "dev"}


@contextmanager
def lock_directory(path: Path, *, fresh: bool) -> Iterator[Path]:
    """Make and lock the directory of a development cluster; `fresh` empties it of what such a cluster left.

    Yields the mark, a file that holds the size of the cluster. Raises ConfigError when the directory is in use, or holds
    something else.
    """
    mark = path / _MARK
    if path.exists() and not mark.exists() and any(path.iterdir()):
        raise ConfigError((f"{path} is not empty and was not made by zmqbroker dev; choose another with --data-dir",))
    path.mkdir(parents=True, exist_ok=True)
    with mark.open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError((f"{path} is in use by another zmqbroker dev; choose another with --data-dir",)) from error
        if fresh:
            lock.truncate(0)
            for number in range(1, CLUSTER_SIZE_MAX + 1):
                shutil.rmtree(path / f"node-{number}", ignore_errors=True)
                (path / f"node-{number}.log").unlink(missing_ok=True)
        yield mark


def settle_size(mark: Path, nodes: int | None, volume: str | None) -> tuple[int, str]:
    """Number of nodes and volume: those asked for in a new cluster, those it has in an existing one.

    Raises ConfigError when something else is asked for than the directory holds.
    """
    content = mark.read_text()
    if not content:
        size, mode = nodes or 3, volume or "ephemeral"
        mark.write_text(json.dumps({"nodes": size, "volume": mode}))
        return size, mode
    try:
        found = json.loads(content)
        size, mode = int(found["nodes"]), str(found["volume"])
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError((f"{mark} is damaged; --fresh starts anew",)) from error
    faults = []
    if nodes not in (None, size):
        faults.append(f"{mark.parent} holds {size} nodes, not {nodes}: leave --nodes out, or start anew with --fresh")
    if volume not in (None, mode):
        faults.append(f"{mark.parent} holds {mode} nodes, not {volume}: leave --volume out, or start anew with --fresh")
    if faults:
        raise ConfigError(tuple(faults))
    return size, mode


async def start(plans: list[NodePlan], volume: str, inherited: Mapping[str, str], children: list[Child]) -> None:
    """Start every node and add it to `children`, which the caller stops even when this fails half-way."""
    for plan in plans:
        with plan.log_path.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "zmqbroker.server",
                env=child_environment(plan, plans, volume, inherited),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # so that Ctrl-C reaches this process alone, which stops them in order
            )
        children.append(Child(plan, process))


async def stop(children: list[Child], timeout_s: float = STOP_TIMEOUT_S) -> list[str]:
    """Stop the nodes one after the other; returns the names of those that had to be killed."""
    killed = []
    for child in children:
        with suppress(ProcessLookupError):
            os.kill(child.process.pid, signal.SIGCONT)  # one that was halted could not obey
            child.process.terminate()
        try:
            await asyncio.wait_for(child.process.wait(), timeout_s)
        except TimeoutError:
            killed.append(child.plan.name)
            with suppress(ProcessLookupError):
                child.process.kill()
            await child.process.wait()
    return killed
