"""What all power cuts of all long runs together came to: a small JSON file that each run goes on from.

It is written whole and renamed, so an interrupted run leaves the old one or the new one.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

__all__ = ["GOAL", "CutLedger"]

#: Power cuts of all nodes after which it may be said that they lose nothing.
GOAL = 1_000


@dataclass(slots=True)
class CutLedger:
    """Totals of all runs."""

    cuts: int = 0
    confirmed: int = 0  # messages whose sends were confirmed
    acked: int = 0  # messages whose acks were confirmed
    violations: list[str] = field(default_factory=list)

    @classmethod
    def load(cls, path: Path) -> CutLedger:
        """The ledger in a file; a new one when there is none."""
        return cls(**json.loads(path.read_text(encoding="utf-8"))) if path.exists() else cls()

    def save(self, path: Path) -> None:
        """Write it."""
        new = path.with_name(path.name + ".new")
        new.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")
        new.replace(path)

    def describe(self) -> str:
        """One line."""
        return (
            f"{self.cuts} of {GOAL:,} power cuts so far: {self.confirmed:,} sends and {self.acked:,} acks confirmed, "
            f"{len(self.violations)} violations"
        )
