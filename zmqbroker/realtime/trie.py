"""Patterns of names, as a trie of their tokens: which of them match a name is found token by token.

    orders.*       exactly one token more        orders.>    one or more tokens more, at the tail

So the cost of a match grows with the depth of the name and with what matches, and not with the number of patterns. That a
pattern keeps the rules was checked before (`wire.realtime_requests`). Source: docs/PROTOCOL.md §3, SUBSCRIBE.
"""

from __future__ import annotations

from typing import Generic, TypeVar

__all__ = ["PatternTrie"]

Value = TypeVar("Value")


class _Node(Generic[Value]):
    """Where the tokens of some patterns have led so far."""

    __slots__ = ("branches", "ending", "tails")

    def __init__(self) -> None:
        self.branches: dict[str, _Node[Value]] = {}  # by the next token, a `*` for any
        self.ending: list[Value] = []  # of patterns that end here
        self.tails: list[Value] = []  # of patterns that go on with `>`


class PatternTrie(Generic[Value]):
    """pattern -> values. Nothing is left of a pattern whose values are gone."""

    def __init__(self) -> None:
        self._root: _Node[Value] = _Node()

    def add(self, pattern: str, value: Value) -> None:
        """One more value of a pattern."""
        node, tokens = self._root, pattern.split(".")
        tail = tokens[-1] == ">"
        for token in tokens[:-1] if tail else tokens:
            node = node.branches.setdefault(token, _Node())
        (node.tails if tail else node.ending).append(value)

    def remove(self, pattern: str, value: Value) -> None:
        """A value that was added is gone. Raises ValueError or KeyError for one that was not."""
        tokens = pattern.split(".")
        tail = tokens[-1] == ">"
        path = [self._root]
        for token in tokens[:-1] if tail else tokens:
            path.append(path[-1].branches[token])
        (path[-1].tails if tail else path[-1].ending).remove(value)
        for parent, token, node in reversed(list(zip(path, tokens, path[1:], strict=False))):
            if node.branches or node.ending or node.tails:
                return
            del parent.branches[token]

    def match(self, name: str) -> list[Value]:
        """The values of all patterns that match a name, which has no wildcards."""
        found: list[Value] = []
        nodes = [self._root]
        for token in name.split("."):
            reached: list[_Node[Value]] = []
            for node in nodes:
                found += node.tails
                if (branch := node.branches.get(token)) is not None:
                    reached.append(branch)
                if (branch := node.branches.get("*")) is not None:
                    reached.append(branch)
            nodes = reached
        for node in nodes:
            found += node.ending
        return found
