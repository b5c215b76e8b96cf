"""Forming a cluster once, and who is believed to belong to it: docs/PROTOCOL.md §8, DESIGN §4."""

from __future__ import annotations

import random
from typing import Any

import pytest

from zmqbroker.commands import Member
from zmqbroker.server.formation import FRESH_NS, Formation, members_from_wire, members_to_wire

NAMES = ("a", "b", "c")
CLUSTER_UID, OTHER_UID = b"C" * 16, b"D" * 16
NOW_NS = 50 * FRESH_NS


def uid_of(name: str) -> bytes:
    return name.encode() * 16


def members(**other_uids: bytes) -> tuple[Member, ...]:
    return tuple(
        Member(number, name, other_uids.get(name, uid_of(name)), f"{name}.example:5591")
        for number, name in enumerate(NAMES, start=1)
    )


class Site:
    """One node's formation, with what it stored and said."""

    def __init__(
        self, name: str = "a", *, formed: bool = False, uid: bytes | None = None, names: tuple[str, ...] = NAMES
    ) -> None:
        self.stored: list[tuple[bytes, tuple[Member, ...]]] = []
        self.formed_while_storing: list[bool] = []
        self.said: list[str] = []
        self.formation = Formation(
            name=name,
            uid=uid or uid_of(name),
            cluster="shop",
            volume="ephemeral",
            client=f"tcp://{name}.example:5590",
            peers={peer: f"{peer}.example:5591" for peer in names},
            cluster_uid=CLUSTER_UID if formed else b"",
            members=members() if formed else (),
            form=self._store,
            mint=lambda: CLUSTER_UID,
            complain=self.said.append,
        )

    def _store(self, cluster_uid: bytes, found: tuple[Member, ...]) -> None:
        self.stored.append((cluster_uid, found))
        self.formed_while_storing.append(self.formation.formed)

    def hears(self, other: Site, now_ns: int = NOW_NS, **changed: Any) -> bool:
        """Take the other's HELLO, with some fields changed; whether it was accepted."""
        told = other.formation
        return self.formation.on_hello(told.uid, told.cluster_uid, {**told.hello(answer=False), **changed}, now_ns) is not None


def test_members_as_msgpack_values_and_back_are_the_same() -> None:
    assert members_from_wire(members_to_wire(members())) == members()


@pytest.mark.parametrize("value", [None, {}, [[1, "a", b"u"]], [["1", "a", b"u", "h:1"]], [[1, "a", "u", "h:1"]], [7]])
def test_members_from_something_else_are_refused(value: object) -> None:
    with pytest.raises(ValueError, match="member"):
        members_from_wire(value)


def test_hello_of_an_empty_node_names_no_members() -> None:
    fields = Site("b").formation.hello(answer=True)
    assert fields == {
        "name": "b",
        "cluster": "shop",
        "volume": "ephemeral",
        "client": "tcp://b.example:5590",
        "protocol": [1, 1],
        "machine": [1, 1],
        "formed": False,
        "peers": ["a", "b", "c"],
        "members": None,
        "answer": True,
    }


def test_hello_of_a_member_names_all_members() -> None:
    fields = Site(formed=True).formation.hello(answer=False)
    assert fields["formed"] is True
    assert members_from_wire(fields["members"]) == members()


def test_hello_accepted_notes_what_the_peer_said() -> None:
    site = Site("a", formed=True)
    assert site.hears(Site("b", formed=True))
    peer = site.formation.peers["b"]
    assert (peer.uid, peer.client, peer.formed, peer.heard_ns) == (uid_of("b"), "tcp://b.example:5590", True, NOW_NS)
    assert site.formation.missing(NOW_NS) == ["c (c.example:5591)"]
    assert site.formation.missing(NOW_NS + FRESH_NS) == ["b (b.example:5591)", "c (c.example:5591)"]


@pytest.mark.parametrize("name", ["x", "a", 7, None])
def test_hello_of_nobody_we_know_is_refused(name: object) -> None:
    site = Site()
    assert not site.hears(Site("b"), name=name)
    assert site.said == []


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"cluster": "bank"}, "b is configured for cluster 'bank', this node for 'shop'"),
        ({"volume": "persistent"}, "b has volume mode 'persistent', this node 'ephemeral'"),
        ({"peers": ["a", "b"]}, "b is configured with the peers ['a', 'b'], this node with ['a', 'b', 'c']"),
        ({"protocol": [2, 3]}, "b speaks protocol versions [2, 3], this node 1 to 1"),
        ({"machine": [0, 0]}, "b speaks machine versions [0, 0], this node 1 to 1"),
        ({"machine": 1}, "b speaks machine versions 1, this node 1 to 1"),
        ({"machine": [1]}, "b speaks machine versions [1], this node 1 to 1"),
        ({"protocol": ["1", None]}, "b speaks protocol versions ['1', None], this node 1 to 1"),
        ({"formed": True}, "b says that it is a member and names no cluster"),
    ],
)
def test_hello_of_a_node_that_does_not_fit_is_refused_and_said_once(changed: dict[str, Any], said: str) -> None:
    site = Site()
    for _ in range(2):
        assert not site.hears(Site("b"), **changed)
    assert site.said == [said]
    assert site.formation.peers["b"].uid == b""


def test_hello_with_ever_new_faults_is_said_a_bounded_number_of_times() -> None:
    site = Site()
    for number in range(100):
        site.hears(Site("b"), cluster=f"cluster-{number}")
    assert len(site.said) == 16


def test_hello_with_other_peers_after_forming_is_accepted() -> None:
    site = Site(formed=True)
    assert site.hears(Site("b", formed=True), peers=["b", "z"])


