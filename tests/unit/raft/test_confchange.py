"""Membership changes: their bytes, and what they make of a membership, against slow twins."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zmqbroker.raft.confchange import (
    Change,
    ChangeType,
    ConfChange,
    InvalidChange,
    Transition,
    change_membership,
    decode,
    encode,
)
from zmqbroker.raft.membership import Membership

NODES = st.integers(1, 6)
CHANGES = st.builds(Change, st.sampled_from(ChangeType), NODES)
CONF_CHANGES = st.builds(
    ConfChange, st.lists(CHANGES, max_size=4).map(tuple), st.sampled_from(Transition), st.binary(max_size=5)
)


def change(*changes: tuple[ChangeType, int], transition: Transition = Transition.AUTO) -> ConfChange:
    return ConfChange(tuple(Change(kind, node) for kind, node in changes), transition)


ADD, REMOVE, LEARN, UPDATE = ChangeType.ADD_VOTER, ChangeType.REMOVE, ChangeType.ADD_LEARNER, ChangeType.UPDATE


@given(CONF_CHANGES)
def test_change_encoded_and_decoded_is_the_same(made: ConfChange) -> None:
    assert decode(encode(made)) == made


def test_change_bytes_never_change() -> None:
    made = ConfChange((Change(ADD, 4), Change(REMOVE, 1)), Transition.JOINT_EXPLICIT, b"where")
    assert encode(made).hex() == "020200000400000000000000010100000000000000" + b"where".hex()
    assert encode(ConfChange()) == b""


@given(st.binary(min_size=1, max_size=30))
def test_change_of_any_bytes_is_decoded_or_refused(data: bytes) -> None:
    try:
        made = decode(data)
    except InvalidChange:
        return
    assert decode(encode(made)) == made


@pytest.mark.parametrize("data", [b"\x00", b"\x03\x00\x00", b"\x00\x01\x00", b"\x00\x01\x00\x09" + bytes(8)])
def test_change_of_wrong_bytes_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidChange, match="no membership change"):
        decode(data)


# --- the next membership ---------------------------------------------------------------------------------------------


def directly(membership: Membership, changes: tuple[Change, ...]) -> tuple[set[int], set[int]]:
    """The slow twin: voters and learners after all changes, without any way between."""
    voters, learners = set(membership.voters), set(membership.learners)
    for kind, node in changes:
        if kind is UPDATE:
            continue
        if kind is LEARN and node in learners:
            continue
        voters.discard(node)
        learners.discard(node)
        if kind is ADD:
            voters.add(node)
        elif kind is LEARN:
            learners.add(node)
    return voters, learners


def majorities(voters: tuple[int, ...]) -> list[set[int]]:
    subsets = [{voter for bit, voter in enumerate(voters) if mask >> bit & 1} for mask in range(1 << len(voters))]
    return [subset for subset in subsets if 2 * len(subset) > len(voters)]


def quorums(membership: Membership) -> list[set[int]]:
    """Every set of nodes that may decide something."""
    incoming = majorities(membership.voters)
    outgoing = majorities(membership.voters_outgoing) if membership.joint else [set()]
    return [one | other for one in incoming for other in outgoing]


@settings(max_examples=200, deadline=None)
@given(st.lists(CONF_CHANGES, max_size=8))
def test_any_changes_keep_the_membership_sound_and_its_quorums_overlapping(changes: list[ConfChange]) -> None:
    """I11: two memberships that follow each other cannot decide apart (Raft §6)."""
    membership = Membership((1, 2, 3))
    for made in changes:
        try:
            following, _ = change_membership(membership, made)
        except InvalidChange:
            continue
        assert following.faults() == []
        assert all(one & other for one in quorums(membership) for other in quorums(following))
        membership = following


@settings(max_examples=200)
@given(st.lists(CHANGES, max_size=5).map(tuple), st.sampled_from(Transition))
def test_joint_membership_left_equals_the_changes_made_directly(changes: tuple[Change, ...], transition: Transition) -> None:
    before = Membership((1, 2, 3), learners=(4,))
    made = ConfChange(changes, transition)
    voters, learners = directly(before, changes)
    if made.leaves_joint or not voters:
        with pytest.raises(InvalidChange):
            change_membership(before, made)
        return
    after, _ = change_membership(before, made)
    if made.enters_joint:
        assert after.voters_outgoing == before.voters
        assert after.auto_leave == (transition is not Transition.JOINT_EXPLICIT)
        after, _ = change_membership(after, ConfChange())
    assert (set(after.voters), set(after.learners)) == (voters, learners)
    assert not after.joint


def test_voter_made_learner_stays_a_voter_of_the_older_set_until_it_ends() -> None:
    made = change((LEARN, 3), (ADD, 4))
    joint, fresh = change_membership(Membership((1, 2, 3)), made)
    assert str(joint) == "voters=(1 2 4)&&(1 2 3) learners_next=(3) autoleave"
    assert fresh == {4}
    left, _ = change_membership(joint, ConfChange())
    assert str(left) == "voters=(1 2 4) learners=(3)"


def test_node_removed_and_added_again_is_fresh_if_it_was_a_learner() -> None:
    _, fresh = change_membership(Membership((1, 2), learners=(3,)), change((REMOVE, 3), (ADD, 3)))
    assert fresh == {3}
    _, fresh = change_membership(Membership((1, 2, 3)), change((REMOVE, 3), (ADD, 3)))
    assert fresh == frozenset()  # it never stopped to be a voter of the older set


def test_node_added_and_removed_at_once_is_nobody() -> None:
    joint, fresh = change_membership(Membership((1, 2)), change((ADD, 3), (REMOVE, 3)))
    assert (joint.voters, fresh) == ((1, 2), frozenset())


@pytest.mark.parametrize(
    ("membership", "made", "words"),
    [
        (Membership((1,)), change((REMOVE, 1)), "removed all voters"),
        (Membership((1,)), change((LEARN, 1), (LEARN, 2)), "removed all voters"),
        (Membership((1, 2)), ConfChange(), "can't leave"),
        (Membership((1, 2), (1, 3)), change((ADD, 4)), "joint already"),
        (Membership(), change((ADD, 4), (ADD, 5)), "zero-voter"),
    ],
)
def test_impossible_change_is_refused(membership: Membership, made: ConfChange, words: str) -> None:
    with pytest.raises(InvalidChange, match=words):
        change_membership(membership, made)


def test_change_of_node_zero_is_void() -> None:
    assert change_membership(Membership((1, 2)), change((REMOVE, 0)))[0] == Membership((1, 2))


# --- memberships themselves ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("membership", "words"),
    [
        (Membership((2, 1)), "not ascending"),
        (Membership((1, 1)), "not ascending"),
        (Membership((0, 1)), "not ascending"),
        (Membership((1, 2), learners=(2,)), "voters and learners"),
        (Membership((1,), (1, 2), learners_next=(3,)), "no voters of the older set"),
        (Membership((1,), auto_leave=True), "belong to a joint membership"),
        (Membership((1,), learners_next=()), ""),
    ],
)
def test_membership_names_its_faults(membership: Membership, words: str) -> None:
    assert words in "; ".join(membership.faults())
    assert bool(words) == bool(membership.faults())


def test_membership_knows_who_takes_part() -> None:
    joint = Membership((1, 2, 4), (1, 2, 3), (5,), (3,), auto_leave=True)
    assert joint.faults() == []
    assert joint.all_voters == (1, 2, 3, 4)
    assert joint.all_nodes == (1, 2, 3, 4, 5)
    assert [node for node in range(7) if joint.is_voter(node)] == [1, 2, 3, 4]
    assert str(joint) == "voters=(1 2 4)&&(1 2 3) learners=(5) learners_next=(3) autoleave"
    assert Membership((1, 2)).all_voters == (1, 2)
