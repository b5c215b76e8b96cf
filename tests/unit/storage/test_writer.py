"""The writer's thread and its inline twin: order, one sync per batch, one report of a failure, waiting for room."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.storage.support import append, contents, open_log
from zmqbroker.errors import NoRoom
from zmqbroker.storage.interfaces import WriteJob
from zmqbroker.storage.writer import InlineWriter, LogWriter

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
        failure: OSError | None = None,
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


class Outcome:
    """What a writer reported."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.batches: list[list[WriteJob]] = []
        self.failures: list[OSError] = []
        self.threads: set[int] = set()
        self.full, self.roomy = threading.Event(), threading.Event()

    def finished(self, jobs: list[WriteJob]) -> None:
        self.batches.append(jobs)
        self.threads.add(threading.get_ident())
        self.calls.append("finished")

    def housekeep(self) -> None:
        self.calls.append("housekeep")

    def on_room(self, out_of_room: bool) -> None:
        self.calls.append("out of room" if out_of_room else "room")
        (self.full if out_of_room else self.roomy).set()


@pytest.mark.parametrize("kind", [LogWriter, InlineWriter])
def test_writer_one_job_is_written_synced_and_handed_back(kind: Callable[..., LogWriter | InlineWriter]) -> None:
    outcome = Outcome()
    writer = kind(outcome.finished, outcome.failures.append, outcome.housekeep)
    job = Job("a", outcome.calls)
    writer.submit(job)
    writer.close()
    assert outcome.calls == ["write a", "sync a", "finished", "housekeep"]
    assert (outcome.batches, outcome.failures) == ([[job]], [])


@pytest.mark.parametrize("kind", [LogWriter, InlineWriter])
def test_writer_job_that_needs_no_sync_is_not_synced(kind: Callable[..., LogWriter | InlineWriter]) -> None:
    outcome = Outcome()
    writer = kind(outcome.finished, outcome.failures.append)
    writer.submit(Job("a", outcome.calls, must_sync=False))
    writer.close()
    assert outcome.calls == ["write a", "finished"]


def test_writer_what_queues_up_is_one_batch_with_one_sync() -> None:
    outcome, gate = Outcome(), threading.Event()
    writer = LogWriter(outcome.finished, outcome.failures.append)
    first = Job("first", outcome.calls, gate=gate)
    writer.submit(first)
    assert first.started.wait(PATIENCE_S)
    for name, must_sync in (("b", True), ("c", False)):
        writer.submit(Job(name, outcome.calls, must_sync=must_sync))
    gate.set()
    writer.close()
    assert outcome.calls == ["write first", "sync first", "finished", "write b", "write c", "sync c", "finished"]
    assert [len(batch) for batch in outcome.batches] == [1, 2]
    assert threading.get_ident() not in outcome.threads


@pytest.mark.parametrize("kind", [LogWriter, InlineWriter])
def test_writer_failure_is_reported_once_and_ends_it(kind: Callable[..., LogWriter | InlineWriter]) -> None:
    outcome, failed = Outcome(), threading.Event()
    error = OSError(5, "Input/output error")

    def on_failure(reported: OSError) -> None:
        outcome.failures.append(reported)
        failed.set()

    writer = kind(outcome.finished, on_failure)
    writer.submit(Job("a", outcome.calls, failure=error))
    assert failed.wait(PATIENCE_S)
    writer.submit(Job("b", outcome.calls))
    writer.submit(Job("c", outcome.calls, failure=OSError(5, "again")))
    writer.close()
    assert (outcome.calls, outcome.batches, outcome.failures) == ([], [], [error])


def test_writer_without_room_hands_back_what_is_done_and_goes_on_in_order() -> None:
    outcome, gate = Outcome(), threading.Event()
    writer = LogWriter(outcome.finished, outcome.failures.append, outcome.housekeep, outcome.on_room, retry_s=0.001)
    writer.submit(first := Job("first", outcome.calls, gate=gate))
    assert first.started.wait(PATIENCE_S)
    for name, refusals in (("b", 0), ("c", 3), ("d", 0)):
        writer.submit(Job(name, outcome.calls, refusals=refusals))
    gate.set()
    assert outcome.full.wait(PATIENCE_S)
    assert outcome.roomy.wait(PATIENCE_S)
    writer.close()
    assert outcome.calls == [
        *("write first", "sync first", "finished", "housekeep"),
        *("write b", "no room for c", "sync b", "finished", "out of room"),
        *("no room for c", "no room for c"),
        *("write c", "write d", "sync d", "finished", "room", "housekeep"),
    ]
    assert [len(batch) for batch in outcome.batches] == [1, 1, 2]


