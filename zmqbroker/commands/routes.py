"""Smart routing: destinations, routes that stand for several of them, and bindings that feed queues from other channels.

    orders;events:orders.new;events_store:orders;routes:audit

Without a prefix it is a queue. In the log, and in what nodes store, lists of destinations are text as above, each destination
in its shortest form. Source: docs/PROTOCOL.md §3, "Destinations".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

__all__ = [
    "DESTINATION_SEPARATOR",
    "EVENTS",
    "EVENTS_STORE",
    "QUEUES",
    "ROUTES",
    "DeleteBinding",
    "DeleteRoute",
    "Destination",
    "DestinationKind",
    "RoutingRule",
    "SetBinding",
    "SetRoute",
]

DESTINATION_SEPARATOR = ";"

DestinationKind = Literal["queues", "events", "events_store", "routes"]
QUEUES: Final = "queues"
EVENTS: Final = "events"
EVENTS_STORE: Final = "events_store"
ROUTES: Final = "routes"


class Destination(NamedTuple):
    """Where a message is to go."""

    kind: DestinationKind
    name: str  # without prefix

    def __str__(self) -> str:
        """Its shortest form, which of a queue or an events store is the name of the replicated channel."""
        return self.name if self.kind == QUEUES else f"{self.kind}:{self.name}"

    @property
    def is_stored(self) -> bool:
        """Whether messages for it go through the log."""
        return self.kind in (QUEUES, EVENTS_STORE)


@dataclass(slots=True, frozen=True)
class SetRoute:
    """A route stands for these destinations from now on, instead of all that it stood for."""

    name: str
    destinations: str  # no route among them


@dataclass(slots=True, frozen=True)
class DeleteRoute:
    """Forget a route."""

    name: str


@dataclass(slots=True, frozen=True)
class SetBinding:
    """What is published where the source's pattern fits goes to these queues, too, instead of those that were said before."""

    source: str  # `events:` or `events_store:`, and a pattern of names
    queues: str  # the list of them


@dataclass(slots=True, frozen=True)
class DeleteBinding:
    """Forget a binding; what it has brought stays."""

    source: str


RoutingRule = SetRoute | DeleteRoute | SetBinding | DeleteBinding
