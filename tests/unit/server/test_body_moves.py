"""Bodies on their way from the log to the store: which, when, and what a full volume or an end in between leaves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

import pytest

from tests.unit.broker.builders import START, acked_by, publish, receive
from zmqbroker.broker import Machine
from zmqbroker.commands import Command, Delivery, Trim
from zmqbroker.errors import NoRoom, StorageError
from zmqbroker.raft.membership import Membership
from zmqbroker.raft.messages import Entry, Snapshot, StorageAppend
from zmqbroker.server import body_moves, state_flusher
from zmqbroker.server.body_moves import Move, chunks, plan_move, trimmable
from zmqbroker.server.durations import Durations
from zmqbroker.server.state_flusher import StateFlusher
from zmqbroker.storage.memory import MemoryLog, MemoryState


class Killed(BaseException):
    """The process ended here."""


class WatchedState(MemoryState):
    """A store that writes down what it is asked for, and fails where a test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.done: list[str] = []
        self.before: Callable[[str], None] = lambda _step: None

    def _step(self, step: str) -> None:
        self.before(step)
        self.done.append(step)

    def commit(self, group: int, applied_index: int, changes: Iterable[tuple[bytes, bytes | None]]) -> None:
        self._step(f"commit {applied_index}")
        super().commit(group, applied_index, changes)

    def put_bodies(self, group: int, bodies: Iterable[tuple[int, bytes]]) -> None:
        bodies = list(bodies)
        self._step(f"put {[index for index, _ in bodies]}")
        super().put_bodies(group, bodies)

    def mark_bodies(self, group: int, index: int) -> None:
        self._step(f"mark {index}")
        super().mark_bodies(group, index)

    def drop_bodies(self, group: int, indexes: Iterable[int]) -> None:
        indexes = list(indexes)
        self._step(f"drop {indexes}")
        super().drop_bodies(group, indexes)


class Node:
    """A machine, its log and its store; each entry has ten bytes, and the log room for `budget_bytes`."""

    def __init__(self, budget_bytes: int) -> None:
        self.log, self.state, self.machine = MemoryLog(), WatchedState(), Machine()
        self._budget_bytes = budget_bytes
        self.flusher = StateFlusher(self.log, self.state, {1: self.machine}, 1, budget_bytes)

    def restart(self) -> None:
        """Start again from the store, and apply the log behind it."""
        self.flusher.close()
        self.state.done.clear()
        self.state.before = lambda _step: None
        index = self.state.applied_index(1)
        machine = Machine.restore(index, self.state.load(1))
        for entry in range(index + 1, self.machine.applied_index + 1):
            machine.apply(entry, START, self.commands[entry])
        self.machine = machine
        self.flusher = StateFlusher(self.log, self.state, {1: self.machine}, 1, self._budget_bytes)

    commands: dict[int, tuple[Command, ...]]

    def apply(self, *commands: Command) -> list[Delivery]:
        """One entry, in log and machine."""
        index = self.machine.applied_index + 1
        self.__dict__.setdefault("commands", {})[index] = commands
        entry = Entry(index, 1, b"entry %04d" % index)
        self.log.complete(self.log.prepare([StorageAppend(1, (entry,), must_sync=True)]))
        return self.machine.apply(index, START, commands).deliveries

    def publish(self, count: int) -> None:
        """So many entries with a message each, which every member holds."""
        for _ in range(count):
            self.apply(publish(), Trim(self.machine.applied_index + 1))

    def ack(self, count: int) -> None:
        """Receive and finish the oldest messages."""
        (delivery,) = self.apply(receive(count))
        self.apply(acked_by(delivery), Trim(self.machine.applied_index + 1))

    @property
    def first_index(self) -> int:
        return self.log.view(1).first_index()

    def read(self, index: int) -> bytes | None:
        """As node.read."""
        return self.log.read(1, index) if index >= self.first_index else self.state.body(1, index)

    def assert_whole(self) -> None:
        """The body of every live message is there, and it is the right one."""
        for index in self.machine.live_indexes():
            assert self.read(index) == b"entry %04d" % index


