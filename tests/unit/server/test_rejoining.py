"""Members that come back without their data: when the leader replaces one by its namesake, and when it must not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.unit.server.harness import Site, exchange, member, trio
from zmqbroker.commands import Member, Roster
from zmqbroker.raft import Membership
from zmqbroker.server.acquaintances import FRESH_NS, Acquaintances, PeerState
from zmqbroker.server.membership import founding
from zmqbroker.server.rejoining import INTERVAL_NS, SILENCE_NS, Rejoining, due
from zmqbroker.wire.membership import encode_membership

NOW_NS = 10 * FRESH_NS
TICK_MS = 100


class Scene:
    """Three nodes, of which 1 leads and 2 is gone; what the leader has heard."""

    def __init__(self) -> None:
        self.sites = trio()
        self.leader = self.sites[1]
        self.known = Acquaintances("n1", bytes([1]) * 16, {})
        self.known.follow([member(1), member(2), member(3)])
        self.rejoining = Rejoining(TICK_MS)
        self.now_ns = NOW_NS
        del self.sites[2]
        self.tick(SILENCE_NS // (TICK_MS * 1_000_000) + 40)

    def tick(self, count: int = 40) -> None:
        """Let time pass for those who are there."""
        for _ in range(count):
            for site in self.sites.values():
                site.group.tick()
            exchange(self.sites)

    def hear(self, newcomer: Member, **said: Any) -> PeerState:
        """A node that is no member says that it is there."""
        fields = {"rejoins": True, "heard_ns": self.now_ns, **said}
        peer = self.known.strangers[newcomer.uid] = PeerState(newcomer.name, newcomer.peer, newcomer.uid, **fields)
        return peer

    def look(self, later_ns: int = INTERVAL_NS) -> list[tuple[int, str, int]]:
        """The members (id, name, whose place) after the leader has looked."""
        for peer in self.known.strangers.values():
            peer.heard_ns += later_ns
        self.now_ns += later_ns
        self.rejoining.look(self.leader.group, self.known, self.now_ns)
        exchange(self.sites)
        return [(one.id, one.name, one.replaces) for one in self.leader.machine.roster.members]


AS_BEFORE = [(1, "n1", 0), (2, "n2", 0), (3, "n3", 0)]
TAKEN_IN = [*AS_BEFORE, (4, "n2", 2)]


def test_rejoining_node_is_taken_in_and_gets_the_vote_of_its_old_self() -> None:
    scene = Scene()
    scene.hear(member(4, "n2"))
    assert scene.look() == TAKEN_IN
    scene.sites[4] = Site(4, (1, 2, 3))
    del scene.known.strangers[bytes([4]) * 16]
    scene.tick()
    assert [one.id for one in scene.leader.machine.roster.members] == [1, 3, 4]
    assert scene.sites[4].members() == ["n1", "n3", "n2"]


@pytest.mark.parametrize(
    "said", [{"rejoins": False}, {"formed": True}, {"heard_ns": NOW_NS - FRESH_NS}], ids=["empty", "member", "silent"]
)
def test_node_that_does_not_ask_for_it_now_is_not_taken_in(said: dict[str, Any]) -> None:
    scene = Scene()
    scene.hear(member(4, "n2"), **said)
    assert scene.look() == AS_BEFORE


def test_node_of_a_name_that_no_member_has_is_not_taken_in() -> None:
    scene = Scene()
    scene.hear(member(4, "n4"))
    assert scene.look() == AS_BEFORE


def test_place_of_a_member_that_was_just_heard_is_not_given_away() -> None:
    scene = Scene()
    scene.hear(member(4, "n2"))
    old = scene.known.with_id(2)
    assert old is not None
    old.heard_ns = scene.now_ns + INTERVAL_NS - SILENCE_NS + 1
    assert scene.look() == AS_BEFORE
    assert scene.look(1) == TAKEN_IN


def test_place_of_a_member_that_answers_is_not_given_away() -> None:
    scene = Scene()
    scene.hear(member(4, "n3"))
    scene.hear(member(5, "n1"))
    assert scene.look() == AS_BEFORE


def test_leader_that_no_majority_answers_changes_nobody() -> None:
    scene = Scene()
    scene.hear(member(4, "n2"))
    del scene.sites[3]
    for _ in range(20):
        scene.leader.group.tick()
        scene.look()
    assert [one.id for one in scene.leader.machine.roster.members] == [1, 2, 3]
    assert not scene.leader.group.leading


def test_follower_and_new_leader_change_nobody() -> None:
    scene = Scene()
    scene.hear(member(4, "n2"))
    scene.rejoining.look(scene.sites[3].group, scene.known, NOW_NS)
    assert scene.leader.machine.roster.members[-1].id == 3
    scene.leader.group.led_ticks = SILENCE_NS // (TICK_MS * 1_000_000) - 1
    assert scene.look() == AS_BEFORE
    scene.leader.group.led_ticks += 1
    assert scene.look() == TAKEN_IN


def test_one_change_at_a_time_and_not_many_in_a_row() -> None:
    scene = Scene()
    scene.hear(member(4, "n2"))
    assert scene.look() == TAKEN_IN
    assert scene.look(INTERVAL_NS - 1) == TAKEN_IN
    scene.sites[4] = Site(4, (1, 2, 3))
    scene.hear(member(5, "n2"))
    exchange(scene.sites)
    scene.leader.group.tick()
    assert scene.look() == TAKEN_IN, "the newcomer is on its way and answers"


def test_replacement_that_is_lost_too_leaves_before_another_one_comes() -> None:
    scene = Scene()
    scene.hear(member(4, "n2"))
    assert scene.look() == TAKEN_IN
    del scene.known.strangers[bytes([4]) * 16]
    scene.hear(member(5, "n2"))
    scene.tick()
    assert scene.look() == AS_BEFORE
    assert scene.look() == [*AS_BEFORE, (5, "n2", 2)]


def test_cluster_that_is_full_takes_nobody_in(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene()
    scene.hear(member(4, "n2"))
    monkeypatch.setattr("zmqbroker.server.membership.MEMBERS_MAX", 3)
    assert scene.look() == AS_BEFORE


# --- the rule by itself ----------------------------------------------------------------------------------------------


def five_and_a_newcomer() -> Roster:
    """Five voters, and one that is on its way into the place of the fifth."""
    members = (*map(member, range(1, 6)), member(6, "n5", replaces=5))
    return replace(
        founding(members[:5]), members=members, membership=encode_membership(Membership((1, 2, 3, 4, 5), learners=(6,)))
    )


@pytest.mark.parametrize(
    ("active", "change"),
    [
        ({1, 2, 3}, True),
        ({1, 2, 3, 6}, False),  # another one is on its way in
        ({1, 2}, False),  # no majority works without it
        ({1, 2, 3, 4}, False),  # it is there itself
    ],
)
def test_place_is_given_while_a_majority_works_without_it_and_nobody_else_is_coming(active: set[int], change: bool) -> None:
    known = Acquaintances("n1", bytes([1]) * 16, {})
    known.strangers[b"x" * 16] = PeerState("n4", "h4:1", b"x" * 16, rejoins=True, heard_ns=NOW_NS)
    assert (due(five_and_a_newcomer(), active, known, NOW_NS) is not None) is change
