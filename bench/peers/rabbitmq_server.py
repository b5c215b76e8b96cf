"""Three RabbitMQ servers as one cluster on this machine; its quorum queues have a member on each.

`rabbitmq-server` is the one on PATH (Debian's package of that name). The servers have a port mapper (`epmd`), a cookie, a home
directory and names of their own, and listen on 127.0.0.1 only.
"""

from __future__ import annotations

import os
import re
import shutil
import struct
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from random import SystemRandom

from bench.load import BenchError
from bench.peers.processes import processes
from bench.peers.rabbitmq_wire import RabbitmqConnection, short_text
from tests.processes import free_ports

__all__ = ["QUEUE", "RabbitmqCluster", "find_server", "rabbitmq_cluster", "server_version"]

NODES = 3
QUEUE = b"q"
#: Seconds for three Erlang machines to start and to form a cluster, on a machine that does other things too.
START_TIMEOUT_S = 120
_RETRY_S = 0.25
#: What Debian has on PATH changes the user first; the scripts themselves are here.
_DEBIAN_SCRIPTS = "/usr/lib/rabbitmq/bin"
QUEUE_DECLARE, QUEUE_DELETE, CONFIRM_SELECT = (50, 10), (50, 40), (85, 10)


def find_server() -> str | None:
    """The script that starts a server; None when there is none, or no `epmd`, which is a part of Erlang."""
    if shutil.which("epmd") is None:
        return None
    return shutil.which("rabbitmq-server", path=_DEBIAN_SCRIPTS) or shutil.which("rabbitmq-server")


def server_version(script: str) -> str:
    """Which version it is, such as 3.10.8: of the directory that it lies in, as to ask it takes seconds."""
    found = re.search(r"rabbitmq_server-([\d.]+)", str(Path(script).resolve()))
    return found[1] if found else "unknown"


class RabbitmqCluster:
    """Three running servers."""

    def __init__(self, script: str, ports: list[int], pids: list[int], environment: Mapping[str, str]) -> None:
        self._script, self._ports, self._environment = script, ports, environment
        self.pids = pids

    def new_queue(self) -> int:
        """Make the queue anew, empty; the port of its leader, which is the server that is asked to make it."""
        connection = RabbitmqConnection(self._ports[0])
        connection.ask(QUEUE_DELETE, b"\0\0" + short_text(QUEUE) + b"\0")
        value = b"quorum"
        kind = short_text(b"x-queue-type") + b"S" + struct.pack(">I", len(value)) + value
        durable = b"\x02"
        connection.ask(QUEUE_DECLARE, b"\0\0" + short_text(QUEUE) + durable + struct.pack(">I", len(kind)) + kind)
        connection.close()
        return self._ports[0]

    def wait(self) -> None:
        """Until every server serves and all are in one cluster."""
        end = time.monotonic() + START_TIMEOUT_S
        for port in self._ports:
            while not _serves(port):
                if time.monotonic() > end:
                    raise BenchError(f"the RabbitMQ server at port {port} did not start in {START_TIMEOUT_S} s")
                time.sleep(_RETRY_S)
        self.new_queue()
        members = self._control("list_queues", "name", "online")
        if members.count("@localhost") != NODES:
            raise BenchError(f"a quorum queue of RabbitMQ does not have {NODES} members: {members}")

    def _control(self, *words: str) -> str:
        command = [str(Path(self._script).with_name("rabbitmqctl")), "--quiet", "-n", _name(1), *words]
        done = subprocess.run(command, env=self._environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise BenchError(f"{' '.join(command)} failed: {done.stderr}")
        return done.stdout


def _name(number: int) -> str:
    return f"n{number}@localhost"


def _serves(port: int) -> bool:
    try:
        RabbitmqConnection(port).close()
    except (OSError, BenchError):
        return False  # it starts
    return True


@contextmanager
def rabbitmq_cluster(script: str, directory: Path) -> Iterator[RabbitmqCluster]:
    """A new cluster below `directory`, ended whatever happens."""
    ports = free_ports(2 * NODES + 1)
    client_ports, peer_ports, mapper_port = ports[:NODES], ports[NODES:-1], str(ports[-1])
    environment = _common(directory, mapper_port)
    with processes() as mapper, processes() as running:
        mapper.start(["epmd", "-address", "127.0.0.1", "-port", mapper_port], directory / "epmd.log")
        for number, (client_port, peer_port) in enumerate(zip(client_ports, peer_ports, strict=True), 1):
            own = _settings(directory / f"n{number}", number, client_port, peer_port)
            running.start([script], directory / f"n{number}.log", environment | own)
        cluster = RabbitmqCluster(script, client_ports, running.pids, environment)
        cluster.wait()
        yield cluster


def _common(directory: Path, mapper_port: str) -> dict[str, str]:
    """The environment of all servers, and of the program that controls them."""
    cookie, settings = directory / ".erlang.cookie", directory / "env.conf"
    cookie.write_text(f"{SystemRandom().getrandbits(128):x}", encoding="utf-8")
    cookie.chmod(0o400)
    settings.write_text("", encoding="utf-8")
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("RABBITMQ_")},
        "HOME": str(directory),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "ERL_EPMD_PORT": mapper_port,
        "RABBITMQ_CONF_ENV_FILE": str(settings),  # not the machine's
        "RUNNING_UNDER_SYSTEMD": "true",  # the script becomes the server: the process that is measured and ended
    }


def _settings(data: Path, number: int, client_port: int, peer_port: int) -> dict[str, str]:
    """The environment of one server; writes its files."""
    data.mkdir()
    nodes = [f"cluster_formation.classic_config.nodes.{other} = {_name(other)}" for other in range(1, NODES + 1)]
    lines = (f"listeners.tcp.1 = 127.0.0.1:{client_port}", "cluster_formation.peer_discovery_backend = classic_config", *nodes)
    (data / "rabbitmq.conf").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (data / "plugins").write_text("[].\n", encoding="utf-8")
    return {
        "RABBITMQ_NODENAME": _name(number),
        "RABBITMQ_DIST_PORT": str(peer_port),
        "RABBITMQ_CONFIG_FILE": str(data / "rabbitmq.conf"),
        "RABBITMQ_MNESIA_BASE": str(data),
        "RABBITMQ_LOG_BASE": str(data),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(data / "plugins"),
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
    }