def test_hello_of_another_cluster_is_foreign_until_it_is_ours() -> None:
    site, stranger = Site(formed=True), Site("b", formed=True)
    stranger.formation.cluster_uid = OTHER_UID
    assert not site.hears(stranger)
    assert site.formation.foreign == {"b"}
    assert OTHER_UID.hex() in site.said[0]
    assert site.hears(Site("b", formed=True))
    assert site.formation.foreign == set()


def test_hello_under_another_uid_than_the_members_is_refused() -> None:
    site = Site(formed=True)
    assert not site.hears(Site("b", uid=b"x" * 16))
    assert "another disk" in site.said[0]
    assert site.formation.peers["b"].uid == b""


def test_forming_by_the_first_name_when_all_are_fresh_and_empty() -> None:
    site = Site("a")
    assert site.hears(Site("b"))
    assert not site.formation.try_to_form(NOW_NS)
    assert site.hears(Site("c"))
    assert site.formation.try_to_form(NOW_NS)
    assert site.stored == [(CLUSTER_UID, members())]
    assert site.formed_while_storing == [False], "stored before anything depends on it"
    assert (site.formation.cluster_uid, site.formation.members) == (CLUSTER_UID, members())
    assert site.formation.form_fields() == {
        "cluster_uid": CLUSTER_UID,
        "volume": "ephemeral",
        "members": members_to_wire(members()),
    }
    assert not site.formation.try_to_form(NOW_NS), "only once"


def test_forming_by_another_than_the_first_name_does_not_happen() -> None:
    site = Site("b")
    assert site.hears(Site("a"))
    assert site.hears(Site("c"))
    assert not site.formation.try_to_form(NOW_NS)
    assert site.stored == []


def test_forming_with_a_peer_not_heard_of_lately_does_not_happen() -> None:
    site = Site("a")
    assert site.hears(Site("b"), NOW_NS - FRESH_NS)
    assert site.hears(Site("c"))
    assert not site.formation.try_to_form(NOW_NS)


def test_forming_beside_a_member_of_a_cluster_does_not_happen() -> None:
    site = Site("a", uid=b"n" * 16)  # wiped: the cluster knows a by another uid
    for name in ("b", "c"):
        assert site.hears(Site(name, formed=True))
    assert site.formation.wiped
    assert not site.formation.try_to_form(NOW_NS)
    assert site.stored == []
    assert len(site.said) == 1
    assert "does not vote" in site.said[0]


def test_forming_alone_needs_nobody() -> None:
    site = Site("solo", names=("solo",))
    assert site.formation.try_to_form(0)
    assert site.formation.members == (Member(1, "solo", uid_of("solo"), "solo.example:5591"),)


def test_two_wiped_nodes_and_a_silent_holder_form_nothing() -> None:
    wiped = [Site("a", uid=b"1" * 16), Site("b", uid=b"2" * 16)]
    for site, other in (wiped, wiped[::-1]):
        assert site.hears(other)
        assert not site.formation.try_to_form(NOW_NS)
    holder = Site("c", formed=True)
    for site in wiped:
        assert not holder.hears(site)
        assert site.hears(holder)
        assert site.formation.wiped
        assert not site.formation.try_to_form(NOW_NS)
        assert site.stored == []


def test_hello_of_a_member_that_counts_us_in_makes_us_one() -> None:
    site = Site("b")
    assert site.hears(Site("a", formed=True))
    assert site.stored == [(CLUSTER_UID, members())]
    assert site.formation.formed


@pytest.mark.parametrize("listed", [None, [["x"]], members_to_wire(members()[:1])])
def test_hello_of_a_member_that_does_not_count_us_in_changes_nothing(listed: object) -> None:
    site = Site("b")
    assert site.hears(Site("a", formed=True), members=listed)
    assert (site.formation.formed, site.formation.wiped, site.stored) == (False, False, [])


def test_form_with_our_uid_makes_us_a_member() -> None:
    site = Site("c")
    site.formation.on_form(Site(formed=True).formation.form_fields())
    assert site.formation.members == members()
    assert site.formation.member_named("b") == members()[1]
    assert site.formation.member_named("x") is None


@pytest.mark.parametrize("cluster_uid", [None, "text", b"short", b""])
def test_form_without_a_cluster_uid_is_ignored(cluster_uid: object) -> None:
    site = Site("c")
    site.formation.on_form({**Site(formed=True).formation.form_fields(), "cluster_uid": cluster_uid})
    assert not site.formation.formed


def test_form_at_a_member_is_ignored() -> None:
    site = Site("c", formed=True)
    site.formation.on_form({**site.formation.form_fields(), "cluster_uid": OTHER_UID})
    assert (site.formation.cluster_uid, site.stored) == (CLUSTER_UID, [])


def test_form_with_another_uid_for_us_says_that_we_were_wiped_once() -> None:
    site = Site("c")
    for _ in range(2):
        site.formation.on_form({"cluster_uid": CLUSTER_UID, "members": members_to_wire(members(c=b"?" * 16))})
    assert site.formation.wiped
    assert len(site.said) == 1


@pytest.mark.parametrize("seed", range(20))
def test_forming_with_lost_frames_makes_one_cluster_of_all(seed: int) -> None:
    chance = random.Random(seed)
    sites = {name: Site(name) for name in NAMES}
    for turn in range(500):
        now_ns = NOW_NS + turn * (FRESH_NS // 10)
        site, other = (sites[name] for name in chance.sample(NAMES, 2))
        if chance.random() < 0.5 and site.hears(other, now_ns) and site.formation.formed and not other.formation.formed:
            other.formation.on_form(site.formation.form_fields())
        chance.choice(list(sites.values())).formation.try_to_form(now_ns)
    assert {site.formation.cluster_uid for site in sites.values()} == {CLUSTER_UID}
    assert all(site.formation.members == members() and len(site.stored) == 1 for site in sites.values())
