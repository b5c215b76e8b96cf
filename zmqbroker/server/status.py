"""What a node says of itself: PONG, NODE and CHANNEL fields (docs/PROTOCOL.md §3 and §7)."""

from __future__ import annotations

import os
import platform
import time
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from zmqbroker.config import majority_of, tolerated_by
from zmqbroker.server.acquaintances import FRESH_NS, PeerState

if TYPE_CHECKING:
    from zmqbroker.server.group import Group
    from zmqbroker.server.node import Node

__all__ = ["node_fields", "pong_fields"]


def pong_fields(node: Node) -> dict[str, Any]:
    """Fields of PONG: enough to find the leader."""
    group = next(iter(node.groups.values()), None)
    if group is None:
        return {"node": node.config.node.name, "role": role_of(node, None), "term": 0, "leader": None, "leader_term": 0}
    leader = node.leader_endpoint(group)
    return {
        "node": node.config.node.name,
        "role": role_of(node, group),
        "term": group.core.term,
        "leader": leader,
        "leader_term": group.core.term if leader else 0,
    }


def role_of(node: Node, group: Group | None) -> str:
    """What the node is in a group; without one why it has none yet."""
    if group is not None:
        return group.core.role.name.lower()
    return "recovering" if node.formation.recovering else "forming"


def data_fields(node: Node) -> dict[str, Any]:
    """Whether the node's data is trusted, and what became of it."""
    data = node.data
    return {
        "recovering": node.formation.recovering or None,
        "may_have_lost_since_unix_ns": data.lost_since_unix_ns if data is not None else None,
        "stale": data.stale if data is not None else [],
    }


def node_fields(node: Node) -> dict[str, Any]:
    """Fields of NODE."""
    config, formation = node.config, node.formation
    return {
        "node": {
            "name": config.node.name,
            "uid": formation.uid.hex(),
            "version": version("zmqbroker"),
            "host": platform.node(),
            "uptime_ms": (time.monotonic_ns() - node.started_ns) // 1_000_000,
            "pid": os.getpid(),
        },
        "cluster": {
            "name": config.cluster.name,
            "uid": formation.cluster_uid.hex(),
            "size": node.voters,
            "majority": majority_of(node.voters) if node.voters else 0,
            "tolerated": tolerated_by(node.voters) if node.voters else 0,
            "volume": config.cluster.volume,
            "confirm": node.confirm,
            "formed": formation.formed,
        },
        "groups": [_group_fields(node, group) for group in node.groups.values()],
        "members": _member_fields(node),
        "disk": node.disks.own._asdict(),
        "data": data_fields(node),
        "log": {
            "used_bytes": node.log.size_bytes,
            "budget_bytes": config.storage.log_budget_bytes,
            "limit_bytes": node.log_room.limit_bytes,
        },
        "realtime": {"subscriptions": node.realtime.interest.count},
        "calls": node.realtime.calls.fields(),
        "counters": dict(node.counters),
        "durations": node.durations.fields(),
    }


def _group_fields(node: Node, group: Group) -> dict[str, Any]:
    leader = next((member.name for member in node.formation.members if member.id == group.soft_state.leader), None)
    return {
        "group": group.number,
        "role": group.core.role.name.lower(),
        "term": group.core.term,
        "leader": leader,
        "commit_index": group.core.commit_index,
        "applied_index": group.machine.applied_index,
        "last_index": group.core.last_index,
        "sends_refused_by": node.disks.refused_by(group),
    }


def _member_fields(node: Node) -> list[dict[str, Any]]:
    """The members, or before the cluster is formed the configured peers."""
    formation, now_ns = node.formation, time.monotonic_ns()
    if not formation.formed:
        names = sorted(formation.addresses)
        return [_row(node, formation.known.peers.get(name), name, number, now_ns) for number, name in enumerate(names, 1)]
    membership = next((group.core.membership for group in node.groups.values()), None)
    rows = []
    for member in formation.members:
        row = _row(node, formation.known.with_id(member.id), member.name, member.id, now_ns)
        row["voter"] = membership is None or membership.is_voter(member.id)
        row["joining"] = member.voter and not row["voter"]
        rows.append(row)
    return rows


def _row(node: Node, peer: PeerState | None, name: str, number: int, now_ns: int) -> dict[str, Any]:
    own, namesake = peer is None, _namesake(node, peer, now_ns)
    return {
        "id": number,
        "name": name,
        "client": node.formation.client if peer is None else (namesake or peer).client,
        "peer": node.formation.addresses[name] if peer is None else peer.address,
        "reachable": peer is None or now_ns - peer.heard_ns < FRESH_NS,
        "self": own,
        "voter": True,
        "joining": False,
    }


def _namesake(node: Node, peer: PeerState | None, now_ns: int) -> PeerState | None:
    """A node that wants the place of a silent member: the one to ask how that member is."""
    if peer is None or now_ns - peer.heard_ns < FRESH_NS:
        return None
    strangers = node.formation.known.strangers.values()
    return next((other for other in strangers if other.name == peer.name and now_ns - other.heard_ns < FRESH_NS), None)
