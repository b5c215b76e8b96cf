"""The writer's thread and its inline twin: order, one sync per batch, one report of a failure."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.storage.support import append, contents, open_log
from zmqbroker.storage.interfaces import WriteJob
from zmqbroker.storage.writer import InlineWriter, LogWriter

#: Nothing in these tests takes this long; it only ends a test that would hang.
PATIENCE_S = 60


class Job:
    """A WriteJob that notes its calls, can wait in `write` and can fail."""

    size_bytes = 1

    def __init__(
        self,
        name: str,
        calls: list[str],
        *,
        must_sync: bool = True,
        gate: threading.Event | None = None,
        failure: OSError | None = None,
    ) -> None:
        self.name, self.calls, self.must_sync, self.gate, self.failure = name, calls, must_sync, gate, failure
        self.started = threading.Event()

    def write(self) -> None:
        self.started.set()
        if self.gate is not None:
            assert self.gate.wait(PATIENCE_S)
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

    def finished(self, jobs: list[WriteJob]) -> None:
        self.batches.append(jobs)
        self.threads.add(threading.get_ident())
        self.calls.append("finished")

    def housekeep(self) -> None:
        self.calls.append("housekeep")


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
