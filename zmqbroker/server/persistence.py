"""From the node's loop to its disk and back: the log's writer, and the flush of applied state to the store.

The loop never waits for the disk: work goes to a writer and comes back as finished, in order. A write that fails is final: the
process must end (`on_failure`), since what the page cache holds after a failed sync cannot be known. Ephemeral nodes write
inline: a copy into the page cache is cheaper than waking a thread.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from zmqbroker.broker import Machine
from zmqbroker.raft.messages import StorageAppend
from zmqbroker.storage.interfaces import LogStore, StateStore, WriteJob
from zmqbroker.storage.writer import InlineWriter, LogWriter

__all__ = ["LogPipeline", "StateFlusher"]


class LogPipeline:
    """Works in, durable works out, in the same order. Bounded by what the Raft cores allow to be uncommitted."""

    def __init__(
        self,
        log: LogStore,
        loop: asyncio.AbstractEventLoop,
        *,
        sync: bool,
        housekeep: Callable[[], None],
        on_durable: Callable[[], None],
        on_failure: Callable[[BaseException], None],
    ) -> None:
        self._log, self._loop = log, loop
        self._on_durable = on_durable
        self._under_way: deque[tuple[WriteJob, Sequence[StorageAppend]]] = deque()
        self._durable: list[StorageAppend] = []
        self._writer: InlineWriter | LogWriter
        if sync:
            self._writer = LogWriter(
                lambda jobs: loop.call_soon_threadsafe(self._finished_elsewhere, jobs),
                lambda error: loop.call_soon_threadsafe(on_failure, error),
                housekeep,
            )
        else:
            self._writer = InlineWriter(self._finished, on_failure, housekeep)

    def submit(self, works: Sequence[StorageAppend]) -> None:
        """Write one pass's works; they are durable when `take_durable` returns them."""
        job = self._log.prepare(works)
        self._under_way.append((job, works))
        self._writer.submit(job)

    def take_durable(self) -> list[StorageAppend]:
        """Works that became durable since the last call, in order."""
        durable, self._durable = self._durable, []
        return durable

    def _finished(self, jobs: Sequence[WriteJob]) -> None:
        for job in jobs:
            expected, works = self._under_way.popleft()
            assert job is expected, "the writer finished jobs out of order"
            self._log.complete(job)
            self._durable.extend(works)

    def _finished_elsewhere(self, jobs: Sequence[WriteJob]) -> None:
        self._finished(jobs)
        self._on_durable()

    def close(self) -> None:
        """Wait for the writes under way."""
        self._writer.close()


class StateFlusher:
    """Brings the machines' changes to the store in the background, and drops log that nobody needs any more."""

    def __init__(self, log: LogStore, state: StateStore, machines: dict[int, Machine], interval_ms: int) -> None:
        self._log, self._state, self._machines = log, state, machines
        self._interval_ms = interval_ms
        self._flushed = {group: state.applied_index(group) for group in machines}  # durable applied index per group
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="state")

    async def run(self) -> None:
        """Flush for ever; raises StorageError when the store fails."""
        while True:
            await asyncio.sleep(self._interval_ms / 1000)
            await self.flush()

    async def flush(self) -> None:
        """Flush what changed since the last time, one transaction per group."""
        loop = asyncio.get_running_loop()
        for group, machine in self._machines.items():
            applied_index = machine.applied_index
            if applied_index == self._flushed[group]:
                continue
            changes = machine.changes()
            await loop.run_in_executor(self._executor, self._state.commit, group, applied_index, changes)
            self._flushed[group] = applied_index
            self._trim(group, machine)

    def _trim(self, group: int, machine: Machine) -> None:
        live = machine.lowest_live_index()
        index = min(machine.trimmed_index, self._flushed[group], live - 1 if live is not None else machine.trimmed_index)
        if index > 0:
            self._log.trim(group, index)

    def close(self) -> None:
        """Let the flush under way end."""
        self._executor.shutdown(wait=True)
