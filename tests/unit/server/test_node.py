"""The node's loop, where it needs neither sockets nor files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from tests.unit.server.harness import GROUP
from zmqbroker.config import NodeConfig
from zmqbroker.errors import NoRoom
from zmqbroker.raft import Membership, ProgressState, ProgressStatus
from zmqbroker.raft.messages import Entry, StorageAppend
from zmqbroker.server.node import Node
from zmqbroker.storage.memory import MemoryLog, MemoryState


class Loop:
    """An event loop that only remembers what it was asked to call."""

    def __init__(self) -> None:
        self.soon: list[Callable[[], None]] = []
        self.later: list[Callable[[], None]] = []

    def call_soon(self, callback: Callable[[], None]) -> None:
        self.soon.append(callback)

    def call_later(self, _delay_s: float, callback: Callable[[], None], *_: object) -> None:
        self.later.append(callback)

    def call_at(self, _time_s: float, callback: Callable[[], None]) -> None:
        self.later.append(callback)

    def time(self) -> float:
        return 0.0


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


def node_of(loop: Loop, port: Port, log: MemoryLog) -> Node:
    """A node without groups."""
    parts: dict[str, Any] = {"formation": None, "network": port, "port": port, "log": log, "state": MemoryState()}
    calls: dict[str, Any] = {"housekeep": lambda: None, "on_failure": print, "on_change": lambda: None}
    return Node(NodeConfig.for_test(), loop, **parts, counters=Counter(), **calls)  # type: ignore[arg-type]


def test_node_client_that_does_not_read_costs_one_timer_however_many_passes_there_are() -> None:
    loop, port = Loop(), Port()
    node = node_of(loop, port, MemoryLog())
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


class FullLog(MemoryLog):
    """A log whose disk has no room."""

    def prepare(self, works: Any) -> Any:
        def refuse() -> None:
            raise NoRoom("no room")

        return SimpleNamespace(size_bytes=1, must_sync=False, write=refuse)


class LeaderCore:
    """As much of a leader's core as handing leadership over needs."""

    id, transferee = 1, 0
    membership = Membership((1, 2, 3))

    def progress(self) -> dict[int, ProgressStatus]:
        return {id: ProgressStatus(index, index + 1, ProgressState.REPLICATE, True, False) for id, index in ((2, 7), (3, 9))}

    def transfer_leader(self, to: int) -> None:
        self.transferee = to


@pytest.mark.parametrize(("log", "successor"), [(MemoryLog(), 0), (FullLog(), 3)])
def test_node_leader_without_room_hands_leadership_over(log: MemoryLog, successor: int) -> None:
    loop, core = Loop(), LeaderCore()
    node = node_of(loop, Port(), log)
    group: Any = SimpleNamespace(number=GROUP, core=core, tick=lambda: None, collect=lambda *_: None, advance=lambda _: ())
    node.add_group(group)
    node._pipeline.submit([StorageAppend(GROUP, (Entry(1, 1, b""),))])
    node._tick()
    assert core.transferee == successor
