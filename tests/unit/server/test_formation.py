"""Forming a cluster once, who is believed to belong to it, joining it later and leaving it: docs/PROTOCOL.md §8, DESIGN §4."""

from __future__ import annotations

import random
from typing import Any

import pytest

from zmqbroker.commands import Member
from zmqbroker.server.formation import FRESH_NS, Formation, Former
from zmqbroker.wire.membership import members_from_wire, members_to_wire

NAMES = ("a", "b", "c")
CLUSTER_UID, OTHER_UID = b"C" * 16, b"D" * 16
NOW_NS = 50 * FRESH_NS
Stored = tuple[bytes, tuple[Member, ...], int, tuple[Member, ...]]


def uid_of(name: str) -> bytes:
    return name.encode() * 16


def members(**other_uids: bytes) -> tuple[Member, ...]:
    return tuple(
        Member(number, name, other_uids.get(name, uid_of(name)), f"{name}.example:5591")
        for number, name in enumerate(NAMES, start=1)
    )


NEWCOMER = Member(4, "d", uid_of("d"), "d.example:5591")
GROWN = (*members(), NEWCOMER)


class Site:
    """One node's formation, with what it stored and said."""

    def __init__(
        self,
        name: str = "a",
        *,
        formed: bool = False,
        uid: bytes | None = None,
        names: tuple[str, ...] = NAMES,
        index: int = 0,
        now: tuple[Member, ...] = members(),
        auto_rejoin: bool = True,
        former: Former | None = None,
    ) -> None:
        self.stored: list[Stored] = []
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
            founders=members() if formed else (),
            members=now if formed else (),
            members_index=index,
            record=self,
            mint=lambda: CLUSTER_UID,
            complain=self.said.append,
            auto_rejoin=auto_rejoin,
            former=former,
        )

    def save_formation(
        self, cluster_uid: bytes, founders: tuple[Member, ...], members_index: int, members: tuple[Member, ...]
    ) -> None:
        """The node's `Record`."""
        self.stored.append((cluster_uid, founders, members_index, members))
        self.formed_while_storing.append(self.formation.formed)

    def hears(self, other: Site, now_ns: int = NOW_NS, **changed: Any) -> bool:
        """Take the other's HELLO, with some fields changed; whether it was accepted."""
        told = other.formation
        return self.formation.on_hello(told.uid, told.cluster_uid, {**told.hello(answer=False), **changed}, now_ns) is not None


# --- HELLO -----------------------------------------------------------------------------------------------------------


def test_hello_of_an_empty_node_names_no_members() -> None:
    fields = Site("b").formation.hello(answer=True)
    assert fields == {
        "name": "b",
        "cluster": "shop",
        "volume": "ephemeral",
        "client": "tcp://b.example:5590",
        "peer": "b.example:5591",
        "protocol": [1, 1],
        "machine": [4, 4],
        "formed": False,
        "rejoin": False,
        "peers": ["a", "b", "c"],
        "founders": None,
        "members": None,
        "members_index": 0,
        "answer": True,
    }


def test_hello_of_a_member_names_founders_and_members() -> None:
    fields = Site(formed=True, index=7, now=GROWN).formation.hello(answer=False)
    assert fields["formed"] is True
    assert members_from_wire(fields["founders"]) == members()
    assert (members_from_wire(fields["members"]), fields["members_index"]) == (GROWN, 7)


def test_hello_accepted_notes_what_the_peer_said() -> None:
    site = Site("a", formed=True)
    assert site.hears(Site("b", formed=True))
    peer = site.formation.known.with_uid(uid_of("b"))
    assert peer is not None
    assert (peer.uid, peer.client, peer.formed, peer.heard_ns) == (uid_of("b"), "tcp://b.example:5590", True, NOW_NS)
    assert site.formation.missing(NOW_NS) == ["c (c.example:5591)"]
    assert site.formation.missing(NOW_NS + FRESH_NS) == ["b (b.example:5591)", "c (c.example:5591)"]


