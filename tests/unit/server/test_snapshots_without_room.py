"""A snapshot and a disk without room: at the receiver, and before it is made."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from tests.unit.server.snapshot_scenes import assert_caught_up, drive, failing, installed, left_behind
from tests.unit.server.snapshot_sites import Sites
from zmqbroker.errors import NoRoom
from zmqbroker.server import snapshot_transfer
from zmqbroker.server.disks import Disks


def test_no_snapshot_is_made_for_a_node_without_room_before_it_has_some(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(sites: Sites) -> None:
        await left_behind(sites)
        full = [True]
        monkeypatch.setattr(Disks, "has_room", lambda _disks, member_id: not (full and member_id == 3))
        sites[3].open()
        for _ in range(200):
            await sites.tick()
        assert sites[1].group.core.compacted_probes > 0
        assert sites[1].counters["snapshots_made"] == 0
        full.clear()
        await sites.until(lambda: installed(sites), "a snapshot")
        await sites.settle()
        assert_caught_up(sites, sites[3])

    drive(tmp_path, test)


def test_snapshot_whose_bodies_find_no_room_is_sent_again_later(tmp_path: Path) -> None:
    async def test(sites: Sites) -> None:
        await left_behind(sites)
        third = sites[3]
        third.open()
        put_bodies, full = third.state.put_bodies, [10]

        def half(group: int, bodies: Any) -> None:
            if full:
                put_bodies(group, islice(bodies, full.pop()))
                raise NoRoom("the volume is full")
            put_bodies(group, bodies)

        third.state.put_bodies = half  # type: ignore[method-assign]
        await sites.until(lambda: third.counters["snapshots_failed"], "a failure")
        assert (third.failures, third.files()) == ([], [])
        await sites.until(lambda: installed(sites), "a snapshot")
        await sites.settle()
        assert_caught_up(sites, third)

    drive(tmp_path, test)


@pytest.mark.parametrize("ends", [False, True])
def test_snapshot_whose_state_finds_no_room_waits_for_it_unless_the_node_ends(tmp_path: Path, ends: bool) -> None:
    async def test(sites: Sites) -> None:
        await left_behind(sites)
        third = sites[3]
        third.open()
        state, install, tries = third.state, third.state.install, Counter[str]()

        def full(*_: Any) -> None:
            tries["made"] += 1
            raise NoRoom("the volume is full")

        state.install = full  # type: ignore
        await sites.until(lambda: tries["made"] > 1, "two tries")
        assert (third.failures, third.counters["snapshots_installed"]) == ([], 0)
        if ends:
            await third.stop()
            third.open()
        else:
            state.install = install  # type: ignore[method-assign]
        await sites.until(lambda: installed(sites), "a snapshot")
        await sites.settle()
        assert_caught_up(sites, third)

    drive(tmp_path, test)


def test_receiver_without_room_goes_on_and_takes_it_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(sites: Sites) -> None:
        await left_behind(sites)
        full = failing(snapshot_transfer.Incoming.take, OSError(28, "no space left"), times=3)
        monkeypatch.setattr(snapshot_transfer.Incoming, "take", lambda self, *arguments: full(self, *arguments))
        sites[3].open()
        await sites.until(lambda: sites[3].counters["snapshots_failed"] == 3, "three failures")
        await sites.until(lambda: installed(sites), "a snapshot")
        await sites.settle()
        assert_caught_up(sites, sites[3])
        assert (sites[3].failures, sites[3].files()) == ([], [])

    drive(tmp_path, test)
