"""Smart routing as requests: sends to several destinations, routes and bindings. Ranges and defaults: docs/PROTOCOL.md §3.

A SEND or SEND_BATCH with `to`, a list of destinations, is a `RoutedSend` and is answered with ROUTED; the commands for routes
and bindings are those that they become in the log. `requests` reads and writes them with all others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from zmqbroker.commands import (
    EVENTS,
    EVENTS_STORE,
    QUEUES,
    DeleteBinding,
    DeleteRoute,
    Destination,
    SetBinding,
    SetRoute,
)
from zmqbroker.errors import InvalidRequest
from zmqbroker.wire.batch import SEQUENCE_MAX, Buffer
from zmqbroker.wire.consuming_requests import OpenProducerRequest, read_open_producer
from zmqbroker.wire.destinations import STORED, bare_name_fault, joined, read_destinations
from zmqbroker.wire.frames import REQUEST_HEADER_SIZE_MAX, Request, flag, integer, shown, text
from zmqbroker.wire.queue_requests import LIST_MAX, REASON_SIZE_MAX, Fields, ManageRequest
from zmqbroker.wire.realtime_requests import read_send_to_any
from zmqbroker.wire.rule_requests import pattern_fault
from zmqbroker.wire.send_requests import Send, SendBatch, read_send, read_send_batch

__all__ = [
    "ROUTING_REQUESTS",
    "ListBindings",
    "ListRoutes",
    "OpenProducers",
    "RoutedSend",
    "fields_of_open_producers",
    "fields_of_routed",
    "read_any_send",
    "read_any_send_batch",
    "route_fault",
    "source_fault",
]

#: Stands where a channel is read and a list was given.
_SOME_CHANNEL = "x"
#: What a binding's source begins with.
_SOURCES = (f"{EVENTS}:", f"{EVENTS_STORE}:")


@dataclass(slots=True, frozen=True)
class RoutedSend:
    """Send a message, or a batch, to each of several destinations, whatever channel it names itself."""

    destinations: tuple[Destination, ...]
    message: Send | SendBatch

    @property
    def forward(self) -> bool:
        """Whether another node passes it on to the leader."""
        return self.message.forward


@dataclass(slots=True, frozen=True)
class OpenProducers:
    """Make a producer known to every stored destination of a list."""

    destinations: tuple[Destination, ...]
    producer: int
    forward: bool = False


@dataclass(slots=True, frozen=True)
class ListRoutes:
    """Routes with a text in their names, from the one after `after` on, ascending."""

    search: str = ""
    after: str = ""
    count_max: int = LIST_MAX
    forward: bool = False


@dataclass(slots=True, frozen=True)
class ListBindings:
    """Bindings with a text in their sources, from the one after `after` on, ascending."""

    search: str = ""
    after: str = ""
    count_max: int = LIST_MAX
    forward: bool = False


# --- names -----------------------------------------------------------------------------------------------------------


def route_fault(name: str) -> str | None:
    """Why `name` cannot name a route, as one sentence with rule and name; None when it can."""
    fault = bare_name_fault(name)
    return None if fault is None else f"route name {shown(name)} {fault}"


def source_fault(source: str) -> str | None:
    """Why `source` cannot be the source of a binding, as one sentence with rule and source; None when it can."""
    prefix = next((prefix for prefix in _SOURCES if source.startswith(prefix)), "")
    if not prefix:
        return f"source {shown(source)} must begin with {' or '.join(_SOURCES)}"
    fault = pattern_fault(source.removeprefix(prefix))
    return None if fault is None else f"source {shown(source)}: {fault}"


# --- reading ---------------------------------------------------------------------------------------------------------


def read_any_send(fields: Fields, bodies: Sequence[Buffer]) -> Send | RoutedSend:
    """A SEND to a channel, or to destinations. Raises InvalidRequest or InvalidChannel."""
    if "to" not in fields:
        return read_send_to_any(fields, bodies)
    destinations = _read_to(fields)
    return RoutedSend(destinations, replace(read_send({**fields, "channel": _SOME_CHANNEL}, bodies), channel=""))


def read_any_send_batch(fields: Fields, bodies: Sequence[Buffer]) -> SendBatch | RoutedSend:
    """A SEND_BATCH to the channel of its frame, or to destinations. Raises InvalidRequest or InvalidChannel."""
    batch = read_send_batch(fields, bodies)
    return RoutedSend(_read_to(fields), batch) if "to" in fields else batch


def _read_any_open_producer(fields: Fields) -> OpenProducerRequest | OpenProducers:
    """An OPEN_PRODUCER on a channel, or on destinations."""
    if "to" not in fields:
        return read_open_producer(fields)
    destinations = _read_to(fields)
    return OpenProducers(destinations, integer(fields, "producer", None, 1, SEQUENCE_MAX), flag(fields, "forward"))


def _read_to(fields: Fields) -> tuple[Destination, ...]:
    if "channel" in fields:
        raise InvalidRequest(f"field to is {shown(fields['to'])} and channel {shown(fields['channel'])}: one of them is said")
    return read_destinations(text(fields, "to", None, REQUEST_HEADER_SIZE_MAX))


def _read_route_name(fields: Fields) -> str:
    name = text(fields, "name", None, REQUEST_HEADER_SIZE_MAX)
    if fault := route_fault(name):
        raise InvalidRequest(fault)
    return name


def _read_source(fields: Fields) -> str:
    source = text(fields, "source", None, REQUEST_HEADER_SIZE_MAX)
    if fault := source_fault(source):
        raise InvalidRequest(fault)
    return source


def _read_set_route(fields: Fields) -> ManageRequest:
    destinations = read_destinations(text(fields, "destinations", None, REQUEST_HEADER_SIZE_MAX), (*STORED, EVENTS))
    return ManageRequest(SetRoute(_read_route_name(fields), joined(destinations)), flag(fields, "forward"))


def _read_delete_route(fields: Fields) -> ManageRequest:
    return ManageRequest(DeleteRoute(_read_route_name(fields)), flag(fields, "forward"))


def _read_set_binding(fields: Fields) -> ManageRequest:
    queues = read_destinations(text(fields, "queues", None, REQUEST_HEADER_SIZE_MAX), (QUEUES,))
    return ManageRequest(SetBinding(_read_source(fields), joined(queues)), flag(fields, "forward"))


def _read_delete_binding(fields: Fields) -> ManageRequest:
    return ManageRequest(DeleteBinding(_read_source(fields)), flag(fields, "forward"))


def _read_list_routes(fields: Fields) -> ListRoutes:
    return ListRoutes(*_read_page(fields))


def _read_list_bindings(fields: Fields) -> ListBindings:
    return ListBindings(*_read_page(fields))


def _read_page(fields: Fields) -> tuple[str, str, int, bool]:
    """search, after, max, forward; a source is longer than a name by its prefix."""
    search, after = (text(fields, name, "", REASON_SIZE_MAX + len(_SOURCES[1])) for name in ("search", "after"))
    return search, after, integer(fields, "max", LIST_MAX, 1, LIST_MAX), flag(fields, "forward")


#: How each of them that has no body frame is read, by command code.
ROUTING_REQUESTS: dict[
    Request, Callable[[Fields], ManageRequest | ListRoutes | ListBindings | OpenProducerRequest | OpenProducers]
] = {
    Request.SET_ROUTE: _read_set_route,
    Request.DELETE_ROUTE: _read_delete_route,
    Request.LIST_ROUTES: _read_list_routes,
    Request.SET_BINDING: _read_set_binding,
    Request.DELETE_BINDING: _read_delete_binding,
    Request.LIST_BINDINGS: _read_list_bindings,
    Request.OPEN_PRODUCER: _read_any_open_producer,
}


# --- writing ---------------------------------------------------------------------------------------------------------


def fields_of_routed(request: RoutedSend, fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a RoutedSend, where those of its message are these."""
    return {name: value for name, value in fields.items() if name != "channel"} | {"to": joined(request.destinations)}


def fields_of_open_producers(request: OpenProducers) -> dict[str, Any]:
    """The fields of an OPEN_PRODUCER on destinations that differ from their default."""
    fields: dict[str, Any] = {"to": joined(request.destinations), "producer": request.producer}
    return fields | ({"forward": True} if request.forward else {})