@pytest.mark.parametrize("name", ["x", "a", 7, None])
def test_hello_of_nobody_we_know_is_refused(name: object) -> None:
    site = Site()
    assert not site.hears(Site("b"), name=name)
    assert site.said == []


@pytest.mark.parametrize("peer", [None, 5591, b"b:1"])
def test_hello_without_an_address_is_refused(peer: object) -> None:
    for site in (Site(), Site(formed=True)):
        assert not site.hears(Site("b"), peer=peer)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"cluster": "bank"}, "b is configured for cluster 'bank', this node for 'shop'"),
        ({"volume": "persistent"}, "b has volume mode 'persistent', this node 'ephemeral'"),
        ({"peers": ["a", "b"]}, "b is configured with the peers ['a', 'b'], this node with ['a', 'b', 'c']"),
        ({"protocol": [2, 3]}, "b speaks protocol versions [2, 3], this node 1 to 1"),
        ({"machine": [0, 0]}, "b speaks machine versions [0, 0], this node 4 to 4"),
        ({"machine": 1}, "b speaks machine versions 1, this node 4 to 4"),
        ({"machine": [1]}, "b speaks machine versions [1], this node 4 to 4"),
        ({"protocol": ["1", None]}, "b speaks protocol versions ['1', None], this node 1 to 1"),
        ({"formed": True}, "b says that it is a member and names no cluster"),
    ],
)
def test_hello_of_a_node_that_does_not_fit_is_refused_and_said_once(changed: dict[str, Any], said: str) -> None:
    site = Site()
    for _ in range(2):
        assert not site.hears(Site("b"), **changed)
    assert site.said == [said]
    assert site.formation.known.peers["b"].uid == b""


@pytest.mark.parametrize("sender", ["b", "stranger"])
def test_hello_with_ever_new_faults_is_said_a_bounded_number_of_times(sender: str) -> None:
    site = Site(formed=True)
    for number in range(100):
        site.hears(Site(sender, names=(sender,)), cluster=f"cluster-{number}")
    assert len(site.said) == 16


def test_hello_with_other_peers_after_forming_is_accepted() -> None:
    site = Site(formed=True)
    assert site.hears(Site("b", formed=True), peers=["b", "z"])


# --- other clusters --------------------------------------------------------------------------------------------------


def test_hello_of_another_cluster_is_foreign_until_it_is_ours() -> None:
    site, stranger = Site(formed=True), Site("b", formed=True)
    stranger.formation.cluster_uid = OTHER_UID
    assert not site.hears(stranger)
    assert site.formation.foreign == {"b"}
    assert OTHER_UID.hex() in site.said[0]
    assert site.hears(Site("b", formed=True))
    assert site.formation.foreign == set()


def test_hello_of_another_cluster_by_a_name_that_no_member_has_counts_for_nothing() -> None:
    site = Site(formed=True)
    for name in ("x", "y", "z", "a"):  # the last is this node's own
        other = Site(name, names=(name,), formed=True, uid=name.upper().encode() * 16)
        other.formation.cluster_uid = OTHER_UID
        assert not site.hears(other)
    assert site.formation.foreign == set()


def test_stranger_that_is_refused_is_not_kept_and_said_once() -> None:
    site = Site(formed=True)
    for _ in range(3):
        assert not site.hears(Site("d", names=("d",)), volume="persistent")
        site.formation.known.forget_silent(NOW_NS)
    assert site.formation.known.strangers == {}
    assert site.said == ["d has volume mode 'persistent', this node 'ephemeral'"]


# --- strangers -------------------------------------------------------------------------------------------------------


def test_hello_of_a_new_node_is_kept_and_says_how_to_take_it_in() -> None:
    site = Site(formed=True)
    for _ in range(2):
        assert site.hears(Site("d", names=("a", "d")))
    assert [peer.name for peer in site.formation.known.strangers.values()] == ["d"]
    assert site.said == ["d is no member and does not vote; to take it in: zmqbroker cluster add d"]
    assert site.formation.members == members()


