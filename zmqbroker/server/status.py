"""What a node says of itself: PONG, NODE and CHANNEL fields (docs/PROTOCOL.md §3 and §7)."""

from __future__ import annotations

import os
import platform
import time
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from zmqbroker.commands import QueueStats
from zmqbroker.server.formation import FRESH_NS

if TYPE_CHECKING:
    from zmqbroker.server.group import Group
    from zmqbroker.server.node import Node

__all__ = ["node_fields", "pong_fields", "stats_fields"]


def pong_fields(node: Node) -> dict[str, Any]:
    """Fields of PONG: enough to find the leader."""
    group = next(iter(node.groups.values()), None)
    if group is None:
        return {"node": node.config.node.name, "role": "forming", "term": 0, "leader": None, "leader_term": 0}
    leader = node.leader_endpoint(group)
    return {
        "node": node.config.node.name,
        "role": group.core.role.name.lower(),
        "term": group.core.term,
        "leader": leader,
        "leader_term": group.core.term if leader else 0,
    }


def stats_fields(stats: QueueStats, applied_index: int) -> dict[str, Any]:
    """Fields of CHANNEL, as of `applied_index` on the node that was asked."""
    return {
        "channel": stats.channel,
        "depth": stats.depth,
        "ready": stats.ready,
        "in_flight": stats.in_flight,
        "waiting_receives": stats.waiting_receives,
        "last_sequence": stats.last_sequence,
        "acked": stats.acked,
        "redelivered": stats.redelivered,
        "size_bytes": stats.size_bytes,
        "applied_index": applied_index,
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
            "size": config.size,
            "majority": config.majority,
            "tolerated": config.tolerated,
            "volume": config.cluster.volume,
            "confirm": node.confirm,
            "formed": formation.formed,
        },
        "groups": [_group_fields(node, group) for group in node.groups.values()],
        "members": _member_fields(node),
        "log": {"used_bytes": node.log.size_bytes, "budget_bytes": config.storage.log_budget_bytes},
        "counters": dict(node.counters),
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
    }


def _member_fields(node: Node) -> list[dict[str, Any]]:
    now_ns = time.monotonic_ns()
    rows = []
    for number, (name, address) in enumerate(sorted(node.formation.addresses.items()), start=1):
        peer = node.formation.peers.get(name)
        member = node.formation.member_named(name)
        rows.append(
            {
                "id": member.id if member else number,
                "name": name,
                "client": peer.client if peer else node.formation.client,
                "peer": address,
                "reachable": peer is None or now_ns - peer.heard_ns < FRESH_NS,
                "self": peer is None,
            }
        )
    return rows
