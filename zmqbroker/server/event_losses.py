"""Events that a link to another node refused: they are counted by name, and the node hears once a second how many they were.

So a subscriber is told what it missed wherever it was lost, if its node lives. Source: docs/PROTOCOL.md §8, EVENTS.
"""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["EventLosses"]

#: Names per node between two reports; losses of further ones are counted by the node alone.
NAMES_MAX = 1000


class EventLosses:
    """node uid -> name -> events that did not leave for it and nobody else got in its place."""

    def __init__(self) -> None:
        self._lost: dict[bytes, dict[str, int]] = {}  # as many nodes as there are members

    def add(self, uid: bytes, name: str, count: int) -> None:
        """Events of a name did not leave."""
        names = self._lost.setdefault(uid, {})
        if name in names or len(names) < NAMES_MAX:
            names[name] = names.get(name, 0) + count

    def forget(self, uid: bytes) -> None:
        """A node is gone, and with it whoever missed anything there."""
        self._lost.pop(uid, None)

    def report(self, tell: Callable[[bytes, list[list[str | int]]], bool]) -> None:
        """Tell every node what it did not get; what a node cannot be told now is told another time."""
        for uid, names in list(self._lost.items()):
            if tell(uid, [[name, count] for name, count in names.items()]):
                del self._lost[uid]
