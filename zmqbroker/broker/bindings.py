"""Bindings: what is published where a pattern fits is stored in queues, too. Rules that are the same on every replica.

What an events store takes is bound in `apply`, so that one entry stores a message in the store and in its queues; what is
published as an event is bound by the node that takes it, and sent to the queues. Bodies are not copied: a queue's record points
into the frame that names the store, and tells the store as its origin. Every binding that fits counts, not only the most
specific one; a queue that several name gets a message once. A queue that cannot take it keeps nobody from publishing: its
settings for overflow are followed, what then finds no room goes to its dead-letter channel, if it has one, and otherwise it is
left out and the binding counts it. Source: docs/PROTOCOL.md §3, SET_BINDING.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import msgpack

from zmqbroker.broker.dirty import Dirty
from zmqbroker.broker.limits import MachineLimits
from zmqbroker.broker.parts import BINDING, pack
from zmqbroker.broker.patterns import PatternTree
from zmqbroker.broker.records import Moment
from zmqbroker.commands import (
    DESTINATION_SEPARATOR,
    EVENTS,
    EVENTS_STORE,
    BindingChanged,
    DeleteBinding,
    DestinationKind,
    Result,
    SetBinding,
)
from zmqbroker.errors import Busy, Corruption

__all__ = ["BINDING_KEY", "Binding", "Bindings"]

#: Kind, and the number of what made the binding.
BINDING_KEY = struct.Struct(">BQ")


@dataclass(slots=True)
class Binding:
    """What one source feeds."""

    number: int  # assigning number of the command that made it: names it in the store
    source: str  # `events:` or `events_store:`, and a pattern
    queues: tuple[str, ...]
    left_out: int = 0  # messages that no queue of it took, ever; each counts once for every queue

    @property
    def kind(self) -> str:
        """What the pattern is of."""
        return self.source.partition(":")[0]

    @property
    def pattern(self) -> str:
        """Of names without prefix."""
        return self.source.partition(":")[2]


class Bindings:
    """All bindings of one machine."""

    def __init__(self, limits: MachineLimits) -> None:
        self._limits = limits
        self._by_source: dict[str, Binding] = {}
        self._by_number: dict[int, Binding] = {}
        self._trees: dict[str, PatternTree[Binding]] = {EVENTS: PatternTree(), EVENTS_STORE: PatternTree()}
        self._queue_count = 0  # of all bindings
        self._dirty: Dirty[int] = Dirty()

    def __iter__(self) -> Iterator[Binding]:
        """All bindings, by source."""
        return iter(sorted(self._by_source.values(), key=lambda binding: binding.source))

    def __len__(self) -> int:
        return len(self._by_source)

    def fed(self, kind: DestinationKind, name: str) -> dict[str, Binding]:
        """The queues that take what is published under a name, each with the most specific binding that names it."""
        if not self._by_source:  # as a rule
            return {}
        found: dict[str, Binding] = {}
        for binding in self._trees[kind].fitting(name):
            for queue in binding.queues:
                found.setdefault(queue, binding)
        return found

    def leave_out(self, binding: Binding, count: int) -> None:
        """A queue did not take so many messages."""
        binding.left_out += count
        self._dirty.changed(binding.number)

    # --- commands -------------------------------------------------------------------------------------------------------

    def change(self, command: SetBinding | DeleteBinding, moment: Moment) -> Result:
        """Make a binding, change it, or delete it."""
        there = self._by_source.get(command.source)
        if isinstance(command, DeleteBinding):
            if there is not None:
                self._remove(there)
            return BindingChanged(command.source, changed=there is not None)
        queues = tuple(command.queues.split(DESTINATION_SEPARATOR))
        if there is not None and there.queues == queues:
            return BindingChanged(command.source, changed=False)
        if refusal := self._refusal(there, len(queues)):
            return refusal
        if there is None:
            self._add(Binding(moment.assigning, command.source, queues))
        else:
            self._queue_count += len(queues) - len(there.queues)
            there.queues = queues
            self._dirty.changed(there.number)
        return BindingChanged(command.source, changed=True)

    def _refusal(self, there: Binding | None, queue_count: int) -> Busy | None:
        """Why so many queues cannot be bound, in place of those of a binding that is there."""
        limits = self._limits
        if there is None and len(self._by_source) >= limits.bindings_max:
            return Busy(f"there are {limits.bindings_max} bindings, the most a group may have", retry_ms=limits.retry_ms)
        count = self._queue_count + queue_count - (len(there.queues) if there is not None else 0)
        if count > limits.bound_queues_max:
            text = f"bindings would name {count} queues, all of them together may name {limits.bound_queues_max}"
            return Busy(text, retry_ms=limits.retry_ms)
        return None

    def _add(self, binding: Binding) -> None:
        self._by_source[binding.source] = self._by_number[binding.number] = binding
        self._trees[binding.kind].put(binding.pattern, binding)
        self._queue_count += len(binding.queues)
        self._dirty.created(binding.number)

    def _remove(self, binding: Binding) -> None:
        del self._by_source[binding.source], self._by_number[binding.number]
        self._trees[binding.kind].remove(binding.pattern)
        self._queue_count -= len(binding.queues)
        self._dirty.deleted(binding.number)

    # --- storing --------------------------------------------------------------------------------------------------------

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """All keys and values."""
        return ((BINDING_KEY.pack(BINDING, binding.number), _value(binding)) for binding in self._by_number.values())

    def changes(self) -> Iterator[tuple[bytes, bytes | None]]:
        """The changed keys with their values, None for deleted ones; from now on they count as stored."""
        for number in self._dirty.take():
            binding = self._by_number.get(number)
            yield BINDING_KEY.pack(BINDING, number), None if binding is None else _value(binding)

    def restore(self, key: bytes, value: bytes) -> None:
        """Add what is under a key, in the order of keys; it counts as stored.

        Raises Corruption, LookupError, TypeError or ValueError.
        """
        source, queues, left_out = msgpack.unpackb(value)
        if type(left_out) is not int or not all(type(queue) is str for queue in queues):
            raise TypeError(f"binding {source!r} feeds {queues!r} and has left out {left_out!r}")
        if source in self._by_source:
            raise Corruption(f"the state has binding {source!r} twice")
        self._add(Binding(BINDING_KEY.unpack(key)[1], source, tuple(queues), left_out))
        self._dirty.take()


def _value(binding: Binding) -> bytes:
    return pack(binding.source, list(binding.queues), binding.left_out)
