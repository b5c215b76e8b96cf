"""Stamps of a leader follow its monotonic clock and never go back (DESIGN §6)."""

from __future__ import annotations

import pytest

from zmqbroker.server import clock
from zmqbroker.server.clock import LeaderClock


class Clocks:
    """Stands for the module `time`."""

    def __init__(self) -> None:
        self.wall_ns, self.steady_ns = 1_000_000, 50

    def time_ns(self) -> int:
        return self.wall_ns

    def monotonic_ns(self) -> int:
        return self.steady_ns


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    fake = Clocks()
    monkeypatch.setattr(clock, "time", fake)
    return fake


def test_clock_of_a_first_leader_starts_at_its_wall_clock(clocks: Clocks) -> None:
    assert LeaderClock(0).now_unix_ns() == 1_000_000


def test_clock_follows_the_monotonic_clock(clocks: Clocks) -> None:
    leader = LeaderClock(0)
    clocks.steady_ns += 7
    assert leader.now_unix_ns() == 1_000_007


@pytest.mark.parametrize("wall_ns", [0, 10**18])
def test_clock_does_not_follow_a_jump_of_the_wall_clock(clocks: Clocks, wall_ns: int) -> None:
    leader = LeaderClock(0)
    clocks.wall_ns = wall_ns
    assert leader.now_unix_ns() == 1_000_000


def test_clock_after_a_leader_with_a_later_wall_clock_goes_on_from_its_last_stamp(clocks: Clocks) -> None:
    leader = LeaderClock(2_000_000)
    assert leader.now_unix_ns() == 2_000_001
    clocks.steady_ns += 3
    assert leader.now_unix_ns() == 2_000_004
