"""Whom a node keeps a link to: configured peers, members by uid, and a bounded number of strangers."""

from __future__ import annotations

from typing import Any

import pytest

from zmqbroker.commands import Member
from zmqbroker.server.acquaintances import FORGET_NS, STRANGERS_MAX, Acquaintances, PeerState

ADDRESSES = {"a": "a:1", "b": "b:1", "c": "c:1"}


def uid_of(name: str) -> bytes:
    return name.encode() * 16


def member(number: int, name: str, uid: bytes = b"", peer: str = "", replaces: int = 0) -> Member:
    return Member(number, name, uid or uid_of(name), peer or f"{name}:9", replaces=replaces)


MEMBERS = tuple(member(number, name) for number, name in enumerate(ADDRESSES, 1))


def known(*members: Member) -> Acquaintances:
    """The acquaintances of node a."""
    made = Acquaintances("a", uid_of("a"), ADDRESSES)
    if members:
        made.follow(members)
    return made


def address_of(found: Acquaintances, member_id: int) -> str | None:
    peer = found.with_id(member_id)
    return peer.address if peer else None


def fields(name: Any, peer: Any) -> dict[str, Any]:
    return {"name": name, "peer": peer}


def meet_and_keep(found: Acquaintances, uid: bytes, name: str, peer: str, heard_ns: int = 0) -> PeerState | None:
    stranger = found.meet(uid, fields(name, peer), formed=True)
    if stranger is not None:
        found.keep(stranger)
        stranger.heard_ns = heard_ns
    return stranger


# --- members ---------------------------------------------------------------------------------------------------------


def test_before_forming_peers_are_known_by_name_without_this_node() -> None:
    found = known()
    assert [(peer.name, peer.address, peer.uid) for peer in found.everybody()] == [("b", "b:1", b""), ("c", "c:1", b"")]
    assert found.with_id(2) is None
    assert found.with_uid(uid_of("b")) is None


def test_follow_gives_members_their_ids_and_keeps_configured_addresses() -> None:
    found = known(*MEMBERS)
    assert [address_of(found, number) for number in (1, 2, 3, 4)] == [None, "b:1", "c:1", None]
    assert found.with_uid(uid_of("b")) is found.with_id(2)
    assert found.strangers == {}


def test_follow_of_a_member_that_nobody_configured_takes_its_own_address() -> None:
    found = known(*MEMBERS, member(4, "d"))
    assert address_of(found, 4) == "d:9"


def test_follow_of_a_namesake_that_replaces_takes_its_own_address_and_not_the_others() -> None:
    found = known(*MEMBERS, member(4, "b", b"n" * 16, "new-b:1", replaces=2))
    assert (address_of(found, 2), address_of(found, 4)) == ("b:1", "new-b:1")
    assert len(found.peers) == 3, "a namesake does not take another's place"


def test_follow_after_a_restart_of_a_node_that_replaced_has_its_own_address() -> None:
    found = known(MEMBERS[0], MEMBERS[2], member(4, "b", b"n" * 16, "new-b:1", replaces=2))
    assert address_of(found, 4) == "new-b:1"


def test_follow_keeps_what_was_heard_of_a_member() -> None:
    found = known()
    peer = found.meet(uid_of("b"), fields("b", "b:1"), formed=False)
    assert peer is not None
    peer.uid, peer.client, peer.heard_ns = uid_of("b"), "tcp://b:2", 5
    found.follow(MEMBERS)
    again = found.with_id(2)
    assert again is peer
    assert (again.client, again.heard_ns) == ("tcp://b:2", 5)


def test_follow_makes_a_stranger_that_joined_a_peer_and_a_removed_peer_a_stranger() -> None:
    found = known(*MEMBERS)
    newcomer = meet_and_keep(found, uid_of("d"), "d", "d:1", heard_ns=7)
    found.follow((*MEMBERS[:2], member(4, "d")))
    assert found.with_id(4) is newcomer
    assert [peer.name for peer in found.strangers.values()] == ["c"], "so that it hears that it was removed"
    assert found.with_id(3) is None


# --- strangers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "peer"), [(None, "x:1"), ("x", None), (b"x", "x:1"), ("", "x:1"), ("x y", "x:1"), ("x", "x"), ("x", "x:99999")]
)
def test_stranger_without_a_name_and_an_address_is_nobody(name: Any, peer: Any) -> None:
    assert known(*MEMBERS).meet(b"s" * 16, fields(name, peer), formed=True) is None


def test_stranger_before_forming_or_with_our_own_uid_is_nobody() -> None:
    assert known().meet(b"s" * 16, fields("x", "x:1"), formed=False) is None
    assert known(*MEMBERS).meet(uid_of("a"), fields("x", "x:1"), formed=True) is None


def test_stranger_is_kept_once_by_its_uid_and_only_when_asked_to() -> None:
    found = known(*MEMBERS)
    stranger = found.meet(b"s" * 16, fields("x", "x:1"), formed=True)
    assert stranger is not None
    assert not found.knows(stranger)
    assert found.strangers == {}
    for _ in range(2):
        found.keep(stranger)
    assert found.meet(b"s" * 16, fields("x", "x:1"), formed=True) is stranger
    assert found.everybody()[2:] == [stranger]


def test_stranger_that_is_somewhere_else_now_is_known_by_its_new_address() -> None:
    found = known(*MEMBERS)
    first = meet_and_keep(found, b"s" * 16, "x", "x:1")
    assert first is not None
    second = meet_and_keep(found, b"s" * 16, "x", "x:2")
    assert second is not None
    assert list(found.strangers.values()) == [second]
    assert first.key != second.key


def test_member_that_says_another_address_keeps_the_known_one() -> None:
    found = known(*MEMBERS)
    peer = found.meet(uid_of("b"), fields("b", "elsewhere:1"), formed=True)
    assert peer is found.with_id(2)
    assert address_of(found, 2) == "b:1"


def test_member_under_another_name_is_nobody() -> None:
    assert known(*MEMBERS).meet(uid_of("b"), fields("c", "b:1"), formed=True) is None


def test_strangers_of_one_name_are_told_apart_by_their_uid() -> None:
    found = known(*MEMBERS)
    for uid in (b"1" * 16, b"2" * 16):
        meet_and_keep(found, uid, "d", "d:1")
    assert [peer.uid for peer in found.strangers.values()] == [b"1" * 16, b"2" * 16]


def test_strangers_are_bounded_and_the_longest_silent_one_gives_way() -> None:
    found = known(*MEMBERS)
    for number in range(STRANGERS_MAX + 5):
        heard_ns = 1_000 - number if number < 3 else 2_000 + number
        meet_and_keep(found, bytes([number]) * 16, f"s{number}", "s:1", heard_ns)
    assert len(found.strangers) == STRANGERS_MAX
    assert {uid[0] for uid in found.strangers} == set(range(5, STRANGERS_MAX + 5))


def test_strangers_that_are_silent_are_forgotten_and_members_are_not() -> None:
    found = known(*MEMBERS)
    meet_and_keep(found, b"s" * 16, "x", "x:1", heard_ns=50)
    found.forget_silent(50 + FORGET_NS - 1)
    assert len(found.strangers) == 1
    found.forget_silent(50 + FORGET_NS)
    assert found.strangers == {}
    assert [peer.name for peer in found.everybody()] == ["b", "c"]
