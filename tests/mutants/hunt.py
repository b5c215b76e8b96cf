"""Hunting one mutant: seeds under its defect until one finds it, then that seed without the defect, which must find nothing."""

from __future__ import annotations

import time
import traceback
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.mutants.mutant import Check, Mutant, options_of
from tests.simulation.failure import Violation
from tests.simulation.simulation import run

__all__ = ["Outcome", "hunt"]

_PRODUCT = Path(__file__).resolve().parents[2] / "zmqbroker"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one mutant."""

    mutant: Mutant
    caught_by: str  # an invariant, or a test; empty when it survived
    seeds: int  # needed, the one that found it included
    seconds: float  # of the hunt, not of the control
    text: str = ""  # what was found

    @property
    def killed(self) -> bool:
        """True when it was found, and by what was expected to find it."""
        return bool(self.caught_by) and (self.mutant.check is not None or self.caught_by in self.mutant.caught_by)


def hunt(mutant: Mutant) -> Outcome:
    """Hunt it down. Raises what a control run raises, and what the defect itself stumbles over."""
    began = time.perf_counter()
    with pytest.MonkeyPatch.context() as patch:
        mutant.apply(patch)
        caught_by, seeds, text = _seeds(mutant) if mutant.check is None else _check(mutant.check)
    seconds = time.perf_counter() - began
    if mutant.check is not None:
        mutant.check.run()
    elif caught_by:
        _play(mutant, seeds - 1)
    return Outcome(mutant, caught_by, seeds, seconds, text)


def _seeds(mutant: Mutant) -> tuple[str, int, str]:
    for seed in range(mutant.seeds):
        try:
            _play(mutant, seed)
        except Violation as violation:
            if violation.__cause__ is not None:
                _judge(mutant, violation.__cause__)
            return violation.invariant, seed + 1, str(violation).splitlines()[0]
    return "", mutant.seeds, ""


def _play(mutant: Mutant, seed: int) -> None:
    """One run. Raises `Violation`; a script also what a node of its cluster stumbles over."""
    if mutant.script is not None:
        mutant.script(seed)
    else:
        run(options_of(mutant, seed))


def _judge(mutant: Mutant, error: BaseException) -> None:
    """A node failed: that counts when the product itself has noticed. Raises the error when it did not."""
    innermost = traceback.extract_tb(error.__traceback__)[-1].filename
    if not isinstance(error, mutant.stumbles) or not Path(innermost).is_relative_to(_PRODUCT):
        raise error


def _check(check: Check) -> tuple[str, int, str]:
    try:
        check.run()
    except (AssertionError, pytest.fail.Exception) as error:
        return check.name, 0, str(error).partition("\n")[0]
    return "", 0, ""
