"""Routes and bindings in the file that `zmqbroker apply` reads and `zmqbroker export` writes.

[routes]
audit = "audit.eu;events:audit"

[bindings]
"events_store:orders.>" = "billing"
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from zmqbroker.commands import EVENTS, QUEUES, DestinationKind
from zmqbroker.errors import RequestError
from zmqbroker.wire.destinations import STORED, joined, read_destinations
from zmqbroker.wire.routing_requests import route_fault, source_fault

if TYPE_CHECKING:
    from zmqbroker.client import Client

__all__ = ["AppliedRule", "apply_rules", "routing_faults", "rules_there", "written_rules"]

#: Tables of the file, with the kinds of destinations that a list in them may have.
_KINDS: Mapping[str, tuple[DestinationKind, ...]] = {"routes": (*STORED, EVENTS), "bindings": (QUEUES,)}

#: Lists of destinations by name, or by source.
Lists = Mapping[str, str]


@dataclass(frozen=True)
class AppliedRule:
    """What was done with one route or binding, or would be."""

    kind: str  # route | binding
    name: str  # of a binding its source
    action: str  # set | unchanged
    destinations: str


def routing_faults(document: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with the two tables, where they are tables."""
    for table, kinds in _KINDS.items():
        lists = document.get(table, {})
        for name, text in lists.items() if isinstance(lists, dict) else ():
            if fault := route_fault(name) if table == "routes" else source_fault(name):
                yield fault
            if not isinstance(text, str):
                yield f"{table}: {name!r} must be a text with a list of destinations: {text!r}"
            elif fault := _list_fault(text, kinds):
                yield f"{table}: {name!r}: {fault}"


def _list_fault(text: str, kinds: tuple[DestinationKind, ...]) -> str | None:
    try:
        read_destinations(text, kinds)
    except RequestError as error:
        return str(error)
    return None


async def rules_there(client: Client) -> tuple[Lists, Lists]:
    """All routes and all bindings."""
    routes = {row["name"]: row["destinations"] async for row in client.routes.list()}
    return routes, {row["source"]: row["queues"] async for row in client.bindings.list()}


async def apply_rules(client: Client, routes: Lists, bindings: Lists, *, dry_run: bool) -> list[AppliedRule]:
    """Make routes and bindings so; what was done."""
    done: list[AppliedRule] = []
    there = await rules_there(client)
    for kind, wanted, kept, rules in (
        ("route", routes, there[0], client.routes),
        ("binding", bindings, there[1], client.bindings),
    ):
        for name, text in wanted.items():
            destinations = joined(read_destinations(text))
            changes = kept.get(name) != destinations
            if changes and not dry_run:
                await rules.set(name, destinations)
            done.append(AppliedRule(kind, name, "set" if changes else "unchanged", destinations))
    return done


def written_rules(routes: Lists, bindings: Lists) -> Iterator[str]:
    """The two tables line by line, without line ends; one that would be empty is left out."""
    for table, lists in (("routes", routes), ("bindings", bindings)):
        if lists:
            yield ""
            yield f"[{table}]"
        for name, text in lists.items():
            # A string of JSON that holds no control characters, as no name does, is one of TOML.
            yield f"{json.dumps(name, ensure_ascii=False)} = {json.dumps(text, ensure_ascii=False)}"
