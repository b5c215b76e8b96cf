"""RaftLog and its unstable end."""

from __future__ import annotations

import pytest

from tests.unit.raft.harness import MemoryLog, entries_of
from zmqbroker.errors import Compacted
from zmqbroker.raft.log import ENTRY_OVERHEAD_BYTES, RaftLog
from zmqbroker.raft.messages import Entry, StorageAppend
from zmqbroker.raft.trace import Trace
from zmqbroker.raft.unstable import Unstable


def make(terms: list[int], commit: int = 0, applied: int = 0, unstable: list[int] | None = None, room: int = 1000) -> RaftLog:
    log = RaftLog(MemoryLog(terms), commit, applied, room, Trace())
    if unstable:
        log.append(entries_of(unstable, first=len(terms) + 1))
    return log


def terms_of(log: RaftLog) -> list[int]:
    return [log.term(index) for index in range(1, log.last_index + 1)]


def sized(*sizes: int, first: int = 1) -> tuple[Entry, ...]:
    return tuple(Entry(first + n, 1, b"x" * (size - ENTRY_OVERHEAD_BYTES)) for n, size in enumerate(sizes))


# --- unstable ------------------------------------------------------------------------------------------------------


def test_unstable_accepted_hands_out_nothing_twice() -> None:
    unstable = Unstable(3, Trace())
    unstable.truncate_and_append(entries_of([1, 1], first=3))
    assert [entry.index for entry in unstable.next_entries()] == [3, 4]
    unstable.accept()
    assert unstable.next_entries() == ()
    unstable.truncate_and_append(entries_of([1], first=5))
    assert [entry.index for entry in unstable.next_entries()] == [5]


def test_unstable_overwritten_in_the_middle_hands_out_the_new_part_again() -> None:
    unstable = Unstable(3, Trace())
    unstable.truncate_and_append(entries_of([1, 1, 1], first=3))
    unstable.accept()
    unstable.truncate_and_append(entries_of([2], first=4))
    assert [(entry.index, entry.term) for entry in unstable.next_entries()] == [(4, 2)]
    assert (unstable.offset, unstable.last_index) == (3, 4)


def test_unstable_overwritten_before_its_start_moves_the_start() -> None:
    unstable = Unstable(5, Trace())
    unstable.truncate_and_append(entries_of([2], first=3))
    assert (unstable.offset, unstable.in_progress, unstable.last_index) == (3, 3, 3)


def test_unstable_stable_to_drops_only_what_matches() -> None:
    lines: list[str] = []
    unstable = Unstable(3, Trace(lines.append))
    unstable.truncate_and_append(entries_of([1, 1, 1], first=3))
    unstable.accept()
    unstable.stable_to(4, 2)
    unstable.stable_to(2, 1)
    unstable.stable_to(6, 1)
    assert (unstable.offset, len(unstable.entries), len(lines)) == (3, 3, 3)
    unstable.stable_to(4, 1)
    assert (unstable.offset, unstable.in_progress, unstable.last_index) == (5, 6, 5)


def test_unstable_stable_before_it_was_handed_out_is_not_handed_out() -> None:
    unstable = Unstable(3, Trace())
    unstable.truncate_and_append(entries_of([1], first=3))
    unstable.stable_to(3, 1)
    assert unstable.next_entries() == ()
    assert unstable.in_progress == 4


def test_unstable_with_a_gap_is_refused() -> None:
    with pytest.raises(AssertionError):
        Unstable(3, Trace()).truncate_and_append(entries_of([1], first=4))


# --- the whole log -------------------------------------------------------------------------------------------------


def test_log_at_start_takes_the_commit_index_it_can_trust() -> None:
    assert make([1, 1, 1], commit=2).commit_index == 2
    assert make([1, 1, 1], commit=9).commit_index == 3
    assert make([1, 1, 1], commit=1, applied=2).commit_index == 2


def test_log_with_applied_entries_missing_is_refused() -> None:
    with pytest.raises(AssertionError):
        make([1, 1], applied=3)
    view = MemoryLog([1, 1, 1])
    view.compact(2)
    with pytest.raises(AssertionError):
        RaftLog(view, 3, 1, 1000, Trace())


def test_log_term_outside_is_none_or_compacted() -> None:
    view = MemoryLog([1, 2, 3])
    view.compact(2)
    log = RaftLog(view, 2, 2, 1000, Trace())
    assert [log.term_or_none(index) for index in range(5)] == [None, None, 2, 3, None]
    with pytest.raises(Compacted):
        log.term(1)
    with pytest.raises(AssertionError):
        log.term(4)


@pytest.mark.parametrize(
    ("low", "high", "size_max", "found"),
    [
        (1, 7, 1000, [1, 2, 3, 4, 5, 6]),
        (2, 4, 1000, [2, 3]),
        (5, 7, 1000, [5, 6]),
        (3, 5, 1000, [3, 4]),
        (1, 7, 120, [1, 2, 3]),
        (1, 7, 119, [1, 2]),
        (1, 7, 1, [1]),
        (3, 7, 100, [3, 4]),
        (5, 7, 60, [5]),
    ],
)
def test_log_entries_span_durable_and_unstable_within_the_size(low: int, high: int, size_max: int, found: list[int]) -> None:
    view = MemoryLog()
    view.write(StorageAppend(0, sized(40, 40, 40)))
    log = RaftLog(view, 0, 0, 1000, Trace())
    log.append(sized(40, 40, 40, first=4))
    assert [entry.index for entry in log.entries(low, high, size_max)] == found


