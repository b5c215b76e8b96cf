"""Who takes part, as bytes: members and memberships there and back, and everything else refused (docs/PROTOCOL.md §8)."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zmqbroker.commands import Member
from zmqbroker.errors import LocalProtocolError, MalformedFrame
from zmqbroker.raft.messages import Membership
from zmqbroker.wire.membership import (
    decode_members,
    decode_membership,
    encode_members,
    encode_membership,
    members_from_wire,
    members_to_wire,
)

U64 = st.integers(1, 2**64 - 1)
IDS = st.lists(U64, max_size=5, unique=True).map(tuple)
TEXT = st.text(st.characters(codec="utf-8"), max_size=8)
MEMBERS = st.lists(
    st.builds(Member, U64, TEXT, st.binary(min_size=16, max_size=16), TEXT, st.booleans(), st.integers(0, 2**64 - 1)),
    max_size=5,
    unique_by=lambda member: member.id,
).map(lambda members: tuple(sorted(members, key=lambda member: member.id)))

ROW: list[Any] = [1, "a", bytes(16), "a:1", True, 0]


@given(st.builds(Membership, IDS, IDS, IDS, IDS, st.booleans()))
def test_membership_there_and_back_is_the_same(membership: Membership) -> None:
    assert decode_membership(encode_membership(membership)) == membership


@given(st.binary(max_size=40))
def test_membership_of_any_bytes_is_read_or_refused(data: bytes) -> None:
    try:
        membership = decode_membership(data)
    except MalformedFrame:
        return
    assert encode_membership(membership) == data


@given(MEMBERS)
def test_members_there_and_back_are_the_same(members: tuple[Member, ...]) -> None:
    assert members_from_wire(members_to_wire(members)) == members
    assert decode_members(encode_members(members)) == members


def test_members_have_the_form_of_the_protocol() -> None:
    member = Member(4, "n2", b"u" * 16, "h:1", voter=False, replaces=2)
    assert members_to_wire((member,)) == [[4, "n2", b"u" * 16, "h:1", False, 2]]
    assert msgpack.unpackb(encode_members((member,))) == [[4, "n2", b"u" * 16, "h:1", False, 2]]


def with_part(place: int, value: Any) -> list[list[Any]]:
    return [[*ROW[:place], value, *ROW[place + 1 :]]]


@pytest.mark.parametrize(
    "value",
    [
        None,
        {},
        "members",
        [7],
        [None],
        [ROW[:4]],
        [[*ROW, 0]],
        with_part(0, 0),
        with_part(0, True),
        with_part(0, "1"),
        with_part(1, b"a"),
        with_part(2, bytes(15)),
        with_part(2, "u" * 16),
        with_part(3, None),
        with_part(4, 1),
        with_part(5, -1),
        with_part(5, False),
        [ROW, ROW],
        [[2, *ROW[1:]], ROW],
    ],
)
def test_members_from_something_else_are_refused(value: object) -> None:
    with pytest.raises(MalformedFrame, match="member"):
        members_from_wire(value)


@given(
    st.recursive(st.none() | st.booleans() | st.integers(-2, 2**64) | TEXT | st.binary(max_size=16), st.lists, max_leaves=12)
)
def test_members_from_any_values_are_read_or_refused(value: object) -> None:
    try:
        members = members_from_wire(value)
    except MalformedFrame:
        return
    assert members_to_wire(members) == value


@pytest.mark.parametrize("context", [b"\xc1", b"\x90\x90", b"\x80", b"\x91\x07"])
def test_context_of_other_bytes_is_refused(context: bytes) -> None:
    with pytest.raises(MalformedFrame, match="member"):
        decode_members(context)


def test_context_that_is_empty_brings_nobody() -> None:
    assert decode_members(b"") == ()


def test_members_that_msgpack_cannot_carry_are_not_sent() -> None:
    with pytest.raises(LocalProtocolError, match="members cannot be packed"):
        encode_members((Member(2**64, "a", bytes(16), "a:1"),))