def test_hello_of_a_member_under_another_uid_is_a_stranger_that_may_replace_it() -> None:
    site = Site(formed=True)
    assert site.hears(Site("b", uid=b"x" * 16))
    assert [peer.uid for peer in site.formation.known.strangers.values()] == [b"x" * 16]
    assert "has an empty or another disk" in site.said[0]
    assert site.said[0].endswith("zmqbroker cluster replace b")
    member = site.formation.known.with_id(2)
    assert member is not None
    assert (member.uid, member.formed) == (uid_of("b"), False), "the member itself was not heard"


# --- forming ---------------------------------------------------------------------------------------------------------


def test_forming_by_the_first_name_when_all_are_fresh_and_empty() -> None:
    site = Site("a")
    assert site.hears(Site("b"))
    assert not site.formation.try_to_form(NOW_NS)
    assert site.hears(Site("c"))
    assert site.formation.try_to_form(NOW_NS)
    assert site.stored == [(CLUSTER_UID, members(), 0, members())]
    assert site.formed_while_storing == [False], "stored before anything depends on it"
    assert (site.formation.cluster_uid, site.formation.members) == (CLUSTER_UID, members())
    assert site.formation.form_fields() == {
        "cluster_uid": CLUSTER_UID,
        "volume": "ephemeral",
        "founders": members_to_wire(members()),
        "members": members_to_wire(members()),
        "members_index": 0,
    }
    assert site.formation.own == members()[0]
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
    site = Site("a", uid=b"n" * 16, auto_rejoin=False)  # wiped: the cluster knows a by another uid
    for name in ("b", "c"):
        assert site.hears(Site(name, formed=True))
    assert site.formation.wiped
    assert not site.formation.try_to_form(NOW_NS)
    assert site.stored == []
    assert len(site.said) == 1
    assert "does not vote" in site.said[0]
    assert "zmqbroker cluster replace a" in site.said[0]


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
        assert holder.hears(site), "heard as one that may take a member's place"
        assert site.hears(holder)
        assert site.formation.wiped
        assert not site.formation.try_to_form(NOW_NS)
        assert site.stored == []


# --- rejoining -------------------------------------------------------------------------------------------------------

FORMER = Former("log/00000001.segment is damaged", CLUSTER_UID, GROWN)


def test_wiped_node_asks_for_its_own_place() -> None:
    site, member = Site("b", uid=b"x" * 16), Site("a", formed=True)
    assert site.formation.hello(answer=False)["rejoin"] is False
    assert site.hears(member)
    assert site.formation.hello(answer=False)["rejoin"] is True
    assert "by itself when a majority works without it" in site.said[0]
    assert member.hears(site)
    peer = member.formation.known.with_uid(b"x" * 16)
    assert peer is not None
    assert peer.rejoins
    assert member.said == [
        "b has lost its data, or does not trust it, and does not vote until it has taken its own place again"
    ]


def test_recovering_node_asks_for_its_own_place_from_the_start_and_greets_all_it_knew() -> None:
    site = Site("b", uid=b"x" * 16, names=("a", "b"), former=FORMER)
    assert site.formation.hello(answer=False)["rejoin"] is True
    assert (site.formation.formed, site.formation.recovering) == (False, FORMER.reason)
    assert sorted(peer.name for peer in site.formation.known.everybody()) == ["a", "c", "d"]


@pytest.mark.parametrize("recovering", ["a", "c"])
def test_recovering_node_is_not_an_empty_one_that_a_cluster_is_formed_with(recovering: str) -> None:
    """Two nodes with nothing beside one that holds data, even damaged data: what it holds may be all that is left."""
    sites = {name: Site(name, former=FORMER if name == recovering else None) for name in NAMES}
    for site in sites.values():
        assert all(site.hears(other) for other in sites.values() if other is not site)
    assert not any(site.formation.try_to_form(NOW_NS) for site in sites.values())
    assert not any(site.stored for site in sites.values())


