"""Bytes of a group's membership, as a snapshot carries it.

Layout, little-endian: u8 flags (bit 0: auto_leave), then for voters, voters_outgoing, learners and learners_next a u16 count
and so many u64 ids. Whether such a group can exist is Raft's question (`Membership.faults`). Source: docs/PROTOCOL.md §8.
"""

from __future__ import annotations

import struct

from zmqbroker.errors import MalformedFrame
from zmqbroker.raft.messages import Membership

__all__ = ["decode_membership", "encode_membership"]

_FLAGS = struct.Struct("<B")
_COUNT = struct.Struct("<H")
_AUTO_LEAVE = 1
_LISTS = 4


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
