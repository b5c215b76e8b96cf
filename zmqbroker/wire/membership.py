"""Bytes of who takes part in a group: its membership, its members, and the members that a change brings.

A membership is laid out little-endian: u8 flags (bit 0: auto_leave), then for voters, voters_outgoing, learners and
learners_next a u16 count and so many u64 ids. Members are msgpack: a list of [id, name, uid, peer, voter, replaces], which is
also the context of a membership change. Whether such a group can exist is Raft's question (`Membership.faults`).
Source: docs/PROTOCOL.md §8.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Any

from zmqbroker.commands import Member
from zmqbroker.errors import MalformedFrame
from zmqbroker.raft.messages import Membership
from zmqbroker.wire.frames import pack, shown, unpack

__all__ = [
    "decode_members",
    "decode_membership",
    "encode_members",
    "encode_membership",
    "members_from_wire",
    "members_to_wire",
]

_FLAGS = struct.Struct("<B")
_COUNT = struct.Struct("<H")
_AUTO_LEAVE = 1
_LISTS = 4
_UID_SIZE = 16
_TYPES = (int, str, bytes, str, bool, int)


def encode_membership(membership: Membership) -> bytes:
    """The bytes of a membership. Raises struct.error for what does not fit its field."""
    lists = (membership.voters, membership.voters_outgoing, membership.learners, membership.learners_next)
    parts = [_FLAGS.pack(_AUTO_LEAVE if membership.auto_leave else 0)]
    for ids in lists:
        parts.append(_COUNT.pack(len(ids)))
        parts.append(struct.pack(f"<{len(ids)}Q", *ids))
    return b"".join(parts)


def decode_membership(data: bytes) -> Membership:
    """The membership in these bytes. Raises MalformedFrame."""
    try:
        (flags,) = _FLAGS.unpack_from(data)
        position = _FLAGS.size
        lists = []
        for _ in range(_LISTS):
            (count,) = _COUNT.unpack_from(data, position)
            lists.append(struct.unpack_from(f"<{count}Q", data, position + _COUNT.size))
            position += _COUNT.size + 8 * count
    except struct.error as error:
        raise MalformedFrame(f"{len(data)} bytes are no membership: {error}") from error
    if position != len(data) or flags & ~_AUTO_LEAVE:
        raise MalformedFrame(f"a membership ends at byte {position} of {len(data)}, its flags are {flags:#04x}")
    voters, outgoing, learners, learners_next = lists
    return Membership(voters, outgoing, learners, learners_next, bool(flags))


def members_to_wire(members: Iterable[Member]) -> list[list[Any]]:
    """Members as msgpack values."""
    return [[member.id, member.name, member.uid, member.peer, member.voter, member.replaces] for member in members]


def members_from_wire(value: object) -> tuple[Member, ...]:
    """Members from msgpack values. Raises MalformedFrame on anything else."""
    if not isinstance(value, list):
        raise MalformedFrame(f"members must be a list: {shown(value)}")
    members = []
    for item in value:
        shaped = isinstance(item, list) and tuple(map(type, item)) == _TYPES
        if not shaped or item[0] < 1 or item[5] < 0 or len(item[2]) != _UID_SIZE:
            raise MalformedFrame(f"not a member [id, name, uid, peer, voter, replaces]: {shown(item)}")
        members.append(Member(*item))
    ids = [member.id for member in members]
    if ids != sorted(set(ids)):
        raise MalformedFrame(f"members come ascending by id, each once: {shown(ids)}")
    return tuple(members)


def encode_members(members: Iterable[Member]) -> bytes:
    """The context of a change that brings `members`."""
    return pack(members_to_wire(members), "members")


def decode_members(context: bytes) -> tuple[Member, ...]:
    """The members that a change brings; none without a context. Raises MalformedFrame."""
    return members_from_wire(unpack(context, "the context of a membership change")) if context else ()
