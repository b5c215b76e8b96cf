"""What a follower does about the hint that its leader is gone, on cores whose timers are in the test's hands."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from random import Random

import pytest

from tests.unit.server.harness import Site, exchange, trio
from zmqbroker.raft.messages import Role
from zmqbroker.server.succession import CYCLE_S, ROUNDS, Succession, turn_of


class Timers:
    """Calls that are due later."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.wakes = 0
        self.due: list[tuple[float, Callable[[], None]]] = []

    def later(self, delay_s: float, callback: Callable[[], None]) -> None:
        """Remember a call."""
        self.due.append((self.now_s + delay_s, callback))

    def wake(self) -> None:
        """The node should look."""
        self.wakes += 1

    def fire(self) -> None:
        """Go on to the earliest call, and do it."""
        self.due.sort(key=lambda call: call[0])
        self.now_s, callback = self.due.pop(0)
        callback()


def succession_of(timers: Timers) -> Succession:
    """A succession whose timers the test fires."""
    return Succession(timers.later, timers.wake, Random(1))


def test_turn_goes_round_from_the_leader_on() -> None:
    assert [turn_of(node, (1, 2, 3), 2) for node in (3, 1)] == [(0, 2), (1, 2)]
    assert [turn_of(node, (1, 2, 3, 4, 5), 5) for node in (1, 2, 3, 4)] == [(0, 4), (1, 4), (2, 4), (3, 4)]
    assert turn_of(2, (1, 3), 1) == (0, 2), "who is no voter any more has a place as well"


@pytest.mark.parametrize("size", [3, 4, 5, 7, 9])
def test_turns_of_two_followers_never_overlap_and_all_have_theirs_within_a_cycle(size: int) -> None:
    voters = tuple(range(1, size + 1))
    for leader in voters:
        spans = []
        for node in voters:
            if node != leader:
                place, count = turn_of(node, voters, leader)
                spans.append((CYCLE_S / count * place, CYCLE_S / count * (place + 0.5)))
        assert max(end for _, end in spans) <= CYCLE_S
        assert all(first[1] < second[0] or second[1] < first[0] for first, second in combinations(spans, 2))


def test_leader_lost_at_both_followers_makes_the_next_one_lead() -> None:
    sites, timers = trio(), Timers()
    followers = {number: sites[number] for number in (2, 3)}
    succession = succession_of(timers)
    for site in followers.values():
        succession.leader_lost(site.group.core, 1)
        assert site.group.core.leader == 0
    assert timers.wakes == 2
    timers.fire()
    exchange(followers)
    assert followers[2].group.leading
    assert followers[3].group.core.leader == 2
    for _ in range(2):
        timers.fire()
    assert timers.due == [], "nobody goes on when there is a leader"
    assert followers[2].group.core.term == 2


def test_leader_lost_at_one_follower_deposes_nobody() -> None:
    sites, timers = trio(), Timers()
    succession_of(timers).leader_lost(sites[3].group.core, 1)
    for _ in range(ROUNDS):
        timers.fire()
        exchange(sites)
    assert sites[3].group.core.role is Role.PRE_CANDIDATE
    assert [site.group.core.term for site in sites.values()] == [1, 1, 1]
    timers.fire()
    assert timers.due == [], "the turns of a hint are counted"
    for _ in range(3):
        sites[1].group.tick()
    exchange(sites)
    assert sites[3].group.core.leader == 1, "a heartbeat brings it back"
    assert sites[1].group.leading


def test_leader_lost_of_another_node_or_of_oneself_is_no_hint() -> None:
    sites, timers = trio(), Timers()
    succession = succession_of(timers)
    succession.leader_lost(sites[2].group.core, 3)
    succession.leader_lost(sites[1].group.core, 1)
    succession.leader_lost(Site(1, (1, 2, 3)).group.core, 0)
    assert (timers.due, timers.wakes) == ([], 0)
    assert sites[2].group.core.leader == 1


def test_leader_lost_again_during_the_turns_plans_no_more_turns() -> None:
    sites, timers = trio(), Timers()
    succession = succession_of(timers)
    core = sites[2].group.core
    for _ in range(3):
        succession.leader_lost(core, 1)
        for _ in range(3):
            sites[1].group.tick()
        exchange(sites)
        assert core.leader == 1
    assert len(timers.due) == 1
    timers.fire()
    assert timers.due == []
    succession.leader_lost(core, 1)
    assert len(timers.due) == 1, "a later hint counts again"


def test_turn_passes_unused_while_another_election_is_under_way() -> None:
    sites, timers = trio(), Timers()
    core = sites[3].group.core
    succession_of(timers).leader_lost(core, 1)
    sites[2].group.core.forget_leader()
    sites[2].group.core.campaign()
    for _ in range(3):  # until node 3 has voted; what it answers is lost
        for site in (sites[2], sites[3]):
            site.run()
        for message in sites[2].outgoing:
            if message.to == 3:
                sites[3].group.step(message)
        sites[2].outgoing.clear()
        sites[3].run()
        for message in sites[3].outgoing:
            if core.term == 1:
                sites[2].group.step(message)
        sites[3].outgoing.clear()
    assert (core.term, core.vote, core.leader) == (2, 2, 0)
    roles = []
    for _ in range(2):
        timers.fire()
        roles.append(core.role)
    assert roles == [Role.FOLLOWER, Role.PRE_CANDIDATE], "it goes on when that election came to nothing"
