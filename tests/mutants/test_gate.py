"""The gate: every mutant is found within its budget, by what should find it; and the hunt itself can fail.

One mutant alone: `-k M22`, or `python -m tests.mutants --only M22`.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest

from tests.mutants import replicating
from tests.mutants.__main__ import main
from tests.mutants.defects import MUTANTS
from tests.mutants.hunt import hunt
from tests.mutants.mutant import Mutant
from zmqbroker.raft import election
from zmqbroker.raft.messages import Message
from zmqbroker.raft.state import RaftState

HARMLESS = Mutant(id="X", breaks="nothing", apply=lambda patch: None, caught_by=frozenset(("I1",)), seeds=2)
M1 = MUTANTS[0]


@pytest.mark.parametrize("mutant", MUTANTS, ids=[mutant.id for mutant in MUTANTS])
def test_mutant_is_found_within_its_budget(mutant: Mutant) -> None:
    outcome = hunt(mutant)
    assert outcome.killed, outcome


def test_mutants_of_the_reference_are_all_there_and_ids_are_unique() -> None:
    ids = [mutant.id for mutant in MUTANTS]
    assert len(set(ids)) == len(ids)
    assert {f"M{number}" for number in range(1, 27)} <= {re.sub("[a-z]$", "", id) for id in ids}


def test_hunt_of_a_harmless_change_finds_nothing() -> None:
    outcome = hunt(HARMLESS)
    assert (outcome.killed, outcome.caught_by, outcome.seeds) == (False, "", 2)


def test_hunt_that_ends_with_another_finding_than_expected_is_no_kill() -> None:
    outcome = hunt(replace(M1, caught_by=frozenset(("I23",))))
    assert (outcome.killed, outcome.caught_by) == (False, "I19")


def test_hunt_takes_the_defect_out_again() -> None:
    send = RaftState.send
    assert hunt(M1).killed
    assert RaftState.send is send


def test_hunt_of_a_defect_that_stumbles_itself_raises_its_error() -> None:
    def stumble(state: RaftState, message: Message) -> bool:
        raise AssertionError("not the product's own")

    broken = replace(
        HARMLESS, apply=lambda patch: patch.setattr(election, "accept_term", stumble), caught_by=frozenset(("I0",))
    )
    with pytest.raises(AssertionError, match="not the product's own"):
        hunt(broken)


def test_hunt_fails_when_the_seed_fails_without_the_defect(monkeypatch: pytest.MonkeyPatch) -> None:
    replicating.acknowledge_before_disk(monkeypatch)
    with pytest.raises(AssertionError, match="I19"):
        hunt(M1)


def test_command_prints_the_table_and_succeeds(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--only", "M1,M15b"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:3]] == ["M1", "M15b"]
    assert lines[-1].startswith("2 of 2 killed")


def test_command_prints_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--only", "M1", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["mutant"], row["killed"], row["caught_by"], row["seeds"]) == ("M1", True, "I19", 1)


def test_command_fails_when_a_mutant_survives(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.mutants.__main__.MUTANTS", (HARMLESS,))
    assert main([]) == 1
    assert main(["--json"]) == 1
    assert "SURVIVES" in capsys.readouterr().out


def test_command_refuses_an_unknown_mutant() -> None:
    with pytest.raises(SystemExit):
        main(["--only", "M99"])
