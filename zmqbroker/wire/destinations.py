"""Lists of destinations as text: what each part means, and which rule it breaks.

Every fault names the part. What a route stands for is not known here. Source: docs/PROTOCOL.md §3, "Destinations".
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from zmqbroker.commands import (
    DESTINATION_SEPARATOR,
    EVENTS,
    EVENTS_STORE,
    QUEUES,
    ROUTES,
    Destination,
    DestinationKind,
    is_consumer,
)
from zmqbroker.commands.names import PREFIXES, STORE_PREFIX
from zmqbroker.errors import InvalidChannel, InvalidRequest
from zmqbroker.wire.batch import CHANNEL_SIZE_MAX
from zmqbroker.wire.frames import channel_fault, name_rule, shown

__all__ = [
    "ANYWHERE",
    "DESTINATIONS_MAX",
    "DESTINATIONS_SIZE_MAX",
    "STORED",
    "bare_name_fault",
    "joined",
    "read_destinations",
]

#: Of one list, and of one message when every route stands for its destinations.
DESTINATIONS_MAX = 64
#: Characters of a list: each a prefix, a name of 255 bytes, and what separates it from the next.
DESTINATIONS_SIZE_MAX = DESTINATIONS_MAX * (len(STORE_PREFIX) + CHANNEL_SIZE_MAX + 1)

#: Kinds that a send may name; those of a route are the same without routes.
ANYWHERE: tuple[DestinationKind, ...] = (QUEUES, EVENTS, EVENTS_STORE, ROUTES)
STORED: tuple[DestinationKind, ...] = (QUEUES, EVENTS_STORE)

_KINDS: dict[str, DestinationKind] = {f"{kind}:": kind for kind in ANYWHERE}


def joined(destinations: Iterable[Destination]) -> str:
    """The list as text, each part in its shortest form."""
    return DESTINATION_SEPARATOR.join(map(str, destinations))


def read_destinations(text: str, kinds: Sequence[DestinationKind] = ANYWHERE) -> tuple[Destination, ...]:
    """The destinations of a list in order, all of these kinds.

    Raises InvalidRequest, or InvalidChannel where a name breaks a rule for names; both name the part.
    """
    parts = text.split(DESTINATION_SEPARATOR)
    if len(parts) > DESTINATIONS_MAX:
        raise InvalidRequest(f"a list has {len(parts)} destinations, the limit is {DESTINATIONS_MAX}: {shown(text)}")
    found: dict[Destination, str] = {}
    for number, part in enumerate(parts, 1):
        where = f"destination {number} of {len(parts)}, {shown(part)},"
        destination = _read(part, where, kinds)
        if destination in found:
            raise InvalidRequest(f"{where} is named before, as {shown(found[destination])}")
        found[destination] = part
    return tuple(found)


def _read(part: str, where: str, kinds: Sequence[DestinationKind]) -> Destination:
    prefix = next((prefix for prefix in PREFIXES if part.startswith(prefix)), "")
    kind = _KINDS.get(prefix, QUEUES)
    if prefix and prefix not in _KINDS:
        raise InvalidRequest(f"{where} is no destination: nobody would get the answer of {prefix.removesuffix(':')}")
    if kind not in kinds:
        raise InvalidRequest(f"{where} is one of {kind}, allowed are {', '.join(kinds)}")
    destination = Destination(kind, part.removeprefix(prefix))
    if fault := _fault(destination):
        raise InvalidChannel(f"{where} {fault}")
    return destination


def _fault(destination: Destination) -> str | None:
    """The rule that the name of a destination breaks, with the value in it; None when it keeps them all."""
    if not destination.is_stored:
        return bare_name_fault(destination.name)
    channel = str(destination)
    if is_consumer(channel):
        return "is a consumer of an events store, which only reads"
    if destination.kind == QUEUES and any(channel.startswith(prefix) for prefix in PREFIXES):
        return "has two prefixes"
    fault = channel_fault(channel)
    return None if fault is None else fault.removeprefix(f"channel name {shown(channel)} ")


def bare_name_fault(name: str) -> str | None:
    """The rule that a name without its prefix breaks, of what is no replicated channel; None when it keeps them all."""
    size = len(name.encode(errors="replace"))
    if size > CHANNEL_SIZE_MAX:
        return f"has {size} bytes, allowed is 1 to {CHANNEL_SIZE_MAX}"
    if any(0xD800 <= ord(character) <= 0xDFFF for character in name):
        return "is not valid Unicode"
    return name_rule(name)
