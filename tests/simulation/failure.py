"""The one exception that a broken promise raises, with everything needed to see it again."""

from __future__ import annotations

__all__ = ["Violation"]


class Violation(AssertionError):
    """An invariant does not hold. `invariant` is its number, as I5."""

    def __init__(self, invariant: str, text: str, *, node: int, time_ns: int, seed: int, command: str) -> None:
        where = f"node {node}" if node else "cluster"
        super().__init__(f"{invariant}: {text} [{where}, {time_ns / 1_000_000:.3f} ms, seed {seed}]\nreplay: {command}")
        self.invariant = invariant
        self.node = node
        self.time_ns = time_ns
        self.seed = seed
