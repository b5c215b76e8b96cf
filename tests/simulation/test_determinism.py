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
#: Segment files, persistent, messages as bytes, many faults; the second with everything that channels with rules have. A digest
#: changes with every change of what a node does: then take the new one over, and compare it on another Python if there is one.
DIGESTS = {
    44: "df8170a5cf34b3bb7f4bb9f34fc4a281af5c8dbc74db6eaa9afc2a2c612c55dd",
    188: "ec07c61ca7a869e86fd35e5728019ee5abd00b8141b476c3e698a67b231e8fbc",
}


def digest_in_another_process(seed: int, hash_seed: int) -> str:
    """The digest that a fresh interpreter finds."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.simulation", "--seed", str(seed)],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": str(hash_seed)},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return done.stdout.split()[-1]


@pytest.mark.parametrize(("seed", "hash_seed"), [(44, 1), (44, 2), (188, 1)])
def test_run_in_another_process_is_the_same(seed: int, hash_seed: int) -> None:
    assert digest_in_another_process(seed, hash_seed) == simulate(seed).trace


@pytest.mark.parametrize("seed", DIGESTS)
def test_run_of_a_pinned_seed_has_the_pinned_digest(seed: int) -> None:
    assert simulate(seed).trace == DIGESTS[seed]


def test_run_with_text_is_the_same() -> None:
    lines: list[str] = []
    assert simulate(44, trace=Trace(lines.append)).trace == simulate(44).trace
    assert any("REQUEST_VOTE" in line for line in lines)
