"""What the fake broker does with lists of destinations (PROTOCOL §3, Destinations): it asks everybody first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from zmqbroker.commands import EVENTS, ROUTES, Destination
from zmqbroker.errors import ChannelFull, OutOfSequence, RequestError, RouteNotFound, UnknownProducer
from zmqbroker.server.admission import batch_of
from zmqbroker.wire.destinations import read_destinations
from zmqbroker.wire.frames import Reply, error_fields
from zmqbroker.wire.requests import OpenProducers, RoutedSend, Send

if TYPE_CHECKING:
    from tests.unit.client.fakes import FakeBroker

__all__ = ["open_producers", "send"]

Reply3 = tuple[Reply, dict[str, Any], list[bytes]]
#: A queue of this name is full.
FULL = "full"


def open_producers(broker: FakeBroker, request: OpenProducers) -> Reply3:
    """OPEN_PRODUCER on every stored destination."""
    from tests.unit.client.fakes import FakeProducer

    last = 0
    for destination in expanded(broker, request.destinations):
        if destination.kind != EVENTS:
            last = broker.channel(str(destination)).producers.setdefault(request.producer, FakeProducer()).last
    return Reply.PRODUCER, {"last_sequence": last}, []


def send(broker: FakeBroker, request: RoutedSend) -> Reply3:
    """All or nothing, and nothing twice."""
    message, found = request.message, expanded(broker, request.destinations)
    assert isinstance(message, Send)
    refusals = {str(one): error for one in found if one.kind != EVENTS and (error := refusal(broker, one, message))}
    if refusals and all(isinstance(error, UnknownProducer) for error in refusals.values()):
        raise next(iter(refusals.values()))
    results: list[dict[str, Any]] = []
    for one in found:
        row = {"destination": str(one)}
        if refusals:
            results.append(row | error_fields(refusals.get(str(one), next(iter(refusals.values())))))
        elif one.kind == EVENTS:
            broker.published.append((one.name, message.body))
            results.append(row | {"subscribers": 3, "duplicate": False})
        else:
            told = broker.channel(str(one)).publish(batch_of(replace(message, channel=str(one))), message.expected_sequence)
            results.append(row | told | ({"duplicates": [[0, 9]]} if message.id == "known" else {}))
    return Reply.ROUTED, {"results": results, "confirm": "quorum"}, []


def refusal(broker: FakeBroker, destination: Destination, message: Send) -> RequestError | None:
    if destination.name == FULL:
        return ChannelFull("it is full", depth=1, size_bytes=1, max_messages=1, max_bytes=0)
    producer = broker.channel(str(destination)).producers.get(message.producer)
    if producer is None:
        return UnknownProducer(f"producer {message.producer} is not open")
    if message.sequence > producer.last + 1:
        return OutOfSequence("no", expected=producer.last + 1)
    return None


def expanded(broker: FakeBroker, destinations: Sequence[Destination]) -> list[Destination]:
    found: list[Destination] = []
    for destination in destinations:
        if destination.kind != ROUTES:
            found.append(destination)
        elif destination.name in broker.routes:
            found += read_destinations(broker.routes[destination.name])
        else:
            raise RouteNotFound(f"no route is called {destination.name!r}")
    return found
