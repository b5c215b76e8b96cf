"""The log's writers: the thread and its compiled twin, and the inline one. Order, one sync per batch, one report of a failure,
waiting for room."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import random
import resource
import select
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.storage.support import append, contents, open_log
from zmqbroker.errors import NoRoom
from zmqbroker.storage import _log_py
from zmqbroker.storage.disk import OS_DISK, write_all
from zmqbroker.storage.interfaces import PlainWrite, WriteJob
from zmqbroker.storage.writer import InlineWriter

#: Nothing in these tests takes this long; it only ends a test that would hang.
PATIENCE_S = 60


class Job:
    """A WriteJob that notes its calls, can wait in `write`, can find no room and can fail."""

    size_bytes = 1

    def __init__(
        self,
        name: str,
        calls: list[str],
        *,
        must_sync: bool = True,
        gate: threading.Event | None = None,
        failure: Exception | None = None,
        refusals: int = 0,
    ) -> None:
        self.refusals = refusals  # times that it finds no room
        self.name, self.calls, self.must_sync, self.gate, self.failure = name, calls, must_sync, gate, failure
        self.started = threading.Event()

    def write(self) -> None:
        self.started.set()
        if self.gate is not None:
            assert self.gate.wait(PATIENCE_S)
        if self.refusals:
            self.refusals -= 1
            self.calls.append(f"no room for {self.name}")
            raise NoRoom("no room")
        if self.failure is not None:
            raise self.failure
        self.calls.append(f"write {self.name}")

    def sync(self) -> None:
        self.calls.append(f"sync {self.name}")

    def plain(self) -> PlainWrite | None:
        return None

    def mark_synced(self) -> None:
        raise AssertionError("no plain write")


class Plain:
    """A WriteJob that is one write to a file."""

    def __init__(self, descriptor: int, offset: int, buffers: list[bytes], *, must_sync: bool = True) -> None:
        self.descriptor, self.offset, self.buffers, self.must_sync = descriptor, offset, buffers, must_sync
        self.size_bytes = sum(map(len, buffers))
        self.synced = False

    def write(self) -> None:
        write_all(OS_DISK, self.descriptor, self.buffers, self.offset)

    def sync(self) -> None:
        os.fdatasync(self.descriptor)
        self.mark_synced()

    def plain(self) -> PlainWrite:
        return self.descriptor, self.offset, self.buffers

    def mark_synced(self) -> None:
        self.synced = True


class Outcome:
    """What a writer reported."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.batches: list[list[WriteJob]] = []
        self.failures: list[BaseException] = []
        self.threads: set[int] = set()

    def finished(self, jobs: list[WriteJob]) -> None:
        self.batches.append(jobs)
        self.threads.add(threading.get_ident())

    def housekeep(self) -> None:
        self.calls.append("housekeep")

    def on_room(self, out_of_room: bool) -> None:
        self.calls.append("out of room" if out_of_room else "room")

    @property
    def done(self) -> list[WriteJob]:
        return [job for batch in self.batches for job in batch]

    def callbacks(self) -> tuple[Any, ...]:
        return self.finished, self.failures.append, self.housekeep, self.on_room


def compiled() -> type[_log_py.LogWriter]:
    """The compiled twin; a test that needs it is skipped where it was not built."""
    return pytest.importorskip("zmqbroker.storage._log").LogWriter  # type: ignore[no-any-return]


@pytest.fixture(params=["python", "compiled"])
def make(request: pytest.FixtureRequest) -> Iterator[Callable[..., _log_py.LogWriter]]:
    """Makes writers of either twin, and ends those that a test has not."""
    kind = _log_py.LogWriter if request.param == "python" else compiled()
    made: list[_log_py.LogWriter] = []

    def make_one(outcome: Outcome, *, retry_s: float = PATIENCE_S) -> _log_py.LogWriter:
        made.append(kind(*outcome.callbacks(), retry_s=retry_s))
        return made[-1]

    yield make_one
    for writer in made:
        with contextlib.suppress(OSError):  # closed already
            writer.close()


