"""Who runs the jobs of a log: a thread of its own, or the caller.

`LogWriter` takes everything queued, writes it in order and syncs once, so the disk sets the size of the batches and no timer is
needed. It refuses nothing and bounds nothing: the node bounds what is outstanding (docs/STORAGE.md, "Writer"). It never
retries: after an OSError it reports once and does nothing more, because a page that failed to sync may look clean.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from zmqbroker.storage.interfaces import WriteJob

__all__ = ["InlineWriter", "LogWriter"]

Finished = Callable[[list[WriteJob]], object]
Failed = Callable[[OSError], object]


def _nothing() -> None:
    """The housekeeping of a log that needs none."""


def _run(jobs: Sequence[WriteJob]) -> None:
    """Write all, then one sync for all when any of them needs it: the last job's covers the earlier ones."""
    for job in jobs:
        job.write()
    if any(job.must_sync for job in jobs):
        jobs[-1].sync()


class LogWriter:
    """Runs jobs on one thread.

    `finished` gets every batch of jobs after its sync, in order, on the writer's thread; so does `on_failure`, once, with the
    error that ended the writer. `housekeep` runs after a batch was handed over, while nobody waits for the disk.
    """

    def __init__(self, finished: Finished, on_failure: Failed, housekeep: Callable[[], None] = _nothing) -> None:
        self._finished = finished
        self._on_failure = on_failure
        self._housekeep = housekeep
        self._condition = threading.Condition()
        self._queue: list[WriteJob] = []
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="log-writer")
        self._thread.start()

    def submit(self, job: WriteJob) -> None:
        """Queue a job; never waits for the disk. After a failure the job is kept and never run."""
        with self._condition:
            assert not self._closing, "submit after close"
            self._queue.append(job)
            self._condition.notify()

    def close(self) -> None:
        """Run what is queued, then end the thread."""
        with self._condition:
            self._closing = True
            self._condition.notify()
        self._thread.join()

    def _take(self) -> list[WriteJob]:
        """Everything queued, waiting for the first; empty when the writer is to end."""
        with self._condition:
            self._condition.wait_for(lambda: self._queue or self._closing)
            jobs, self._queue = self._queue, []
            return jobs

    def _work(self) -> None:
        try:
            while jobs := self._take():
                _run(jobs)
                self._finished(jobs)
                self._housekeep()
        except OSError as error:
            self._on_failure(error)


class InlineWriter:
    """The same on the caller's thread: for a log that never syncs, where a write costs less than a thread's wake-up."""

    def __init__(self, finished: Finished, on_failure: Failed, housekeep: Callable[[], None] = _nothing) -> None:
        self._finished = finished
        self._on_failure = on_failure
        self._housekeep = housekeep
        self._failed = False

    def submit(self, job: WriteJob) -> None:
        """Run a job now and hand it to `finished`; after a failure, nothing."""
        if self._failed:
            return
        try:
            _run([job])
            self._finished([job])
            self._housekeep()
        except OSError as error:
            self._failed = True
            self._on_failure(error)

    def close(self) -> None:
        """Nothing is ever left over."""
