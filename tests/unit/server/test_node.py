"""The node's loop, where it needs neither sockets nor files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from tests.unit.server.harness import GROUP, Site
from zmqbroker.config import NodeConfig
from zmqbroker.raft.messages import Entry, Message, MessageType, StorageAppend
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


def node_with(log: MemoryLog, loop: Loop, port: Port) -> Node:
    """A node without peers."""
    parts: dict[str, Any] = {
        "formation": None,
        "network": port,
        "port": port,
        "log": log,
        "state": MemoryState(),
        "disks": None,
    }
    calls: dict[str, Any] = {"housekeep": lambda: None, "on_failure": print, "on_change": lambda: None}
    return Node(NodeConfig.for_test(), loop, **parts, counters=Counter(), **calls)  # type: ignore[arg-type]


class CountingLog(MemoryLog):
    """It notes what is read from it."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: list[tuple[int, int]] = []

    def read(self, group: int, index: int) -> bytes:
        self.reads.append((group, index))
        return super().read(group, index)


def test_node_reads_an_entry_once_for_all_of_its_messages_that_are_asked_for_in_a_row() -> None:
    log = CountingLog()
    works = [StorageAppend(group, (Entry(1, 1, b"%d" % group), Entry(2, 1, b"second")), must_sync=True) for group in (1, 2)]
    log.complete(log.prepare(works))
    node = node_with(log, Loop(), Port())
    places = [(1, 1), (1, 1), (1, 2), (1, 2), (2, 2), (1, 1), (2, 1), (2, 1)]
    assert [node.bodies.read(*place) for place in places] == [b"1", b"1", b"second", b"second", b"second", b"1", b"2", b"2"]
    assert log.reads == [(1, 1), (1, 2), (2, 2), (1, 1), (2, 1)]


def test_node_client_that_does_not_read_costs_one_timer_however_many_passes_there_are() -> None:
    loop, port = Loop(), Port()
    node = node_with(MemoryLog(), loop, port)
    for _ in range(5):
        node._pass()
    assert (port.flushed, len(loop.later)) == (2 * 5, 1)  # as both sides
    loop.later.pop()()
    assert len(loop.soon) == 1
    loop.soon.pop()()
    assert (port.flushed, len(loop.later)) == (2 * 6, 1)
    port.blocked = False
    loop.later.pop()()
    loop.soon.pop()()
    assert (port.flushed, loop.later) == (2 * 6, [])


class Answers(Port):
    """The side of the peers, which notes what an answer acknowledges and how much is stored and applied by then."""

    blocked = False

    def __init__(self, site: Site) -> None:
        self.site = site
        self.sent: list[tuple[int, int, int]] = []

    def stamp(self, _messages: list[Message]) -> None:
        """As `Disks`, of which there is nothing to tell."""

    def send_raft(self, messages: Iterable[Message]) -> None:
        for message in messages:
            self.sent.append((message.index, self.site.log.view(GROUP).last_index(), self.site.machine.applied_index))


def test_follower_stores_and_answers_before_it_applies_what_is_committed() -> None:
    site = Site(2, (1, 2, 3))
    answers = Answers(site)
    node = node_with(site.log, Loop(), answers)
    node.groups[GROUP], node.disks = site.group, answers  # type: ignore[assignment]
    for index in (1, 2, 3):
        entries = (Entry(index, 1),)
        previous = min(index - 1, 1)
        site.group.step(Message(MessageType.APPEND_ENTRIES, 2, 1, GROUP, 1, previous, index - 1, index - 1, entries=entries))
        node._pass()
    assert answers.sent == [(1, 1, 0), (2, 2, 0), (3, 3, 1)]
    assert site.machine.applied_index == 2
