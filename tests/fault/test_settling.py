"""Leaders die while messages are nacked, delayed, rejected, requeued and forgotten: each has one end, and counts are exact."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.fault.conftest import Note
from tests.fault.operator import verified_cluster
from tests.fault.settling import DELIVERY_LIMIT, Seen, Settling, faults
from tests.processes import Cluster, wait_until

#: Messages that are confirmed before the next fault.
CONFIRMS = 300
PATIENCE_S = 60.0

ROUNDS = [pytest.param(2, id="short"), pytest.param(20, id="long", marks=pytest.mark.long)]


async def kill_leaders(nodes: Cluster, load: Settling, rounds: int) -> None:
    """Kill the leader with SIGKILL again and again, and bring it back."""

    def worked() -> None:
        target = load.confirmed + CONFIRMS
        wait_until(lambda: load.confirmed >= target, PATIENCE_S, f"{CONFIRMS} confirms")

    def kill() -> None:
        leader = nodes.leader()
        leader.kill()
        worked()
        leader.start()
        wait_until(lambda: nodes.caught_up(leader), PATIENCE_S, f"{leader.name} to catch up")

    for _ in range(rounds):
        await asyncio.to_thread(worked)
        await asyncio.to_thread(kill)
    await asyncio.to_thread(worked)
    load.stop()


@pytest.mark.timeout(900)
@pytest.mark.parametrize("rounds", ROUNDS)
def test_settling_under_dying_leaders_gives_every_message_one_end(tmp_path: Path, note: Note, rounds: int) -> None:
    with verified_cluster(tmp_path) as nodes:

        async def main() -> Seen:
            load = Settling(nodes.url, seed=rounds)
            async with asyncio.TaskGroup() as group:
                running = group.create_task(load.run())
                group.create_task(kill_leaders(nodes, load, rounds))
            return running.result()

        seen = asyncio.run(main())
        grouped = sum(number in seen.groups for number, *_ in seen.deliveries)
        note(
            f"{len(seen.sent)} confirmed, {len(seen.deliveries)} deliveries, {len(seen.acked_ns)} acked, "
            f"{len(seen.dead)} dead, {len(seen.other)} requeued, {len(seen.doubtful)} settlements of unknown outcome, "
            f"{grouped} deliveries of messages with a group"
        )
        assert faults(seen) == []
        assert seen.dead
        assert seen.other
        assert len(seen.acked_ns) > len(seen.sent) // 2


def test_faults_of_a_run_are_found() -> None:
    good = Seen(
        sent={1: (0, 0), 2: (0, 0), 3: (0, 0)}, acked_ns={1: 5}, dead=[(2, "delivery_limit", DELIVERY_LIMIT)], other=[3]
    )
    good.deliveries = [(1, 1, 1, 3), (2, 2, 1, 3), (2, 2, 2, 4), (2, 2, 3, 5)]
    assert faults(good) == []
    good.groups = both = {1: "g", 2: "g"}
    good.ending_ns = {(1, 1): 3}
    assert faults(good) == []
    found = {
        "is nowhere": Seen(sent={1: (0, 0)}),
        "never sent": Seen(other=[1]),
        "has 2 ends": Seen(sent={1: (0, 0)}, other=[1], acked_ns={1: 5}),
        "under one count": Seen(deliveries=[(1, 1, 1, 1), (1, 1, 1, 2)]),
        "more often than": Seen(deliveries=[(1, 1, DELIVERY_LIMIT + 1, 1)]),
        "dead after 1": Seen(sent={1: (0, 0)}, dead=[(1, "delivery_limit", 1)]),
        "too early": Seen(sent={1: (10**9, 1000)}, deliveries=[(1, 1, 1, 10**9)], other=[1]),
        "after its ack": Seen(sent={1: (0, 0)}, acked_ns={1: 5}, deliveries=[(1, 1, 2, 6)]),
        "while it was the turn of 1": Seen(groups=both, deliveries=[(1, 1, 1, 1), (2, 2, 1, 2)], ending_ns={(1, 1): 3}),
        "after 2 of the same group": Seen(groups=both, deliveries=[(2, 2, 1, 1), (1, 1, 1, 2)], ending_ns={(2, 2): 1}),
    }
    for text, seen in found.items():
        (fault,) = faults(seen)
        assert text in fault