def run(node: Node, job: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(60):
            await job()

    try:
        asyncio.run(limited())
    finally:
        node.flusher.close()


# --- decisions -------------------------------------------------------------------------------------------------------


def test_plan_moves_what_is_live_up_to_what_everybody_has_and_this_node_has_applied(monkeypatch: pytest.MonkeyPatch) -> None:
    node = Node(0)
    node.publish(6)
    node.ack(2)
    node.apply(publish())  # entry 9, which the others need not hold
    assert plan_move(node.machine, 0, 5) == Move((3, 4, 5), 5)
    assert plan_move(node.machine, 4, 7) == Move((5, 6), 7)
    assert plan_move(node.machine, 0, 100) == Move((3, 4, 5, 6), 8)
    assert [plan_move(node.machine, mark, target) for mark, target in ((0, 0), (0, 2), (6, 9), (5, 5))] == [None] * 4
    monkeypatch.setattr(body_moves, "MOVED_COUNT", 2)
    assert plan_move(node.machine, 0, 100) == Move((3, 4), 4), "more than two come later"
    node.flusher.close()


def test_trimmable_is_what_no_body_above_the_mark_needs() -> None:
    node = Node(0)
    node.publish(6)
    node.ack(2)
    assert [trimmable(node.machine, mark) for mark in (0, 3, 5, 6, 8)] == [2, 3, 5, 8, 8]
    node.apply()
    assert trimmable(node.machine, 9) == 8, "the others may need the rest"
    node.flusher.close()


def test_chunks_are_bounded_and_the_last_one_brings_the_mark_to_the_end() -> None:
    move = Move((1, 4, 5, 9), 12)
    assert list(chunks(move, lambda index: bytes(index), 5)) == [
        ([(1, bytes(1)), (4, bytes(4))], 4),
        ([(5, bytes(5))], 5),
        ([(9, bytes(9))], 12),
    ]
    assert [mark for _, mark in chunks(move, lambda _: b"", 5)] == [12]


# --- moving ----------------------------------------------------------------------------------------------------------


def test_log_over_its_budget_gives_its_oldest_live_bodies_to_the_store() -> None:
    node = Node(100)
    node.publish(10)

    async def job() -> None:
        await node.flusher.flush()
        assert node.state.done == ["commit 10"], "there is room yet"
        node.publish(3)
        await node.flusher.flush()
        assert node.state.done[1:] == ["commit 13", "put [1, 2, 3]", "mark 3"]
        assert (node.first_index, node.log.size_bytes) == (4, 100)
        node.assert_whole()
        await node.flusher.flush()
        assert len(node.state.done) == 4

    run(node, job)


def test_backlog_of_many_budgets_is_there_and_whole_and_dead_bodies_never_are_stored() -> None:
    node = Node(50)
    stored: set[int] = set()

    async def job() -> None:
        for _ in range(30):
            node.publish(3)
            node.ack(1)
            live = set(node.machine.live_indexes())
            await node.flusher.flush()
            assert node.log.size_bytes <= 50
            node.assert_whole()
            new = set(node.state.body_indexes(1)) - stored
            assert new <= live
            stored.update(new)
        assert len(list(node.machine.live_indexes())) == 60
        while list(node.machine.live_indexes()):
            node.ack(10)
            await node.flusher.flush()
        assert node.state.body_indexes(1) == []

    run(node, job)


def test_log_over_its_budget_moves_bodies_also_when_nothing_has_changed() -> None:
    node = Node(1000)
    node.publish(5)

    async def job() -> None:
        await node.flusher.flush()
        node.flusher._budget_bytes = 20
        await node.flusher.flush()
        assert node.state.done == ["commit 5", "put [1, 2, 3]", "mark 3"]

    run(node, job)


def test_move_stays_below_what_a_follower_may_need_and_below_a_pin() -> None:
    node = Node(20)
    for _ in range(10):
        node.apply(publish())

    async def job() -> None:
        await node.flusher.flush()
        assert (node.state.done, node.first_index) == (["commit 10"], 1), "no Trim was applied"
        node.apply(Trim(6))
        node.flusher.pin(1, 4)
        await node.flusher.flush()
        assert (node.state.done[2:], node.first_index) == (["put [1, 2, 3, 4]", "mark 4"], 5)
        node.flusher.pin(1, None)
        await node.flusher.flush()
        assert (node.state.done[4:], node.first_index) == (["put [5, 6]", "mark 6"], 7)

    run(node, job)


def test_move_is_of_what_the_stored_state_needs_not_of_what_is_applied_meanwhile() -> None:
    """After a crash the stored state is what there is: the message that was acked since is live again until the log says so."""
    node = Node(50)
    node.publish(10)

    async def job() -> None:
        async def flush_while_messages_are_acked() -> None:
            flushing = asyncio.ensure_future(node.flusher.flush())
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            node.ack(5)
            await flushing

        await flush_while_messages_are_acked()
        assert node.state.done == ["commit 10", "put [1, 2, 3, 4, 5]", "mark 5"]
        node.restart()
        assert node.state.applied_index(1) == 10
        for index in range(1, 6):
            assert node.read(index) == b"entry %04d" % index

    run(node, job)


def test_move_in_chunks_marks_and_trims_after_each_and_ends_when_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_flusher, "CHUNK_BYTES", 20)
    node = Node(50)
    node.publish(10)

    async def job() -> None:
        firsts: list[int] = []
        node.state.before = lambda _step: firsts.append(node.first_index)
        await node.flusher.flush()
        assert node.state.done == ["commit 10", "put [1, 2]", "mark 2", "put [3, 4]", "mark 4", "put [5]", "mark 5"]
        assert firsts == [1, 1, 1, 3, 3, 5, 5]
        monkeypatch.setattr(state_flusher, "MOVED_BYTES", 20)
        node.publish(10)
        node.state.done.clear()
        await node.flusher.flush()
        assert node.state.done == ["commit 20", "put [6, 7]", "mark 7"], "the rest comes with the next flush"

    run(node, job)