def collect_until(writer: _log_py.LogWriter, condition: Callable[[], bool]) -> None:
    """Do as the loop does until `condition` holds."""
    while not condition():
        assert select.select([writer.descriptor], [], [], PATIENCE_S)[0], "the writer has nothing to say"
        writer.collect()


def held(writer: _log_py.LogWriter, outcome: Outcome) -> threading.Event:
    """Let the thread wait in a first job, so that what follows is one batch; returns what lets it go on."""
    gate = threading.Event()
    writer.submit(first := Job("first", outcome.calls, gate=gate))
    assert first.started.wait(PATIENCE_S)
    return gate


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    """Descriptor of an empty file."""
    descriptor = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    yield descriptor
    os.close(descriptor)


# --- on a thread of its own --------------------------------------------------------------------------------------------


Make = Callable[..., _log_py.LogWriter]


def test_writer_one_job_is_written_synced_and_handed_back(make: Make) -> None:
    outcome = Outcome()
    writer = make(outcome)
    job = Job("a", outcome.calls)
    before_ns = time.monotonic_ns()
    writer.submit(job)
    collect_until(writer, lambda: bool(outcome.batches))
    assert before_ns <= writer.written_ns <= time.monotonic_ns()
    assert (outcome.batches, outcome.failures, outcome.threads) == ([[job]], [], {threading.get_ident()})
    writer.close()
    assert outcome.calls == ["write a", "sync a", "housekeep"]


def test_writer_job_that_needs_no_sync_is_not_synced(make: Make) -> None:
    outcome = Outcome()
    writer = make(outcome)
    writer.submit(Job("a", outcome.calls, must_sync=False))
    writer.close()
    assert outcome.calls == ["write a", "housekeep"]


def test_writer_close_runs_what_is_queued_and_tells_of_it(make: Make) -> None:
    outcome = Outcome()
    writer = make(outcome)
    jobs = [Job(str(number), outcome.calls) for number in range(20)]
    for job in jobs:
        writer.submit(job)
    writer.close()
    assert (outcome.done, outcome.failures) == (jobs, [])


def test_writer_what_queues_up_is_one_batch_with_one_sync(make: Make) -> None:
    outcome = Outcome()
    writer = make(outcome)
    gate = held(writer, outcome)
    for name, must_sync in (("b", True), ("c", False)):
        writer.submit(Job(name, outcome.calls, must_sync=must_sync))
    gate.set()
    writer.close()
    assert outcome.calls == ["write first", "sync first", "housekeep", "write b", "write c", "sync c", "housekeep"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # of a bug the traceback is shown, too
@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), RuntimeError("a bug")])
def test_writer_failure_is_reported_once_and_ends_it(make: Make, error: Exception) -> None:
    outcome = Outcome()
    writer = make(outcome)
    writer.submit(Job("a", outcome.calls, failure=error))
    collect_until(writer, lambda: bool(outcome.failures))
    writer.submit(Job("b", outcome.calls))
    writer.submit(Job("c", outcome.calls, failure=OSError(5, "again")))
    writer.close()
    assert (outcome.calls, outcome.batches, outcome.failures) == ([], [], [error])


