"""The contract of LogStore and LogView, over every implementation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.unit.storage.support import SEGMENT_BYTES, append, contents, run
from zmqbroker.errors import Compacted
from zmqbroker.raft.messages import HardState, Membership, Snapshot, StorageAppend
from zmqbroker.storage import MemoryLog, SegmentLog
from zmqbroker.storage.interfaces import LogStore


def _segment_log(sync: bool, cache_bytes_max: int) -> Callable[[Path], LogStore]:
    return lambda path: SegmentLog.open(path / "log", sync=sync, segment_bytes=SEGMENT_BYTES, cache_bytes_max=cache_bytes_max)


KINDS: dict[str, Callable[[Path], LogStore]] = {
    "memory": lambda _: MemoryLog(),
    "ephemeral": _segment_log(False, 1 << 20),
    "ephemeral-uncached": _segment_log(False, 0),
    "persistent": _segment_log(True, 1 << 20),
}


@pytest.fixture(params=KINDS)
def log(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LogStore]:
    store = KINDS[request.param](tmp_path)
    yield store
    store.close()


def test_view_new_group_is_empty(log: LogStore) -> None:
    view = log.view(3)
    assert (view.first_index(), view.last_index(), view.term(0)) == (1, 0, 0)
    assert view.hard_state() == HardState()
    assert view.entries(1, 1, 100) == ()


def test_job_before_complete_is_not_seen(log: LogStore) -> None:
    view = log.view(1)
    job = log.prepare([append(1, b"a", state=HardState(1, 2, 0))])
    job.write()
    job.sync()
    assert (view.last_index(), view.hard_state()) == (0, HardState())
    log.complete(job)
    assert (view.last_index(), view.hard_state()) == (1, HardState(1, 2, 0))
    assert view.entries(1, 2, 100)[0].data == b"a"


def test_append_many_passes_reads_all(log: LogStore) -> None:
    payloads = [bytes([number]) * (number * 37 % 2000) for number in range(1, 60)]
    for number, payload in enumerate(payloads, 1):
        run(log, append(number, payload, term=number // 10))
    assert contents(log) == dict(enumerate(payloads, 1))
    assert [log.view(1).term(index) for index in (1, 9, 10, 59)] == [0, 0, 1, 5]


def test_append_over_entries_replaces_them_and_all_after(log: LogStore) -> None:
    run(log, append(1, b"a", b"b", b"c", b"d"))
    run(log, append(2, b"B", term=2))
    assert contents(log) == {1: b"a", 2: b"B"}
    assert [log.view(1).term(index) for index in (1, 2)] == [1, 2]
    run(log, append(1, b"A", term=3))
    assert (contents(log), log.view(1).term(1)) == ({1: b"A"}, 3)


def test_outstanding_jobs_complete_in_order(log: LogStore) -> None:
    jobs = [log.prepare([append(number, b"%d" % number)]) for number in range(1, 6)]
    replacing = log.prepare([append(3, b"three", term=2)])
    for job in [*jobs, replacing]:
        job.write()
    replacing.sync()
    for job in jobs:
        log.complete(job)
    assert log.view(1).last_index() == 5
    log.complete(replacing)
    assert contents(log) == {1: b"1", 2: b"2", 3: b"three"}


def test_entries_size_max_cuts_after_the_entry_that_reaches_it(log: LogStore) -> None:
    run(log, append(1, b"aa", b"bb", b"cc"))
    view = log.view(1)
    assert [len(view.entries(1, 4, size)) for size in (0, 2, 3, 4, 5, 100)] == [1, 1, 2, 2, 3, 3]
    assert [entry.index for entry in view.entries(2, 3, 100)] == [2]


def test_groups_do_not_see_each_other(log: LogStore) -> None:
    run(log, append(1, b"x", group=0), append(1, b"y", b"z", group=7, state=HardState(4, 1, 0)))
    assert (contents(log, 0), contents(log, 7)) == ({1: b"x"}, {1: b"y", 2: b"z"})
    assert (log.view(0).hard_state(), log.view(7).hard_state()) == (HardState(), HardState(4, 1, 0))


@pytest.mark.parametrize("payload", [b"", bytes(1), bytes(512), bytes(5000), b"x" + bytes(1023), b"y" * (3 * SEGMENT_BYTES)])
def test_read_any_payload_returns_it(log: LogStore, payload: bytes) -> None:
    run(log, append(1, b"before", payload, b"after"))
    assert contents(log) == {1: b"before", 2: payload, 3: b"after"}


def test_must_sync_any_work_asks_for_it(log: LogStore) -> None:
    lazy = append(1, b"a", must_sync=False)
    eager = append(2, b"b")
    assert [log.prepare(works).must_sync for works in ([], [lazy], [eager])] == [False, False, True]


def test_job_without_records_changes_nothing(log: LogStore) -> None:
    run(log)
    run(log, append(1, b"a"))
    run(log, StorageAppend(1))
    assert contents(log) == {1: b"a"}


def test_size_bytes_counts_what_is_written(log: LogStore) -> None:
    before = log.size_bytes
    job = log.prepare([append(1, b"x" * 100)])
    assert job.size_bytes >= 100
    job.write()
    job.sync()
    log.complete(job)
    assert log.size_bytes >= before + 100


def test_trim_keeps_what_is_above(log: LogStore) -> None:
    for number in range(1, 41):
        run(log, append(number, bytes([number]) * 1000, term=number // 7))
    log.trim(1, 30)
    view = log.view(1)
    first = view.first_index()
    assert 1 < first <= 31
    assert view.term(first - 1) == (first - 1) // 7
    assert contents(log) == {index: bytes([index]) * 1000 for index in range(first, 41)}
    for call in (lambda: log.read(1, first - 1), lambda: view.entries(first - 1, 41, 1), lambda: view.term(first - 2)):
        with pytest.raises(Compacted, match=f"begins at {first}"):
            call()


def test_trim_to_the_target_gives_back_what_was_asked_for(log: LogStore) -> None:
    for index in range(1, 61):
        run(log, append(index, bytes(2000)), append(index, bytes(100), group=2))
    for excess_bytes in (1, 20_000, SEGMENT_BYTES + 1):
        before = log.size_bytes
        targets = {group: log.trim_target(group, excess_bytes) for group in (1, 2)}
        for group, index in targets.items():
            log.trim(group, index)
        given = before - log.size_bytes
        assert excess_bytes <= given
        assert log.view(1).first_index() == targets[1] + 1
    assert [log.trim_target(group, excess) for group, excess in ((1, 0), (3, 1 << 40))] == [0, 0]


def test_trim_target_of_more_than_can_go_is_what_can(log: LogStore) -> None:
    for index in range(1, 31):
        run(log, append(index, bytes(2000)))
    target = log.trim_target(1, 1 << 40)
    log.trim(1, target)
    assert log.view(1).first_index() == target + 1
    assert 20 < target <= 30


def test_trim_all_keeps_last_index_and_goes_on(log: LogStore) -> None:
    for number in range(1, 41):
        run(log, append(number, bytes(1000), term=2))
    log.trim(1, 40)
    log.trim(1, 10)
    view = log.view(1)
    assert (view.last_index(), view.term(40)) == (40, 2)
    run(log, append(41, b"next", term=3))
    assert (log.read(1, 41), view.term(41), view.term(40)) == (b"next", 3, 2)


def test_append_after_a_gap_trips_an_assert(log: LogStore) -> None:
    run(log, append(1, b"a"))
    with pytest.raises(AssertionError):
        run(log, append(3, b"c"))


def test_snapshot_empties_the_log_and_goes_on_behind_it(log: LogStore) -> None:
    run(log, append(1, b"a", b"b", b"c"), append(1, b"other", group=2))
    run(log, StorageAppend(1, hard_state=HardState(5, 2, 9), snapshot=Snapshot(9, 4, Membership((1, 2)))))
    view = log.view(1)
    assert (view.first_index(), view.last_index(), view.term(9), view.hard_state().commit) == (10, 9, 4, 9)
    with pytest.raises(Compacted):
        log.read(1, 3)
    run(log, append(10, b"d", term=5))
    assert contents(log) == {10: b"d"}
    assert contents(log, 2) == {1: b"other"}


def test_snapshot_between_the_works_of_one_pass_keeps_their_order(log: LogStore) -> None:
    run(log, append(1, b"a"))
    install = StorageAppend(1, snapshot=Snapshot(2, 3, Membership((1,))))
    run(log, append(2, b"old", b"older"), install, append(3, b"new", term=3))
    assert contents(log) == {3: b"new"}
    assert log.view(1).term(2) == 3


def test_must_sync_snapshot_asks_for_it(log: LogStore) -> None:
    assert log.prepare([StorageAppend(1, snapshot=Snapshot(2, 3, Membership((1,))))]).must_sync


def test_log_alone_offers_no_snapshot(log: LogStore) -> None:
    assert log.view(1).snapshot() is None
