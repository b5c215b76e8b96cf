"""The micro benchmarks run in both halves, and their table takes the least disturbed figure of each."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.micro import CASES, halves, take

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", CASES)
def test_case_takes_time_and_can_be_repeated(name: str, tmp_path: Path) -> None:
    assert take(name, tmp_path / "case", case_ns=0) > 0


def test_micro_runs_cases_in_both_halves(tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    names = ["codec-encode-64x128B", "store-read-100B"]
    command = [sys.executable, "-m", "bench.micro", "--rounds", "1", "--case-ms", "1", "--directory", str(tmp_path)]
    done = subprocess.run(
        [*command, "--out", str(out), "--cases", *names], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(out.read_text(encoding="utf-8"))["figures"]
    assert [row["case"] for row in figures["cases"]] == names
    assert [half for half, _ in figures["turns"]] == ["compiled", "pure"]
    assert all(row["compiled_ns"] > 0 and row["pure_ns"] > 0 for row in figures["cases"])
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"], "data was left behind"


def test_halves_takes_the_lowest_turn_of_each() -> None:
    turns = [("compiled", {"a": 12.0}), ("pure", {"a": 90.0}), ("compiled", {"a": 10.0}), ("pure", {"a": 95.0})]
    assert halves(turns) == [{"case": "a", "compiled_ns": 10, "pure_ns": 90, "times_as_fast": 9}]
