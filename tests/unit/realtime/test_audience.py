"""Who of a group gets which messages: fair among all members, by credit among those of a node."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zmqbroker.commands import RealtimeKind, Want
from zmqbroker.realtime import HERE, Audience, Subscription

WANT = Want(RealtimeKind.EVENTS, "orders.*", "billing")
PLENTY = 1 << 60


def member(number: int, credit: int = PLENTY, credit_bytes: int = PLENTY) -> Subscription:
    return Subscription(b"owner", number, WANT, credit, credit_bytes)


def audience(here: int = 0, **elsewhere: int) -> Audience:
    found = Audience(WANT)
    found.members = [member(number) for number in range(here)]
    found.elsewhere = {name.encode(): count for name, count in elsewhere.items()}
    return found


@given(st.integers(0, 5), st.integers(0, 5), st.integers(0, 5), st.lists(st.integers(1, 40), max_size=20))
def test_every_member_of_the_cluster_gets_as_much_as_any_other(here: int, b: int, c: int, batches: list[int]) -> None:
    members = {HERE: here, b"b": b, b"c": c}
    group = audience(here, **{name.decode(): count for name, count in members.items() if name and count})
    got: Counter[bytes] = Counter()
    for count in batches:
        shares = group.shares(count)
        if not group.empty:
            assert [low for _, (low, _) in shares] == [0, *(high for _, (_, high) in shares[:-1])]
            assert shares[-1][1][1] == count
        for uid, (low, high) in shares:
            assert low < high
            got[uid] += high - low
    total = sum(members.values())
    for uid, count in members.items():
        fair = sum(batches) * count / total if total else 0
        assert abs(got[uid] - fair) <= count


def test_one_message_at_a_time_goes_round_all_members() -> None:
    group = audience(1, b=2)
    assert [group.shares(1)[0][0] for _ in range(6)] == [HERE, b"b", b"b"] * 2


def test_shares_leave_out_nodes_that_cannot_be_reached() -> None:
    group = audience(1, b=2, c=1)
    assert {uid for uid, _ in group.shares(8, frozenset((b"b",)))} == {HERE, b"c"}
    assert group.shares(8, frozenset((HERE, b"b", b"c"))) == []
    assert group.size == 4


def test_spread_goes_round_the_members_here() -> None:
    group = audience(3)
    got = [group.spread(0, 1)[0][0].number for _ in range(6)]
    assert got == [0, 1, 2, 0, 1, 2]


def test_spread_cuts_a_batch_for_all_members() -> None:
    group = audience(3)
    given_out = group.spread(10, 20)
    assert [(one.number, share) for one, share in given_out] == [(0, (10, 14)), (1, (14, 17)), (2, (17, 20))]
    assert [one.taken_count for one in group.members] == [4, 3, 3]


def test_spread_passes_over_members_without_credit_and_comes_back_for_what_is_left() -> None:
    group = audience()
    group.members = [member(0, credit=5), member(1, credit=0), member(2, credit=1)]
    given_out = group.spread(0, 6)
    assert [(one.number, share) for one, share in given_out] == [(0, (0, 2)), (2, (2, 3)), (0, (3, 6))]
    assert [one.missed for one in group.members] == [0, 0, 0]


def test_what_nobody_has_credit_for_is_missed_by_the_one_whose_turn_it_is() -> None:
    group = audience()
    group.members = [member(0, credit=1), member(1, credit=0)]
    assert [(one.number, share) for one, share in group.spread(0, 3)] == [(0, (0, 1))]
    assert group.spread(0, 1) == []
    assert [one.missed for one in group.members] == [2, 1]


def test_spread_without_members_gives_nothing() -> None:
    assert audience(b=1).spread(0, 3) == []
    assert audience().empty
    assert not audience(b=1).empty


@pytest.mark.parametrize(
    ("credit", "credit_bytes", "taken"),
    [(10, PLENTY, 4), (3, PLENTY, 3), (0, PLENTY, 0), (10, 1, 4), (10, 0, 0)],
)
def test_subscription_takes_what_its_credit_allows_and_misses_the_rest(credit: int, credit_bytes: int, taken: int) -> None:
    one = member(1, credit, credit_bytes)
    assert one.take(4) == taken
    assert (one.taken_count, one.missed) == (taken, 4 - taken)


def test_credit_in_bytes_ends_with_the_batch_that_exceeds_it() -> None:
    one = member(1, PLENTY, 100)
    for taken in (1, 1, 0):
        assert one.take(1) == taken
        one.charge(60 * taken)
    one.grant(0, 121)
    assert one.take(1) == 1


def test_grants_are_absolute_and_never_less() -> None:
    one = member(1, 5, 500)
    one.grant(3, 1000)
    assert (one.granted_count, one.granted_bytes) == (5, 1000)
    one.grant(7, 10)
    assert (one.granted_count, one.granted_bytes) == (7, 1000)


def test_what_was_given_back_is_missed_and_its_credit_is_there_again() -> None:
    one = member(1, 4, PLENTY)
    one.take(4)
    one.charge(400)
    one.give_back(4, 400)
    assert (one.room, one.taken_bytes, one.missed) == (4, 0, 4)
