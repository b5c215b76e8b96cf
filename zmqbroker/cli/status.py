"""`zmqbroker status`: the nodes of a cluster, each asked for itself, and what the cluster still tolerates."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import click

from zmqbroker.cli.exits import Exit
from zmqbroker.cli.options import CommandContext, Connect, json_option, timeout_option, url_option
from zmqbroker.cli.output import emit_json, emit_line, emit_table, note
from zmqbroker.errors import BrokerError

__all__ = ["ClusterStatus", "NodeRow", "ask_cluster", "status"]


@dataclass(frozen=True)
class NodeRow:
    """One node as it answered, or as its fellow nodes name it when it did not."""

    name: str
    client: str
    reachable: bool
    role: str = "unreachable"
    term: int = 0
    commit_index: int = 0
    applied_index: int = 0
    leader: str | None = None  # whom this node takes for the leader
    voter: bool = True  # False: it only gets the log
    free_bytes: int | None = None  # on the disk of its data directory; None while it is not known
    low_water_bytes: int | None = None  # with less it has no room for more messages
    slow_disk: bool = False  # it led lately, and its disk was too slow for that
    sends_refused_by: tuple[str, ...] = ()  # at a leader that refuses sends: the nodes that have no room
    recovering: str | None = None  # why it does not trust its data and waits for its place; None: it does not
    may_have_lost_since_unix_ns: int | None = None  # since when confirmed writes may be gone; None: none are
    stale: tuple[str, ...] = ()  # directories that were moved aside


@dataclass(frozen=True)
class ClusterStatus:
    """What the nodes said together."""

    cluster: dict[str, Any]  # the `cluster` map of NODE (docs/PROTOCOL.md §7)
    nodes: tuple[NodeRow, ...]

    @property
    def reachable(self) -> int:
        """Voters that answered, and do vote."""
        return sum(row.reachable and row.voter and row.recovering is None for row in self.nodes)

    @property
    def leader(self) -> str | None:
        """The leader of the highest term among reachable nodes that say they lead."""
        leading = [row for row in self.nodes if row.role == "leader"]
        return max(leading, key=lambda row: row.term).name if leading else None

    @property
    def sends_refused_by(self) -> tuple[str, ...]:
        """The nodes for whose lack of room the leader refuses sends; none while it takes them."""
        return next((row.sends_refused_by for row in self.nodes if row.name == self.leader), ())

    @property
    def has_majority(self) -> bool:
        """Whether the cluster can confirm anything: enough nodes answer and one of them leads."""
        return self.reachable >= int(self.cluster["majority"]) and self.leader is not None

    @property
    def sizes(self) -> str:
        """One line: size, majority, tolerated failures, volume."""
        cluster = self.cluster
        return (
            f"{cluster['size']} nodes, majority {cluster['majority']}, tolerates {cluster['tolerated']} down, "
            f"volume {cluster['volume']} (confirms {cluster['confirm']})"
        )


async def ask_cluster(connect: Connect, url: str, timeout_ms: int) -> ClusterStatus:
    """Ask one node who belongs to the cluster, then every member for itself. Raises what the first question ends in."""
    first = await _info(connect, url, timeout_ms)
    rows = await asyncio.gather(*(_ask_member(connect, member, timeout_ms) for member in first["members"]))
    return ClusterStatus(dict(first["cluster"]), tuple(sorted(rows, key=lambda row: row.name)))


async def _info(connect: Connect, url: str, timeout_ms: int) -> dict[str, Any]:
    async with connect(url, timeout_ms) as client:
        return await client.info()


async def _ask_member(connect: Connect, member: dict[str, Any], timeout_ms: int) -> NodeRow:
    """One row; a member that does not answer, or whose endpoint nobody knows yet, is unreachable."""
    name, endpoint, voter = str(member["name"]), str(member["client"]), bool(member["voter"])
    unreachable = NodeRow(name, endpoint, reachable=False, voter=voter)
    if not endpoint:
        return unreachable
    try:
        fields = await _info(connect, endpoint, timeout_ms)
    except BrokerError:
        return unreachable
    if fields["node"]["name"] != name:
        # A node that is gone left its port to another one, or its endpoint leads elsewhere.
        return unreachable
    return _answered(NodeRow(name, endpoint, reachable=True, voter=voter), fields)


def _answered(row: NodeRow, fields: dict[str, Any]) -> NodeRow:
    """The row of a node that answered, which may be of another version."""
    disk, data = fields.get("disk", {}), fields.get("data", {})
    row = replace(
        row,
        role="forming" if data.get("recovering") is None else "recovering",
        recovering=data.get("recovering"),
        may_have_lost_since_unix_ns=data.get("may_have_lost_since_unix_ns"),
        stale=tuple(data.get("stale", ())),
        free_bytes=disk.get("free_bytes"),
        low_water_bytes=disk.get("low_water_bytes"),
        slow_disk=bool(disk.get("slow", False)),
    )
    group = next(iter(fields["groups"]), None)
    if group is None:
        return row
    return replace(
        row,
        role=group["role"] if row.voter else "learner",
        term=group["term"],
        commit_index=group["commit_index"],
        applied_index=group["applied_index"],
        leader=group["leader"],
        sends_refused_by=tuple(group.get("sends_refused_by", ())),
    )


@click.command()
@url_option
@timeout_option(2_000)
@click.option("--alive", is_flag=True, help="Only ask whether a node at the URL answers, for health checks.")
@json_option
@click.pass_obj
def status(context: CommandContext, url: str, timeout_ms: int, alive: bool, as_json: bool) -> int:
    """Show every node with role, term and progress, and what the cluster tolerates.

    Ends with status 3 when no node answers or the cluster has no majority.
    """
    if alive:
        node = asyncio.run(_info(context.connect, url, timeout_ms))["node"]
        if as_json:
            emit_json(node)
        else:
            emit_line(f"{node['name']} answers")
        return Exit.DONE
    found = asyncio.run(ask_cluster(context.connect, url, timeout_ms))
    if as_json:
        emit_json(
            {
                "cluster": found.cluster,
                "nodes": [asdict(row) for row in found.nodes],
                "reachable": found.reachable,
                "leader": found.leader,
                "has_majority": found.has_majority,
                "sends_refused_by": found.sends_refused_by,
            }
        )
    else:
        show_nodes(found)
        emit_line(found.sizes)
        for line in remarks(found):
            emit_line(line)
    if found.sends_refused_by:
        note(f"zmqbroker: sends are refused: no room on the disk of {', '.join(found.sends_refused_by)}")
    if found.has_majority:
        return Exit.DONE
    note(
        f"zmqbroker: no majority: {found.reachable} of {found.cluster['size']} nodes answer, leader {found.leader or 'unknown'}"
    )
    return Exit.UNREACHABLE


def show_nodes(found: ClusterStatus) -> None:
    """Print the table of nodes."""
    emit_table(
        ("node", "clients", "role", "term", "commit", "applied", "free MiB"),
        [
            (
                row.name,
                row.client,
                row.role,
                row.term,
                row.commit_index,
                row.applied_index,
                "-" if row.free_bytes is None else row.free_bytes >> 20,
            )
            for row in found.nodes
        ],
        unbroken=("clients",),  # to be copied
    )


def remarks(found: ClusterStatus) -> Iterator[str]:
    """A line for each thing that somebody should know of a node's data."""
    for row in found.nodes:
        if row.recovering is not None:
            yield f"{row.name} is recovering: {row.recovering}"
        if row.may_have_lost_since_unix_ns is not None:
            since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(row.may_have_lost_since_unix_ns // 1_000_000_000))
            yield f"{row.name} may have lost writes since {since}: its machine died"
        if row.stale:
            yield f"{row.name} has moved old data aside: {', '.join(row.stale)}"
