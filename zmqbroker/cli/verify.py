"""`zmqbroker cluster verify`: whether every node has the same state at one index of the log.

The leader has an audit taken, every node keeps checksums of its state there and is asked for them, itself and no other that
would answer sooner, and they are compared; where they differ, the keys
of the differing buckets are fetched until the first difference is known.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import click

from zmqbroker.cli.exits import Exit
from zmqbroker.cli.options import Ask, CommandContext, json_option, timeout_option, url_option
from zmqbroker.cli.output import emit_json, emit_line, note
from zmqbroker.errors import BrokerError, Divergence, InvalidRequest, NoMajority
from zmqbroker.wire.requests import AuditRequest, Info

__all__ = ["verify"]

#: An audit gives way to the next one, for instance another operator's: then it is taken again, so often.
_ATTEMPTS = 3
_CHECKSUM_BYTES = 4
#: A node that is there says so at once; only what it kept may take as long as the state is large.
_THERE_MS = 5_000


@dataclass(frozen=True)
class _Verified:
    """What was compared."""

    index: int
    digest: str  # hex
    nodes: tuple[str, ...]
    unreachable: dict[str, str]  # with each, why


@click.command()
@url_option
@timeout_option(30_000)
@json_option
@click.pass_obj
def verify(context: CommandContext, url: str, timeout_ms: int, as_json: bool) -> int:
    """Compare the state of every node at one index.

    Ends with status 6, naming the first difference, when two differ, and with 3 when a node cannot be asked. It takes time and
    memory in proportion to the state on every node.
    """
    found = asyncio.run(_verify(context, url, timeout_ms))
    if as_json:
        emit_json({"index": found.index, "digest": found.digest, "nodes": found.nodes, "unreachable": list(found.unreachable)})
    else:
        emit_line(f"{len(found.nodes)} nodes have equal state at index {found.index}: {', '.join(found.nodes)}")
        emit_line(f"digest {found.digest}")
    if found.unreachable:
        reasons = "; ".join(f"{label} ({reason})" for label, reason in found.unreachable.items())
        note(f"zmqbroker: not compared, because they do not answer: {reasons}")
        return Exit.UNREACHABLE
    return Exit.DONE


async def _verify(context: CommandContext, url: str, timeout_ms: int) -> _Verified:
    for attempt in range(_ATTEMPTS):
        try:
            return await _attempt(context, url, timeout_ms)
        except InvalidRequest:
            if attempt == _ATTEMPTS - 1:
                raise
    raise AssertionError("the last attempt returns or raises")


async def _attempt(context: CommandContext, url: str, timeout_ms: int) -> _Verified:
    ask = context.ask
    async with context.connect(url, timeout_ms) as client:
        index = await client.cluster.audit()
        members = _labelled((await client.cluster.info())["members"])
    answers = await asyncio.gather(*(_kept(ask, member, index, timeout_ms) for member in members.values()))
    kept = {label: answer for label, answer in zip(members, answers, strict=True) if not isinstance(answer, str)}
    if not kept:
        raise NoMajority("no member answered")
    first, *others = kept
    for other in others:
        if kept[other]["digest"] != kept[first]["digest"]:
            endpoints = {name: members[name]["client"] for name in (first, other)}
            difference = await _difference(ask, timeout_ms, index, endpoints, kept)
            raise Divergence(f"{first} and {other} differ at index {index}: {difference}")
    unreachable = {label: answer for label, answer in zip(members, answers, strict=True) if isinstance(answer, str)}
    return _Verified(index, kept[first]["digest"].hex(), tuple(kept), unreachable)


def _labelled(members: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """The members by name; where a node is being replaced by one of its name, by name and number."""
    names = [member["name"] for member in members]
    return {
        member["name"] if names.count(member["name"]) == 1 else f"{member['name']} ({member['id']})": member
        for member in members
    }


async def _kept(ask: Ask, member: Mapping[str, Any], index: int, timeout_ms: int) -> dict[str, Any] | str:
    """What one member kept, or why it does not say. Raises InvalidRequest when it keeps it no more."""
    if not member["client"]:
        return "its endpoint is not known"
    try:
        await asyncio.to_thread(ask, member["client"], Info(), min(timeout_ms, _THERE_MS))
        answer = await asyncio.to_thread(ask, member["client"], AuditRequest(index), timeout_ms)
    except InvalidRequest:
        raise
    except BrokerError as error:
        return str(error)
    return answer if answer.get("node") == member["name"] else f"{answer.get('node')} is there in its place"


async def _difference(
    ask: Ask, timeout_ms: int, index: int, endpoints: Mapping[str, str], kept: Mapping[str, Mapping[str, Any]]
) -> str:
    """The first key, in the order of the state, in which the two nodes of `endpoints` differ."""
    checksums = [kept[name]["buckets"] for name in endpoints]
    positions = range(0, len(checksums[0]), _CHECKSUM_BYTES)
    differing = [at // _CHECKSUM_BYTES for at in positions if len({sums[at : at + _CHECKSUM_BYTES] for sums in checksums}) > 1]
    found: list[tuple[bytes, str]] = []
    for bucket in differing:
        one, two = [await _keys(ask, endpoint, timeout_ms, index, bucket) for endpoint in endpoints.values()]
        for key in sorted({*one, *two}):
            if one.get(key, (None,))[0] != two.get(key, (None,))[0]:
                what = (one.get(key) or two[key])[1]
                where = "" if key in one and key in two else f", only on {list(endpoints)[key not in one]}"
                found.append((key, f"{what}{where}"))
                break
    if not found:
        return "the digests differ, the checksums of all keys do not"
    more = f" (and in {len(differing) - 1} other places)" if len(differing) > 1 else ""
    return min(found)[1] + more


async def _keys(ask: Ask, endpoint: str, timeout_ms: int, index: int, bucket: int) -> dict[bytes, tuple[int, str]]:
    """All keys of a bucket: checksum of the value, and what the key is in words."""
    keys: dict[bytes, tuple[int, str]] = {}
    more = True
    while more:
        answer = await asyncio.to_thread(ask, endpoint, AuditRequest(index, bucket, max(keys, default=b"")), timeout_ms)
        keys.update({key: (value, what) for key, value, what in answer["items"]})
        more = bool(answer["more"] and answer["items"])
    return keys
