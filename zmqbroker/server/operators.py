"""What operators ask of a cluster: other members, another leader, whether all have the same state.

Changes run at the leader of the group. A repeated wish is granted again: what is there already changes nothing and is answered
alike.
Source: docs/PROTOCOL.md §3, CHANGE_MEMBERS, TRANSFER and AUDIT.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from zmqbroker.commands import Member, Roster
from zmqbroker.config import CLUSTER_SIZE_MAX
from zmqbroker.errors import Busy, InvalidRequest, NodeNotFound, NoMajority
from zmqbroker.raft.confchange import ConfChange
from zmqbroker.server.acquaintances import FRESH_NS
from zmqbroker.server.membership import addition, best_successor, find, membership_of, removal
from zmqbroker.server.replies import result_reply
from zmqbroker.server.routes import Pending
from zmqbroker.wire.requests import AuditRequest, ChangeMembers, Transfer

if TYPE_CHECKING:
    from zmqbroker.server.group import Group
    from zmqbroker.server.node import Node

__all__ = ["audit_fields", "change_members", "transfer"]

#: Keys of one AUDITED; more are asked for with `after`.
AUDIT_KEYS_MAX = 4096


def change_members(node: Node, group: Group, request: ChangeMembers, pending: Pending) -> None:
    """Propose what a CHANGE_MEMBERS asks for; the answer comes when it is applied. Raises RequestError."""
    roster = group.machine.roster
    if membership_of(roster).joint:
        raise Busy("another membership change is under way", retry_ms=50)
    if request.action == "remove":
        group.change_members(_removal(node, group, request.name), pending)
        return
    name = request.by or request.name
    newcomer = _newcomer(node, name)
    if newcomer is None:
        if not _has_come(group, request):
            raise _unheard(roster, name)
        code, fields = result_reply(roster, node.confirm)
        node.reply(pending, code, fields)
        return
    if request.action == "replace":
        replaced = find(roster, request.name)
        newcomer = replace(newcomer, voter=replaced.voter, replaces=replaced.id)
    else:
        newcomer = replace(newcomer, voter=not request.learner)
    group.change_members(addition(roster, newcomer, CLUSTER_SIZE_MAX), pending)


def audit_fields(node: Node, group: Group, request: AuditRequest) -> dict[str, Any]:
    """The fields of AUDITED: what this node kept of the audit at `request.index`. Raises RequestError."""
    audit, applied_index = group.machine.audit, group.machine.applied_index
    if applied_index < request.index:
        raise Busy(f"{node.config.node.name} has applied {applied_index} and not yet {request.index}", retry_ms=20)
    if audit is None or audit.index != request.index:
        raise InvalidRequest(f"{node.config.node.name} keeps no audit of index {request.index}; take a new one")
    fields: dict[str, Any] = {"index": audit.index, "node": node.config.node.name, "digest": audit.digest}
    if request.bucket is None:
        return {**fields, "buckets": audit.bucket_checksums()}
    keys = [key for key in audit.buckets[request.bucket] if key > request.after]
    shown = keys[:AUDIT_KEYS_MAX]
    values = audit.buckets[request.bucket]
    items = [[key, values[key], group.machine.describe(key)] for key in shown]
    return {**fields, "items": items, "more": len(keys) > len(shown)}


def _removal(node: Node, group: Group, name: str) -> ConfChange:
    roster = group.machine.roster
    member, membership = find(roster, name), membership_of(roster)
    if member.id == group.core.id and len(membership.voters) > 1:
        # Whoever leads next removes this node; the client asks again there.
        transfer(group, Transfer())
        raise Busy(f"{member.name} hands leadership over before it is removed", retry_ms=20)
    active = [id for id in group.core.progress() if _answers(group, id)]
    try:
        return removal(membership, member.id, active)
    except InvalidRequest as error:
        if group.led_ticks > node.config.raft.election_ticks or len(membership.voters) == 1:
            raise
        # The others have not had the time to answer this leader yet.
        raise Busy(str(error), retry_ms=50) from error


def _newcomer(node: Node, name: str) -> Member | None:
    """The empty node of that name that was heard of last."""
    strangers, now_ns = node.formation.known.strangers.values(), time.monotonic_ns()
    heard = [peer for peer in strangers if peer.name == name and not peer.formed and now_ns - peer.heard_ns < FRESH_NS]
    if not heard:
        return None
    peer = max(heard, key=lambda stranger: stranger.heard_ns)
    return Member(0, name, peer.uid, peer.address)


def _has_come(group: Group, request: ChangeMembers) -> bool:
    """Whether an earlier attempt of this request has taken the newcomer in.

    A member that replaced a namesake once may itself be lost by now, which makes this a new wish: it counts while it answers.
    """
    roster = group.machine.roster
    named = [member for member in roster.members if member.name == (request.by or request.name)]
    if request.action == "add" or not named:
        return bool(named)
    newcomer = named[-1]
    replaced = [member.id for member in roster.members if member.name == request.name and member.id != newcomer.id]
    if not newcomer.replaces or replaced:
        return newcomer.replaces in replaced
    return _answers(group, newcomer.id)


def _answers(group: Group, member_id: int) -> bool:
    status = group.core.progress().get(member_id)
    return status is not None and status.recent_active


def _unheard(roster: Roster, name: str) -> NodeNotFound:
    peers = ",".join(f"{member.name}={member.peer}" for member in roster.members if member.name != name)
    return NodeNotFound(
        f"no new node {name!r} was heard of: start it with an empty data directory, this cluster's name and volume, and "
        f"--peers {peers},{name}=HOST:PORT"
    )


def transfer(group: Group, request: Transfer) -> str:
    """Begin to hand leadership over; the name of the node that is to lead. Raises RequestError."""
    roster, core = group.machine.roster, group.core
    if request.to:
        to = find(roster, request.to).id
    else:
        successor = core.transferee or best_successor(core.membership, core.id, core.progress())
        if successor is None:
            raise NoMajority("no other voter answers that could lead")
        to = successor
    if to != core.id:
        if not core.membership.is_voter(to):
            raise InvalidRequest(f"{request.to} is a learner and cannot lead")
        core.transfer_leader(to)
    return next(member.name for member in roster.members if member.id == to)
