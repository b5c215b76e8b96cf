"""What a leader keeps for a node that a snapshot brings up, and for how long: whole nodes on real files, in one process."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.unit.server.harness import batch, pending
from tests.unit.server.snapshot_scenes import assert_caught_up, drive, installed, left_behind
from tests.unit.server.snapshot_sites import GROUP, Sites
from zmqbroker.server import snapshot_keeping, snapshot_making


def test_snapshot_that_serves_is_not_made_again_when_somebody_asks_while_it_is_offered(tmp_path: Path) -> None:
    async def test(sites: Sites) -> None:
        await left_behind(sites)
        first = sites[1]
        sites.loses = lambda _sender, _to, frame: isinstance(frame, tuple)  # no chunk arrives
        sites[3].open()
        await sites.until(lambda: first.counters["snapshots_made"], "a snapshot")
        first.group.core._state.compacted_probes += 1
        for _ in range(50):
            await sites.tick()
        sites.loses = lambda *_: False
        await sites.until(lambda: installed(sites), "a snapshot")
        assert first.counters["snapshots_made"] == 1

    drive(tmp_path, test)


def test_snapshot_that_a_full_log_waits_for_is_kept_until_it_has_arrived(tmp_path: Path) -> None:
    async def test(sites: Sites) -> None:
        await left_behind(sites)
        first = sites[1]
        first.snapshots._kept._budget_bytes = 0
        sites[3].open()
        await sites.until(lambda: installed(sites), "a snapshot")
        await sites.until(lambda: not first.files(), "an empty directory")
        assert (first.log.offered(GROUP), first.counters["snapshots_made"]) == (None, 1)
        await sites.settle()
        await sites.until(lambda: not first.flusher._pins, "a log without pins")
        assert_caught_up(sites, sites[3])

    drive(tmp_path, test)


async def held_up(sites: Sites) -> int:
    """Node 3 has installed a snapshot and gets no entries; the group may trim some that it lacks. The index of the snapshot."""
    await left_behind(sites)
    first = sites[1]
    first.snapshots._kept._budget_bytes = 0
    allowed, job = asyncio.Event(), first.flusher.job

    async def slow(work: Any) -> Any:
        if getattr(work, "func", None) is snapshot_making._write_bodies:
            await allowed.wait()
        return await job(work)

    first.flusher.job = slow  # type: ignore[method-assign]
    sites.loses = lambda _sender, to, frame: to == 3 and isinstance(frame, list) and any(part.entries for part in frame)
    sites[3].open()
    await sites.until(lambda: first.snapshots._making, "a snapshot that is being made")
    index = first.state.applied_index(GROUP)
    for number in range(200):
        if first.group.machine.trimmed_index > index:
            break
        first.group.publish(batch(bytes(4000)), 0, pending(10_000 + number))
        await sites.tick()
    assert first.group.machine.trimmed_index > index
    allowed.set()
    await sites.until(lambda: installed(sites) and not first.files(), "a snapshot")
    await first.flusher.flush()
    return index


def test_log_behind_a_snapshot_stays_until_its_receiver_has_what_may_be_trimmed(tmp_path: Path) -> None:
    async def test(sites: Sites) -> None:
        index, first = await held_up(sites), sites[1]
        assert first.flusher._pins == {GROUP: index}
        sites.loses = lambda *_: False
        await sites.until(lambda: not first.flusher._pins, "a log without pins")
        await sites.settle()
        assert (first.counters["snapshots_made"], first.counters["snapshots_sent"]) == (1, 1)
        assert_caught_up(sites, sites[3])

    drive(tmp_path, test)


def test_log_behind_a_snapshot_is_given_up_when_its_receiver_gets_no_further(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(sites: Sites) -> None:
        await held_up(sites)
        monkeypatch.setattr(snapshot_keeping, "KEEP_NS", -1)
        await sites.tick()
        assert sites[1].flusher._pins == {}

    drive(tmp_path, test)


def test_log_behind_a_snapshot_is_kept_for_nobody_by_a_node_that_leads_no_more(tmp_path: Path) -> None:
    async def test(sites: Sites) -> None:
        await held_up(sites)
        sites[1].group.core.transfer_leader(2)
        await sites.until(lambda: sites[2].group.leading, "another leader")
        await sites.tick()
        assert sites[1].flusher._pins == {}

    drive(tmp_path, test)
