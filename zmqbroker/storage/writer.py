"""Who runs the jobs of a log: a thread of its own, or the caller.

`LogWriter` is the thread, compiled where that was built and in Python otherwise (`ZMQBROKER_PURE=1` asks for Python); both
keep the same promises, which `_log_py.py` states. `InlineWriter` is for a log that never syncs.
"""

from __future__ import annotations

from collections.abc import Callable

from zmqbroker._build import PURE
from zmqbroker.storage._log_py import Failed, Finished, Room, run
from zmqbroker.storage.interfaces import WriteJob

if PURE:
    from zmqbroker.storage._log_py import LogWriter

    compiled = False
else:
    try:
        from zmqbroker.storage._log import LogWriter

        compiled = True
    except ImportError:  # what is missing is said once, for all compiled modules, by the codec's switch
        from zmqbroker.storage._log_py import LogWriter

        compiled = False

__all__ = ["ROOM_RETRY_S", "InlineWriter", "LogWriter", "compiled"]

#: Seconds between tries while there is no room: soon enough after somebody made some, seldom enough to cost nothing.
ROOM_RETRY_S = 0.5


class InlineWriter:
    """The same on the caller's thread: for a log that never syncs, where a write costs less than a thread's wake-up.

    It never waits: while there is no room the caller calls `retry` from time to time. `finished`, `on_failure` and `on_room`
    are called as by a `LogWriter`, at once; so is `housekeep`, after every job.
    """

    def __init__(self, finished: Finished, on_failure: Failed, housekeep: Callable[[], None], on_room: Room) -> None:
        self._finished = finished
        self._on_failure = on_failure
        self._housekeep = housekeep
        self._on_room = on_room
        self._queue: list[WriteJob] = []  # empty unless there is no room
        self._failed = False
        self.written_ns = 0  # when the last jobs had been written, by the monotonic clock

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
            done, self.written_ns = run(self._queue)
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