def test_durations_count_commits_and_what_bodies_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_flusher, "CHUNK_BYTES", 10)
    node, durations = Node(50), Durations()
    node.flusher.close()
    node.flusher = StateFlusher(node.log, node.state, {1: node.machine}, 1, 50, durations=durations)
    node.publish(8)

    async def job() -> None:
        await node.flusher.flush()
        assert node.state.done == ["commit 8", "put [1]", "mark 1", "put [2]", "mark 2", "put [3]", "mark 3"]
        node.ack(3)
        await node.flusher.flush()
        await node.flusher.flush()

    run(node, job)
    found: Any = durations.fields()
    for name, step in (("state_flush", "commit"), ("bodies_stored", "put"), ("bodies_dropped", "drop")):
        assert found[name]["count"] == sum(done.startswith(step) for done in node.state.done) > 0, name


def test_hold_in_the_middle_of_a_move_ends_it_and_it_goes_on_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_flusher, "CHUNK_BYTES", 10)
    node = Node(50)
    node.publish(10)

    async def job() -> None:
        steps = ["put [2]", "mark 4"]

        def holding(step: str) -> None:
            if step in steps:
                steps.remove(step)
                node.flusher.hold(1)

        node.state.before = holding
        await node.flusher.flush()
        assert node.state.done == ["commit 10", "put [1]", "mark 1", "put [2]"]
        await node.flusher.flush()
        node.flusher.release(1)
        await node.flusher.flush()
        assert node.state.done[4:] == ["put [2]", "mark 2", "put [3]", "mark 3", "put [4]", "mark 4"]
        assert node.first_index == 5, "what was marked may be trimmed"
        node.assert_whole()

    run(node, job)


def test_snapshot_installed_in_the_middle_of_a_move_is_not_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_flusher, "CHUNK_BYTES", 10)
    node = Node(50)
    node.publish(10)
    newer = Machine()
    newer.apply(50, START, [publish()])

    async def job() -> None:
        loop = asyncio.get_running_loop()

        def installing(step: str) -> None:
            if step == "mark 2":
                node.state.install(1, 50, 2, newer.items(), [(50, b"body")])
                loop.call_soon_threadsafe(node.flusher.installed, 1, newer)

        node.state.before = installing
        await node.flusher.flush()
        assert node.state.done[-2:] == ["put [50]", "mark 2"]
        assert node.first_index == 2, "the log is not trimmed by it"
        assert node.flusher.flushed(1) == 50

    run(node, job)


