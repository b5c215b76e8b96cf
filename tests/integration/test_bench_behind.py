"""The benchmark of a follower far behind runs: with tiny counts, which measures nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import behind


def test_bench_of_a_follower_behind_brings_it_up_and_says_what_it_cost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(behind, "BEFORE_S", 3.0)
    monkeypatch.setattr(behind, "AFTER_S", 2.0)
    found = behind.measure(tmp_path, "ephemeral", behind_bytes=4 << 20, budget_bytes=256 << 20, rate=2_000)
    assert found["before_per_s"] > 0
    assert found["during_per_s"] > 0
    assert found["caught_up_s"] > 0
    assert (found["refused_batches_before"], found["refused_batches"], found["refused_batches_after"]) == (0, 0, 0)
    assert (found["snapshots_made"], found["snapshots_installed"]) == (0, 0), "the log holds what it missed"