@pytest.mark.parametrize("step", ["sync", "housekeep"])
def test_writer_failure_of_a_later_step_is_reported_too(make: Make, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    outcome, error = Outcome(), OSError(5, "Input/output error")

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(Job if step == "sync" else Outcome, step, fail)
    writer = make(outcome)
    writer.submit(Job("a", outcome.calls))
    collect_until(writer, lambda: bool(outcome.failures))
    writer.submit(Job("b", outcome.calls))
    writer.close()
    assert outcome.calls == ["write a", "sync a"][: 1 + (step == "housekeep")]
    assert (outcome.failures, len(outcome.done)) == ([error], int(step == "housekeep"))


def test_writer_without_room_hands_back_what_is_done_and_goes_on_in_order(make: Make) -> None:
    outcome = Outcome()
    writer = make(outcome, retry_s=0.001)
    gate = held(writer, outcome)
    jobs = [Job(name, outcome.calls, refusals=refusals) for name, refusals in (("b", 0), ("c", 3), ("d", 0))]
    for job in jobs:
        writer.submit(job)
    gate.set()
    collect_until(writer, lambda: len(outcome.done) == 4)
    writer.close()
    told = [call for call in outcome.calls if "room" in call and "for" not in call]
    assert told in ([], ["out of room", "room"])  # nobody is told of what was over before they asked
    assert [call for call in outcome.calls if call not in told] == [
        *("write first", "sync first", "housekeep"),
        *("write b", "no room for c", "sync b"),
        *("no room for c", "no room for c"),
        *("write c", "write d", "sync d", "housekeep"),
    ]
    assert outcome.done[1:] == jobs


def test_writer_tells_when_there_is_no_room_and_when_there_is(make: Make) -> None:
    outcome, roomy = Outcome(), threading.Event()

    class Patient(Job):
        """Finds no room until somebody makes some."""

        def write(self) -> None:
            if not roomy.is_set():
                raise NoRoom("no room")
            super().write()

    writer = make(outcome, retry_s=0.001)
    writer.submit(Patient("a", outcome.calls))
    collect_until(writer, lambda: outcome.calls == ["out of room"])
    writer.submit(Job("b", outcome.calls))
    roomy.set()
    collect_until(writer, lambda: len(outcome.done) == 2)
    writer.close()
    assert [call for call in outcome.calls if call != "housekeep"] == ["out of room", "write a", "write b", "sync b", "room"]


def test_writer_without_room_closes_and_drops_what_nobody_was_told_of(make: Make) -> None:
    outcome = Outcome()
    writer = make(outcome)
    writer.submit(Job("a", outcome.calls, refusals=1))
    collect_until(writer, lambda: "out of room" in outcome.calls)
    writer.submit(Job("b", outcome.calls))
    writer.close()
    assert (outcome.calls, outcome.batches, outcome.failures) == (["no room for a", "out of room"], [], [])


def test_writer_that_fails_after_it_had_no_room_says_so(make: Make) -> None:
    outcome = Outcome()
    error = OSError(5, "Input/output error")
    writer = make(outcome, retry_s=0.001)
    writer.submit(Job("a", outcome.calls, refusals=2, failure=error))
    collect_until(writer, lambda: bool(outcome.failures))
    writer.close()
    assert (outcome.failures, outcome.calls.count("no room for a"), outcome.batches) == ([error], 2, [])


def test_writer_submit_after_close_trips_an_assert(make: Make) -> None:
    outcome = Outcome()
    writer = make(outcome)
    writer.close()
    with pytest.raises(AssertionError, match="submit after close"):
        writer.submit(Job("a", outcome.calls))


# --- plain writes ------------------------------------------------------------------------------------------------------


def test_writer_plain_writes_lie_where_they_belong_and_are_synced(make: Make, file: int) -> None:
    outcome = Outcome()
    writer = make(outcome)
    gate = held(writer, outcome)
    buffers = [bytes([number % 251]) * (number % 7) for number in range(3000)]  # more than one call takes, and empty ones
    jobs = [Plain(file, 0, buffers), Plain(file, 10_000, [b"end"], must_sync=False)]
    for job in jobs:
        writer.submit(job)
    gate.set()
    writer.close()
    expected = b"".join(buffers).ljust(10_000, b"\0") + b"end"
    assert os.pread(file, 20_000, 0) == expected
    assert [job.synced for job in jobs] == [False, True]  # the last one's stands for all
    assert (outcome.done[1:], outcome.calls) == (jobs, ["write first", "sync first", "housekeep"])


def test_writer_plain_write_without_bytes_is_done(make: Make, file: int) -> None:
    outcome = Outcome()
    writer = make(outcome)
    writer.submit(job := Plain(file, 0, [b""]))
    writer.close()
    assert (outcome.done, job.synced, os.fstat(file).st_size) == ([job], True, 0)


def test_writer_plain_writes_and_others_keep_their_order(make: Make, file: int) -> None:
    """All write to one place: the last of them is what lies there."""
    outcome, order = Outcome(), random.Random(7)

    class Other(Plain):
        """Does its writing itself."""

        def plain(self) -> PlainWrite:
            return None  # type: ignore[return-value]

    writer = make(outcome)
    jobs = []
    for number in range(200):
        kind = order.choice([Plain, Other])
        jobs.append(kind(file, 0, [b"%03d" % number], must_sync=order.random() < 0.5))
        writer.submit(jobs[-1])
        if order.random() < 0.1:
            collect_until(writer, lambda: len(outcome.done) == len(jobs))
            assert os.pread(file, 3, 0) == b"%03d" % number
    writer.close()
    assert outcome.done == jobs
    assert os.pread(file, 9, 0) == b"199"


@pytest.mark.parametrize("place", ["alone", "behind", "in front", "between"])
def test_compiled_writer_syncs_a_plain_write_whatever_is_beside_it(place: str) -> None:
    """Jobs that write nothing sync nothing. /dev/null takes every write and refuses to sync: an error tells of it."""
    outcome = Outcome()
    writer = compiled()(*outcome.callbacks(), retry_s=PATIENCE_S)
    gate = held(writer, outcome)
    descriptor = os.open(os.devnull, os.O_WRONLY)
    if place in ("behind", "between"):
        writer.submit(Job("nothing", outcome.calls, must_sync=False))
    writer.submit(Plain(descriptor, 0, [b"promised"]))
    if place in ("in front", "between"):
        writer.submit(Job("nothing", outcome.calls, must_sync=False))
    gate.set()
    collect_until(writer, lambda: bool(outcome.failures))
    writer.close()
    os.close(descriptor)
    assert [error.errno for error in outcome.failures if isinstance(error, OSError)] == [errno.EINVAL]
    assert len(outcome.done) == 1  # the one that was held


@pytest.mark.parametrize(("how", "code"), [(os.O_RDONLY, errno.EBADF), (None, errno.EFBIG)])
def test_writer_plain_write_that_fails_is_reported_once_and_ends_it(
    make: Make, tmp_path: Path, how: int | None, code: int
) -> None:
    path = tmp_path / "refused"
    path.touch()
    descriptor = os.open(path, os.O_RDWR if how is None else how)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    outcome = Outcome()
    writer = make(outcome)
    try:
        # A file that may not grow past 5,000 bytes takes a part of a write first, and refuses the rest.
        resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, limits[1]))
        writer.submit(Plain(descriptor, 0, [b"a" * 3_000, b"b" * 3_000]))
        collect_until(writer, lambda: bool(outcome.failures))
        writer.submit(Plain(descriptor, 0, [b"c"]))
        writer.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        os.close(descriptor)
    assert [error.errno for error in outcome.failures if isinstance(error, OSError)] == [code]
    assert (outcome.done, path.read_bytes()) == ([], b"" if how is not None else b"a" * 3_000 + b"b" * 2_000)


