"""How long a failover takes, measured: the trials of `failover_trials`, whose percentiles are printed and never asserted."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.fault.conftest import Note
from tests.fault.failover_trials import FAULTS, Seen, Trial, left_out, percentiles, run, table

TRIALS = [pytest.param(1, id="short"), pytest.param(50, id="long", marks=pytest.mark.long)]


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("volume", ["ephemeral", "persistent"])
@pytest.mark.parametrize("trials", TRIALS)
def test_failover_trials_end_without_an_error_that_a_caller_sees(tmp_path: Path, note: Note, volume: str, trials: int) -> None:
    done = asyncio.run(run(tmp_path, FAULTS, trials, volume, note))
    for line in table(done):
        note(line)
    assert len(done) == trials * len([fault for fault in FAULTS if not left_out(fault)])
    assert [error for trial in done for seen in trial.seen.values() for error in seen.errors] == []
    assert all(trial.terms >= 1 for trial in done)


def test_percentiles_are_by_nearest_rank() -> None:
    assert percentiles([7.0]) == {"min": 7.0, "p50": 7.0, "p90": 7.0, "p99": 7.0, "max": 7.0}
    assert percentiles(float(number) for number in range(100, 0, -1)) == {
        "min": 1.0,
        "p50": 50.0,
        "p90": 90.0,
        "p99": 99.0,
        "max": 100.0,
    }


def test_table_has_a_row_for_everything_that_was_measured() -> None:
    seen = Seen(gap_ms=40.0, until_ms=38.5, wait_ms=41.0, errors=["oh"])
    lines = list(table([Trial(fault="kill", elected_ms=30.0, terms=2, seen={"one": seen})]))
    assert lines[0] == "kill: 1 trials, 1 errors seen by callers, 1 with more than one new term (ms)"
    assert [line.split()[-1] for line in lines[2:]] == ["30.0", "40.0", "38.5", "41.0"]
