"""Operators' wishes at a real leader: granted, granted again when repeated, refused by name, and carried on to their end."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.unit.server.harness import Site, exchange, member, pending, trio
from zmqbroker.commands import Member
from zmqbroker.config import NodeConfig
from zmqbroker.errors import Busy, InvalidRequest, NodeNotFound, NoMajority, RequestError
from zmqbroker.server import operators
from zmqbroker.server.acquaintances import FRESH_NS, Acquaintances, PeerState
from zmqbroker.server.node import Node
from zmqbroker.wire.frames import Reply
from zmqbroker.wire.requests import ChangeMembers, Transfer

NOW_NS = 10 * FRESH_NS


@pytest.fixture(autouse=True)
def _still_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zmqbroker.server.operators.time.monotonic_ns", lambda: NOW_NS)


class Office:
    """A cluster of three, its leader's node, and the new nodes that were heard of."""

    def __init__(self, voters: tuple[int, ...] = (1, 2, 3)) -> None:
        self.sites = trio() if len(voters) == 3 else {1: Site(1, voters).lead()}
        self.known = Acquaintances("n1", bytes([1]) * 16, {})
        self.config = NodeConfig.for_test()
        self._request = 0

    def hear(self, newcomer: Member, *, heard_ns: int = NOW_NS, formed: bool = False) -> None:
        """A node that is no member says that it is there."""
        peer = PeerState(newcomer.name, newcomer.peer, newcomer.uid, formed=formed, heard_ns=heard_ns)
        self.known.strangers[newcomer.uid] = peer

    @property
    def leader(self) -> Site:
        return next(site for site in self.sites.values() if site.group.leading)

    def node(self, site: Site) -> Node:
        formation = SimpleNamespace(known=self.known)
        host = SimpleNamespace(formation=formation, config=self.config, confirm="quorum", reply=site.host.reply)
        return cast(Node, host)

    def ask(self, request: ChangeMembers) -> None:
        """Bring a wish to the leader."""
        self._request += 1
        site = self.leader
        operators.change_members(self.node(site), site.group, request, pending(self._request))

    def refused(self, request: ChangeMembers) -> RequestError:
        """What the leader says to a wish that it does not grant."""
        before = self.leader.group.core.last_index
        with pytest.raises(RequestError) as caught:
            self.ask(request)
        assert self.leader.group.core.last_index == before
        return caught.value

    def granted(self, request: ChangeMembers) -> list[dict[str, Any]]:
        """The members that a granted wish is answered with."""
        site = self.leader
        self.ask(request)
        exchange(self.sites)
        assert site.host.refused == []
        request_id, code, fields = site.host.replies[-1]
        assert (request_id, code) == (self._request, Reply.MEMBERS)
        return list(fields["members"])

    def start(self, newcomer: int, founders: tuple[int, ...] = (1, 2, 3)) -> None:
        """The newcomer was counted in: it starts, and is heard of as a member from now on."""
        self.sites[newcomer] = Site(newcomer, founders)
        self.known.strangers.pop(bytes([newcomer]) * 16, None)

    def tick(self, count: int = 40) -> None:
        """Let time pass, until everybody has heard everything."""
        for _ in range(count):
            for site in self.sites.values():
                site.group.tick()
            exchange(self.sites)


# --- add -------------------------------------------------------------------------------------------------------------


def test_add_takes_a_newcomer_in_as_a_learner_and_makes_it_a_voter_when_it_has_caught_up() -> None:
    office = Office()
    office.hear(member(4))
    rows = office.granted(ChangeMembers("add", "n4"))
    assert [(row["name"], row["voter"], row["joining"]) for row in rows][3:] == [("n4", False, True)]
    office.tick()
    assert office.leader.members() == ["n1", "n2", "n3", "(n4)"], "it has not come yet"
    office.start(4)
    office.tick()
    assert all(site.members() == ["n1", "n2", "n3", "n4"] for site in office.sites.values())


def test_add_as_a_learner_leaves_it_one() -> None:
    office = Office()
    office.hear(member(4))
    rows = office.granted(ChangeMembers("add", "n4", learner=True))
    assert (rows[3]["voter"], rows[3]["joining"]) == (False, False)
    office.start(4)
    office.tick()
    assert all(site.members() == ["n1", "n2", "n3", "(n4)"] for site in office.sites.values())


def test_add_that_another_leader_began_is_finished_by_the_next_one() -> None:
    office = Office()
    office.hear(member(4))
    office.granted(ChangeMembers("add", "n4"))
    office.tick(3)
    assert operators.transfer(office.leader.group, Transfer("n2")) == "n2"
    exchange(office.sites)
    assert office.leader is office.sites[2]
    office.start(4)
    office.tick()
    assert office.sites[4].members() == ["n1", "n2", "n3", "n4"]


