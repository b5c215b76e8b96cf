"""Small scopes to their fixpoint, and defects that the exploration must find in them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import pytest

from tests.exhaustive.__main__ import main
from tests.exhaustive.explore import Counterexample, explore
from tests.exhaustive.model import Model
from tests.exhaustive.replica import Crash, Outcome, Replica, Runner, Violation
from tests.exhaustive.scope import Scope
from tests.exhaustive.test_twins import made_by
from tests.exhaustive.walk import Walk
from zmqbroker.raft.config import RaftConfig
from zmqbroker.raft.log import RaftLog
from zmqbroker.raft.messages import Entry, Message, MessageType
from zmqbroker.raft.state import RaftState

EVERY_FAULT = Scope(terms=3, proposals=1, heartbeats=1, bag=2, drops=1, duplicates=1, crashes=1)
REPLICATION = Scope(terms=1, proposals=2, heartbeats=0, bag=3, drops=0, duplicates=0, crashes=0)
DEPOSED = Scope(terms=3, proposals=0, heartbeats=0, bag=3, drops=0, duplicates=0, crashes=0)
OUTDATED = Scope(terms=3, proposals=1, heartbeats=0, bag=3, drops=1, duplicates=0, crashes=0)
CRASHES = Scope(terms=2, proposals=0, heartbeats=0, bag=3, drops=0, duplicates=0, crashes=1)
PRE_VOTE = Scope(terms=2, proposals=1, heartbeats=0, bag=3, drops=0, duplicates=0, crashes=0, pre_vote=True)


@pytest.mark.parametrize(
    ("scope", "states", "depth"),
    [
        (EVERY_FAULT, 83_691, 61),
        (REPLICATION, 41_218, 42),
        (DEPOSED, 34_362, 56),
        (CRASHES, 61_304, 44),
        (PRE_VOTE, 13_671, 64),
    ],
)
def test_scope_is_explored_to_its_fixpoint(scope: Scope, states: int, depth: int) -> None:
    result = explore(Model(scope))
    assert result.complete
    # Deterministic: other numbers mean that the core, or what is explored, has changed.
    assert (result.states, result.depth) == (states, depth)


def test_exploration_that_is_given_up_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--terms", "1", "--proposals", "0", "--crashes", "0", "--bag", "2"]) == 0
    assert "fixpoint reached: " in capsys.readouterr().out
    assert main(["--states-max", "100"]) == 2
    assert "GIVEN UP" in capsys.readouterr().out


# --- defects -----------------------------------------------------------------------------------------------------------


def _campaign_before_durable(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("tests.exhaustive.replica.RaftConfig", partial(RaftConfig, campaign_before_durable=True))


def _forget_the_vote(patch: pytest.MonkeyPatch) -> None:
    crash = Runner.crash

    def forgetful(runner: Runner, replica: Replica, how: Crash) -> Outcome:
        return crash(runner, replica._replace(stored=(replica.stored[0], 0)), how)

    patch.setattr(Runner, "crash", forgetful)


def _take_half_for_a_majority(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("zmqbroker.raft.quorum.majority", lambda count: count // 2)


def _always_truncate(patch: pytest.MonkeyPatch) -> None:
    def first_new(log: RaftLog, entries: Sequence[Entry]) -> int:
        return next((position for position, entry in enumerate(entries) if entry.index > log.commit_index), len(entries))

    patch.setattr(RaftLog, "_first_new", first_new)


def _answer_before_the_disk(patch: pytest.MonkeyPatch) -> None:
    send = RaftState.send

    def hasty(state: RaftState, message: Message) -> None:
        send(state, message)
        if message.to != state.id and message.type is MessageType.APPEND_ENTRIES_RESPONSE:
            state.messages.append(state.messages_after_append.pop())

    patch.setattr(RaftState, "send", hasty)


def _compare_length_first(patch: pytest.MonkeyPatch) -> None:
    def is_up_to_date(log: RaftLog, index: int, term: int) -> bool:
        return (index, term) >= (log.last_index, log.last_term)

    patch.setattr(RaftLog, "is_up_to_date", is_up_to_date)


def _commit_earlier_terms_by_counting(patch: pytest.MonkeyPatch) -> None:
    def maybe_commit(log: RaftLog, index: int, term: int) -> bool:
        moved = index > log.commit_index
        log.commit_to(index)
        return moved

    patch.setattr(RaftLog, "maybe_commit", maybe_commit)


@pytest.mark.parametrize(
    ("defect", "scope", "what"),
    [
        (_campaign_before_durable, CRASHES, "a vote is asked for before the own is durable"),
        (_forget_the_vote, CRASHES, "a durable vote is changed or forgotten"),
        (_take_half_for_a_majority, CRASHES, "a leader without a majority of votes"),
        (_always_truncate, REPLICATION, "an acknowledged entry is lost"),
        (_answer_before_the_disk, REPLICATION, "entries are acknowledged before they are durable"),
        pytest.param(_compare_length_first, OUTDATED, "a leader lacks a committed entry", marks=pytest.mark.long),
        (_commit_earlier_terms_by_counting, DEPOSED, "an entry of an earlier term is committed by counting"),
    ],
)
def test_defect_is_found_and_its_path_repeats_it(
    defect: Callable[[pytest.MonkeyPatch], None], scope: Scope, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    defect(monkeypatch)
    with pytest.raises(Counterexample) as found:
        explore(Model(scope))
    assert found.value.what == what
    walk = Walk(scope)
    for call in found.value.path[:-1]:
        made_by(call, walk)
    with pytest.raises(Violation, match=what):
        made_by(found.value.path[-1], walk)
