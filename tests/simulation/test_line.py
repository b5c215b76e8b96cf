"""An events store in whole clusters: every durable consumer reads every event in order, from fixed seeds."""

from __future__ import annotations

import pytest

from tests.simulation.options import draw
from tests.simulation.simulation import simulate

SEEDS = [106, 114, 126, 254, 346]


@pytest.mark.parametrize("seed", [pytest.param(seed, id=f"seed_{seed}") for seed in SEEDS if draw(seed).store])
def test_cluster_with_a_store_keeps_every_promise_and_recovers(seed: int) -> None:
    assert simulate(seed).commit_index > 0


def test_seeds_that_tests_name_have_no_store() -> None:
    assert not any(draw(seed).store for seed in range(100))
