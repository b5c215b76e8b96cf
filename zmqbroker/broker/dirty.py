"""Which keys differ from what was stored last.

Keeps keys, not values, and forgets a key that was made and removed again before it was ever stored, so that a flush costs
what changed and not what happened. It does not know how keys or values are encoded (`snapshot` does).
"""

from __future__ import annotations

from typing import Generic, TypeVar

__all__ = ["Dirty"]

Key = TypeVar("Key")


class Dirty(Generic[Key]):
    """The keys of one map that changed since the last `take`."""

    __slots__ = ("_stored",)

    def __init__(self) -> None:
        self._stored: dict[Key, bool] = {}  # dirty key -> whether the store holds an older value of it

    def created(self, key: Key) -> None:
        """`key` was absent and is present now."""
        self._stored.setdefault(key, False)

    def changed(self, key: Key) -> None:
        """`key` was present and has another value now."""
        self._stored.setdefault(key, True)

    def deleted(self, key: Key) -> None:
        """`key` was present and is absent now."""
        if self._stored.get(key, True):
            self._stored[key] = True
        else:
            del self._stored[key]

    def take(self) -> list[Key]:
        """The dirty keys, in no promised order; from now on they count as stored."""
        keys = list(self._stored)
        self._stored.clear()
        return keys
