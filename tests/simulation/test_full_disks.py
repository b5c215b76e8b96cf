"""Clusters whose disks are full again and again: nodes wait for room, nothing breaks, and all go on."""

from __future__ import annotations

import pytest

from tests.simulation.options import Options
from tests.simulation.simulation import Report, run
from tests.simulation.world import MILLISECOND, SECOND

#: 51 and 113: requests for votes of several terms had waited for room, came at once, and were answered at once. 1006: a leader
#: without room must let another one lead.
SEEDS = (1, 2, 4, 51, 113, 1006)


def report_of(seed: int) -> Report:
    """A run on small segments: each is full after some ten entries. Every fourth is of an ephemeral cluster."""
    sync = seed % 4 != 0
    return run(
        Options(
            seed=seed,
            nodes=3 if seed % 3 else 5,
            segments=True,
            sync=sync,
            segment_bytes=1 << 12,
            body_bytes_max=400,
            send_interval_ns=3 * MILLISECOND,
            sync_delay_ns=8 * MILLISECOND,
            flush_ns=50 * MILLISECOND,
            keep_entries=20,
            loss=0.05,
            fifo=seed % 2 == 0,
            chaos_ns=4 * SECOND,
            fault_interval_ns=60 * MILLISECOND,
            faults=("disk_full", "disk_full", "kill", "partition", "compact", *(("power_cut",) if sync else ())),
        )
    )


@pytest.mark.parametrize("seed", SEEDS)
def test_cluster_on_full_disks_keeps_every_promise_and_recovers(seed: int) -> None:
    report = report_of(seed)
    assert report.counters["waits_for_room"] > 0
    assert report.counters["messages_sent"] > 0


@pytest.mark.long
@pytest.mark.parametrize("seed", range(2000, 2400))
def test_cluster_on_full_disks_keeps_every_promise_with_many_seeds(seed: int) -> None:
    report_of(seed)
