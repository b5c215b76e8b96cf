"""Progress and its window."""

from __future__ import annotations

import pytest

from zmqbroker.raft.progress import Inflights, Progress, ProgressState, ProgressStatus


def make(match: int = 5, next: int = 9, replicate: bool = False) -> Progress:
    progress = Progress(match_index=match, next_index=next, inflights=Inflights(2, 100))
    if replicate:
        progress.become_replicate()
        progress.next_index = next
    return progress


def test_inflights_with_all_messages_under_way_are_full() -> None:
    window = Inflights(2, 100)
    window.add(4, 1)
    assert not window.full
    window.add(5, 1)
    assert window.full
    assert (window.count, window.bytes) == (2, 2)
    with pytest.raises(AssertionError):
        window.add(6, 1)


def test_inflights_reaching_the_bytes_are_full() -> None:
    window = Inflights(9, 100)
    window.add(4, 99)
    assert not window.full
    window.add(5, 500)
    assert window.full


def test_inflights_freed_up_to_an_index_keep_the_later_ones() -> None:
    window = Inflights(3, 100)
    for index, size in ((4, 10), (6, 20), (9, 30)):
        window.add(index, size)
    window.free_to(3)
    assert window.count == 3
    window.free_to(8)
    assert (window.count, window.bytes) == (1, 30)
    window.clear()
    assert (window.count, window.bytes) == (0, 0)


def test_progress_probing_pauses_after_a_message_with_entries() -> None:
    progress = make()
    progress.sent_entries(0, 0)
    assert not progress.paused
    progress.sent_entries(2, 20)
    assert progress.paused
    assert progress.next_index == 9
    assert progress.inflights.count == 0


def test_progress_replicating_moves_on_until_the_window_is_full() -> None:
    progress = make(replicate=True)
    progress.sent_entries(2, 20)
    assert (progress.next_index, progress.paused) == (11, False)
    progress.sent_entries(1, 20)
    assert (progress.next_index, progress.paused) == (12, True)
    progress.resume()
    progress.sent_entries(0, 0)
    assert progress.paused


def test_progress_update_moves_match_and_next_forward_only() -> None:
    progress = make()
    progress.pause()
    assert not progress.maybe_update(5)
    assert progress.paused
    assert progress.maybe_update(7)
    assert (progress.match_index, progress.next_index, progress.paused) == (7, 9, False)
    assert progress.maybe_update(12)
    assert (progress.match_index, progress.next_index) == (12, 13)


@pytest.mark.parametrize(
    ("replicate", "rejected", "hint", "moved", "next_index"),
    [
        (False, 8, 6, True, 7),  # to where the logs may meet
        (False, 8, 20, True, 8),  # never forward
        (False, 8, 2, True, 6),  # never to or below what is matched
        (False, 7, 6, False, 9),  # not the answer to the probe
        (True, 5, 4, False, 9),  # it has been matched since
        (True, 8, 7, True, 6),  # back to what is matched
    ],
)
def test_progress_refused_steps_back(replicate: bool, rejected: int, hint: int, moved: bool, next_index: int) -> None:
    progress = make(replicate=replicate)
    progress.sent_commit = 8
    assert progress.maybe_decrease(rejected, hint) is moved
    assert progress.next_index == next_index
    assert progress.sent_commit == (next_index - 1 if moved else 8)


def test_progress_changing_state_starts_after_the_match_with_an_empty_window() -> None:
    progress = make(replicate=True)
    progress.sent_entries(2, 20)
    progress.pause()
    progress.sent_commit = 10
    progress.become_probe()
    assert progress.status() == ProgressStatus(5, 6, ProgressState.PROBE, False, False)
    assert (progress.paused, progress.inflights.count, progress.sent_commit) == (False, 0, 5)


@pytest.mark.parametrize(("sent", "commit", "bump"), [(3, 7, True), (7, 7, False), (8, 12, False), (4, 3, False)])
def test_progress_can_bump_commit_only_with_news(sent: int, commit: int, bump: bool) -> None:
    progress = make()
    progress.sent_commit = sent
    assert progress.can_bump_commit(commit) is bump
