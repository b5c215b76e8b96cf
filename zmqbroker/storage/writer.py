"""Who runs the jobs of a log: a thread of its own, or the caller.

`LogWriter` takes everything queued, writes it in order and syncs once, so the disk sets the size of the batches and no timer is
needed. It refuses nothing and bounds nothing: the node bounds what is outstanding (docs/STORAGE.md, "Writer"). It never
retries: after an OSError it reports once and does nothing more, because a page that failed to sync may look clean.

A lack of room for another file is no failure: what was written before is synced and handed back, the rest is kept in order and
tried again at a bounded pace. `on_room` is told True when that begins and False when it is over.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from zmqbroker.errors import NoRoom
from zmqbroker.storage.interfaces import WriteJob

__all__ = ["ROOM_RETRY_S", "InlineWriter", "LogWriter"]

#: Seconds between tries while there is no room: soon enough after somebody made some, seldom enough to cost nothing.
ROOM_RETRY_S = 0.5

Finished = Callable[[list[WriteJob]], object]
Failed = Callable[[OSError], object]
Room = Callable[[bool], object]


def _nothing() -> None:
    """The housekeeping of a log that needs none."""


def _ignore(_: bool) -> None:
    """For an owner who does not ask about room."""


def _run(jobs: Sequence[WriteJob]) -> int:
    """Write jobs until one finds no room, then one sync when any of them needs it; returns how many are done.

    The last job's sync covers the earlier ones.
    """
    done = 0
    try:
        for job in jobs:
            job.write()
            done += 1
    except NoRoom:
        pass
    if any(job.must_sync for job in jobs[:done]):
        jobs[done - 1].sync()
    return done


class LogWriter:
    """Runs jobs on one thread.

    `finished` gets every batch of jobs after its sync, in order, on the writer's thread; so does `on_failure`, once, with the
    error that ended the writer. `housekeep` runs after a batch was handed over, while nobody waits for the disk.
    """

    def __init__(
        self,
        finished: Finished,
        on_failure: Failed,
        housekeep: Callable[[], None] = _nothing,
        on_room: Room = _ignore,
        *,
        retry_s: float = ROOM_RETRY_S,
    ) -> None:
        self._finished = finished
        self._on_failure = on_failure
        self._housekeep = housekeep
        self._on_room = on_room
        self._retry_s = retry_s
        self._condition = threading.Condition()
        self._queue: list[WriteJob] = []
        self._closing = False
        self._out_of_room = False
        self._thread = threading.Thread(target=self._work, name="log-writer")
        self._thread.start()

    def submit(self, job: WriteJob) -> None:
        """Queue a job; never waits for the disk. After a failure the job is kept and never run."""
        with self._condition:
            assert not self._closing, "submit after close"
            self._queue.append(job)
            self._condition.notify()

    def close(self) -> None:
        """Run what is queued, then end the thread. What finds no room is dropped: nobody was told that it is durable."""
        with self._condition:
            self._closing = True
            self._condition.notify()
        self._thread.join()

    def _take(self) -> list[WriteJob]:
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
                done = _run(jobs)
                if done:
                    self._finished(jobs[:done])
                with self._condition:
                    self._queue[:0] = jobs[done:]
                self._tell_room(done < len(jobs))
                if not self._out_of_room:
                    self._housekeep()
        except OSError as error:
            self._on_failure(error)

    def _tell_room(self, out_of_room: bool) -> None:
        if out_of_room != self._out_of_room:
            self._out_of_room = out_of_room
            self._on_room(out_of_room)


class InlineWriter:
    """The same on the caller's thread: for a log that never syncs, where a write costs less than a thread's wake-up.

    It never waits: while there is no room the caller calls `retry` from time to time.
    """

    def __init__(
        self, finished: Finished, on_failure: Failed, housekeep: Callable[[], None] = _nothing, on_room: Room = _ignore
    ) -> None:
        self._finished = finished
        self._on_failure = on_failure
        self._housekeep = housekeep
        self._on_room = on_room
        self._queue: list[WriteJob] = []  # empty unless there is no room
        self._failed = False

    def submit(self, job: WriteJob) -> None:
        """Run a job now and hand it to `finished`; queue it while there is no room; after a failure, nothing."""
        if self._failed:
            return
        self._queue.append(job)
        if len(self._queue) == 1:
            self._work(waiting=False)

    def retry(self) -> None:
        """Run what found no room."""
        if self._queue and not self._failed:
            self._work(waiting=True)

    def _work(self, *, waiting: bool) -> None:
        try:
            done = _run(self._queue)
            finished, self._queue = self._queue[:done], self._queue[done:]
            if finished:
                self._finished(finished)
            if waiting != bool(self._queue):
                self._on_room(not waiting)
            if not self._queue:
                self._housekeep()
        except OSError as error:
            self._failed = True
            self._on_failure(error)

    def close(self) -> None:
        """Drop what found no room; nothing else is ever left over."""
        self._queue.clear()
