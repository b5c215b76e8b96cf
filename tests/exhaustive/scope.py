"""How much of the world is explored."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Scope"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Scope:
    """Bounds of one exploration; the defaults are the full scope of `make exhaustive`."""

    terms: int = 3  # highest term that anybody may campaign for
    proposals: int = 2
    heartbeats: int = 1  # rounds of them
    bag: int = 2  # messages under way at once; each one more makes some hundred times as many states
    drops: int = 1
    duplicates: int = 1
    crashes: int = 1
    pre_vote: bool = False

    def __str__(self) -> str:
        counts = f"{self.terms} terms, {self.proposals} proposals, {self.heartbeats} heartbeats, bag {self.bag}"
        faults = f"{self.drops} drops, {self.duplicates} duplicates, {self.crashes} crashes"
        return f"3 nodes, {counts}, {faults}, PreVote {'on' if self.pre_vote else 'off'}"