def test_recovering_node_takes_the_place_that_its_own_cluster_gives_it_and_no_other() -> None:
    again = Member(4, "b", b"x" * 16, "b.example:5591", replaces=2)
    site, other = Site("b", uid=again.uid, former=FORMER), Site("a", formed=True, index=5, now=(*members(), again))
    other.formation.cluster_uid = OTHER_UID
    assert site.hears(other)
    assert site.stored == []
    assert OTHER_UID.hex() in site.said[0]
    other.formation.cluster_uid = CLUSTER_UID
    assert site.hears(other)
    assert site.stored == [(CLUSTER_UID, members(), 5, (*members(), again))]


# --- joining ---------------------------------------------------------------------------------------------------------


def test_hello_of_a_member_that_counts_us_in_makes_us_one() -> None:
    site = Site("b")
    assert site.hears(Site("a", formed=True))
    assert site.stored == [(CLUSTER_UID, members(), 0, members())]
    assert site.formation.formed


def test_newcomer_waits_until_a_member_counts_it_in_and_keeps_the_founders() -> None:
    site = Site("d", names=("a", "d"))
    assert site.hears(Site("a", formed=True))
    assert not site.formation.formed
    assert site.said == [f"cluster {CLUSTER_UID.hex()} does not know d yet; to take it in: zmqbroker cluster add d"]
    assert site.hears(Site("a", formed=True, index=9, now=GROWN))
    assert site.stored == [(CLUSTER_UID, members(), 9, GROWN)]
    assert site.formed_while_storing == [False], "stored before anything depends on it"
    assert site.formation.own == NEWCOMER
    peers = [site.formation.known.with_id(member.id) for member in members()]
    assert [peer.name for peer in peers if peer] == ["a", "b", "c"], "also those that it was not configured with"


def test_wiped_node_becomes_a_member_when_it_replaces_the_old_one() -> None:
    again = Member(4, "b", b"x" * 16, "b.example:5591", replaces=2)
    site = Site("b", uid=again.uid)
    assert site.hears(Site("a", formed=True))
    assert site.formation.wiped
    assert site.hears(Site("a", formed=True, index=5, now=(*members(), again)))
    assert site.formation.own == again


def test_restart_right_after_the_record_was_stored_goes_on_as_a_member() -> None:
    site = Site("d", names=("a", "d"))
    site.hears(Site("a", formed=True, index=9, now=GROWN))
    cluster_uid, founders, index, now = site.stored[-1]
    again = Site("d", names=("a", "d"), formed=True, index=index, now=now)
    assert (again.formation.cluster_uid, again.formation.founders) == (cluster_uid, founders)
    assert (again.formation.own, again.formation.removed) == (NEWCOMER, False)


@pytest.mark.parametrize("listed", [None, [], [["x"]], members_to_wire(members()[:1])])
def test_hello_of_a_member_that_does_not_count_us_in_changes_nothing(listed: object) -> None:
    site = Site("b")
    assert site.hears(Site("a", formed=True), members=listed)
    assert (site.formation.formed, site.formation.wiped, site.stored) == (False, False, [])


@pytest.mark.parametrize("changed", [{"founders": None}, {"founders": []}, {"members_index": None}, {"members_index": True}])
def test_hello_of_a_member_without_founders_or_index_changes_nothing(changed: dict[str, Any]) -> None:
    site, member = Site("b"), Site("c", formed=True)
    other = Site("a", formed=True, index=3, now=GROWN)
    assert site.hears(other, **changed)
    assert member.hears(other, **changed)
    assert (site.stored, member.stored) == ([], [])


