"""Whole clusters from fixed seeds: every promise holds in each of them, and every one of them recovers.

Run one alone with `-k seed_7`, or with its whole story with `python -m tests.simulation --seed 7 --trace`.
"""

from __future__ import annotations

import time

import pytest

from tests.simulation.conftest import Totals
from tests.simulation.pinned import PINNED
from tests.simulation.simulation import simulate

#: About two minutes on one core.
SEEDS = sorted({*range(60), *PINNED})


@pytest.mark.parametrize("seed", [pytest.param(seed, id=f"seed_{seed}") for seed in SEEDS])
def test_cluster_keeps_every_promise_and_recovers(seed: int, totals: Totals) -> None:
    began = time.process_time()
    report = simulate(seed)
    totals.add(report, time.process_time() - began)
    assert report.commit_index > 0