def test_compiled_writer_refuses_a_plain_write_that_is_not_of_bytes(file: int) -> None:
    outcome = Outcome()
    writer = compiled()(*outcome.callbacks(), retry_s=PATIENCE_S)
    with pytest.raises(TypeError, match="bytes, not of bytearray"):
        writer.submit(Plain(file, 0, [bytearray(b"may change")]))  # type: ignore[list-item]
    writer.close()
    assert outcome.done == []


def test_compiled_writer_needs_no_interpreter(file: int) -> None:
    """This thread keeps the interpreter's lock from `submit` to the answer: `PyDLL` does not give it up for a call."""
    outcome = Outcome()
    writer = compiled()(*outcome.callbacks(), retry_s=PATIENCE_S)
    select_it = ctypes.PyDLL(None).poll
    waiting = (ctypes.c_int * 2)(writer.descriptor, select.POLLIN)  # struct pollfd: int, short, short
    writer.submit(Plain(file, 0, [b"written meanwhile"]))
    assert select_it(waiting, 1, PATIENCE_S * 1000) == 1
    writer.collect()
    assert len(outcome.done) == 1
    writer.close()


def test_writer_on_a_real_log_makes_it_durable(make: Make, tmp_path: Path) -> None:
    log = open_log(tmp_path, sync=True)
    outcome = Outcome()
    outcome.housekeep = log.housekeep  # type: ignore[method-assign]
    writer = make(outcome)
    plain = 0
    for number in range(1, 41):
        job = log.prepare([append(number, b"%d" % number * 300)])
        plain += job.plain() is not None
        writer.submit(job)
        if number % 3 == 0:
            collect_until(writer, lambda: len(outcome.done) == number)  # noqa: B023 - called before it changes
    writer.close()
    assert 0 < plain < 40  # most are, but those that begin a segment and those that find no spare ready
    assert (len(outcome.done), outcome.failures) == (40, [])
    for done in outcome.done:
        log.complete(done)
    expected = {number: b"%d" % number * 300 for number in range(1, 41)}
    assert contents(log) == expected
    log.close()
    reopened = open_log(tmp_path)
    assert contents(reopened) == expected
    reopened.close()


