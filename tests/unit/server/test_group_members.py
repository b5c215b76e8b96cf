"""A group while its members or its leader change: who asked is answered once, who came meanwhile waits a bounded time."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.server.harness import (
    Site,
    batch,
    exchange,
    lose_leadership,
    member,
    pending,
    receive,
    trio,
    waiting,
)
from zmqbroker.errors import Busy, InvalidRequest, NotLeader
from zmqbroker.raft import proposals
from zmqbroker.raft.confchange import Change, ChangeType, ConfChange
from zmqbroker.raft.messages import EntryType
from zmqbroker.server import group as group_module
from zmqbroker.server.group import PARKED_TICKS
from zmqbroker.server.membership import addition, removal
from zmqbroker.wire.frames import Reply


def new_node(site: Site, number: int = 4) -> ConfChange:
    """A change that takes a node in as a learner."""
    return addition(site.machine.roster, member(number, voter=False), 9)


def refused(site: Site) -> list[tuple[int, type, bool]]:
    """Who was refused, with what, and whether it may have happened all the same."""
    return [(request, type(error), error.outcome_unknown) for request, error in site.host.refused]


# --- members ---------------------------------------------------------------------------------------------------------


def test_change_answers_its_waiter_with_the_members_and_every_node_hears_of_it() -> None:
    sites = trio()
    sites[1].group.change_members(new_node(sites[1]), pending(1))
    exchange(sites)
    ((request, code, fields),) = sites[1].host.replies
    assert (request, code) == (1, Reply.MEMBERS)
    assert [(row["name"], row["voter"]) for row in fields["members"]] == [
        ("n1", True),
        ("n2", True),
        ("n3", True),
        ("n4", False),
    ]
    for _ in range(3):
        sites[1].group.tick()
        exchange(sites)
    for site in sites.values():
        assert site.host.members_changes == 2, "into the joint membership and out of it"
        assert site.members() == ["n1", "n2", "n3", "(n4)"]
    assert [site.host.replies for site in (sites[2], sites[3])] == [[], []]


def test_change_is_busy_while_another_is_not_applied_and_works_afterwards() -> None:
    sites = trio()
    change = new_node(sites[1])
    sites[1].group.change_members(change, pending(1))
    sites[1].group.change_members(change, pending(2))
    sites[1].group.change_members(change)
    assert refused(sites[1]) == [(2, Busy, False)]
    exchange(sites)
    for _ in range(3):
        sites[1].group.tick()
        exchange(sites)
    sites[1].group.change_members(new_node(sites[1], 5), pending(3))
    exchange(sites)
    assert [request for request, _, _ in sites[1].host.replies] == [1, 3]


def test_change_that_cannot_be_made_is_an_invalid_request() -> None:
    site = Site().lead()
    site.group.change_members(ConfChange((Change(ChangeType.REMOVE, 1),)), pending(1))
    assert refused(site) == [(1, InvalidRequest, False)]
    assert "removed all voters" in str(site.host.refused[0][1])


def test_change_at_a_follower_is_refused() -> None:
    sites = trio()
    sites[2].group.change_members(new_node(sites[2]), pending(1))
    assert refused(sites[2]) == [(1, NotLeader, False)]


def test_change_counts_as_a_request_under_way_until_it_is_answered() -> None:
    site = Site(requests_max=1).lead()
    site.group.change_members(new_node(site), pending(1))
    site.group.publish(batch(b"x"), 0, pending(2))
    assert refused(site) == [(2, Busy, False)]
    site.run()
    site.group.publish(batch(b"x"), 0, pending(3))
    site.group.change_members(new_node(site, 5), pending(4))
    site.run()
    assert [request for request, _, _ in site.host.replies] == [1, 3]
    assert refused(site)[1:] == [(4, Busy, False)]


def test_change_of_a_leader_that_is_overtaken_has_an_unknown_outcome() -> None:
    sites = trio()
    sites[1].group.change_members(new_node(sites[1]), pending(1))
    exchange({1: sites[1]})
    lose_leadership(sites)
    assert refused(sites[1]) == [(1, NotLeader, True)]
    assert all(site.members() == ["n1", "n2", "n3"] for site in sites.values())


def test_change_that_removes_the_leader_ends_its_leadership_and_what_waits_there() -> None:
    sites = trio()
    asked = waiting(1)
    sites[1].group.submit(receive(asked, wait_ms=60_000), asked)
    exchange(sites)
    sites[1].group.change_members(removal(sites[1].group.core.membership, 1, (1, 2, 3)), pending(2))
    for _ in range(PARKED_TICKS + 2):
        exchange(sites)
        sites[1].group.tick()
    assert not sites[1].group.leading
    assert [(request, code) for request, code, _ in sites[1].host.replies] == [(2, Reply.MEMBERS)]
    assert refused(sites[1]) == [(1, NotLeader, True)]


def test_garbage_that_was_committed_as_a_change_changes_nothing() -> None:
    sites = trio()
    proposals.propose(sites[1].group.core._state, EntryType.CHANGE, b"garbage")
    sites[1].group.publish(batch(b"x"), 0, pending(1))
    exchange(sites)
    sites[1].group.tick()
    exchange(sites)
    assert [code for _, code, _ in sites[1].host.replies] == [Reply.SENT]
    assert {tuple(site.members()) for site in sites.values()} == {("n1", "n2", "n3")}
    assert len({site.machine.roster for site in sites.values()}) == 1


# --- leadership is handed over ---------------------------------------------------------------------------------------


def test_request_during_a_transfer_is_held_and_then_sent_to_the_new_leader() -> None:
    sites = trio()
    sites[1].group.core.transfer_leader(2)
    sites[1].group.publish(batch(b"x"), 0, pending(1))
    sites[1].run()
    assert refused(sites[1]) == []
    exchange(sites)
    assert sites[2].group.leading
    assert refused(sites[1]) == [(1, NotLeader, False)], "it was never proposed"
    assert sites[1].host.refused[0][1].fields["leader"] == "tcp://other:5590"


def test_request_during_a_transfer_that_is_abandoned_is_proposed_after_all() -> None:
    sites = trio()
    sites[1].group.core.transfer_leader(2)
    sites[1].run()
    sites[1].outgoing.clear()  # the word to the other one is lost
    sites[1].group.publish(batch(b"x"), 0, pending(1))
    exchange(sites)
    assert sites[1].host.replies == []
    for _ in range(10):
        sites[1].group.tick()
        exchange(sites)
    assert sites[1].group.leading
    assert [(request, code) for request, code, _ in sites[1].host.replies] == [(1, Reply.SENT)]
    assert sites[1].host.refused == []


def test_requests_during_a_transfer_are_bounded_by_one_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_module, "ENTRY_COMMANDS_MAX", 2)
    sites = trio()
    sites[1].group.core.transfer_leader(2)
    for request in (1, 2, 3):
        sites[1].group.publish(batch(b"x"), 0, pending(request))
    assert refused(sites[1]) == [(3, Busy, False)]
    exchange(sites)
    assert sorted(refused(sites[1])[1:]) == [(1, NotLeader, False), (2, NotLeader, False)]


def test_change_during_a_transfer_is_busy() -> None:
    sites = trio()
    sites[1].group.core.transfer_leader(2)
    sites[1].group.change_members(new_node(sites[1]), pending(1))
    assert refused(sites[1]) == [(1, Busy, False)]


# --- no leader is known ----------------------------------------------------------------------------------------------


def leaderless(**settings: Any) -> dict[int, Site]:
    """Three nodes, the second of which has just lost sight of its leader."""
    sites = trio(**settings)
    sites[2].group.core.forget_leader()
    sites[2].run()
    assert not sites[2].group.soft_state.leader
    return sites


def test_park_waits_for_the_next_leader_and_then_names_it() -> None:
    sites = leaderless()
    assert sites[2].group.park(pending(1))
    assert refused(sites[2]) == []
    sites[1].group.tick()
    sites[1].group.tick()
    exchange(sites)
    assert sites[2].group.soft_state.leader == 1
    assert refused(sites[2]) == [(1, NotLeader, False)]


def test_park_ends_after_some_ticks_without_a_leader() -> None:
    sites = leaderless()
    assert sites[2].group.park(pending(1))
    for _ in range(PARKED_TICKS - 1):
        sites[2].group.tick()
    assert refused(sites[2]) == []
    sites[2].group.tick()
    assert refused(sites[2]) == [(1, NotLeader, False)]
    assert not sites[2].group.park(pending(2)), "no other waits then"


def test_park_is_not_begun_anew_by_elections_that_nobody_wins() -> None:
    sites = leaderless()
    alone = {2: sites[2]}
    for _ in range(PARKED_TICKS):
        sites[2].group.tick()
        exchange(alone)
    for _ in range(100):
        assert not sites[2].group.park(pending(1))
        sites[2].group.tick()
        exchange(alone)


def test_park_where_a_leader_is_known_or_never_was_is_no_use() -> None:
    assert not trio()[2].group.park(pending(1))
    assert not Site(1, (1, 2, 3)).group.park(pending(1))


def test_park_is_bounded() -> None:
    sites = leaderless(requests_max=3)
    assert [sites[2].group.park(pending(request)) for request in range(5)] == [True, True, True, False, False]


def test_parked_requests_do_not_count_as_under_way() -> None:
    sites = trio(requests_max=1)
    sites[1].group.publish(batch(b"x"), 0, pending(1))
    exchange({1: sites[1]})
    for _ in range(30):
        if sites[1].group.leading:
            sites[1].group.tick()
            exchange({1: sites[1]})
    assert refused(sites[1]) == [], "it waits for the next leader to be known"
    for _ in range(10):  # until the others no longer hold to the leader that they had
        sites[2].group.tick()
        sites[3].group.tick()
    sites[1].group.core.campaign()
    exchange(sites)
    assert sites[1].group.leading
    sites[1].group.publish(batch(b"y"), 0, pending(2))
    exchange(sites)
    assert refused(sites[1]) == [(1, NotLeader, True)]
    assert [request for request, _, _ in sites[1].host.replies] == [2]


def test_leader_that_steps_down_refuses_after_some_ticks_what_nobody_leads() -> None:
    sites = trio()
    alone = {1: sites[1]}
    sites[1].group.publish(batch(b"x"), 0, pending(1))
    exchange(alone)
    for _ in range(30):
        sites[1].group.tick()
        exchange(alone)
        if not sites[1].group.leading:
            break
    assert refused(sites[1]) == []
    for _ in range(PARKED_TICKS):
        sites[1].group.tick()
        exchange(alone)
    assert refused(sites[1]) == [(1, NotLeader, True)]
    assert sites[1].group.lost_majority
