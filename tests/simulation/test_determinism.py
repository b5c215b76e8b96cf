"""A run is a function of its seed: the same on every machine, in every Python, whatever the order of its sets."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation.simulation import simulate
from tests.simulation.trace import Trace

ROOT = Path(__file__).resolve().parents[2]
#: Segment files, persistent, messages as bytes, many faults. Its digest changes with every change of what a node does: then
#: take the new one over, and compare it on another Python if there is one.
SEED = 44
DIGEST = "df8170a5cf34b3bb7f4bb9f34fc4a281af5c8dbc74db6eaa9afc2a2c612c55dd"


def digest_in_another_process(hash_seed: int) -> str:
    """The digest that a fresh interpreter finds."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.simulation", "--seed", str(SEED)],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": str(hash_seed)},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return done.stdout.split()[-1]


@pytest.mark.parametrize("hash_seed", [1, 2])
def test_run_in_another_process_is_the_same(hash_seed: int) -> None:
    assert digest_in_another_process(hash_seed) == simulate(SEED).trace


def test_run_of_the_pinned_seed_has_the_pinned_digest() -> None:
    assert simulate(SEED).trace == DIGEST


def test_run_with_text_is_the_same() -> None:
    lines: list[str] = []
    assert simulate(SEED, trace=Trace(lines.append)).trace == simulate(SEED).trace
    assert any("REQUEST_VOTE" in line for line in lines)
