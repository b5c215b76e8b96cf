"""How the slow model stores in several channels at once, and what it knows of routes and bindings: every pattern is tried."""

from __future__ import annotations

from dataclasses import replace

from tests.unit.broker.model_handing import HandingOver
from tests.unit.broker.model_rules import fits, specific
from tests.unit.broker.model_state import Channel
from zmqbroker.broker import MachineLimits
from zmqbroker.commands import (
    BatchHeader,
    BindingChanged,
    DeleteBinding,
    DeleteRoute,
    Origin,
    Publish,
    PublishAll,
    Published,
    PublishedAll,
    Result,
    RouteChanged,
    RoutingRule,
    SetBinding,
    SetRoute,
)
from zmqbroker.errors import Busy, InvalidRequest, RequestError, RouteNotFound, SequenceMismatch, UnknownProducer

__all__ = ["Routing"]


class Routing(HandingOver):
    """What a model does with several destinations."""

    def __init__(self, limits: MachineLimits) -> None:
        super().__init__(limits)
        self.routes: dict[str, str] = {}
        self.bound: dict[str, list[str]] = {}  # by source
        self.left_out: dict[str, int] = {}

    # --- rules --------------------------------------------------------------------------------------------------------

    def set_routing(self, command: RoutingRule) -> Result:
        busy = Busy("", retry_ms=self.limits.retry_ms)
        match command:
            case DeleteRoute(name):
                if name not in self.routes:
                    return RouteNotFound("")
                del self.routes[name]
                return RouteChanged(name, changed=True)
            case SetRoute(name, destinations):
                if "routes:" in destinations:
                    return InvalidRequest("")
                if name not in self.routes and len(self.routes) == self.limits.routes_max:
                    return busy
                changed = self.routes.get(name) != destinations
                self.routes[name] = destinations
                return RouteChanged(name, changed)
            case DeleteBinding(source):
                self.left_out.pop(source, None)
                return BindingChanged(source, self.bound.pop(source, None) is not None)
            case SetBinding(source, queues):
                wanted = {**self.bound, source: queues.split(";")}
                if wanted == self.bound:
                    return BindingChanged(source, changed=False)
                if len(wanted) > self.limits.bindings_max or sum(map(len, wanted.values())) > self.limits.bound_queues_max:
                    return busy
                self.bound = wanted
                self.left_out.setdefault(source, 0)
                return BindingChanged(source, changed=True)

    def bindings_told(self) -> list[tuple[str, tuple[str, ...], int]]:
        return [(source, tuple(self.bound[source]), self.left_out[source]) for source in sorted(self.bound)]

    # --- from stores to queues ------------------------------------------------------------------------------------------

    def feed(self, command: Publish, first: int, known: tuple[tuple[int, int], ...]) -> None:
        kind, _, name = command.header.channel.partition(":")
        if kind != "events_store" or len(known) == command.header.count:
            return
        sources = [source for source in self.bound if source.startswith("events_store:")]
        matching = [source for source in sources if fits(source.removeprefix("events_store:"), name)]
        fed: dict[str, str] = {}
        for source in sorted(matching, key=lambda source: specific(source.removeprefix("events_store:"))):
            for queue in self.bound[source]:
                fed[queue] = fed.get(queue, source)
        for queue, source in fed.items():
            if not self.takes(queue, command, first, [place for place, _ in known]):
                self.left_out[source] += command.header.count - len(known)

    def takes(self, queue: str, command: Publish, first: int, known: list[int]) -> bool:
        """Whether the queue has room, or has somewhere to put what has none."""
        channel = self.used(queue)
        if not isinstance(channel, Channel):
            return False
        if self.take(channel, command, known, Origin(command.header.channel, first, 0, "binding")):
            return True
        elsewhere = channel.settings.dead_letter not in ("", command.header.channel)
        target = self.used(channel.settings.dead_letter) if elsewhere else None
        return isinstance(target, Channel) and self.take(
            target, command, known, Origin(queue, len(channel.messages) + 1, 0, "overflow")
        )

    def take(self, channel: Channel, command: Publish, known: list[int], origin: Origin) -> bool:
        command = replace(command, header=replace(command.header, producer=0))
        duplicates = tuple(
            sorted([*(d for d in channel.duplicates(command.ids) if d[0] not in known), *((p, 0) for p in known)])
        )
        messages = self.messages_of(channel, command, dict(duplicates))
        fresh = [m for m in messages if m.is_live]
        size = sum(part.share for part in {m.part for m in fresh})
        if origin.reason == "binding" and fresh and self.make_room(channel, len(fresh), size) is not None:
            return False
        for place, message in enumerate(messages):
            message.origin = replace(origin, sequence=origin.sequence + place)
        self.put(channel, command, messages, duplicates)
        self.to_serve.append(channel)
        return True

    # --- all or none ----------------------------------------------------------------------------------------------------

    def publish_all(self, command: PublishAll) -> Result:
        names = [batch.header.channel for batch in command.batches]
        if len(set(names)) < len(names):
            return InvalidRequest("")
        done = {b.header.channel: self.stored(b.header) for b in command.batches if b.header.producer}
        fresh = [batch for batch in command.batches if not done.get(batch.header.channel)]
        refusals = {batch.header.channel: self.refusal_of(batch) for batch in fresh}
        first = next((error for error in refusals.values() if error), None)
        together = self.no_room(None, {b.header.channel: (b.header.count, b.size) for b in fresh}, 0) if not first else None
        if any(isinstance(error, UnknownProducer) for error in refusals.values()) and len(fresh) == len(names):
            return UnknownProducer("")
        stored: dict[str, tuple[int, tuple[tuple[int, int], ...]]] = {}
        if not first and not together:
            stored = dict(zip([b.header.channel for b in fresh], self.store_all(fresh), strict=True))
        results: list[tuple[str, Published | RequestError]] = []
        for batch in command.batches:
            name = batch.header.channel
            if repeat := done.get(name):
                results.append((name, repeat))
            elif name in stored:
                sequence, duplicates = stored[name]
                results.append((name, Published(sequence, batch.header.count, False, self.now, duplicates)))
            else:
                error = refusals[name] or first or together
                assert isinstance(error, RequestError)
                results.append((name, error))
        return PublishedAll(tuple(results))

    def refusal_of(self, batch: Publish) -> Result:
        header, channel = batch.header, self.channels.get(batch.header.channel)
        wrong = header.count < 1 or (batch.runs and sum(run.count for run in batch.runs) != header.count)
        if wrong or self.is_delayed_event(batch):
            return InvalidRequest("")
        last = len(channel.messages) if channel else 0
        refused = self.refused([header])
        if refused is None and batch.expected_sequence not in (None, last):
            return SequenceMismatch("", expected=batch.expected_sequence, last_sequence=last)
        return refused or self.no_room(None, {header.channel: (header.count, batch.size)}, 0)

    def stored(self, header: BatchHeader) -> Published | None:
        found = super().stored(header)
        return found if found is None else replace(found, duplicates=self.duplicates_kept(header, found.first_sequence))

    def duplicates_kept(self, header: BatchHeader, first: int) -> tuple[tuple[int, int], ...]:
        """What the channel still knows of the duplicates of a batch."""
        sightings = self.channels[header.channel].sightings
        return next((sighting.duplicates for sighting in sightings if sighting.first == first), ())