# --- on the caller's thread --------------------------------------------------------------------------------------------


def test_inline_writer_writes_syncs_and_hands_back_at_once() -> None:
    outcome = Outcome()
    writer = InlineWriter(*outcome.callbacks())
    jobs = [Job("a", outcome.calls), Job("b", outcome.calls, must_sync=False)]
    for job in jobs:
        writer.submit(job)
    writer.close()
    assert outcome.calls == ["write a", "sync a", "housekeep", "write b", "housekeep"]
    assert outcome.batches == [[jobs[0]], [jobs[1]]]


def test_inline_writer_failure_is_reported_once_and_ends_it() -> None:
    outcome, error = Outcome(), OSError(5, "Input/output error")
    writer = InlineWriter(*outcome.callbacks())
    writer.submit(Job("a", outcome.calls, failure=error))
    writer.submit(Job("b", outcome.calls))
    writer.retry()
    assert (outcome.calls, outcome.batches, outcome.failures) == ([], [], [error])


def test_inline_writer_without_room_queues_and_is_tried_again_when_told() -> None:
    outcome = Outcome()
    writer = InlineWriter(*outcome.callbacks())
    writer.retry()
    jobs = [Job("a", outcome.calls, refusals=2), Job("b", outcome.calls), Job("c", outcome.calls, refusals=1)]
    for job in jobs:
        writer.submit(job)
    assert outcome.calls == ["no room for a", "out of room"]
    writer.retry()
    assert outcome.calls[2:] == ["no room for a"]
    writer.retry()
    assert outcome.calls[3:] == ["write a", "write b", "no room for c", "sync b"]
    writer.retry()
    assert outcome.calls[7:] == ["write c", "sync c", "room", "housekeep"]
    writer.submit(Job("d", outcome.calls))
    assert outcome.calls[11:] == ["write d", "sync d", "housekeep"]
    assert [len(batch) for batch in outcome.batches] == [2, 1, 1]


def test_inline_writer_without_room_closes_and_drops_what_waits() -> None:
    outcome = Outcome()
    writer = InlineWriter(*outcome.callbacks())
    writer.submit(Job("a", outcome.calls, refusals=1))
    writer.close()
    writer.retry()
    assert (outcome.calls, outcome.batches) == (["no room for a", "out of room"], [])
