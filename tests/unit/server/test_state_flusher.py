"""Between the machines and the store: whatever touches the store does it one after the other, and nothing gets lost."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterable
from typing import Any

import pytest

from tests.unit.broker.builders import START, acked_by, publish, receive
from zmqbroker.broker import Machine
from zmqbroker.commands import Command, Delivery, Trim
from zmqbroker.errors import StorageError
from zmqbroker.raft.messages import Entry, StorageAppend
from zmqbroker.server import state_flusher
from zmqbroker.server.state_flusher import StateFlusher
from zmqbroker.storage.memory import MemoryLog, MemoryState


class SlowState(MemoryState):
    """A store whose next commit waits until it is let go; it writes down what was done."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.go = threading.Event(), threading.Event()
        self.go.set()
        self.done: list[str] = []
        self.failure: Exception | None = None  # of the next commit

    def commit(self, group: int, applied_index: int, changes: Iterable[tuple[bytes, bytes | None]]) -> None:
        self.begun.set()
        assert self.go.wait(30)
        if self.failure is not None:
            failure, self.failure = self.failure, None
            raise failure
        super().commit(group, applied_index, changes)
        self.done.append(f"commit {group} {applied_index}")

    def stop(self) -> None:
        """The next commit waits."""
        self.begun.clear()
        self.go.clear()


class Node:
    """Machines, their log and their store."""

    def __init__(self, groups: tuple[int, ...] = (1,)) -> None:
        self.log, self.state = MemoryLog(), SlowState()
        self.machines = {group: Machine() for group in groups}
        self.flusher = StateFlusher(self.log, self.state, self.machines, 1)

    def restart(self, budget_bytes: int | None = None) -> StateFlusher:
        self.flusher.close()
        self.flusher = StateFlusher(self.log, self.state, self.machines, 1, budget_bytes)
        return self.flusher

    def apply(self, *commands: Command, group: int = 1, data: bytes = b"") -> list[Delivery]:
        """One entry, in log and machine."""
        machine = self.machines[group]
        index = machine.applied_index + 1
        self.log.complete(self.log.prepare([StorageAppend(group, (Entry(index, 1, data),), must_sync=True)]))
        return machine.apply(index, START, commands).deliveries

    def first_index(self, group: int = 1) -> int:
        return self.log.view(group).first_index()