def test_move_does_not_begin_when_a_snapshot_has_emptied_the_log_by_then() -> None:
    node = Node(50)
    node.publish(10)
    node.state.put_bodies(1, [(700, b"dead")])
    node.flusher.stored(1, [700])

    async def job() -> None:
        def installing(step: str) -> None:
            if step == "drop [700]":
                node.flusher.hold(1)
                snapshot = Snapshot(50, 2, Membership((1, 2, 3)))
                node.log.complete(node.log.prepare([StorageAppend(1, (), snapshot=snapshot, must_sync=True)]))

        node.state.before = installing
        await node.flusher.flush()
        assert node.state.done[1:] == ["commit 10", "drop [700]"]

    run(node, job)


STEPS = ["commit 10", "put [1, 2, 3]", "mark 3", "commit 15", "drop [1, 2, 3]", "put [6, 7, 8]", "mark 8"]


@pytest.mark.parametrize("step", STEPS)
def test_end_before_any_step_leaves_every_live_body_and_the_rest_is_dropped(step: str) -> None:
    node = Node(70)

    async def life() -> None:
        node.publish(10)
        await node.flusher.flush()
        node.publish(3)
        node.ack(5)
        await node.flusher.flush()

    async def with_end() -> None:
        def kill(now: str) -> None:
            if now == step:
                raise Killed

        node.state.before = kill
        with pytest.raises(Killed):
            await life()
        assert step not in node.state.done
        node.restart()
        node.assert_whole()
        await node.flusher.flush()
        node.assert_whole()
        node.publish(5)
        await node.flusher.flush()
        node.assert_whole()
        assert node.log.size_bytes <= 70
        live = set(node.machine.live_indexes())
        while live:
            node.ack(len(live))
            live = set(node.machine.live_indexes())
        await node.flusher.flush()
        assert node.state.body_indexes(1) == []

    unharmed = Node(70)
    node, unharmed = unharmed, node
    run(node, life)
    assert node.state.done == STEPS
    node = unharmed
    run(node, with_end)


# --- a full volume ---------------------------------------------------------------------------------------------------


def full_at(*steps: str, times: int = 1) -> Callable[[str], None]:
    """The volume is full when one of these steps is tried, so many times each."""
    left = dict.fromkeys(steps, times)

    def before(step: str) -> None:
        if left.get(step):
            left[step] -= 1
            raise NoRoom("the volume is full")

    return before


def test_commit_without_room_is_kept_and_stored_before_what_comes_later() -> None:
    node = Node(1000)
    node.publish(3)
    node.state.before = full_at("commit 3", times=2)

    async def job() -> None:
        for _ in range(2):
            await node.flusher.flush()
            assert (node.flusher.out_of_room, node.state.done, node.flusher.flushed(1)) == (True, [], 0)
            node.publish(1)
        await node.flusher.flush()
        assert (node.flusher.out_of_room, node.flusher.flushed(1)) == (False, 3)
        assert node.state.done == ["commit 3"]
        assert Machine.restore(3, node.state.load(1)).applied_index == 3
        await node.flusher.flush()
        assert Machine.restore(5, node.state.load(1)).digest() == node.machine.digest()

    run(node, job)


def test_full_volume_that_lasts_costs_no_memory() -> None:
    node = Node(20)
    node.publish(5)
    node.state.before = full_at("put [1, 2, 3]", times=100)

    async def job() -> None:
        for _ in range(100):
            await node.flusher.flush()
        assert (node.flusher.out_of_room, len(node.flusher._bodies[1])) == (True, 0)
        await node.flusher.flush()
        assert (node.flusher.out_of_room, len(node.flusher._bodies[1])) == (False, 3)

    run(node, job)


def test_log_is_not_trimmed_for_a_commit_that_found_no_room() -> None:
    node = Node(1000)
    node.apply(publish())
    node.ack(1)
    node.state.before = full_at("commit 3")

    async def job() -> None:
        await node.flusher.flush()
        assert node.first_index == 1
        await node.flusher.flush()
        assert node.first_index == 4

    run(node, job)


