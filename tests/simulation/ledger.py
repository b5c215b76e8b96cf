"""What all long runs together have done: a small JSON file that each of them goes on from.

It is written whole and renamed, so an interrupted run leaves the old one or the new one. Seeds are counted up and used once.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tests.simulation.failure import Violation
from tests.simulation.simulation import Report

__all__ = ["FIRST_SEED", "Ledger"]

#: Long runs begin here: what is below belongs to the fixed seeds.
FIRST_SEED = 1_000_000


@dataclass(slots=True)
class Ledger:
    """Totals of all runs."""

    next_seed: int = FIRST_SEED
    runs: int = 0
    events: int = 0
    virtual_s: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    violations: list[list[str]] = field(default_factory=list)  # seed, invariant

    @classmethod
    def load(cls, path: Path) -> Ledger:
        """The ledger in a file; a new one when there is none."""
        if not path.exists():
            return cls()
        values = json.loads(path.read_text(encoding="utf-8"))
        return cls(**{**values, "faults": Counter(values["faults"])})

    def save(self, path: Path) -> None:
        """Write it."""
        values = {name: getattr(self, name) for name in self.__slots__}
        values["faults"] = dict(sorted(self.faults.items()))
        new = path.with_name(path.name + ".new")
        new.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
        new.replace(path)

    def add(self, report: Report) -> None:
        """Count a run that went well."""
        self.runs += 1
        self.events += report.events
        self.virtual_s += report.virtual_ns // 1_000_000_000
        self.faults.update(report.faults)

    def add_violation(self, violation: Violation) -> None:
        """Count a run that did not."""
        self.runs += 1
        self.violations.append([str(violation.seed), violation.invariant])

    def describe(self) -> str:
        """One line."""
        faults = ", ".join(f"{name} {count}" for name, count in sorted(self.faults.items()))
        return (
            f"{self.runs} runs, {self.events:,} events, {self.virtual_s:,} s of virtual time, "
            f"{len(self.violations)} violations; faults: {faults or 'none'}"
        )
