"""What channels have when they are made and nobody says otherwise: settings by patterns of names, the same on every replica.

What is said changes no channel that is there. Source: docs/PROTOCOL.md §3, SET_DEFAULTS; the order of patterns is that of
`commands.defaults`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import msgpack

from zmqbroker.broker.dirty import Dirty
from zmqbroker.broker.limits import MachineLimits
from zmqbroker.broker.parts import DEFAULTS, pack
from zmqbroker.broker.patterns import PatternTree
from zmqbroker.broker.records import Moment
from zmqbroker.commands import CREATE_ON_USE, ChannelSettings, DefaultsChanged, Result, Said, SetDefaults, completed
from zmqbroker.errors import Busy, Corruption

__all__ = ["DEFAULTS_KEY", "Defaults"]

#: Kind, and the number of what first said something of the pattern.
DEFAULTS_KEY = struct.Struct(">BQ")


@dataclass(slots=True)
class _Pattern:
    number: int  # assigning number of the command that made it: names it in the store
    pattern: str
    said: Said


class Defaults:
    """All patterns of one machine."""

    def __init__(self, limits: MachineLimits) -> None:
        self._limits = limits
        self._patterns: dict[str, _Pattern] = {}  # in the order of their numbers
        self._by_number: dict[int, _Pattern] = {}  # the same
        self._tree: PatternTree[_Pattern] = PatternTree()
        self._dirty: Dirty[int] = Dirty()

    def __iter__(self) -> Iterator[tuple[str, Said]]:
        """Every pattern with what is said of it, by pattern."""
        return iter(sorted((pattern.pattern, pattern.said) for pattern in self._patterns.values()))

    # --- for channels ---------------------------------------------------------------------------------------------------

    def complete(self, channel: str, said: Said) -> ChannelSettings:
        """The settings of a channel that is being made, of which these are said."""
        return completed(channel, said, self._fitting(channel))

    def names(self, channel: str) -> set[str]:
        """The settings of which patterns that fit say something now; what they said when the channel was made is not kept."""
        return {name for said in self._fitting(channel) for name in said}

    def creates_on_use(self, channel: str) -> bool:
        """Whether using this channel makes it."""
        return next((bool(said[CREATE_ON_USE]) for said in self._fitting(channel) if CREATE_ON_USE in said), True)

    def _fitting(self, channel: str) -> Iterator[Said]:
        """What is said by the patterns that fit, the most specific one first."""
        return (pattern.said for pattern in self._tree.fitting(channel))

    # --- commands -------------------------------------------------------------------------------------------------------

    def set(self, command: SetDefaults, moment: Moment) -> Result:
        """Say something else of a pattern, or nothing."""
        there = self._patterns.get(command.pattern)
        said = dict(command.settings) | (dict(there.said) if there is not None and command.keep else {})
        if there is None and not said:
            return DefaultsChanged(command.pattern, changed=False)
        if there is None:
            if len(self._patterns) >= self._limits.defaults_max:
                text = f"there are defaults for {self._limits.defaults_max} patterns, the most a group may have"
                return Busy(text, retry_ms=self._limits.retry_ms)
            self._add(_Pattern(moment.assigning, command.pattern, said))
        elif there.said == said:
            return DefaultsChanged(command.pattern, changed=False)
        elif said:
            there.said = said
            self._dirty.changed(there.number)
        else:
            self._remove(there)
        return DefaultsChanged(command.pattern, changed=True)

    def _add(self, pattern: _Pattern) -> None:
        self._patterns[pattern.pattern] = self._by_number[pattern.number] = pattern
        self._dirty.created(pattern.number)
        self._tree.put(pattern.pattern, pattern)

    def _remove(self, pattern: _Pattern) -> None:
        del self._patterns[pattern.pattern], self._by_number[pattern.number]
        self._dirty.deleted(pattern.number)
        self._tree.remove(pattern.pattern)

    # --- storing --------------------------------------------------------------------------------------------------------

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """All keys and values."""
        return ((DEFAULTS_KEY.pack(DEFAULTS, pattern.number), _value(pattern)) for pattern in self._by_number.values())

    def changes(self) -> Iterator[tuple[bytes, bytes | None]]:
        """The changed keys with their values, None for deleted ones; from now on they count as stored."""
        for number in self._dirty.take():
            pattern = self._by_number.get(number)
            yield DEFAULTS_KEY.pack(DEFAULTS, number), None if pattern is None else _value(pattern)

    def restore(self, key: bytes, value: bytes) -> None:
        """Add what is under a key, in the order of keys; it counts as stored. Raises Corruption, TypeError or ValueError."""
        name, said = msgpack.unpackb(value)
        pattern = _Pattern(DEFAULTS_KEY.unpack(key)[1], name, dict(said))
        if name in self._patterns:
            raise Corruption(f"the state has defaults for {name!r} twice")
        completed("", pattern.said, ())  # raises for what is no setting
        self._add(pattern)
        self._dirty.take()


def _value(pattern: _Pattern) -> bytes:
    return pack(pattern.pattern, dict(sorted(pattern.said.items())))
