"""From the node's loop to the log and back.

The loop never waits for the disk: work goes to a writer and comes back as finished, in order. A write that fails is final: the
process must end (`on_failure`), since what the page cache holds after a failed sync cannot be known. A disk without room for
another segment is no failure: what waits for it is not durable, so nobody is told that it is, and goes on when there is room.
Ephemeral nodes write inline: a copy into the page cache is cheaper than waking a thread.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence

from zmqbroker.raft.messages import StorageAppend
from zmqbroker.server.durations import Histogram
from zmqbroker.storage.interfaces import LogStore, WriteJob
from zmqbroker.storage.writer import ROOM_RETRY_S, InlineWriter, LogWriter

__all__ = ["LogPipeline"]

journal = logging.getLogger("zmqbroker")


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
        self.durations = Histogram()  # of jobs, from `submit` until this loop knows that they are durable
        self._under_way: deque[tuple[WriteJob, Sequence[StorageAppend], int]] = deque()  # and when it began, in ns
        self._durable: list[StorageAppend] = []
        self._held: dict[int, list[StorageAppend]] = {}  # works of groups that are held, in order
        self._out_of_room = False
        self._retry: asyncio.TimerHandle | None = None  # of an inline writer, while there is no room
        self._writer: InlineWriter | LogWriter
        if sync:
            self._writer = LogWriter(self._finished, on_failure, housekeep, self._tell_room, retry_s=ROOM_RETRY_S)
            loop.add_reader(self._writer.descriptor, self._collect, self._writer)
        else:
            self._writer = InlineWriter(self._finished, on_failure, housekeep, self._tell_room)

    @property
    def out_of_room(self) -> bool:
        """True while works wait because the disk has no room for another segment and the reserve is used up."""
        return self._out_of_room

    @property
    def written_ns(self) -> int:
        """When what became durable last had been written and not yet synced, by the monotonic clock."""
        return self._writer.written_ns

    def submit(self, works: Sequence[StorageAppend]) -> None:
        """Write one pass's works; they are durable when `take_durable` returns them. Those of held groups wait."""
        for work in works:
            if work.group in self._held:
                self._held[work.group].append(work)
        free = [work for work in works if work.group not in self._held]
        if free:
            job = self._log.prepare(free)
            self._under_way.append((job, free, time.monotonic_ns()))
            self._writer.submit(job)

    def hold(self, group: int) -> None:
        """Keep the works of a group back: its state is being replaced, and they come after that."""
        self._held.setdefault(group, [])

    def release(self, group: int) -> None:
        """Write what was kept back."""
        if kept := self._held.pop(group, None):
            self.submit(kept)

    def take_durable(self) -> list[StorageAppend]:
        """Works that became durable since the last call, in order."""
        durable, self._durable = self._durable, []
        return durable

    def _finished(self, jobs: Sequence[WriteJob]) -> None:
        for job in jobs:
            expected, works, began_ns = self._under_way.popleft()
            assert job is expected, "the writer finished jobs out of order"
            self._log.complete(job)
            self.durations.note(time.monotonic_ns() - began_ns)
            self._durable.extend(works)

    def _collect(self, writer: LogWriter) -> None:
        writer.collect()
        if self._durable:
            self._on_durable()

    def _tell_room(self, out_of_room: bool) -> None:
        self._out_of_room = out_of_room
        if out_of_room:
            journal.warning("the disk is full and the log's reserve used up: until there is room this node stores nothing more")
            if isinstance(self._writer, InlineWriter):
                self._retry_later(self._writer)
        else:
            journal.warning("the log has room again")

    def _retry_later(self, writer: InlineWriter) -> None:
        self._retry = self._loop.call_later(ROOM_RETRY_S, self._try_again, writer)

    def _try_again(self, writer: InlineWriter) -> None:
        writer.retry()
        if self._out_of_room:
            self._retry_later(writer)
        self._on_durable()

    def close(self) -> None:
        """Wait for the writes under way; drop those that wait for room."""
        if self._retry is not None:
            self._retry.cancel()
        if isinstance(self._writer, LogWriter):
            self._loop.remove_reader(self._writer.descriptor)
        self._writer.close()