def test_writer_without_room_closes_and_drops_what_nobody_was_told_of() -> None:
    outcome = Outcome()
    writer = LogWriter(outcome.finished, outcome.failures.append, outcome.housekeep, outcome.on_room, retry_s=PATIENCE_S)
    writer.submit(Job("a", outcome.calls, refusals=1))
    assert outcome.full.wait(PATIENCE_S)
    writer.submit(Job("b", outcome.calls))
    writer.close()
    assert (outcome.calls, outcome.batches, outcome.failures) == (["no room for a", "out of room"], [], [])


def test_writer_that_fails_after_it_had_no_room_says_so() -> None:
    outcome, failed = Outcome(), threading.Event()
    error = OSError(5, "Input/output error")
    writer = LogWriter(outcome.finished, lambda _: failed.set(), outcome.housekeep, outcome.on_room, retry_s=0.001)
    writer.submit(Job("a", outcome.calls, refusals=2, failure=error))
    assert failed.wait(PATIENCE_S)
    writer.close()
    assert outcome.calls == ["no room for a", "out of room", "no room for a"]


def test_inline_writer_without_room_queues_and_is_tried_again_when_told() -> None:
    outcome = Outcome()
    writer = InlineWriter(outcome.finished, outcome.failures.append, outcome.housekeep, outcome.on_room)
    writer.retry()
    jobs = [Job("a", outcome.calls, refusals=2), Job("b", outcome.calls), Job("c", outcome.calls, refusals=1)]
    for job in jobs:
        writer.submit(job)
    assert outcome.calls == ["no room for a", "out of room"]
    writer.retry()
    assert outcome.calls[2:] == ["no room for a"]
    writer.retry()
    assert outcome.calls[3:] == ["write a", "write b", "no room for c", "sync b", "finished"]
    writer.retry()
    assert outcome.calls[8:] == ["write c", "sync c", "finished", "room", "housekeep"]
    writer.submit(Job("d", outcome.calls))
    assert outcome.calls[13:] == ["write d", "sync d", "finished", "housekeep"]
    assert [len(batch) for batch in outcome.batches] == [2, 1, 1]


def test_inline_writer_without_room_closes_and_drops_what_waits() -> None:
    outcome = Outcome()
    writer = InlineWriter(outcome.finished, outcome.failures.append, outcome.housekeep, outcome.on_room)
    writer.submit(Job("a", outcome.calls, refusals=1))
    writer.close()
    writer.retry()
    assert (outcome.calls, outcome.batches) == (["no room for a", "out of room"], [])


def test_inline_writer_that_failed_is_not_tried_again() -> None:
    outcome = Outcome()
    writer = InlineWriter(outcome.finished, outcome.failures.append, outcome.housekeep, outcome.on_room)
    writer.submit(Job("a", outcome.calls, failure=OSError(5, "Input/output error")))
    writer.retry()
    assert len(outcome.failures) == 1


def test_writer_submit_after_close_trips_an_assert() -> None:
    outcome = Outcome()
    writer = LogWriter(outcome.finished, outcome.failures.append)
    writer.close()
    with pytest.raises(AssertionError, match="submit after close"):
        writer.submit(Job("a", outcome.calls))


def test_writer_on_a_real_log_makes_it_durable(tmp_path: Path) -> None:
    log = open_log(tmp_path, sync=True)
    outcome = Outcome()
    writer = LogWriter(outcome.finished, outcome.failures.append, log.housekeep)
    for number in range(1, 41):
        writer.submit(log.prepare([append(number, b"%d" % number * 300)]))
    writer.close()
    done = [job for batch in outcome.batches for job in batch]
    assert (len(done), outcome.failures) == (40, [])
    for job in done:
        log.complete(job)
    expected = {number: b"%d" % number * 300 for number in range(1, 41)}
    assert contents(log) == expected
    log.close()
    reopened = open_log(tmp_path)
    assert contents(reopened) == expected
    reopened.close()
