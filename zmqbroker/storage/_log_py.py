"""The log's writer in Python: the reference, and the twin of the compiled ext/_log.pyx.

It takes everything queued, writes it in order and syncs once, so the disk sets the size of the batches and no timer is needed.
It refuses nothing and bounds nothing: the node bounds what is outstanding (docs/STORAGE.md §7). It never retries: after an
error it reports once and does nothing more, because a page that failed to sync may look clean.

A lack of room for another file is no failure: what was written before is synced and handed back, the rest is kept in order and
tried again at a bounded pace.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from zmqbroker.errors import NoRoom
from zmqbroker.storage.interfaces import WriteJob

__all__ = ["Failed", "Finished", "LogWriter", "Room", "run"]

Finished = Callable[[list[WriteJob]], object]
Failed = Callable[[BaseException], object]
Room = Callable[[bool], object]


def run(jobs: Sequence[WriteJob]) -> tuple[int, int]:
    """Write jobs until one finds no room, then one sync when any of them needs it.

    Returns how many are done, and when they had been written and not yet synced, by the monotonic clock in ns. The last job's
    sync covers the earlier ones.
    """
    done = 0
    try:
        for job in jobs:
            job.write()
            done += 1
    except NoRoom:
        pass
    written_ns = time.monotonic_ns()
    if any(job.must_sync for job in jobs[:done]):
        jobs[done - 1].sync()
    return done, written_ns


class LogWriter:
    """Runs jobs on one thread; `submit`, `collect` and `close` belong to another one, the caller's.

    `collect`, to be called when `descriptor` is readable, tells on the caller's thread what has happened: `finished` gets the
    jobs that are written (and synced, where one of a batch had to be), in order; `on_room` True when jobs begin to wait for
    room, tried again every `retry_s` seconds, and False when that is over; `on_failure`, once, the error that ended the writer.
    `housekeep` runs on the writer's thread after jobs that were no plain writes, when they are handed back and nobody waits.
    """

    def __init__(
        self, finished: Finished, on_failure: Failed, housekeep: Callable[[], None], on_room: Room, *, retry_s: float
    ) -> None:
        self._finished, self._on_failure, self._housekeep, self._on_room = finished, on_failure, housekeep, on_room
        self._retry_s = retry_s
        self._condition = threading.Condition()  # guards everything down to `_failure`
        self._queue: list[tuple[WriteJob, bool]] = []  # with each, whether it is a plain write
        self._done: list[WriteJob] = []
        self._closing = False
        self._out_of_room = False
        self._done_written_ns = 0
        self._failure: BaseException | None = None
        self._told_out_of_room = self._told_failure = False  # the caller's own
        #: Readable when `collect` has something to hand back; valid until `close`.
        self.descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        #: When the last of the jobs that `collect` handed over had been written and not yet synced, by the monotonic clock.
        self.written_ns = 0
        self._thread = threading.Thread(target=self._work, name="log-writer")
        self._thread.start()

    # --- the caller's thread -------------------------------------------------------------------------------------------

    def submit(self, job: WriteJob) -> None:
        """Queue a job; never waits for the disk. After a failure the job is kept and never run."""
        with self._condition:
            assert not self._closing, "submit after close"
            self._queue.append((job, job.plain() is not None))
            self._condition.notify()

    def collect(self) -> None:
        """Tell what has happened since the last call."""
        with suppress(BlockingIOError):
            os.eventfd_read(self.descriptor)
        with self._condition:
            done, self._done = self._done, []
            out_of_room, failure, self.written_ns = self._out_of_room, self._failure, self._done_written_ns
        if done:
            self._finished(done)
        if out_of_room != self._told_out_of_room:
            self._told_out_of_room = out_of_room
            self._on_room(out_of_room)
        if failure is not None and not self._told_failure:
            self._told_failure = True
            self._on_failure(failure)

    def close(self) -> None:
        """Run what is queued, end the thread and tell what has happened.

        What finds no room is dropped: nobody was told that it is durable.
        """
        with self._condition:
            self._closing = True
            self._condition.notify()
        self._thread.join()
        self.collect()
        os.close(self.descriptor)

    # --- its own thread ------------------------------------------------------------------------------------------------

    def _take(self) -> list[tuple[WriteJob, bool]]:
        """Everything queued, waiting for the first; empty when the writer is to end."""
        with self._condition:
            if self._out_of_room and self._condition.wait_for(lambda: self._closing, self._retry_s):
                return []
            self._condition.wait_for(lambda: self._queue or self._closing)
            jobs, self._queue = self._queue, []
            return jobs

    def _work(self) -> None:
        try:
            while jobs := self._take():
                done, written_ns = run([job for job, _ in jobs])
                self._hand_back(jobs, done, written_ns)
                if done == len(jobs) and not all(plain for _, plain in jobs):
                    self._housekeep()
        except BaseException as error:
            self._failure = error
            os.eventfd_write(self.descriptor, 1)
            if isinstance(error, OSError):
                return
            raise  # a bug: its traceback is worth seeing

    def _hand_back(self, jobs: list[tuple[WriteJob, bool]], done: int, written_ns: int) -> None:
        with self._condition:
            self._done_written_ns = written_ns
            self._done += [job for job, _ in jobs[:done]]
            self._queue[:0] = jobs[done:]
            self._out_of_room = done < len(jobs)
        os.eventfd_write(self.descriptor, 1)