def test_form_with_our_uid_makes_us_a_member() -> None:
    site = Site("c")
    site.formation.on_form(Site(formed=True).formation.form_fields())
    assert site.formation.members == members()
    assert site.formation.member_with(uid_of("b")) == members()[1]
    assert site.formation.member_with(b"x" * 16) is None


@pytest.mark.parametrize("cluster_uid", [None, "text", b"short", b""])
def test_form_without_a_cluster_uid_is_ignored(cluster_uid: object) -> None:
    site = Site("c")
    site.formation.on_form({**Site(formed=True).formation.form_fields(), "cluster_uid": cluster_uid})
    assert not site.formation.formed


def test_form_at_a_member_is_ignored() -> None:
    site = Site("c", formed=True)
    site.formation.on_form({**site.formation.form_fields(), "cluster_uid": OTHER_UID, "members_index": 9})
    assert (site.formation.cluster_uid, site.stored) == (CLUSTER_UID, [])


def test_form_with_another_uid_for_us_says_that_we_were_wiped_once() -> None:
    site = Site("c")
    fields = Site(formed=True).formation.form_fields()
    for _ in range(2):
        site.formation.on_form({**fields, "members": members_to_wire(members(c=b"?" * 16))})
    assert site.formation.wiped
    assert len(site.said) == 1


# --- the newest members ----------------------------------------------------------------------------------------------


def test_learn_newer_members_stores_them_and_follows() -> None:
    site = Site(formed=True)
    site.formation.learn(7, GROWN)
    assert site.stored == [(CLUSTER_UID, members(), 7, GROWN)]
    assert (site.formation.members, site.formation.members_index) == (GROWN, 7)
    newcomer = site.formation.known.with_id(4)
    assert newcomer is not None
    assert newcomer.address == "d.example:5591"


@pytest.mark.parametrize("index", [0, 6, 7])
def test_learn_older_or_known_members_changes_nothing(index: int) -> None:
    site = Site(formed=True, index=7, now=GROWN)
    site.formation.learn(index, members()[:1])
    assert (site.stored, site.formation.members) == ([], GROWN)


def test_hello_of_a_member_that_lags_does_not_bring_back_who_was_removed() -> None:
    site = Site(formed=True, index=12, now=members()[:2])
    assert site.hears(Site("c", formed=True, index=7, now=members()))
    assert site.formation.members == members()[:2]
    assert [peer.name for peer in site.formation.known.strangers.values()] == ["c"], "so that it hears that it was removed"


def test_hello_that_leaves_us_out_says_that_we_were_removed() -> None:
    site = Site("c", formed=True)
    assert not site.formation.removed
    assert site.hears(Site("a", formed=True, index=12, now=members()[:2]))
    assert site.formation.removed
    assert site.formation.own is None
    assert site.stored[-1][2:] == (12, members()[:2])


@pytest.mark.parametrize("listed", [None, [], [[1, "a"]], members_to_wire(members()[:2][::-1])])
def test_hello_with_members_that_nobody_can_have_removes_nobody(listed: object) -> None:
    site = Site("c", formed=True)
    assert site.hears(Site("a", formed=True), members=listed, members_index=99)
    assert (site.formation.removed, site.stored) == (False, [])


# --- lost frames -----------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("seed", range(20))
def test_members_learned_in_any_order_are_the_newest_everywhere(seed: int) -> None:
    chance = random.Random(seed)
    history = [(0, members()), (3, GROWN), (8, GROWN[1:]), (11, GROWN[1:3])]
    sites = [Site(name, formed=True) for name in ("b", "c")]
    for _ in range(60):
        site = chance.choice(sites)
        if chance.random() < 0.5:
            site.hears(next(other for other in sites if other is not site))
        else:
            site.formation.learn(*chance.choice(history))
    for site in sites:
        site.formation.learn(*history[-1])
        assert (site.formation.members_index, site.formation.members) == history[-1]
        assert [index for _, _, index, _ in site.stored] == sorted({index for _, _, index, _ in site.stored})
