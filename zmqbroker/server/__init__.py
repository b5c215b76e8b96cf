"""A node: the only place with sockets, files and a clock. `run(config)` is its door."""

from __future__ import annotations

from zmqbroker.server.application import run

__all__ = ["run"]
