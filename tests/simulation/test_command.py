"""The command line of the simulator and its ledger."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.simulation.__main__ import main
from tests.simulation.failure import Violation
from tests.simulation.ledger import FIRST_SEED, Ledger
from tests.simulation.options import draw
from zmqbroker.raft.log import RaftLog

#: A run of a fraction of a second.
SEED = 44


def test_one_seed_prints_what_it_was_and_its_digest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seed", str(SEED)]) == 0
    out = capsys.readouterr().out
    assert f"seed={SEED}" in out
    assert len(out.split()[-1]) == 64


def test_nodes_overrides_the_size_alone() -> None:
    assert draw(SEED, nodes=7).nodes == 7
    assert draw(SEED, nodes=7).faults == draw(SEED).faults


def test_range_of_seeds_sums_up(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seeds", f"{SEED}-{SEED}"]) == 0
    assert "1 runs, " in capsys.readouterr().out


def test_broken_promise_is_printed_and_ends_with_status_1(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RaftLog, "maybe_commit", lambda log, index, term: log.commit_to(log.last_index) or True)
    assert main(["--seed", str(SEED)]) == 1
    out = capsys.readouterr().out
    assert f"replay: .venv/bin/python -m tests.simulation --seed {SEED}" in out


def test_ledger_goes_on_where_the_last_run_ended(tmp_path: Path) -> None:
    path = tmp_path / "ledger.json"
    for runs in (1, 2):
        assert main(["--ledger", str(path), "--seconds", "0.000001"]) == 0 or runs
    ledger = Ledger.load(path)
    assert ledger.next_seed == FIRST_SEED + ledger.runs


def test_ledger_keeps_broken_promises(tmp_path: Path) -> None:
    path = tmp_path / "ledger.json"
    ledger = Ledger.load(path)
    ledger.faults["kill"] += 3
    ledger.add_violation(Violation("I5", "text", node=1, time_ns=1, seed=9, command="x"))
    ledger.save(path)
    again = Ledger.load(path)
    assert again == ledger
    assert again.violations == [["9", "I5"]]
    assert "1 runs" in again.describe()
