"""What a leader does as time passes: it moves the replicated time on, and says how far every node holds the log."""

from __future__ import annotations

import pytest

from tests.unit.server.harness import (
    BOB,
    Site,
    StillClock,
    batch,
    commands_at,
    exchange,
    lose_leadership,
    pending,
    receive,
    trio,
    waiting,
)
from zmqbroker.commands import Tick, Trim
from zmqbroker.server import trimming

MILLISECOND = 1_000_000


def test_tick_of_a_leader_moves_the_time_on_when_something_is_due_and_only_once() -> None:
    site = Site().lead()
    clock = StillClock(site.machine.now_unix_ns + 10**9)
    site.group.clock = clock  # type: ignore[assignment]
    asked = waiting(1)
    site.group.submit(receive(asked, wait_ms=100), asked)
    site.run()
    before = site.group.core.last_index
    site.group.tick()
    site.run()
    assert site.group.core.last_index == before, "nothing is due yet"
    clock.stamp += 100 * MILLISECOND
    site.group.tick()
    site.group.tick()
    site.run()
    assert commands_at(site, before + 1) == [Tick]
    assert site.group.core.last_index == before + 1
    assert [delivery.pieces for _, delivery in site.host.delivered] == [()]


def test_tick_of_a_leader_returns_messages_whose_visibility_ended() -> None:
    site = Site().lead()
    clock = StillClock(site.machine.now_unix_ns + 10**9)
    site.group.clock = clock  # type: ignore[assignment]
    asked = waiting(1)
    site.group.publish(batch(b"x"), 0, pending(2))
    site.group.submit(receive(asked, visibility_ms=100), asked)
    site.run()
    clock.stamp += 100 * MILLISECOND
    site.group.tick()
    again = waiting(3, BOB)
    site.group.submit(receive(again), again)
    site.run()
    assert [delivery.pieces[0].delivery_count for _, delivery in site.host.delivered] == [1, 2]


def test_tick_of_a_leader_says_how_far_all_nodes_hold_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trimming, "TRIM_INDEXES", 10)
    sites = trio()
    for request in range(12):
        sites[1].group.publish(batch(b"x"), 0, pending(request))
        exchange(sites)
    held_by_all = sites[1].group.core.matched_by_all()
    assert held_by_all >= 10
    sites[1].group.tick()
    sites[1].group.tick()
    exchange(sites)
    assert commands_at(sites[1], held_by_all + 1) == [Trim]
    assert sites[1].machine.trimmed_index == held_by_all
    sites[1].group.tick()
    exchange(sites)
    assert sites[1].group.core.last_index == held_by_all + 1


def test_tick_of_a_leader_says_nothing_of_the_log_while_a_node_lags(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trimming, "TRIM_INDEXES", 10)
    sites = trio()
    majority = {number: sites[number] for number in (1, 2)}
    for request in range(30):
        sites[1].group.publish(batch(b"x"), 0, pending(request))
        exchange(majority)
    sites[1].group.tick()
    exchange(majority)
    assert sites[1].machine.trimmed_index == 0


def test_tick_of_a_leader_says_so_earlier_when_entries_are_large() -> None:
    sites = trio(trim_bytes=1000)
    exchange(sites)
    sites[1].group.tick()
    exchange(sites)
    before = sites[1].machine.trimmed_index
    for request in range(3):
        assert sites[1].machine.trimmed_index == before
        sites[1].group.publish(batch(bytes(400)), 0, pending(request))
        exchange(sites)
        sites[1].group.tick()
        exchange(sites)
    marked = sites[1].machine.trimmed_index
    assert marked > before
    sites[1].group.tick()
    exchange(sites)
    assert sites[1].machine.trimmed_index == marked, "the Trim itself is not worth another one"


def test_tick_of_a_leader_says_so_when_the_last_node_has_caught_up() -> None:
    sites = trio(trim_bytes=1000)
    majority = {number: sites[number] for number in (1, 2)}
    for request in range(30):
        sites[1].group.publish(batch(bytes(1000)), 0, pending(request))
        exchange(majority)
        sites[1].group.tick()
        exchange(majority)
    last_index = sites[1].group.core.last_index
    assert sites[1].machine.trimmed_index < last_index - 30
    for _ in range(20):
        for site in sites.values():
            site.group.tick()
        exchange(sites)
    assert sites[1].machine.trimmed_index >= last_index


def test_first_ticks_of_a_leader_say_so_of_what_earlier_leaders_left() -> None:
    sites = trio()
    for request in range(5):
        sites[1].group.publish(batch(b"x"), 0, pending(request))
        exchange(sites)
    left = sites[1].group.core.last_index
    assert sites[1].machine.trimmed_index < left
    lose_leadership(sites)
    for _ in range(20):
        for site in sites.values():
            site.group.tick()
        exchange(sites)
    assert all(site.machine.trimmed_index >= left for site in sites.values())