@pytest.mark.parametrize("step", STEPS)
def test_step_without_room_is_done_later_and_nothing_is_missing_meanwhile(step: str) -> None:
    node = Node(70)
    node.state.before = full_at(step, times=3)

    async def job() -> None:
        node.publish(10)
        await node.flusher.flush()
        node.assert_whole()
        for _ in range(4):
            await node.flusher.flush()
        node.publish(3)
        node.ack(5)
        for _ in range(5):
            await node.flusher.flush()
            node.assert_whole()
        assert not node.flusher.out_of_room
        assert step in node.state.done
        assert node.state.body_indexes(1) == [6, 7, 8]
        assert Machine.restore(15, node.state.load(1)).digest() == node.machine.digest()

    run(node, job)


def test_snapshot_installed_while_a_commit_waits_for_room_replaces_it() -> None:
    node = Node(1000)
    node.publish(3)
    node.state.before = full_at("commit 3")
    newer = Machine()
    newer.apply(50, START, [publish()])

    async def job() -> None:
        await node.flusher.flush()
        node.state.install(1, 50, 2, newer.items(), [])
        node.flusher.installed(1, newer)
        await node.flusher.flush()
        assert (node.state.done, node.flusher.out_of_room) == (["put []"], False)

    run(node, job)


def test_other_failure_of_a_move_is_final() -> None:
    node = Node(20)
    node.publish(3)

    async def job() -> None:
        def fail(step: str) -> None:
            if step.startswith("put"):
                raise StorageError("broken")

        node.state.before = fail
        with pytest.raises(StorageError, match="broken"):
            await node.flusher.flush()
        with pytest.raises(StorageError, match="an earlier flush has failed"):
            await node.flusher.flush()

    run(node, job)


def test_run_tries_again_after_a_pause_while_there_is_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    node = Node(1000)
    node.publish(1)
    node.state.before = full_at("commit 1", times=2)

    async def job() -> None:
        sleep = asyncio.sleep

        async def pause(delay_s: float) -> None:
            pauses.append(delay_s)
            if len(pauses) == 5:
                raise asyncio.CancelledError
            await sleep(0)

        monkeypatch.setattr(asyncio, "sleep", pause)
        with pytest.raises(asyncio.CancelledError):
            await node.flusher.run()

    run(node, job)
    assert pauses == [0.001, 1.0, 1.0, 0.001, 0.001]


# --- bodies that nobody needs ----------------------------------------------------------------------------------------


def test_bodies_of_a_snapshot_that_was_not_taken_are_dropped() -> None:
    node = Node(1000)
    node.publish(1)
    node.state.put_bodies(1, [(7, b"seven"), (9, b"nine")])
    node.flusher.stored(1, [7, 9])

    async def job() -> None:
        node.flusher.hold(1)
        await node.flusher.flush()
        assert node.state.body_indexes(1) == [7, 9], "whoever holds the group may need them"
        node.flusher.release(1)
        await node.flusher.flush()
        assert node.state.body_indexes(1) == []

    run(node, job)


def test_bodies_are_not_dropped_when_somebody_holds_the_group_by_then() -> None:
    """It may be a snapshot that stores them again."""
    node = Node(1000)
    node.publish(1)
    node.state.put_bodies(1, [(7, b"seven")])
    node.flusher.stored(1, [7])

    async def job() -> None:
        node.state.before = lambda step: node.flusher.hold(1) if step == "commit 1" else None
        await node.flusher.flush()
        assert node.state.body_indexes(1) == [7]
        node.flusher.release(1)
        node.publish(1)
        await node.flusher.flush()
        assert node.state.body_indexes(1) == []

    run(node, job)


def test_one_flush_drops_a_bounded_number_of_bodies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_flusher, "BODIES_DROPPED", 3)
    node = Node(1000)
    node.state.put_bodies(1, [(index, b"") for index in range(20, 30)])
    node.flusher.stored(1, range(20, 30))

    async def job() -> None:
        left = []
        for _ in range(4):
            node.publish(1)
            await node.flusher.flush()
            left.append(len(node.state.body_indexes(1)))
        assert left == [7, 4, 1, 0]

    run(node, job)