@pytest.mark.parametrize("heard", [None, {"heard_ns": NOW_NS - FRESH_NS}, {"formed": True}])
def test_add_of_a_node_that_was_not_heard_of_lately_says_how_to_start_it(heard: dict[str, Any] | None) -> None:
    office = Office()
    office.hear(member(5))
    if heard is not None:
        office.hear(member(4), **heard)
    error = office.refused(ChangeMembers("add", "n4"))
    assert isinstance(error, NodeNotFound)
    assert "--peers n1=h1:5591,n2=h2:5591,n3=h3:5591,n4=HOST:PORT" in str(error)


def test_add_repeated_after_the_newcomer_came_is_answered_alike() -> None:
    office = Office()
    office.hear(member(4))
    first = office.granted(ChangeMembers("add", "n4"))
    office.start(4)
    before = office.leader.group.core.last_index
    assert office.granted(ChangeMembers("add", "n4")) == first
    assert office.leader.group.core.last_index == before


def test_add_of_a_members_name_with_another_disk_is_refused() -> None:
    office = Office()
    office.hear(member(9, "n2"))
    assert "use replace" in str(office.refused(ChangeMembers("add", "n2")))


def test_add_of_two_newcomers_of_one_name_takes_the_one_heard_last() -> None:
    office = Office()
    office.hear(member(8, "d"), heard_ns=NOW_NS - 2)
    office.hear(member(9, "d"), heard_ns=NOW_NS - 1)
    rows = office.granted(ChangeMembers("add", "d"))
    assert [row["uid"] for row in rows][3:] == [(bytes([9]) * 16).hex()]


def test_change_while_another_is_under_way_is_busy() -> None:
    office = Office()
    office.hear(member(4))
    office.ask(ChangeMembers("add", "n4"))
    site = office.leader
    office.ask(ChangeMembers("remove", "n3"))
    assert [type(error) for _, error in site.host.refused] == [Busy]
    site.run()  # applied nowhere yet: the others have not answered
    exchange(office.sites)
    assert site.host.replies[-1][1] == Reply.MEMBERS


def test_change_in_a_joint_membership_is_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    office = Office()
    monkeypatch.setattr(operators, "membership_of", lambda roster: SimpleNamespace(joint=True))
    assert isinstance(office.refused(ChangeMembers("remove", "n3")), Busy)


# --- replace ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "name"), [(ChangeMembers("replace", "n2"), "n2"), (ChangeMembers("replace", "n2", "d"), "d")]
)
def test_replace_lets_the_newcomer_vote_when_the_other_leaves(request_: ChangeMembers, name: str) -> None:
    office = Office()
    del office.sites[2]  # its machine is gone
    office.hear(member(4, name))
    rows = office.granted(request_)
    assert [(row["id"], row["name"], row["replaces"]) for row in rows][3:] == [(4, name, "n2")]
    office.start(4)
    office.tick()
    assert [one.id for one in office.leader.machine.roster.members] == [1, 3, 4]
    assert office.sites[4].members() == ["n1", "n3", name]


def test_replace_of_the_leader_hands_leadership_over_first() -> None:
    office = Office()
    office.hear(member(4, "d"))
    office.granted(ChangeMembers("replace", "n1", "d"))
    office.start(4)
    office.tick()
    staying = {number: office.sites[number] for number in (2, 3, 4)}
    assert all(site.members() == ["n2", "n3", "d"] for site in staying.values())
    assert not office.sites[1].group.leading
    assert not any(site.group.lost_majority for site in staying.values())


def test_replace_of_the_only_node_leaves_the_newcomer_able_to_decide() -> None:
    office = Office((1,))
    office.hear(member(2, "d"))
    office.granted(ChangeMembers("replace", "n1", "d"))
    office.start(2, (1,))
    office.tick()
    assert office.sites[2].members() == ["d"]
    del office.sites[1]
    office.tick(60)
    assert office.sites[2].group.leading, "it needs nobody else"


def test_replace_of_a_learner_by_another_disk_ends() -> None:
    office = Office()
    office.hear(member(4, "d"))
    office.granted(ChangeMembers("add", "d", learner=True))
    office.hear(member(5, "d"))
    office.granted(ChangeMembers("replace", "d"))
    office.start(5)
    office.tick()
    assert [(one.id, one.name) for one in office.leader.machine.roster.members][3:] == [(5, "d")]
    assert office.leader.members() == ["n1", "n2", "n3", "(d)"]


def test_replace_repeated_while_it_is_under_way_and_after_is_answered_alike() -> None:
    office = Office()
    del office.sites[2]
    office.hear(member(4, "n2"))
    office.granted(ChangeMembers("replace", "n2"))
    office.start(4)
    assert len(office.granted(ChangeMembers("replace", "n2"))) == 4
    office.tick()
    before = office.leader.group.core.last_index
    assert [row["id"] for row in office.granted(ChangeMembers("replace", "n2"))] == [1, 3, 4]
    assert office.leader.group.core.last_index == before


