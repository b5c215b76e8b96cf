"""An events store in whole clusters: every durable consumer reads every event in order, from fixed seeds.

In some of them the store feeds a queue, and messages are sent to it and another queue at once: each is everywhere once.
"""

from __future__ import annotations

import pytest

from tests.simulation.options import draw
from tests.simulation.simulation import simulate

SEEDS = [106, 114, 126, 254, 346]


@pytest.mark.parametrize("seed", [pytest.param(seed, id=f"seed_{seed}") for seed in SEEDS if draw(seed).store])
def test_cluster_with_a_store_keeps_every_promise_and_recovers(seed: int) -> None:
    assert simulate(seed).commit_index > 0


def test_some_of_these_seeds_have_routing_and_some_have_not() -> None:
    assert {draw(seed).routed for seed in SEEDS if draw(seed).store} == {False, True}


def test_seeds_that_tests_name_have_no_store() -> None:
    assert not any(draw(seed).store or draw(seed).routed for seed in range(100))
