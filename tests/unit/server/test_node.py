"""The node's loop, where it needs neither sockets nor files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from zmqbroker.config import NodeConfig
from zmqbroker.server.node import Node
from zmqbroker.storage.memory import MemoryLog, MemoryState


class Loop:
    """An event loop that only remembers what it was asked to call."""

    def __init__(self) -> None:
        self.soon: list[Callable[[], None]] = []
        self.later: list[Callable[[], None]] = []

    def call_soon(self, callback: Callable[[], None]) -> None:
        self.soon.append(callback)

    def call_later(self, _delay_s: float, callback: Callable[[], None]) -> None:
        self.later.append(callback)


class Port:
    """A port without messages, one of whose clients does not read; the peers' side has none either."""

    blocked = True
    flushed = 0

    def drain(self, _count_max: int) -> list[list[bytes]]:
        return []

    def receive(self, _count_max: int, _now_ns: int) -> list[Any]:
        return []

    def readable(self) -> bool:
        return False

    def flush(self) -> None:
        self.flushed += 1


def test_node_client_that_does_not_read_costs_one_timer_however_many_passes_there_are() -> None:
    loop, port = Loop(), Port()
    parts: dict[str, Any] = {
        "formation": None,
        "network": port,
        "port": port,
        "log": MemoryLog(),
        "state": MemoryState(),
        "disks": None,
    }
    calls: dict[str, Any] = {"housekeep": lambda: None, "on_failure": print, "on_change": lambda: None}
    node = Node(NodeConfig.for_test(), loop, **parts, counters=Counter(), **calls)  # type: ignore[arg-type]
    for _ in range(5):
        node._pass()
    assert (port.flushed, len(loop.later)) == (5, 1)
    loop.later.pop()()
    assert len(loop.soon) == 1
    loop.soon.pop()()
    assert (port.flushed, len(loop.later)) == (6, 1)
    port.blocked = False
    loop.later.pop()()
    loop.soon.pop()()
    assert (port.flushed, loop.later) == (6, [])