def test_log_entries_cut_by_the_view_are_not_continued_behind_the_gap() -> None:
    class Miser(MemoryLog):
        def entries(self, low: int, high: int, size_max: int) -> tuple[Entry, ...]:
            return super().entries(low, high, size_max)[:1]

    log = RaftLog(Miser([1, 1]), 0, 0, 1000, Trace())
    log.append(entries_of([1], first=3))
    assert [entry.index for entry in log.entries(1, 4, 1000)] == [1]


@pytest.mark.parametrize(
    ("previous", "terms", "commit", "matched", "after", "committed"),
    [
        ((3, 2), [], 2, 3, [1, 1, 2, 2], 2),  # a heartbeat-like append commits
        ((2, 1), [2], 9, 3, [1, 1, 2, 2], 3),  # commit stops at what is matched; no truncation without conflict
        ((2, 1), [3, 3], 0, 4, [1, 1, 3, 3], 1),  # conflict: replaced from there
        ((2, 1), [2, 3], 0, 4, [1, 1, 2, 3], 1),
        ((4, 2), [3], 0, 5, [1, 1, 2, 2, 3], 1),
        ((4, 3), [3], 0, None, [1, 1, 2, 2], 1),  # the logs do not meet
        ((6, 2), [3], 0, None, [1, 1, 2, 2], 1),  # nor is there anything
    ],
)
def test_log_maybe_append_changes_only_what_differs(
    previous: tuple[int, int], terms: list[int], commit: int, matched: int | None, after: list[int], committed: int
) -> None:
    log = make([1, 1], commit=1, unstable=[2, 2])
    assert log.maybe_append(*previous, entries_of(terms, first=previous[0] + 1), commit) == matched
    assert terms_of(log) == after
    assert log.commit_index == committed


def test_log_append_over_a_committed_entry_is_refused() -> None:
    log = make([1, 1, 1], commit=2)
    with pytest.raises(AssertionError):
        log.append(entries_of([2], first=2))


def test_log_commit_behind_the_end_is_refused() -> None:
    with pytest.raises(AssertionError, match="behind the log's end"):
        make([1]).commit_to(2)


@pytest.mark.parametrize(
    ("index", "term", "found"),
    [(6, 9, (6, 5)), (6, 4, (4, 2)), (4, 2, (4, 2)), (4, 1, (2, 1)), (2, 0, (0, 0)), (9, 9, (9, 0))],
)
def test_log_find_conflict_skips_later_terms(index: int, term: int, found: tuple[int, int]) -> None:
    assert make([1, 1, 2], unstable=[2, 5, 5]).find_conflict_by_term(index, term) == found


def test_log_find_conflict_in_the_dropped_part_is_unknown() -> None:
    view = MemoryLog([5, 5, 5])
    view.compact(2)
    log = RaftLog(view, 2, 2, 1000, Trace())
    assert log.find_conflict_by_term(3, 1) == (1, 0)


def test_log_hands_out_committed_entries_only_when_durable() -> None:
    log = make([1], unstable=[1, 1])
    log.commit_to(3)
    assert [entry.index for entry in log.next_committed()] == [1]
    assert log.next_committed() == ()
    log.unstable.accept()
    log.unstable.stable_to(2, 1)
    log.applied_to(1)
    assert log.has_committed
    assert log.applying_index == 1


def test_log_hands_out_no_more_than_the_bound_before_it_is_applied() -> None:
    view = MemoryLog()
    view.write(StorageAppend(0, sized(40, 40, 40, 40)))
    log = RaftLog(view, 4, 0, 100, Trace())
    assert [entry.index for entry in log.next_committed()] == [1, 2]
    assert log.next_committed() == ()
    assert log.applied_to(1) == 0
    # 80 of 100 bytes are still out: one entry always goes, then it is full.
    assert [entry.index for entry in log.next_committed()] == [3]
    assert not log.has_committed
    assert log.applied_to(3) == 3 * (40 - ENTRY_OVERHEAD_BYTES)
    assert [entry.index for entry in log.next_committed()] == [4]


def test_log_still_over_the_bound_after_an_apply_stays_paused() -> None:
    view = MemoryLog()
    view.write(StorageAppend(0, sized(40, 400, 40)))
    log = RaftLog(view, 3, 0, 100, Trace())
    assert [entry.index for entry in log.next_committed()] == [1]
    log.applied_to(0)
    assert [entry.index for entry in log.next_committed()] == [2]
    log.applied_to(1)
    assert not log.has_committed
    log.applied_to(2)
    assert log.has_committed


def test_log_applied_beyond_what_was_handed_out_is_refused() -> None:
    log = make([1, 1], commit=2)
    with pytest.raises(AssertionError):
        log.applied_to(1)
