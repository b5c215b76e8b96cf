"""The simulator on trial: deliberately broken code, each kind of which must be noticed within a few seeds."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.simulation.failure import Violation
from tests.simulation.options import Options
from tests.simulation.simulation import run
from tests.simulation.world import MILLISECOND, SECOND
from zmqbroker.broker.producers import Producers
from zmqbroker.raft import reading
from zmqbroker.raft.log import RaftLog
from zmqbroker.raft.messages import HardState, Message
from zmqbroker.raft.progress import Progress
from zmqbroker.raft.state import RaftState
from zmqbroker.storage import segment_log
from zmqbroker.storage.record import Record, record_of_hard_state
from zmqbroker.storage.segment_files import SegmentFiles

#: Seeds that a defect may survive.
SEEDS = 12
FAULTS = ("kill", "power_cut", "power_cut_all", "partition", "reset", "transfer", "pause", "torn_call", "old_frames")


def options(seed: int) -> Options:
    """Small, crowded and troubled: what finds most in the shortest time."""
    return Options(
        seed=seed,
        nodes=3 if seed % 3 else 5,
        segment_bytes=1 << 12,
        sync_delay_ns=8 * MILLISECOND,
        flush_ns=50 * MILLISECOND,
        keep_entries=20,
        loss=0.05,
        fifo=seed % 2 == 0,
        chaos_ns=4 * SECOND,
        fault_interval_ns=60 * MILLISECOND,
        faults=FAULTS,
    )


def found_by() -> set[str]:
    """The invariants that a defect breaks, over all seeds until the first."""
    for seed in range(SEEDS):
        try:
            run(options(seed))
        except Violation as violation:
            return {violation.invariant}
    return set()


def skip_sync(patch: pytest.MonkeyPatch) -> None:
    """The log says that it has synced, and has not: acknowledgements before the disk."""
    patch.setattr(SegmentFiles, "sync", lambda files: None)


def answer_before_the_disk(patch: pytest.MonkeyPatch) -> None:
    """Answers to other nodes, votes and acknowledgements alike, leave before what they promise is durable."""
    send = RaftState.send

    def sent(state: RaftState, message: Message) -> None:
        send(state, message)
        if state.messages_after_append and state.messages_after_append[-1].to != state.id:
            state.messages.append(state.messages_after_append.pop())

    patch.setattr(RaftState, "send", sent)


def forget_vote(patch: pytest.MonkeyPatch) -> None:
    """The log writes the term and not the vote."""

    def record(group: int, state: HardState) -> Record:
        return record_of_hard_state(group, HardState(state.term, 0, state.commit))

    patch.setattr(segment_log, "record_of_hard_state", record)


def count_too_few(patch: pytest.MonkeyPatch) -> None:
    """A majority is half, rounded down."""
    patch.setattr("zmqbroker.raft.quorum.majority", lambda count: max(count // 2, 1))


def commit_old_terms(patch: pytest.MonkeyPatch) -> None:
    """Entries of earlier terms are committed by counting (Raft figure 8)."""

    def maybe_commit(log: RaftLog, index: int, term: int) -> bool:
        moved = index > log.commit_index
        log.commit_to(index)
        return moved

    patch.setattr(RaftLog, "maybe_commit", maybe_commit)


def ignore_log_length(patch: pytest.MonkeyPatch) -> None:
    """A vote goes to whoever asks, however old the log."""
    patch.setattr(RaftLog, "is_up_to_date", lambda log, index, term: True)


def forget_results(patch: pytest.MonkeyPatch) -> None:
    """A batch that comes again is stored again."""
    patch.setattr(Producers, "check", lambda producers, header: None)


def cut_always(patch: pytest.MonkeyPatch) -> None:
    """A follower cuts its log at every message, not only where it differs."""
    patch.setattr(RaftLog, "_first_new", lambda log, entries: 0)


def never_resume(patch: pytest.MonkeyPatch) -> None:
    """A leader never sends again to a follower that it once held back."""
    patch.setattr(Progress, "resume", lambda progress: None)


def read_at_once(patch: pytest.MonkeyPatch) -> None:
    """A leader answers reads without asking whether it still is one."""

    def take(state: RaftState, sender: int, request: int) -> None:
        reading._answer(state, sender, request, state.log.commit_index)

    patch.setattr(reading, "_take", take)


DEFECTS: list[tuple[Callable[[pytest.MonkeyPatch], None], set[str]]] = [
    (skip_sync, {"I2", "I19", "I9"}),
    (answer_before_the_disk, {"I2", "I19"}),
    (forget_vote, {"I9"}),
    (count_too_few, {"I6", "I12", "I1"}),
    (commit_old_terms, {"I10", "I6"}),
    (ignore_log_length, {"I4", "I0"}),
    (cut_always, {"I6", "I7", "I9", "I19"}),
    (never_resume, {"I22"}),
    (read_at_once, {"I18"}),
    (forget_results, {"I15"}),
]


@pytest.mark.parametrize(("defect", "invariants"), DEFECTS, ids=[defect.__name__ for defect, _ in DEFECTS])
def test_defect_is_found(
    defect: Callable[[pytest.MonkeyPatch], None], invariants: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    defect(monkeypatch)
    found = found_by()
    assert found
    assert found <= invariants


def test_no_defect_is_found_where_there_is_none() -> None:
    assert found_by() == set()