def test_replace_of_one_that_came_by_replace_and_is_lost_too_waits_for_a_newcomer() -> None:
    office = Office()
    del office.sites[2]
    office.hear(member(4, "n2"))
    office.granted(ChangeMembers("replace", "n2"))
    office.start(4)
    office.tick()
    del office.sites[4]
    office.tick()
    assert isinstance(office.refused(ChangeMembers("replace", "n2")), NodeNotFound)
    office.hear(member(5, "n2"))
    office.granted(ChangeMembers("replace", "n2"))
    office.start(5)
    office.tick()
    assert [one.id for one in office.leader.machine.roster.members] == [1, 3, 5]


def test_replace_by_one_that_replaced_somebody_else_is_not_done() -> None:
    office = Office()
    del office.sites[2]
    office.hear(member(4, "d"))
    office.granted(ChangeMembers("replace", "n2", "d"))
    office.start(4)
    office.tick()
    assert isinstance(office.refused(ChangeMembers("replace", "n3", "d")), NodeNotFound)


def test_replace_of_nobody_is_refused_with_the_names_there_are() -> None:
    office = Office()
    office.hear(member(4, "d"))
    assert str(office.refused(ChangeMembers("replace", "x", "d"))) == "no member is called 'x'; there are n1, n2, n3"


# --- remove ----------------------------------------------------------------------------------------------------------


def test_remove_of_a_follower_leaves_the_others() -> None:
    office = Office()
    office.tick()
    office.granted(ChangeMembers("remove", "n3"))
    office.tick()
    assert [office.sites[number].members() for number in (1, 2)] == [["n1", "n2"]] * 2
    assert isinstance(office.refused(ChangeMembers("remove", "n3")), NodeNotFound)


def test_remove_of_the_leader_hands_over_first_and_is_done_by_the_next_one() -> None:
    office = Office()
    office.tick()
    assert "hands leadership over" in str(office.refused(ChangeMembers("remove", "n1")))
    exchange(office.sites)
    assert office.leader is not office.sites[1]
    office.granted(ChangeMembers("remove", "n1"))
    office.tick()
    assert office.leader.members() == ["n2", "n3"]


def test_remove_that_leaves_no_majority_is_refused_but_not_before_the_others_could_answer() -> None:
    office = Office()
    del office.sites[2]
    operators.transfer(office.leader.group, Transfer("n3"))
    exchange(office.sites)
    early = office.refused(ChangeMembers("remove", "n1"))
    assert isinstance(early, Busy), "the new leader has not heard the others yet"
    office.tick(office.config.raft.election_ticks + 1)
    late = office.refused(ChangeMembers("remove", "n1"))
    assert isinstance(late, InvalidRequest)
    assert "only 1 of the 2 voters that would stay answer" in str(late)
    assert office.granted(ChangeMembers("remove", "n2"))


def test_remove_of_the_last_voter_is_refused_at_once() -> None:
    assert "last voter" in str(Office((1,)).refused(ChangeMembers("remove", "n1")))


# --- transfer --------------------------------------------------------------------------------------------------------


def test_transfer_goes_to_the_one_that_is_named_or_the_furthest() -> None:
    office = Office()
    assert operators.transfer(office.leader.group, Transfer("n3")) == "n3"
    exchange(office.sites)
    assert office.leader is office.sites[3]
    assert operators.transfer(office.leader.group, Transfer("n3")) == "n3", "it leads already"
    office.tick(5)
    to = operators.transfer(office.leader.group, Transfer())
    exchange(office.sites)
    assert office.leader.members()[office.leader.group.core.id - 1] == to != "n3"


def test_transfer_repeated_while_it_is_under_way_goes_to_the_same_one() -> None:
    office = Office()
    group = office.leader.group
    first = operators.transfer(group, Transfer("n3"))
    assert operators.transfer(group, Transfer()) == first
    assert operators.transfer(group, Transfer("n2")) == "n2", "unless another one is named"


def test_transfer_to_a_learner_or_nobody_is_refused() -> None:
    office = Office()
    office.hear(member(4))
    office.granted(ChangeMembers("add", "n4", learner=True))
    with pytest.raises(InvalidRequest, match="n4 is a learner and cannot lead"):
        operators.transfer(office.leader.group, Transfer("n4"))
    with pytest.raises(NodeNotFound):
        operators.transfer(office.leader.group, Transfer("x"))


def test_transfer_when_nobody_else_answers_has_no_majority() -> None:
    with pytest.raises(NoMajority):
        operators.transfer(Office((1,)).leader.group, Transfer())
