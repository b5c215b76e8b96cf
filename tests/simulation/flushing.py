"""What goes to a simulated node's store, and when: the twin of server/state_flusher.py.

A flush takes the same steps in the same order, and decides by the same functions (server/body_moves.py). Each step takes a
moment and is durable at its end, as those of LMDB are, so that a process may end between any two of them. Whatever is stored
as a body, or read as one, must be what was committed at its index (I14).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import takewhile
from typing import TYPE_CHECKING

from tests.simulation.machine_watch import WatchedMachine
from zmqbroker.broker import Machine
from zmqbroker.errors import Compacted, Corruption
from zmqbroker.raft.messages import Snapshot
from zmqbroker.server import body_moves
from zmqbroker.server.body_moves import Move, chunks
from zmqbroker.server.opening import check_bodies

if TYPE_CHECKING:
    from tests.simulation.node import SimNode

__all__ = ["Flushing", "restored"]

#: Nanoseconds that a step takes.
_STEP_NS = 1_000_000
#: Bytes of bodies that move in one step: few, so that a move takes many.
_CHUNK_BYTES = 1000


def restored(node: SimNode, group: int) -> WatchedMachine:
    """The machine that a node's store holds."""
    machine = WatchedMachine.restore(node.keeper.applied_index(group), node.keeper.items(group))
    assert isinstance(machine, WatchedMachine)
    node.cluster.machines.restored(node.id, machine)
    return machine


class Flushing:
    """One process's flushes, one at a time, for ever."""

    def __init__(self, node: SimNode, group: int) -> None:
        self._node, self._group = node, group
        self._everything = False  # with the next flush all bodies move that may
        try:
            check_bodies(group, node.group.machine, node.log, node.keeper.state)
        except Corruption as error:
            node.cluster.raft.fail("I14", str(error), node.id)

    def compact(self) -> None:
        """Let the next flush bring the log down to what must stay in it."""
        self._everything = True

    def read(self, index: int) -> bytes:
        """The payload of an entry with live messages: from the log or, when that has dropped it, from the store."""
        node = self._node
        try:
            body: bytes | None = node.log.read(self._group, index)
        except Compacted:
            body = node.keeper.state.body(self._group, index)
        raft = node.cluster.raft
        if body is None:
            raft.fail("I14", f"the body of entry {index} is missing", node.id)
        raft.read(node.id, index, raft.committed[index], body)
        return body

    # --- one flush -----------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Flush now, and again after a while."""
        machine = self._node.group.machine
        self._go_on(self._steps(machine), machine)

    def _go_on(self, steps: Iterator[None], machine: Machine) -> None:
        node = self._node
        if next(steps, self) is not self:  # there is one more
            node.plan(_STEP_NS, partial(self._go_on, steps, machine))
        else:
            node.plan(node.cluster.options.flush_ns, self.begin)

    def _is_taken(self, machine: Machine) -> bool:
        """True while a snapshot is on its way into the store, or has come there."""
        return self._node.watch.state.log.unstable.snapshot is not None or self._node.group.machine is not machine

    def _steps(self, machine: Machine) -> Iterator[None]:
        node, group, keeper = self._node, self._group, self._node.keeper
        index, stored = machine.applied_index, keeper.applied_index(group)
        excess = self._excess_bytes()
        if self._is_taken(machine) or (index == stored and not excess):
            return
        self._everything = False
        mark = keeper.state.bodies_mark(group)
        dead = [body for body in keeper.state.body_indexes(group) if not machine.is_live(body)]
        move, trim = self._plan(machine, mark, excess), body_moves.trimmable(machine, mark)
        if index != stored:
            snapshot = Snapshot(index, node.cluster.raft.committed[index], node.core.membership)
            changes = machine.changes()
            node.cluster.machines.flushed(node.id, machine)
            yield
            # A leader's snapshot may have come in between: then this is old news, and must not replace it.
            if node.group.machine is not machine or keeper.applied_index(group) >= index:
                return
            keeper.commit(group, snapshot, changes)
        self._trim(trim)
        if dead:
            if self._is_taken(machine):
                return
            yield
            keeper.state.drop_bodies(group, dead)
        if move is not None and not self._is_taken(machine):
            yield from self._moving(machine, move)

    def _moving(self, machine: Machine, move: Move) -> Iterator[None]:
        node, group = self._node, self._group
        for bodies, mark in chunks(move, self.read, _CHUNK_BYTES):
            if self._is_taken(machine):
                return
            yield
            node.keeper.state.put_bodies(group, bodies)
            node.cluster.counters["bodies_moved"] += len(bodies)
            if self._is_taken(machine):
                return
            yield
            if self._is_taken(machine):
                return
            node.keeper.state.mark_bodies(group, mark)
            self._trim(mark)

    def _excess_bytes(self) -> int:
        """Bytes of log too many."""
        options, size = self._node.cluster.options, self._node.log.size_bytes
        if self._everything:
            return size
        return max(size - options.log_budget_bytes, 0) if options.log_budget_bytes else 0

    def _plan(self, machine: Machine, mark: int, excess: int) -> Move | None:
        keep_entries = self._node.cluster.options.keep_entries
        if not keep_entries:
            return body_moves.plan_move(machine, mark, self._node.log.trim_target(self._group, excess))
        # Compaction asks nobody what he holds: a snapshot can stand for all that is stored.
        upto = machine.applied_index - keep_entries
        live = tuple(takewhile(lambda index: index <= upto, machine.live_indexes(mark)))
        return Move(live, upto) if upto > mark else None

    def _trim(self, index: int) -> None:
        if index > 0:
            self._node.log.trim(self._group, index)
