"""What is said of patterns of names: a tree of tokens that finds those which fit a name, in the time that these take.

However many patterns there are, a look follows the tokens of the name. The order of patterns is that of `commands.defaults`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

__all__ = ["PatternTree"]

Value = TypeVar("Value")


@dataclass(slots=True)
class _Token(Generic[Value]):
    """A place in the tree: what may follow here, and what is said of the pattern that ends here."""

    next: dict[str, _Token[Value]] = field(default_factory=dict)
    found: Value | None = None


class PatternTree(Generic[Value]):
    """One value for each of some patterns."""

    __slots__ = ("_root",)

    def __init__(self) -> None:
        self._root: _Token[Value] = _Token()

    def put(self, pattern: str, value: Value) -> None:
        """Say something of a pattern, instead of what was said before."""
        place = self._root
        for token in pattern.split("."):
            place = place.next.setdefault(token, _Token())
        place.found = value

    def remove(self, pattern: str) -> None:
        """Forget a pattern of which something is said."""
        _prune(self._root, pattern.split("."), 0)

    def fitting(self, name: str) -> Iterator[Value]:
        """What is said of the patterns that fit a name, the most specific one first."""
        return _walk(self._root, name.split("."), 0)


def _walk(place: _Token[Value], names: list[str], depth: int) -> Iterator[Value]:
    """What fits, the most specific first; as deep as a name has tokens, of which there are 128 at most."""
    if depth == len(names):
        if place.found is not None:
            yield place.found
        return
    for token in (names[depth], "*"):
        if token in place.next:
            yield from _walk(place.next[token], names, depth + 1)
    rest = place.next.get(">")
    if rest is not None and rest.found is not None:
        yield rest.found


def _prune(place: _Token[Value], tokens: list[str], depth: int) -> None:
    """Forget what is at the end of these tokens, and the places that lead nowhere then."""
    if depth == len(tokens):
        place.found = None
        return
    child = place.next[tokens[depth]]
    _prune(child, tokens, depth + 1)
    if child.found is None and not child.next:
        del place.next[tokens[depth]]
