"""`zmqbroker cluster`: take nodes in, let them take another's place, remove them, choose who leads.

A change is done when the cluster says so: each command asks until then, or until --timeout-ms.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

import click

from zmqbroker.cli.exits import Exit
from zmqbroker.cli.options import CommandContext, json_option, timeout_option, url_option
from zmqbroker.cli.output import emit_json, emit_line, emit_table
from zmqbroker.cli.recover import recover
from zmqbroker.cli.verify import verify
from zmqbroker.errors import DeadlineExceeded, NodeNotFound

if TYPE_CHECKING:
    from zmqbroker.client import Client

__all__ = ["cluster"]

#: Between two questions; a newcomer needs about as long to say that it is there.
_POLL_S = 0.1
#: A newcomer may have a lot to copy first.
_TIMEOUT_MS = 120_000

#: How long a newcomer may take to be heard of.
_NEWCOMER_S = 5.0

Members = list[dict[str, Any]]
#: Starts a change; the members as it leaves them.
Begin = Callable[["Client"], Coroutine[Any, Any, Members]]
#: Whether a change is complete, from the members after it began and the members now.
Done = Callable[[Members, Members], bool]


@click.group()
def cluster() -> None:
    """Change who belongs to a cluster, and who leads it."""


@cluster.command()
@click.argument("name")
@click.option("--learner", is_flag=True, help="It only gets a copy, and never votes.")
@url_option
@timeout_option(_TIMEOUT_MS)
@json_option
@click.pass_obj
def add(context: CommandContext, name: str, learner: bool, url: str, timeout_ms: int, as_json: bool) -> int:
    """Take in the new node NAME and wait until it has caught up and votes.

    Start it first, with an empty data directory and the cluster's nodes and itself as --peers.
    """

    async def begin(client: Client) -> Members:
        return await client.cluster.add(name, learner=learner)

    return _change(context, url, timeout_ms, as_json, begin, _has_joined(name))


@cluster.command()
@click.argument("name")
@click.option("--by", default="", help="Name of the new node, if it has another one.")
@url_option
@timeout_option(_TIMEOUT_MS)
@json_option
@click.pass_obj
def replace(context: CommandContext, name: str, by: str, url: str, timeout_ms: int, as_json: bool) -> int:
    """Let a new node take the place of NAME, whose disk is lost or whose machine goes, and wait until it has."""
    newcomer = by or name

    async def begin(client: Client) -> Members:
        known = {row["id"] for row in await _members(client)}
        members = await client.cluster.replace(name, by)
        newest = max((row for row in members if row["name"] == newcomer), key=lambda row: int(row["id"]))
        if newest["id"] in known and not newest["joining"] and newest["replaces"] is None:
            # That was done before this command began. The node that came then may have been lost a moment ago.
            raise NodeNotFound(f"{newcomer} is a member already, and no other new node of that name was heard of")
        return members

    return _change(context, url, timeout_ms, as_json, begin, _has_joined(newcomer, instead_of=name))


@cluster.command()
@click.argument("name")
@url_option
@timeout_option(_TIMEOUT_MS)
@json_option
@click.pass_obj
def remove(context: CommandContext, name: str, url: str, timeout_ms: int, as_json: bool) -> int:
    """Remove the node NAME. It stops by itself when it hears of it; its data stays where it is.

    Of two nodes of that name, one of which is replacing the other, it is the new one.
    """
    removed: set[int] = set()

    async def begin(client: Client) -> Members:
        removed.update([member["id"] for member in await _members(client) if member["name"] == name][-1:])
        try:
            return await client.cluster.remove(name)
        except NodeNotFound:
            if removed:  # it was there: an earlier attempt, whose answer was lost, has removed it
                return []
            raise

    def done(_: Members, now: Members) -> bool:
        return all(member["id"] not in removed for member in now)

    return _change(context, url, timeout_ms, as_json, begin, done, patience_s=0)


def _has_joined(name: str, instead_of: str = "") -> Done:
    """Whether the newcomer `name`, the last one of that name, is no longer joining, and whom it replaces is gone."""

    def done(first: Members, now: Members) -> bool:
        newcomer = max(member["id"] for member in first if member["name"] == name)
        replaced = [member for member in now if member["name"] == instead_of and member["id"] != newcomer]
        return not replaced and any(member["id"] == newcomer and not member["joining"] for member in now)

    return done


@cluster.command()
@click.argument("name", required=False, default="")
@url_option
@timeout_option(30_000)
@json_option
@click.pass_obj
def transfer(context: CommandContext, name: str, url: str, timeout_ms: int, as_json: bool) -> int:
    """Hand leadership to the node NAME, or without it to the voter that is furthest, and wait until it leads."""
    leader, took_ms = asyncio.run(_transfer(context, name, url, timeout_ms))
    if as_json:
        emit_json({"leader": leader, "took_ms": took_ms})
    else:
        emit_line(f"{leader} leads ({took_ms} ms)")
    return Exit.DONE


async def _transfer(context: CommandContext, name: str, url: str, timeout_ms: int) -> tuple[str, int]:
    started, deadline = time.monotonic(), time.monotonic() + timeout_ms / 1000
    async with context.connect(url, timeout_ms) as client:
        to = await client.cluster.transfer(name)
        while time.monotonic() < deadline:
            leaders = {group["leader"] for group in (await client.cluster.info())["groups"]}
            if leaders == {to}:
                return to, round((time.monotonic() - started) * 1000)
            await asyncio.sleep(_POLL_S / 10)
    raise DeadlineExceeded(f"{to} does not lead after {timeout_ms} ms", outcome_unknown=True)


cluster.add_command(verify)
cluster.add_command(recover)


def _change(
    context: CommandContext,
    url: str,
    timeout_ms: int,
    as_json: bool,
    begin: Begin,
    done: Done,
    patience_s: float = _NEWCOMER_S,
) -> int:
    members = asyncio.run(_until_done(context, url, timeout_ms, begin, done, patience_s))
    if as_json:
        emit_json({"members": members})
    else:
        columns = ("id", "node", "peer", "votes")
        emit_table(columns, [(row["id"], row["name"], row["peer"], "yes" if row["voter"] else "no") for row in members])
    return Exit.DONE


async def _until_done(
    context: CommandContext, url: str, timeout_ms: int, begin: Begin, done: Done, patience_s: float
) -> Members:
    """Begin a change, with `patience_s` for a newcomer to be heard of, and ask until it is complete."""
    deadline = time.monotonic() + timeout_ms / 1000
    async with context.connect(url, timeout_ms) as client:
        first = await _begin(client, begin, min(deadline, time.monotonic() + patience_s))
        while time.monotonic() < deadline:
            now = await _members(client)
            if now and done(first, now):
                return now
            await asyncio.sleep(_POLL_S)
    raise DeadlineExceeded(f"the change is not complete after {timeout_ms} ms; it goes on", outcome_unknown=True)


async def _members(client: Client) -> Members:
    """The members as the node that answers knows them; none at a newcomer, which only knows its configuration yet."""
    told = await client.cluster.info()
    return list(told["members"]) if told["cluster"]["formed"] else []


async def _begin(client: Client, begin: Begin, deadline: float) -> Members:
    """A newcomer says every second that it is there, and a node that has just begun to lead may not have heard it yet."""
    while True:
        try:
            return await begin(client)
        except NodeNotFound:
            if time.monotonic() >= deadline:
                raise
        await asyncio.sleep(_POLL_S)
