"""How large the log of a leader may get: the rule, and what a node tells it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.unit.server.snapshot_scenes import drive, installed, left_behind
from tests.unit.server.snapshot_sites import Sites
from zmqbroker.server import snapshot_making
from zmqbroker.server.log_room import LogRoom


def test_log_may_be_twice_its_budget_while_no_snapshot_is_under_way() -> None:
    room = LogRoom(100)
    room.begin(200)
    room.tick(0, short=False)
    assert room.limit_bytes == 200


def test_snapshot_counts_as_budget_from_its_first_byte_on() -> None:
    room = LogRoom(100)
    limits = []
    for size in (0, 10, 300, 300):
        room.tick(size, short=False)
        limits.append(room.limit_bytes)
    assert limits == [200, 220, 800, 800]


def test_publishes_give_nothing_back_for_good_while_a_snapshot_is_under_way() -> None:
    room = LogRoom(100)
    room.tick(300, short=False)
    room.taken(40)
    assert room.limit_bytes == 790
    room.tick(300, short=False)
    assert room.limit_bytes == 800


def test_room_is_given_back_by_what_is_published_after_the_snapshot_and_no_further_than_was_lent() -> None:
    room = LogRoom(100)
    room.tick(50, short=False)
    limits = []
    for _ in range(3):
        room.tick(0, short=False)
        room.taken(160)
        limits.append(room.limit_bytes)
    assert limits == [260, 220, 200]


def test_new_leader_begins_with_the_log_that_it_has() -> None:
    room = LogRoom(100)
    room.begin(260)
    assert room.limit_bytes == 260
    room.taken(80)
    assert room.limit_bytes == 240
    room.begin(30)
    assert room.limit_bytes == 240, "what is lent already stays"


@pytest.mark.parametrize("snapshot_bytes", [0, 300])
def test_short_disk_lends_nothing(snapshot_bytes: int) -> None:
    room = LogRoom(100)
    room.tick(300, short=False)
    room.tick(snapshot_bytes, short=True)
    assert room.limit_bytes == 200


def test_leader_lends_room_while_it_makes_and_sends_a_snapshot(tmp_path: Path) -> None:
    async def test(sites: Sites) -> None:
        await left_behind(sites)
        first = sites[1]
        room = first.node.log_room
        base = room.limit_bytes
        assert base == 2 << 20
        sites.loses = lambda _sender, _to, frame: isinstance(frame, tuple)  # no chunk arrives
        making, job = [], first.flusher.job

        async def noting(work: Any) -> Any:
            if getattr(work, "func", None) is snapshot_making._write_bodies:
                making.append(first.snapshots.bytes_under_way)
            return await job(work)

        first.flusher.job = noting  # type: ignore[method-assign]
        sites[3].open()
        await sites.until(lambda: first.snapshots._outgoing, "a transfer")
        size = first.snapshots.bytes_under_way
        await sites.tick()
        assert room.limit_bytes == base + 2 * size
        assert making[0] == 0 < making[1] < making[-1] < size, "room is lent while it is made"
        assert size == sum((first.directory / "snapshots" / name).stat().st_size for name in first.files())
        sites.loses = lambda *_: False
        await sites.until(lambda: installed(sites) and not first.snapshots._outgoing, "the end of the transfer")
        assert first.snapshots.bytes_under_way == 0
        assert room.limit_bytes == base + 2 * size, "for what the receiver needs next"
        assert sites[2].node.log_room.limit_bytes == base

    drive(tmp_path, test)


def test_node_that_comes_to_lead_begins_with_the_log_that_it_has(tmp_path: Path) -> None:
    async def test(sites: Sites) -> None:
        for site in sites.sites.values():
            site.open()
        await sites.lead(1)
        await sites.write(40)
        second = sites[2].node
        second.log_room = LogRoom(10_000)
        await sites.lead(2)
        assert second.log_room.limit_bytes == second.log.size_bytes > 20_000

    drive(tmp_path, test)