def run(node: Node, job: Coroutine[Any, Any, None]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(60):
            await job

    try:
        asyncio.run(limited())
    finally:
        node.state.go.set()
        node.flusher.close()


def test_flush_brings_changes_and_index_to_the_store_and_trims_what_all_hold() -> None:
    node = Node()
    for _ in range(5):
        node.apply(Trim(3))

    async def job() -> None:
        await node.flusher.flush()
        assert (node.flusher.flushed(1), node.first_index()) == (5, 4)
        await node.flusher.flush()

    run(node, job())
    assert node.state.done == ["commit 1 5"], "nothing changed since"
    assert Machine.restore(5, node.state.load(1)).digest() == node.machines[1].digest()


def test_flush_keeps_the_log_of_live_messages_and_above_a_pin() -> None:
    node = Node()
    (delivery,) = [*node.apply(publish()), *node.apply(), *node.apply(), *node.apply(receive())]
    node.apply(Trim(4))

    async def job() -> None:
        await node.flusher.flush()
        assert node.first_index() == 1, "entry 1 holds a message"
        node.flusher.pin(1, 2)
        node.apply(acked_by(delivery))
        await node.flusher.flush()
        assert node.first_index() == 3
        node.flusher.pin(1, None)
        node.flusher.pin(1, None)
        node.apply()
        await node.flusher.flush()
        assert node.first_index() == 5

    run(node, job())


def test_flush_leaves_a_held_group_alone_until_all_have_released_it() -> None:
    node = Node((1, 2))

    async def job() -> None:
        node.flusher.hold(1)
        node.flusher.hold(1)
        node.apply(group=1)
        node.apply(group=2)
        await node.flusher.flush()
        assert node.state.done == ["commit 2 1"]
        node.flusher.release(1)
        await node.flusher.flush()
        assert node.state.done == ["commit 2 1"], "the other one still needs it"
        node.flusher.release(1)
        await node.flusher.flush()
        assert node.state.done == ["commit 2 1", "commit 1 1"]

    run(node, job())


def test_flush_under_way_ends_before_a_job_begins() -> None:
    node = Node()

    async def job() -> None:
        node.apply()
        node.state.stop()
        flushing = asyncio.ensure_future(node.flusher.flush())
        await asyncio.to_thread(node.state.begun.wait, 30)
        node.flusher.hold(1)
        asking = asyncio.ensure_future(node.flusher.job(lambda: node.state.done.append("job")))
        node.state.go.set()
        await asking
        await flushing
        assert node.state.done == ["commit 1 1", "job"]

    run(node, job())


def test_flush_that_fails_is_the_last_one() -> None:
    """What it held is lost to the machine, so a later one would store its index without that."""
    node = Node()

    async def job() -> None:
        node.apply(publish())
        node.state.stop()
        node.state.failure = StorageError("full")
        first = asyncio.ensure_future(node.flusher.flush())
        await asyncio.to_thread(node.state.begun.wait, 30)
        node.apply(publish())
        second = asyncio.ensure_future(node.flusher.flush())
        await asyncio.sleep(0)
        node.state.go.set()
        with pytest.raises(StorageError, match="full"):
            await first
        with pytest.raises(StorageError, match="an earlier flush has failed: full"):
            await second

    run(node, job())
    assert (node.state.done, node.state.applied_index(1)) == ([], 0)


def test_flush_whose_caller_is_ended_stores_what_it_took_all_the_same() -> None:
    node = Node()

    async def job() -> None:
        node.state.stop()
        blocking = asyncio.ensure_future(node.flusher.job(lambda: node.state.go.wait(30)))
        await asyncio.sleep(0)
        node.apply(publish())
        flushing = asyncio.ensure_future(node.flusher.flush())
        await asyncio.sleep(0)  # its commit waits for the thread
        flushing.cancel()
        await asyncio.gather(flushing, return_exceptions=True)
        for _ in range(3):
            await asyncio.sleep(0)
        node.state.go.set()
        await blocking
        node.apply()
        await node.flusher.flush()

    run(node, job())
    assert Machine.restore(2, node.state.load(1)).digest() == node.machines[1].digest()


def test_flush_whose_caller_is_ended_is_over_before_the_thread_ends() -> None:
    node = Node()

    async def job() -> None:
        node.state.stop()
        blocking = asyncio.ensure_future(node.flusher.job(lambda: node.state.go.wait(30)))
        node.apply(publish())
        node.state.put_bodies(1, [(99, b"of no message")])
        node.flusher._bodies[1].append(99)  # so that the flush has two steps
        flushing = asyncio.ensure_future(node.flusher.flush())
        for _ in range(3):
            await asyncio.sleep(0)  # its commit waits for the thread
        flushing.cancel()
        settling = asyncio.ensure_future(node.flusher.settle())
        await asyncio.gather(flushing, return_exceptions=True)
        node.state.go.set()
        await asyncio.gather(settling, blocking)

    run(node, job())
    assert (node.state.applied_index(1), node.state.body_indexes(1)) == (1, [])


def test_flush_under_way_when_a_snapshot_is_installed_does_not_undo_it() -> None:
    node = Node()
    newer = Machine()
    newer.apply(50, START, [publish()])

    async def job() -> None:
        node.apply()
        node.state.stop()
        flushing = asyncio.ensure_future(node.flusher.flush())
        await asyncio.to_thread(node.state.begun.wait, 30)
        node.flusher.hold(1)
        storing = node.flusher.job(lambda: node.state.install(1, 50, 2, newer.items(), [(50, b"body")]))
        asking = asyncio.ensure_future(storing)
        node.state.go.set()
        await asking
        node.flusher.installed(1, newer)
        node.flusher.release(1)
        await flushing
        assert node.flusher.flushed(1) == 50
        await node.flusher.flush()

    run(node, job())
    assert node.state.done == ["commit 1 1"]
    assert (node.state.applied_index(1), node.state.installed(1), node.machines[1]) == (50, (50, 2), newer)


def test_flush_of_a_group_whose_machine_was_replaced_during_it_takes_the_new_one() -> None:
    node = Node((1, 2))
    newer = Machine()
    newer.apply(50, START, ())

    async def job() -> None:
        node.apply(group=1)
        node.apply(group=2)
        node.state.stop()
        flushing = asyncio.ensure_future(node.flusher.flush())  # is at group 1
        await asyncio.to_thread(node.state.begun.wait, 30)
        node.state.install(2, 50, 2, newer.items(), [])
        node.flusher.installed(2, newer)
        node.state.go.set()
        await flushing

    run(node, job())
    assert (node.state.done, node.state.applied_index(2)) == (["commit 1 1"], 50)


def test_bodies_of_a_snapshot_are_dropped_when_nobody_needs_them_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_flusher, "BODIES_LOOKED_AT", 2)
    source = Machine()
    for index in range(1, 6):
        source.apply(index, START, [publish()])
    node = Node()
    node.state.install(1, 5, 1, source.items(), [(index, b"body") for index in range(1, 6)])
    node.machines[1] = Machine.restore(5, node.state.load(1))
    node.log.complete(node.log.prepare([StorageAppend(1, tuple(Entry(index, 1, b"") for index in range(1, 6)))]))
    node.restart()
    (delivery,) = node.apply(receive(4))

    async def job() -> None:
        await node.flusher.flush()
        assert node.state.body_indexes(1) == [1, 2, 3, 4, 5]
        node.apply(acked_by(delivery))
        left = []
        for _ in range(4):
            await node.flusher.flush()
            left.append(len(node.state.body_indexes(1)))
            node.apply()
        assert left == sorted(left, reverse=True)
        assert max(earlier - later for earlier, later in zip([5, *left], left, strict=False)) <= 2, "never many at once"
        assert node.state.body_indexes(1) == [5]

    run(node, job())


def test_log_below_a_snapshot_is_not_needed_for_the_messages_whose_bodies_came_with_it() -> None:
    source = Machine()
    source.apply(5, START, [publish()])
    node = Node()
    node.state.install(1, 5, 1, source.items(), [(5, b"body")])
    node.machines[1] = Machine.restore(5, node.state.load(1))
    node.log.complete(node.log.prepare([StorageAppend(1, tuple(Entry(index, 1, b"") for index in range(1, 6)))]))
    node.restart()
    node.apply(Trim(5))

    async def job() -> None:
        await node.flusher.flush()
        assert (node.first_index(), node.state.body(1, 5)) == (6, b"body")

    run(node, job())
