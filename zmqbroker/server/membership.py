"""How a cluster's members change: what an operator's wish means for Raft, and what the leader does next by itself.

A newcomer joins as a learner; when it has caught up it is made a voter, and where it replaces a member both happen in one
joint change. The plan is in the replicated roster (`Member.voter`, `Member.replaces`), so that whoever leads goes on with it.
Functions of their arguments: no clock, no socket. Source: DESIGN §4, thesis §4.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from zmqbroker.commands import Member, Roster
from zmqbroker.errors import InvalidRequest, MalformedFrame, NodeNotFound
from zmqbroker.raft import Membership, ProgressState, ProgressStatus
from zmqbroker.raft.confchange import Change, ChangeType, ConfChange, InvalidChange, Transition, decode
from zmqbroker.wire.membership import decode_members, decode_membership, encode_members, encode_membership

__all__ = [
    "CAUGHT_UP_ENTRIES",
    "addition",
    "best_successor",
    "changed",
    "find",
    "founding",
    "hands_over",
    "membership_of",
    "next_change",
    "removal",
]

#: A learner so close to the leader's end is made a voter: a joint change lasts a few round trips, in which it keeps up.
CAUGHT_UP_ENTRIES = 256
#: As many as configurations allow voters, and as many again that are on their way in.
MEMBERS_MAX = 18


def founding(members: Iterable[Member]) -> Roster:
    """The roster of a cluster that was just formed: all are voters."""
    ordered = tuple(sorted(members, key=lambda member: member.id))
    ids = tuple(member.id for member in ordered)
    return Roster(0, ordered, encode_membership(Membership(ids)), max(ids) + 1)


def membership_of(roster: Roster) -> Membership:
    """Who votes, as of the roster's index."""
    return decode_membership(roster.membership)


def changed(roster: Roster, index: int, membership: Membership, payload: bytes) -> Roster:
    """The roster after the entry at `index`, whose change made Raft's membership what it is now.

    A change that could not be made changed nothing, so the members that it would have brought are in no set and do not come.
    """
    known = {member.id: member for member in (*_newcomers(payload), *roster.members)}
    members = tuple(known[id] for id in sorted(known) if id in membership.all_nodes)
    next_id = max((roster.next_id, *(member.id + 1 for member in members)))
    return Roster(index, members, encode_membership(membership), next_id)


def _newcomers(payload: bytes) -> tuple[Member, ...]:
    try:
        return decode_members(decode(payload).context)
    except (InvalidChange, MalformedFrame):
        return ()


def find(roster: Roster, name: str) -> Member:
    """The member with a name; of two, the one that came last. Raises `NodeNotFound`."""
    named = [member for member in roster.members if member.name == name]
    if not named:
        names = ", ".join(member.name for member in roster.members)
        raise NodeNotFound(f"no member is called {name!r}; there are {names}")
    return named[-1]


def addition(roster: Roster, newcomer: Member, size_max: int) -> ConfChange:
    """Take in a newcomer as a learner; its id is given here. Raises `InvalidRequest`."""
    if len(roster.members) >= MEMBERS_MAX or (newcomer.voter and not newcomer.replaces and _future_voters(roster) >= size_max):
        raise InvalidRequest(f"the cluster has {len(roster.members)} members: {size_max} voters are the most it may have")
    for member in roster.members:
        if member.id != newcomer.replaces and member.name == newcomer.name:
            raise InvalidRequest(f"{newcomer.name} is a member with another disk: use replace")
        if member.replaces and member.replaces == newcomer.replaces:
            raise InvalidRequest(f"{member.name} is replacing that member already")
    member = replace(newcomer, id=roster.next_id)
    return _joint([Change(ChangeType.ADD_LEARNER, member.id)], encode_members((member,)))


def _joint(changes: list[Change], context: bytes = b"") -> ConfChange:
    """Every change goes through a joint membership, which the leader leaves by itself: one way that is always safe."""
    return ConfChange(tuple(changes), Transition.JOINT_IMPLICIT, context)


def _future_voters(roster: Roster) -> int:
    ids = {member.id for member in roster.members}
    return sum(member.voter and member.replaces not in ids for member in roster.members)


def removal(membership: Membership, id: int, active: Iterable[int]) -> ConfChange:
    """Remove a member. Raises `InvalidRequest` when those who stay could not decide anything.

    `active` are the nodes that were heard from lately.
    """
    staying = [voter for voter in membership.voters if voter != id]
    if not staying:
        raise InvalidRequest("the last voter cannot be removed")
    answering = len(set(staying) & set(active))
    if answering <= len(staying) // 2:
        raise InvalidRequest(f"only {answering} of the {len(staying)} voters that would stay answer: no majority")
    return _joint([Change(ChangeType.REMOVE, id)])


def next_change(roster: Roster, own: int, last_index: int, progress: Mapping[int, ProgressStatus]) -> ConfChange | None:
    """What the leader `own` changes by itself now: who has caught up becomes a voter, and whom it replaces leaves.

    A leader does not remove itself, since those who stay might never hear that it did: it makes its successor a voter if nobody
    else is one, and `hands_over` says when that one is to lead.
    """
    membership = membership_of(roster)
    for member in _due(roster, membership, last_index, progress):
        changes = []
        if member.replaces in membership.all_nodes and member.replaces != own:
            changes.append(Change(ChangeType.REMOVE, member.replaces))
        if _is_to_vote(member, membership) and (member.replaces != own or membership.voters == (own,)):
            changes.insert(0, Change(ChangeType.ADD_VOTER, member.id))
        if changes:
            return _joint(changes)
    return None


def hands_over(roster: Roster, own: int, last_index: int, progress: Mapping[int, ProgressStatus]) -> int | None:
    """Whom the leader `own` makes room for now, because a node that replaces it has caught up; None for nobody."""
    membership = membership_of(roster)
    if all(member.replaces != own for member in _due(roster, membership, last_index, progress)):
        return None
    return best_successor(membership, own, progress)


def _is_to_vote(member: Member, membership: Membership) -> bool:
    return member.voter and member.id in membership.learners


def _due(roster: Roster, membership: Membership, last_index: int, progress: Mapping[int, ProgressStatus]) -> list[Member]:
    """Members that have caught up and are not yet what they are to be, or not yet instead of whom."""
    if membership.joint:
        return []
    waiting = [
        member
        for member in roster.members
        if _is_to_vote(member, membership) or (member.replaces and member.replaces in membership.all_nodes)
    ]
    return [member for member in waiting if _has_caught_up(progress.get(member.id), last_index)]


def _has_caught_up(status: ProgressStatus | None, last_index: int) -> bool:
    if status is None or status.state is not ProgressState.REPLICATE or not status.recent_active:
        return False
    return last_index - status.match_index <= CAUGHT_UP_ENTRIES


def best_successor(membership: Membership, own: int, progress: Mapping[int, ProgressStatus]) -> int | None:
    """The other voter that is there and furthest, to lead next; None when there is none."""
    ready = [
        (status.match_index, -id)
        for id, status in progress.items()
        if id != own and id in membership.voters and status.recent_active and status.state is ProgressState.REPLICATE
    ]
    return -max(ready)[1] if ready else None
