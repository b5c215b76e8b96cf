"""From a simulated node to its disk and back: the twin of server/log_pipeline.py in virtual time.

Like the log's writer it takes everything queued, writes it in order, syncs once when any of it must be, and hands it back in
order; only the waiting is made of events. An error of the disk ends the node, as it ends the process; what finds no room for
another segment waits, in order, and is tried again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from tests.simulation.disk import ProcessDied
from tests.simulation.world import MILLISECOND
from zmqbroker.errors import NoRoom
from zmqbroker.raft.messages import StorageAppend
from zmqbroker.storage.interfaces import LogStore, WriteJob

__all__ = ["Pipeline", "Plan"]

#: Nanoseconds between the hand-over of a job and its write.
_WAKE_NS = 20_000
#: Nanoseconds between tries while there is no room.
_ROOM_RETRY_NS = 500 * MILLISECOND


class Plan(Protocol):
    """What a pipeline needs of its node."""

    def plan(self, delay_ns: int, call: Callable[[], object]) -> None:
        """Call later, unless the process has ended by then."""
        ...

    def sync_delay_ns(self) -> int:
        """How long the next sync takes."""
        ...

    def writing(self, works: Sequence[StorageAppend]) -> None:
        """Works are about to be written."""
        ...

    def written(self, works: Sequence[StorageAppend]) -> None:
        """They are written."""
        ...

    def synced(self) -> None:
        """A sync has returned."""
        ...

    def found_no_room(self) -> None:
        """Works wait for room."""
        ...

    def disk_failed(self, error: OSError | ProcessDied) -> None:
        """The disk refused, or the process ended in a call of it."""
        ...

    def pump(self) -> None:
        """Works are durable: go on."""
        ...


class Pipeline:
    """Works in, durable works out, in the same order."""

    def __init__(self, log: LogStore, node: Plan, *, sync: bool) -> None:
        self._log, self._node, self._sync = log, node, sync
        self._queue: list[tuple[WriteJob, Sequence[StorageAppend]]] = []
        self._running: list[tuple[WriteJob, Sequence[StorageAppend]]] = []
        self._durable: list[StorageAppend] = []
        self._announced: WriteJob | None = None  # the job whose write the node knows of
        self.out_of_room = False  # the first of the queue waits for room

    def submit(self, works: Sequence[StorageAppend]) -> None:
        """Write one pass's works; they are durable when `take_durable` returns them."""
        self._queue.append((self._log.prepare(works), works))
        if self._running or len(self._queue) > 1:
            return
        if self._sync:
            self._node.plan(_WAKE_NS, self._write)
        else:
            self._inline()

    def take_durable(self) -> list[StorageAppend]:
        """Works that became durable since the last call, in order."""
        durable, self._durable = self._durable, []
        return durable

    @property
    def idle(self) -> bool:
        """True when nothing is queued, running or waiting to be taken."""
        return not (self._queue or self._running or self._durable)

    def _inline(self) -> None:
        try:
            self._write_queue()
            self._finish()
        except (OSError, ProcessDied) as error:
            self._node.disk_failed(error)
            return
        if self.out_of_room:
            self._node.plan(_ROOM_RETRY_NS, self._inline_again)

    def _inline_again(self) -> None:
        self._inline()
        self._node.pump()

    def _write_queue(self) -> None:
        """Write what is queued, up to a job that finds no room."""
        self.out_of_room = False
        while self._queue and not self.out_of_room:
            job, works = self._queue[0]
            if job is not self._announced:
                self._node.writing(works)
                self._announced = job
            try:
                job.write()
            except NoRoom:
                self.out_of_room = True
                self._node.found_no_room()
            else:
                self._running.append(self._queue.pop(0))
                self._node.written(works)

    def _write(self) -> None:
        try:
            self._write_queue()
        except (OSError, ProcessDied) as error:
            self._node.disk_failed(error)
            return
        if any(job.must_sync for job, _ in self._running):
            self._node.plan(self._node.sync_delay_ns(), self._synced)
        else:
            self._done()

    def _synced(self) -> None:
        try:
            self._running[-1][0].sync()
            self._node.synced()
        except (OSError, ProcessDied) as error:
            self._node.disk_failed(error)
            return
        self._done()

    def _done(self) -> None:
        try:
            self._finish()
        except (OSError, ProcessDied) as error:
            self._node.disk_failed(error)
            return
        if self._queue:
            self._node.plan(_ROOM_RETRY_NS if self.out_of_room else _WAKE_NS, self._write)
        self._node.pump()

    def _finish(self) -> None:
        """Show what is written; then the slow work that nobody waits for."""
        running, self._running = self._running, []
        for job, works in running:
            self._log.complete(job)
            self._durable.extend(works)
        if self.out_of_room:
            return
        housekeep = getattr(self._log, "housekeep", None)
        if housekeep is not None:
            housekeep()
