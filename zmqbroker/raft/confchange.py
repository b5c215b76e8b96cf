"""Changes of a group's membership: their encoding, and what each makes of a membership.

Several changes at once, or a transition that asks for it, go through a joint membership: entered by one entry, left by another
(an empty change). A single change may be made in one step, because majorities before and after it always overlap. What no
membership can come of raises `InvalidChange`; nobody's state is touched by it. Source: Raft §6, thesis §4.3; etcd/raft.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from zmqbroker.raft.membership import Membership

__all__ = ["Change", "ChangeType", "ConfChange", "InvalidChange", "Transition", "change_membership", "decode", "encode"]

#: Transition, number of changes.
_HEAD = struct.Struct("<BH")
#: Type, node.
_CHANGE = struct.Struct("<BQ")


class InvalidChange(ValueError):
    """A change that cannot be made, or bytes that are none."""


class ChangeType(IntEnum):
    """What happens to a node. Numbers are in logs and never change."""

    ADD_VOTER = 0  # or promote a learner
    REMOVE = 1
    UPDATE = 2  # only the context is of interest
    ADD_LEARNER = 3  # or demote a voter


class Transition(IntEnum):
    """How a joint membership is entered and left. Numbers are in logs and never change."""

    AUTO = 0  # only where more than one change needs it, left by the leader
    JOINT_IMPLICIT = 1  # always, left by the leader
    JOINT_EXPLICIT = 2  # always, left by an empty change


class Change(NamedTuple):
    """One node's change."""

    type: ChangeType
    node: int


@dataclass(frozen=True, slots=True)
class ConfChange:
    """Changes that take effect together. Without any, and with AUTO, it leaves a joint membership."""

    changes: tuple[Change, ...] = ()
    transition: Transition = Transition.AUTO
    context: bytes = b""  # for the shell: where the nodes live

    @property
    def leaves_joint(self) -> bool:
        """True for the change that ends a joint membership."""
        return not self.changes and self.transition is Transition.AUTO

    @property
    def enters_joint(self) -> bool:
        """True when this goes through a joint membership."""
        return self.transition is not Transition.AUTO or len(self.changes) > 1


def encode(change: ConfChange) -> bytes:
    """Payload of an entry; empty for a bare leave, so that it costs nothing where bytes are counted."""
    if change.leaves_joint and not change.context:
        return b""
    parts = [_HEAD.pack(change.transition, len(change.changes))]
    parts += [_CHANGE.pack(one.type, one.node) for one in change.changes]
    return b"".join((*parts, change.context))


def decode(payload: bytes) -> ConfChange:
    """The change that `encode` wrote. Raises `InvalidChange`."""
    if not payload:
        return ConfChange()
    try:
        transition, count = _HEAD.unpack_from(payload)
        end = _HEAD.size + count * _CHANGE.size
        pairs = [_CHANGE.unpack_from(payload, position) for position in range(_HEAD.size, end, _CHANGE.size)]
        changes = tuple(Change(ChangeType(kind), node) for kind, node in pairs)
        return ConfChange(changes, Transition(transition), bytes(payload[end:]))
    except (struct.error, ValueError) as error:
        raise InvalidChange(f"{len(payload)} bytes are no membership change: {error}") from error


class _Draft:
    """A membership in the making."""

    def __init__(self, membership: Membership) -> None:
        self.voters = set(membership.voters)
        self.outgoing = set(membership.voters_outgoing)
        self.learners = set(membership.learners)
        self.learners_next = set(membership.learners_next)
        self.known = set(membership.all_nodes)
        self.fresh: set[int] = set()  # came, or came back, by this change

    def _meet(self, node: int) -> None:
        if node not in self.known:
            self.known.add(node)
            self.fresh.add(node)

    def add_voter(self, node: int) -> None:
        self._meet(node)
        self.learners.discard(node)
        self.learners_next.discard(node)
        self.voters.add(node)

    def add_learner(self, node: int) -> None:
        self._meet(node)
        if node in self.learners:
            return
        self.voters.discard(node)
        self.learners_next.discard(node)
        # Still a voter of the older set: it stops to be one first.
        (self.learners_next if node in self.outgoing else self.learners).add(node)

    def remove(self, node: int) -> None:
        for ids in (self.voters, self.learners, self.learners_next):
            ids.discard(node)
        if node not in self.outgoing:
            self.known.discard(node)

    def make(self, changes: Sequence[Change]) -> None:
        for kind, node in changes:
            if not node:
                continue  # the reference's way to void a change before it is applied
            if kind is ChangeType.ADD_VOTER:
                self.add_voter(node)
            elif kind is ChangeType.ADD_LEARNER:
                self.add_learner(node)
            elif kind is ChangeType.REMOVE:
                self.remove(node)
        if not self.voters:
            raise InvalidChange("removed all voters")

    def done(self, *, auto_leave: bool) -> Membership:
        sets = (self.voters, self.outgoing, self.learners, self.learners_next)
        voters, outgoing, learners, learners_next = (tuple(sorted(ids)) for ids in sets)
        return Membership(voters, outgoing, learners, learners_next, auto_leave)


def change_membership(membership: Membership, change: ConfChange) -> tuple[Membership, frozenset[int]]:
    """What `change` makes of `membership`, and which nodes came by it. Raises `InvalidChange`."""
    draft = _Draft(membership)
    if change.leaves_joint:
        _leave(membership, draft)
        return draft.done(auto_leave=False), frozenset()
    if membership.joint:
        raise InvalidChange("the membership is joint already")
    if change.enters_joint:
        if not draft.voters:
            raise InvalidChange("can't make a zero-voter config joint")
        draft.outgoing = set(draft.voters)
        draft.make(change.changes)
        return draft.done(auto_leave=change.transition is not Transition.JOINT_EXPLICIT), frozenset(draft.fresh & draft.known)
    draft.make(change.changes)
    return draft.done(auto_leave=False), frozenset(draft.fresh & draft.known)


def _leave(membership: Membership, draft: _Draft) -> None:
    if not membership.joint:
        raise InvalidChange("can't leave a non-joint config")
    draft.learners |= draft.learners_next
    draft.learners_next, draft.outgoing = set(), set()
