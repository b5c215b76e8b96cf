"""Stamps of a leader: where they start, how they follow the clocks, and that they never go back (DESIGN §6)."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.unit.server.harness import GROUP, Clocks, Site, lose_leadership, trio
from zmqbroker.commands import Tick
from zmqbroker.raft.messages import Message, MessageType, StorageAppend
from zmqbroker.server.clock import SLEW_PARTS, LeaderClock, SystemClock, median_unix_ns

SECOND = 1_000_000_000
START = 1_000_000


def pass_by(clocks: Clocks, elapsed_ns: int) -> None:
    clocks.wall += elapsed_ns
    clocks.steady += elapsed_ns


def test_clock_of_a_first_leader_starts_at_the_clock_of_its_quorum() -> None:
    assert LeaderClock(Clocks(7), 0, 1_000_000).now_unix_ns() == 1_000_000


def test_clock_follows_the_monotonic_clock() -> None:
    clocks = Clocks(START)
    leader = LeaderClock(clocks, 0, clocks.wall)
    pass_by(clocks, 7)
    assert leader.now_unix_ns() == 1_000_007


def test_clock_after_a_leader_with_a_later_clock_goes_on_from_its_last_stamp() -> None:
    clocks = Clocks(START)
    leader = LeaderClock(clocks, 2_000_000, clocks.wall)
    assert leader.now_unix_ns() == 2_000_001
    pass_by(clocks, 3)
    assert leader.now_unix_ns() == 2_000_004


def test_clock_passes_by_a_later_stamp_and_ignores_an_earlier_one() -> None:
    clocks = Clocks(START)
    leader = LeaderClock(clocks, 0, clocks.wall)
    leader.pass_by(START - 1)
    assert leader.now_unix_ns() == START
    pass_by(clocks, 5)
    leader.pass_by(2 * START)
    assert leader.now_unix_ns() == 2 * START, "what had passed before is in the stamp already"
    pass_by(clocks, 5)
    leader.pass_by(START + 1)
    assert leader.now_unix_ns() == 2 * START + 5


def test_clock_moves_towards_the_wall_clock_by_a_thousandth_at_most() -> None:
    clocks = Clocks(START)
    leader = LeaderClock(clocks, 0, clocks.wall)
    clocks.wall += 3600 * SECOND
    pass_by(clocks, SECOND)
    assert leader.now_unix_ns() == 1_000_000 + SECOND + SECOND // SLEW_PARTS
    clocks.wall = 0
    pass_by(clocks, SECOND)
    assert leader.now_unix_ns() == 1_000_000 + 2 * SECOND


def test_clock_that_is_a_little_off_reaches_the_wall_clock_and_stays_there() -> None:
    clocks = Clocks(START)
    leader = LeaderClock(clocks, 0, clocks.wall - SECOND // 2)
    for _ in range(1000):
        pass_by(clocks, SECOND)
        leader.now_unix_ns()
    assert leader.now_unix_ns() == clocks.wall


@given(st.integers(0, 1 << 60), st.lists(st.tuples(st.integers(0, 1 << 40), st.integers(-(1 << 60), 1 << 60)), max_size=20))
def test_stamps_never_go_back_and_keep_to_the_slew(start: int, moves: list[tuple[int, int]]) -> None:
    clocks = Clocks(start)
    leader = LeaderClock(clocks, 0, start)
    last = leader.now_unix_ns()
    for elapsed, jump in moves:
        clocks.steady += elapsed
        clocks.wall += jump
        stamp = leader.now_unix_ns()
        assert abs(stamp - last - elapsed) <= elapsed // SLEW_PARTS
        last = stamp


def test_median_is_a_clock_that_a_majority_does_not_contradict() -> None:
    assert median_unix_ns([5]) == 5
    assert median_unix_ns([9, 1]) == 1
    assert median_unix_ns([1, 10**18, 3]) == 3
    assert median_unix_ns([4, 1, 3, 2]) == 2


def test_system_clock_reads_both_clocks_of_the_machine() -> None:
    clock = SystemClock()
    assert clock.monotonic_ns() <= clock.monotonic_ns()
    assert clock.wall_unix_ns() > 1_700_000_000 * SECOND


def test_new_leader_starts_at_the_median_of_its_quorum_whatever_its_own_clock_says() -> None:
    sites = trio(clocks={1: Clocks(10**18), 2: Clocks(5_000), 3: Clocks(6_000)})
    assert sites[1].group.clock.now_unix_ns() == 6_000


def test_new_leader_goes_on_from_stamps_that_it_has_not_applied_when_it_is_elected() -> None:
    clocks = {number: Clocks(START) for number in (1, 2, 3)}
    sites = trio(clocks=clocks)
    sites[1].group.submit(Tick())
    sites[1].run()
    for message in sites[1].outgoing:
        sites[message.to].group.step(message)
    for site in sites.values():
        site.run()
        site.outgoing.clear()
    assert [site.machine.now_unix_ns for site in sites.values()] == [0, 0, 0], "stored, and known to nobody as committed"
    for clock in clocks.values():
        clock.wall = 1
    lose_leadership(sites)
    (leader,) = [site for site in sites.values() if site.group.leading]
    assert leader.machine.now_unix_ns == START
    assert leader.group.clock.now_unix_ns() >= START, "else time would stand still until its own clock comes there"


def test_jump_of_the_own_clock_between_a_vote_and_leadership_is_outvoted() -> None:
    clocks = Clocks(START)
    site = Site(1, (1, 2, 3), clock=clocks, pre_vote=False)
    works: list[StorageAppend] = []
    site.group.core.campaign()
    site.group.collect([], works)
    vote = Message(MessageType.REQUEST_VOTE_RESPONSE, to=1, sender=2, group=GROUP, term=1, context=START)
    site.group.step(vote)
    clocks.wall += 3600 * SECOND
    site.log.complete(site.log.prepare(works))
    for work in works:
        site.group.advance(work)
    site.run()
    assert site.group.leading
    assert site.group.clock.now_unix_ns() == START
