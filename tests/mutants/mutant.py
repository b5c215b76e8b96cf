"""What a mutant is: one defect, the runs in which it must be found, and by what.

A defect is put into the product from outside and taken out again: the product has no switch for it. It is hunted with the
simulator's seeds, under options that suit it, or, where no run of a cluster can show it, with one test that must then fail.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.simulation.options import Options
from tests.simulation.world import MILLISECOND, SECOND

__all__ = ["FAULTS", "Check", "Mutant", "check", "options_of"]

#: Faults of every hunt that names none of its own.
FAULTS = ("kill", "power_cut", "power_cut_all", "partition", "reset", "transfer", "pause", "torn_call", "old_frames")


@dataclass(frozen=True, slots=True)
class Check:
    """A test that fails under a defect, as a function without arguments."""

    name: str
    run: Callable[[], object]


def check(test: Callable[..., object], made_of: Callable[[Path], object] | None = None) -> Check:
    """The check that calls a test: without arguments, or with what is made of a directory of its own."""

    def run() -> None:
        with TemporaryDirectory() as directory:
            if made_of is None:
                test()
            else:
                test(made_of(Path(directory)))

    return Check(f"{test.__module__.replace('.', '/')}.py::{test.__name__}", run)


@dataclass(frozen=True, kw_only=True, slots=True)
class Mutant:
    """One defect."""

    id: str  # M1 to M26 are those of the shared reference on Raft, §6.6; N, L, Q: of rules that are this broker's own
    breaks: str
    apply: Callable[[pytest.MonkeyPatch], object]
    caught_by: frozenset[str] = frozenset()  # invariants, any of which may be the first to see it; I0: see `stumbles`
    seeds: int = 24  # the budget: it must be found by one of the seeds from 0 on
    options: Mapping[str, object] = field(default_factory=dict)  # other than those of every hunt
    stumbles: type[Exception] = AssertionError  # what the product itself raises when I0 sees it
    script: Callable[[int], None] | None = None  # played with each seed in place of a random run: see `stage`
    check: Check | None = None  # in place of seeds


def options_of(mutant: Mutant, seed: int) -> Options:
    """The run of one seed: small, crowded and troubled, which finds most in the shortest time."""
    values: dict[str, object] = {
        "seed": seed,
        "nodes": 3 if seed % 3 else 5,
        "segment_bytes": 1 << 12,
        "sync_delay_ns": 8 * MILLISECOND,
        "flush_ns": 50 * MILLISECOND,
        "keep_entries": 20,
        "loss": 0.05,
        "fifo": seed % 2 == 0,
        "chaos_ns": 4 * SECOND,
        "fault_interval_ns": 60 * MILLISECOND,
        "faults": FAULTS,
    }
    return Options(**{**values, **mutant.options})  # type: ignore[arg-type]
