"""A group of fixed members under random faults, over many seeds. A failure names its seed."""

from __future__ import annotations

import pytest

from tests.unit.raft.random_group import RandomGroup

STEPS = 1500


@pytest.mark.parametrize("seed", range(60))
def test_group_under_faults_keeps_every_promise_and_recovers(seed: int) -> None:
    size = (1, 3, 3, 5)[seed % 4]
    group = RandomGroup(seed, size, size)
    for _ in range(STEPS):
        group.step()
    group.heal()
    assert group.chosen
