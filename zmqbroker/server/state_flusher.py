"""Brings the machines' changes to the store in the background, and drops log that nobody needs any more.

Applied state lives in memory; what is stored is behind it, by one flush, and a start replays the log from there.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from zmqbroker.broker import Machine
from zmqbroker.errors import StorageError
from zmqbroker.storage.interfaces import LogStore, StateStore

__all__ = ["StateFlusher"]

#: Bodies of a snapshot that one flush looks at: a few milliseconds of the loop.
BODIES_LOOKED_AT = 16_384

_Result = TypeVar("_Result")


class StateFlusher:
    """Brings the machines' changes to the store in the background, and drops log that nobody needs any more.

    Its one thread runs everything that touches the store, in order: `job` is for whatever else has to.
    """

    def __init__(self, log: LogStore, state: StateStore, machines: dict[int, Machine], interval_ms: int) -> None:
        self._log, self._state, self._machines = log, state, machines
        self._interval_ms = interval_ms
        self._flushed = {group: state.applied_index(group) for group in machines}  # durable applied index per group
        self._installed = {group: state.installed(group)[0] for group in machines}  # bodies up to there are in the store
        self._bodies = {group: deque(state.body_indexes(group)) for group in machines}  # of those, the ones still stored
        self._held: Counter[int] = Counter()  # groups whose state stays as it is for the moment, and for how many reasons
        self._pins: dict[int, int] = {}  # group -> the log above this index stays, for a follower that gets a snapshot
        self._failure: BaseException | None = None  # of a commit: what it held is in no machine's changes any more
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="state")

    async def run(self) -> None:
        """Flush for ever; raises StorageError when the store fails."""
        while True:
            await asyncio.sleep(self._interval_ms / 1000)
            await self.flush()

    async def flush(self) -> None:
        """Flush what changed since the last time, one transaction per group. May be called while another one is under way.

        Raises StorageError; then nothing is ever flushed again.
        """
        for group in list(self._machines):
            machine = self._machines[group]
            applied_index = machine.applied_index
            if applied_index == self._flushed[group] or self._held[group]:
                continue
            changes = machine.changes()
            dead = self._dead(group, machine)
            trimmable = self._trimmable(group, machine)  # by the state that is about to be stored, not by a later one
            # Whoever waits for this flush may be ended: what the machine has handed out is stored all the same.
            await asyncio.shield(self.job(partial(self._commit, group, applied_index, changes, dead)))
            if self._machines[group] is machine:  # else a snapshot has replaced what was stored here
                self._flushed[group] = applied_index
                self._trim(group, trimmable)

    def _commit(self, group: int, applied_index: int, changes: list[tuple[bytes, bytes | None]], dead: list[int]) -> None:
        """Store what a machine handed out: in its order, and nothing behind a gap."""
        if self._failure is not None:
            raise StorageError(f"an earlier flush has failed: {self._failure}")
        try:
            self._state.commit(group, applied_index, changes, dead)
        except BaseException as error:
            self._failure = error
            raise

    def _dead(self, group: int, machine: Machine) -> list[int]:
        """Some stored bodies that nobody needs any more: a part of all is looked at in turn, so that no flush takes long."""
        bodies, dead = self._bodies[group], []
        for _ in range(min(len(bodies), BODIES_LOOKED_AT)):
            index = bodies.popleft()
            if machine.is_live(index):
                bodies.append(index)
            else:
                dead.append(index)
        return dead

    def flushed(self, group: int) -> int:
        """Index up to which the group's state is stored."""
        return self._flushed[group]

    async def job(self, work: Callable[[], _Result]) -> _Result:
        """Run `work` on the thread, after what was given to it before."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)

    def hold(self, group: int) -> None:
        """Leave the group's stored state as it is; a flush under way ends before the next `job` begins."""
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

    def installed(self, group: int, machine: Machine, bodies: Iterable[int]) -> None:
        """The store holds a snapshot now, and `machine` is what was made of it."""
        self._machines[group] = machine
        self._flushed[group] = self._installed[group] = machine.applied_index
        self._bodies[group] = deque(bodies)

    def _trimmable(self, group: int, machine: Machine) -> int:
        live = machine.lowest_live_index(self._installed[group])
        index = min(machine.trimmed_index, machine.applied_index)
        return index if live is None else min(index, live - 1)

    def _trim(self, group: int, index: int) -> None:
        index = min(index, self._pins.get(group, index))
        if index > 0:
            self._log.trim(group, index)

    def close(self) -> None:
        """Let the flush under way end."""
        self._executor.shutdown(wait=True)
