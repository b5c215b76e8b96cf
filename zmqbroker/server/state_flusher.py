"""Brings the machines' changes to the store in the background, moves bodies there, and drops log that nobody needs any more.

Applied state lives in memory; what is stored is behind it, by one flush, and a start replays the log from there. When the
volume is full the change set that a machine has handed out is kept and tried again: the node goes on from memory and log.
Order of durability: the state; then bodies that it does not need are dropped; then bodies move, the mark that says so, and the
log is trimmed. So a crash leaves at worst bodies that nobody needs, which are dropped by and by.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from zmqbroker.broker import Machine
from zmqbroker.errors import NoRoom, StorageError
from zmqbroker.server.body_moves import Move, chunks, plan_move, trimmable
from zmqbroker.server.durations import Durations, timed
from zmqbroker.storage.interfaces import LogStore, StateStore

__all__ = ["StateFlusher"]

#: Stored bodies that one flush looks at: a few milliseconds of the loop. Of those it drops at most so many.
BODIES_LOOKED_AT = 16_384
BODIES_DROPPED = 1024
#: Bodies read from the log in one go, a few milliseconds of a disk that has to be asked; and moved by one flush, so that state
#: is not flushed much later for it.
CHUNK_BYTES, MOVED_BYTES = 2 << 20, 64 << 20
#: Seconds between two tries while the volume is full.
RETRY_S = 1.0

log = logging.getLogger("zmqbroker")

_Result = TypeVar("_Result")


@dataclass(slots=True, frozen=True)
class _ChangeSet:
    """What a machine handed out at one index, and what may be done once that is durable."""

    applied_index: int
    changes: list[tuple[bytes, bytes | None]]
    dead: list[int]  # stored bodies that this state does not need
    move: Move | None
    trimmable: int


class StateFlusher:
    """Brings the machines' changes to the store in the background, moves bodies there, and drops log nobody needs any more.

    Its one thread runs everything that touches the store, in order: `job` is for whatever else has to. `log_budget_bytes` is
    the size of the log above which bodies move; None: they never do.
    """

    def __init__(
        self,
        log: LogStore,
        state: StateStore,
        machines: dict[int, Machine],
        interval_ms: int,
        log_budget_bytes: int | None = None,
        on_full: Callable[[], None] = lambda: None,
        durations: Durations | None = None,
    ) -> None:
        self._log, self._state, self._machines = log, state, machines
        self._interval_s, self._budget_bytes = interval_ms / 1000, log_budget_bytes
        self._flushed = {group: state.applied_index(group) for group in machines}  # durable applied index per group
        self._marks = {group: state.bodies_mark(group) for group in machines}  # live bodies up to there are in the store
        self._bodies = {group: deque(state.body_indexes(group)) for group in machines}  # all that are stored, or may be
        self._kept: dict[int, _ChangeSet] = {}  # group -> what was handed out and is not stored yet
        self._held: Counter[int] = Counter()  # groups whose state stays as it is for the moment, and for how many reasons
        self._pins: dict[int, int] = {}  # group -> the log above this index stays, for a follower that gets a snapshot
        self._failure: Exception | None = None  # the store failed for good
        self._durations = durations or Durations()
        self._on_full = on_full  # makes room for the next try, if anything can be given up
        self._turn = asyncio.Lock()  # one flush at a time
        self._under_way: set[asyncio.Task[None]] = set()  # flushes, whether anybody still waits for them or not
        self.out_of_room = False  # the volume was full when something was to be stored last
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="state")

    async def run(self) -> None:
        """Flush for ever; raises StorageError when the store fails."""
        while True:
            await asyncio.sleep(max(self._interval_s, RETRY_S) if self.out_of_room else self._interval_s)
            await self.flush()

    async def flush(self) -> None:
        """Flush what changed since the last time, one transaction per group; then move bodies if the log is over its budget.

        May be called while another one is under way: it comes after that. A full volume is no error: `out_of_room` says it.
        Raises StorageError; then nothing is ever flushed again.
        """
        # Whoever waits for this flush may be ended: what the machine has handed out is stored all the same.
        task = asyncio.ensure_future(self._flush_all())
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        await asyncio.shield(task)

    async def settle(self) -> None:
        """Wait for the flushes under way, all of their steps; to be called before `close`, when nobody begins another one."""
        await asyncio.gather(*self._under_way, return_exceptions=True)

    async def _flush_all(self) -> None:
        async with self._turn:
            if self._failure is not None:
                raise StorageError(f"an earlier flush has failed: {self._failure}")
            full: NoRoom | None = None
            for group in list(self._machines):
                try:
                    await self._flush_group(group)
                except NoRoom as error:
                    full = error
                except Exception as error:
                    self._failure = error
                    raise
            self._note_room(full)
            if full is not None:
                await self.job(self._on_full)

    def _note_room(self, full: NoRoom | None) -> None:
        if full is not None and not self.out_of_room:
            log.warning("%s; this node goes on from memory and log, and tries again", full)
        elif full is None and self.out_of_room:
            log.info("there is room for the state again")
        self.out_of_room = full is not None

    async def _flush_group(self, group: int) -> None:
        machine = self._machines[group]
        if self._held[group]:
            return
        taken = self._kept.get(group)
        if taken is None:
            changed = machine.applied_index != self._flushed[group]
            if not changed and not self._excess_bytes:
                return
            taken = self._take(group, machine, changed)
        if taken.applied_index != self._flushed[group]:
            self._kept[group] = taken
            with timed(self._durations.state_flush):
                await self.job(partial(self._state.commit, group, taken.applied_index, taken.changes))
            if self._machines[group] is not machine:
                return  # a snapshot has replaced what was stored here
            self._flushed[group] = taken.applied_index
            del self._kept[group]
        self._trim(group, taken.trimmable)
        await self._drop(group, taken.dead)
        if taken.move is not None and not self._is_taken(group, machine):
            await self._move(group, machine, taken.move)

    def _take(self, group: int, machine: Machine, changed: bool) -> _ChangeSet:
        """All of it at one index, before anything else is applied."""
        excess_bytes = self._excess_bytes
        target = self._log.trim_target(group, excess_bytes) if excess_bytes else 0
        return _ChangeSet(
            machine.applied_index,
            machine.changes() if changed else [],
            self._dead(group, machine),
            plan_move(machine, self._marks[group], self._pinned(group, target)),
            trimmable(machine, self._marks[group]),
        )

    @property
    def _excess_bytes(self) -> int:
        return 0 if self._budget_bytes is None else max(self._log.size_bytes - self._budget_bytes, 0)

    def _dead(self, group: int, machine: Machine) -> list[int]:
        """Some stored bodies that nobody needs any more: a part of all is looked at in turn, so that no flush takes long."""
        bodies = self._bodies[group]
        dead: list[int] = []
        for _ in range(min(len(bodies), BODIES_LOOKED_AT)):
            if len(dead) == BODIES_DROPPED:
                break
            index = bodies.popleft()
            if machine.is_live(index):
                bodies.append(index)
            else:
                dead.append(index)
        return dead

    async def _drop(self, group: int, dead: list[int]) -> None:
        """Drop bodies; whoever holds the group by now may just be storing them again."""
        if not dead:
            return
        if self._held[group]:
            self._bodies[group].extend(dead)
            return
        try:
            with timed(self._durations.bodies_dropped):
                await self.job(partial(self._state.drop_bodies, group, dead))
        except NoRoom:
            self._bodies[group].extend(dead)
            raise

    async def _move(self, group: int, machine: Machine, move: Move) -> None:
        """Store bodies, mark that they are, and trim; until the log has room, or so much was moved."""
        moved_bytes = 0
        for bodies, mark in chunks(move, partial(self._log.read, group), CHUNK_BYTES):
            if self._is_taken(group, machine):
                return
            with timed(self._durations.bodies_stored):
                await self.job(partial(self._state.put_bodies, group, bodies))  # one transaction: all of them or none
            self._bodies[group].extend(index for index, _ in bodies)
            if self._is_taken(group, machine):
                return
            await self.job(partial(self._state.mark_bodies, group, mark))
            if self._machines[group] is not machine:
                return
            self._marks[group] = mark
            self._trim(group, mark)
            moved_bytes += sum(len(body) for _, body in bodies)
            if not self._excess_bytes or moved_bytes >= MOVED_BYTES:
                return

    def _is_taken(self, group: int, machine: Machine) -> bool:
        """True when somebody holds the group, or has replaced it."""
        return self._held[group] > 0 or self._machines[group] is not machine

    def flushed(self, group: int) -> int:
        """Index up to which the group's state is stored."""
        return self._flushed[group]

    async def job(self, work: Callable[[], _Result]) -> _Result:
        """Run `work` on the thread, after what was given to it before."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)

    def hold(self, group: int) -> None:
        """Leave what is stored of the group as it is; what the thread was given before ends before the next `job` begins."""
        self._held[group] += 1

    def release(self, group: int) -> None:
        """Go on flushing the group, when all who held it have said so."""
        self._held[group] -= 1

    def pin(self, group: int, index: int | None) -> None:
        """Keep the log above `index`; None ends that."""
        if index is None:
            self._pins.pop(group, None)
        else:
            self._pins[group] = index

    def installed(self, group: int, machine: Machine) -> None:
        """The store holds a snapshot now, whose bodies were `stored`, and `machine` is what was made of it."""
        self._machines[group] = machine
        self._flushed[group] = self._marks[group] = machine.applied_index
        kept = self._kept.pop(group, None)
        if kept is not None:
            self._bodies[group].extend(kept.dead)

    def stored(self, group: int, bodies: Iterable[int]) -> None:
        """Bodies may have been stored by somebody else: those that nobody needs are to be dropped."""
        self._bodies[group] = deque(sorted({*self._bodies[group], *bodies}))

    def _pinned(self, group: int, index: int) -> int:
        return min(index, self._pins.get(group, index))

    def _trim(self, group: int, index: int) -> None:
        index = self._pinned(group, index)
        if index > 0:
            self._log.trim(group, index)

    def close(self) -> None:
        """Let what the thread was given end."""
        self._executor.shutdown(wait=True)
