"""What a wish for other members means for Raft, what a leader goes on with, and that all replicas get one roster."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.server.harness import member
from zmqbroker.commands import Member, Roster
from zmqbroker.errors import InvalidRequest, NodeNotFound
from zmqbroker.raft import Membership, ProgressState, ProgressStatus, RaftConfig, RaftCore
from zmqbroker.raft.confchange import Change, ChangeType, ConfChange, InvalidChange, Transition, decode, encode
from zmqbroker.server.membership import (
    CAUGHT_UP_ENTRIES,
    MEMBERS_MAX,
    addition,
    best_successor,
    changed,
    find,
    founding,
    hands_over,
    membership_of,
    next_change,
    removal,
)
from zmqbroker.storage.memory import MemoryLog
from zmqbroker.wire.membership import decode_members, encode_members, encode_membership

ADD, REMOVE, LEARN = ChangeType.ADD_VOTER, ChangeType.REMOVE, ChangeType.ADD_LEARNER
LAST = 1_000
TRIO = founding(map(member, (1, 2, 3)))
SIZE_MAX = 9


def roster(*members: Member, voters: tuple[int, ...], outgoing: tuple[int, ...] = ()) -> Roster:
    """Members of whom some vote."""
    learners = tuple(one.id for one in members if one.id not in {*voters, *outgoing})
    membership = Membership(voters, outgoing, learners, (), bool(outgoing))
    return Roster(5, members, encode_membership(membership), max(one.id for one in members) + 1)


def progress(
    lag: int = 0, *, active: bool = True, state: ProgressState = ProgressState.REPLICATE, learner: bool = False
) -> ProgressStatus:
    return ProgressStatus(LAST - lag, LAST - lag + 1, state, active, learner)


def all_well(ids: Iterable[int]) -> dict[int, ProgressStatus]:
    return {id: progress() for id in ids}


def changes_of(change: ConfChange | None) -> list[tuple[ChangeType, int]]:
    return [] if change is None else [(one.type, one.node) for one in change.changes]


# --- rosters ---------------------------------------------------------------------------------------------------------


def test_founding_makes_all_of_them_voters_in_the_order_of_their_ids() -> None:
    made = founding([member(2), member(1)])
    assert [one.id for one in made.members] == [1, 2]
    assert (made.index, made.next_id) == (0, 3)
    assert membership_of(made) == Membership((1, 2))


def test_changed_takes_the_newcomer_from_the_entry() -> None:
    change = addition(TRIO, member(0, "d"), SIZE_MAX)
    grown = changed(TRIO, 9, Membership((1, 2, 3), (1, 2, 3), (4,), (), True), encode(change))
    assert (grown.index, grown.next_id, [one.name for one in grown.members]) == (9, 5, ["n1", "n2", "n3", "d"])
    assert membership_of(grown).learners == (4,)
    left = changed(grown, 10, Membership((1, 2, 3), (), (4,)), b"")
    assert (left.index, left.members) == (10, grown.members)


def test_changed_without_a_removed_member_keeps_its_id_from_others() -> None:
    shrunk = changed(TRIO, 9, Membership((1, 2)), encode(removal(Membership((1, 2, 3)), 3, (1, 2))))
    assert [one.id for one in shrunk.members] == [1, 2]
    assert shrunk.next_id == 4
    assert decode_members(addition(shrunk, member(0, "d"), SIZE_MAX).context)[0].id == 4


def test_changed_by_a_change_that_could_not_be_made_brings_nobody() -> None:
    change = addition(TRIO, member(0, "d"), SIZE_MAX)
    assert changed(TRIO, 9, membership_of(TRIO), encode(change)) == replace(TRIO, index=9)


@pytest.mark.parametrize("payload", [b"garbage", b"\xff" * 9, encode(ConfChange((Change(LEARN, 4),), context=b"\xc1"))])
def test_changed_by_garbage_changes_nobody(payload: bytes) -> None:
    assert changed(TRIO, 9, membership_of(TRIO), payload) == replace(TRIO, index=9)


def test_changed_never_lets_an_entry_rename_a_member() -> None:
    forged = ConfChange((Change(LEARN, 4),), context=encode_members((member(1, "other"), member(4, "d"))))
    grown = changed(TRIO, 9, Membership((1, 2, 3), (), (4,)), encode(forged))
    assert [one.name for one in grown.members] == ["n1", "n2", "n3", "d"]


def test_find_of_two_of_a_name_is_the_one_that_came_last() -> None:
    both = roster(member(1), member(2), member(4, "n2", replaces=2), voters=(1, 2))
    assert find(both, "n2").id == 4
    with pytest.raises(NodeNotFound, match="no member is called 'x'; there are n1, n2, n2"):
        find(both, "x")


# --- wishes ----------------------------------------------------------------------------------------------------------


def test_addition_joins_as_a_learner_under_the_next_id_through_a_joint_membership() -> None:
    change = addition(TRIO, member(0, "d"), SIZE_MAX)
    assert (change.changes, change.transition) == ((Change(LEARN, 4),), Transition.JOINT_IMPLICIT)
    assert decode_members(change.context) == (replace(member(0, "d"), id=4),)


def test_addition_of_a_name_that_a_member_has_is_refused_unless_it_replaces_that_one() -> None:
    with pytest.raises(InvalidRequest, match="n2 is a member with another disk: use replace"):
        addition(TRIO, member(0, "n2"), SIZE_MAX)
    assert changes_of(addition(TRIO, member(0, "n2", replaces=2), SIZE_MAX)) == [(LEARN, 4)]
    with pytest.raises(InvalidRequest, match="n1 is a member with another disk"):
        addition(TRIO, member(0, "n1", replaces=2), SIZE_MAX)


def test_addition_that_replaces_a_member_twice_is_refused() -> None:
    joining = roster(*TRIO.members, member(4, "d", replaces=2), voters=(1, 2, 3))
    with pytest.raises(InvalidRequest, match="d is replacing that member already"):
        addition(joining, member(0, "e", replaces=2), SIZE_MAX)


def test_addition_over_the_most_voters_is_refused_and_a_learner_or_a_replacement_is_not() -> None:
    with pytest.raises(InvalidRequest, match="has 3 members: 3 voters are the most"):
        addition(TRIO, member(0, "d"), 3)
    assert addition(TRIO, member(0, "d", voter=False), 3)
    assert addition(TRIO, member(0, "d", replaces=2), 3)
    # Whoever is on the way to a vote has one already, and a replacement counts once.
    joining = roster(member(1), member(2), member(3), member(4), voters=(1, 2, 3))
    with pytest.raises(InvalidRequest, match="4 voters are the most"):
        addition(joining, member(0, "e"), 4)
    replacing = roster(member(1), member(2), member(3), member(4, "d", replaces=3), voters=(1, 2, 3))
    assert addition(replacing, member(0, "e"), 4)


def test_addition_over_the_most_members_is_refused_whatever_they_are() -> None:
    ids = range(1, MEMBERS_MAX + 1)
    full = roster(*(member(id, voter=id < 4) for id in ids), voters=(1, 2, 3))
    for newcomer in (member(0, "x", voter=False), member(0, "x", replaces=2)):
        with pytest.raises(InvalidRequest, match=f"has {MEMBERS_MAX} members"):
            addition(full, newcomer, SIZE_MAX)


def test_removal_goes_through_a_joint_membership() -> None:
    change = removal(Membership((1, 2, 3)), 3, (1, 2, 3))
    assert (change.changes, change.transition) == ((Change(REMOVE, 3),), Transition.JOINT_IMPLICIT)


@pytest.mark.parametrize(
    ("voters", "id", "active", "reason"),
    [
        ((1,), 1, (1,), "the last voter cannot be removed"),
        ((1, 2, 3), 3, (1, 3), "only 1 of the 2 voters that would stay answer"),
        ((1, 2, 3), 2, (1,), "only 1 of the 2 voters"),
        ((1, 2), 2, (), "only 0 of the 1 voters"),
        ((1, 2, 3, 4), 4, (1, 4), "only 1 of the 3 voters"),
    ],
)
def test_removal_that_would_leave_no_majority_is_refused(
    voters: tuple[int, ...], id: int, active: tuple[int, ...], reason: str
) -> None:
    with pytest.raises(InvalidRequest, match=reason):
        removal(Membership(voters), id, active)


def test_removal_of_one_that_is_down_or_a_learner_needs_only_the_others() -> None:
    assert removal(Membership((1, 2, 3)), 3, (1, 2))
    assert removal(Membership((1, 2), (), (4,)), 4, (1, 2))
    assert removal(Membership((1, 2)), 2, (1,))


# --- what the leader goes on with ------------------------------------------------------------------------------------

JOINING = roster(*TRIO.members, member(4, "d"), voters=(1, 2, 3))
REPLACING = roster(*TRIO.members, member(4, "n2", replaces=2), voters=(1, 2, 3))


@pytest.mark.parametrize("lag", [0, CAUGHT_UP_ENTRIES])
def test_next_change_makes_a_learner_that_has_caught_up_a_voter(lag: int) -> None:
    found = next_change(JOINING, 1, LAST, {**all_well((1, 2, 3)), 4: progress(lag)})
    assert changes_of(found) == [(ADD, 4)]
    assert found is not None
    assert found.transition is Transition.JOINT_IMPLICIT


def test_next_change_of_a_replacement_is_one_change_of_both() -> None:
    assert changes_of(next_change(REPLACING, 1, LAST, all_well((1, 2, 3, 4)))) == [(ADD, 4), (REMOVE, 2)]


def test_next_change_after_the_replaced_member_was_removed_only_adds() -> None:
    left = roster(member(1), member(3), member(4, "n2", replaces=2), voters=(1, 3))
    assert changes_of(next_change(left, 1, LAST, all_well((1, 3, 4)))) == [(ADD, 4)]


def test_next_change_of_a_learner_that_replaces_a_learner_removes_that_one() -> None:
    learners = roster(member(1), member(2, voter=False), member(3, "n2", voter=False, replaces=2), voters=(1,))
    assert changes_of(next_change(learners, 1, LAST, all_well((1, 2, 3)))) == [(REMOVE, 2)]


@pytest.mark.parametrize(
    "status",
    [
        None,
        progress(CAUGHT_UP_ENTRIES + 1),
        progress(active=False),
        progress(state=ProgressState.PROBE),
        progress(state=ProgressState.SNAPSHOT),
    ],
)
def test_next_change_waits_for_one_that_has_not_caught_up(status: ProgressStatus | None) -> None:
    known = all_well((1, 2, 3)) | ({} if status is None else {4: status})
    assert next_change(JOINING, 1, LAST, known) is None
    assert next_change(REPLACING, 1, LAST, known) is None


def test_next_change_of_one_that_lags_does_not_hold_up_another() -> None:
    two = roster(*TRIO.members, member(4), member(5), voters=(1, 2, 3))
    assert changes_of(next_change(two, 1, LAST, {**all_well((1, 2, 3, 5)), 4: progress(LAST)})) == [(ADD, 5)]


def test_next_change_of_a_learner_that_stays_one_or_while_joint_or_when_all_vote_is_none() -> None:
    well = all_well((1, 2, 3, 4))
    assert next_change(roster(*TRIO.members, member(4, voter=False), voters=(1, 2, 3)), 1, LAST, well) is None
    assert next_change(roster(*TRIO.members, member(4), voters=(1, 2, 3), outgoing=(1, 2)), 1, LAST, well) is None
    assert next_change(TRIO, 1, LAST, well) is None


def test_next_change_never_removes_the_leader_itself_which_hands_over_instead() -> None:
    well = {**all_well((1, 4)), 2: progress(5), 3: progress(7)}
    assert next_change(REPLACING, 2, LAST, well) is None
    assert hands_over(REPLACING, 2, LAST, well) == 1
    assert hands_over(REPLACING, 1, LAST, well) is None
    assert hands_over(REPLACING, 2, LAST, {**well, 4: progress(LAST)}) is None, "not before the newcomer has caught up"


def test_next_change_of_the_only_voter_makes_its_successor_one_first() -> None:
    alone = roster(member(1), member(2, "d", replaces=1), voters=(1,))
    well = all_well((1, 2))
    assert changes_of(next_change(alone, 1, LAST, well)) == [(ADD, 2)]
    assert hands_over(alone, 1, LAST, well) is None
    both = roster(member(1), member(2, "d", replaces=1), voters=(1, 2))
    assert next_change(both, 1, LAST, well) is None
    assert hands_over(both, 1, LAST, well) == 2
    assert changes_of(next_change(both, 2, LAST, well)) == [(REMOVE, 1)]


def test_best_successor_is_the_other_voter_that_is_there_and_furthest() -> None:
    membership = Membership((1, 2, 3), (), (4,))
    assert best_successor(membership, 1, {**all_well((1, 4)), 2: progress(9), 3: progress(8)}) == 3
    assert best_successor(membership, 1, all_well((1, 2, 3, 4))) == 2, "of equals the lowest id"
    assert best_successor(membership, 1, {**all_well((1, 4)), 2: progress(9), 3: progress(active=False)}) == 2
    assert best_successor(membership, 1, {2: progress(state=ProgressState.PROBE), 3: progress(active=False)}) is None
    assert best_successor(Membership((1,)), 1, all_well((1,))) is None


# --- replicas --------------------------------------------------------------------------------------------------------


class Replica:
    """A core that applies changes, and the roster that follows it."""

    def __init__(self, founders: Roster) -> None:
        self.roster = founders
        log = MemoryLog().view(1)
        self.core = RaftCore(RaftConfig(id=1, group=1), membership_of(founders), log, random.Random(0))

    def apply(self, index: int, payload: bytes) -> None:
        self.roster = changed(self.roster, index, self.core.apply_change(payload), payload)


IDS, NAMES = st.integers(1, 8), st.sampled_from("abcde")
WISHES = st.one_of(
    st.tuples(st.just("add"), NAMES, st.booleans()),
    st.tuples(st.just("replace"), IDS, NAMES),
    st.tuples(st.just("remove"), IDS, st.none()),
    st.tuples(st.just("go on"), st.none(), st.none()),
    st.tuples(st.just("leave"), st.none(), st.none()),
    st.tuples(st.just("again"), st.integers(0, 20), st.none()),  # an entry that was made for an older membership
    st.tuples(st.just("garbage"), st.binary(max_size=12), st.none()),
)
Wish = tuple[str, Any, Any]


def payload_of(wish: Wish, now: Roster, number: int, entries: list[bytes]) -> bytes | None:
    """The entry that a leader would write for a wish, or one that nobody should; None when the wish is refused."""
    kind, what, more = wish
    membership, ids = membership_of(now), [one.id for one in now.members]
    newcomer = Member(0, f"{more if kind == 'replace' else what}{number}", number.to_bytes(16, "big"), "h:1")
    made: ConfChange | None = None
    if kind == "add":
        made = addition(now, replace(newcomer, voter=more), SIZE_MAX)
    elif kind == "replace" and what in ids:
        made = addition(now, replace(newcomer, replaces=what), SIZE_MAX)
    elif kind == "remove":
        made = removal(membership, what, membership.voters)
    elif kind == "go on":
        made = next_change(now, membership.voters[0], LAST, all_well(ids))
    elif kind == "leave":
        return b""
    elif kind == "again":
        payload = entries[what % len(entries)] if entries else b""
        # Such an entry comes too early or too late; it never brings back a node that was removed.
        return payload if membership.joint or {one.node for one in decoded(payload).changes} <= set(ids) else None
    elif kind == "garbage":
        return what if not decoded(what).changes else None
    return None if made is None else encode(made)


def decoded(payload: bytes) -> ConfChange:
    """The change in an entry, an empty one when it is none."""
    try:
        return decode(payload)
    except InvalidChange:
        return ConfChange()


@settings(max_examples=300, deadline=None)
@given(st.lists(WISHES, max_size=30))
def test_roster_of_any_changes_is_the_same_everywhere_and_names_exactly_the_members(wishes: list[Wish]) -> None:
    one, other = Replica(TRIO), Replica(TRIO)
    entries: list[bytes] = []
    met = {id: member(id) for id in (1, 2, 3)}
    for number, wish in enumerate(wishes, 100):
        try:
            payload = payload_of(wish, one.roster, number, entries)
        except InvalidRequest:
            continue
        if payload is None:
            continue
        entries.append(payload)
        one.apply(len(entries), payload)
        found = one.roster
        assert membership_of(found) == one.core.membership
        assert membership_of(found).faults() == []
        assert tuple(one.id for one in found.members) == membership_of(found).all_nodes
        for newcomer in found.members:
            assert met.setdefault(newcomer.id, newcomer) == newcomer, "an id means one node for ever"
        assert found.next_id > max(met)
    for index, payload in enumerate(entries, 1):
        other.apply(index, payload)
    assert other.roster == one.roster
