"""Explore a scope to its end: `python -m tests.exhaustive [--proposals N ...]`. Exit status 1 when an invariant breaks."""

from __future__ import annotations

import argparse
import resource
import sys
from dataclasses import fields

from tests.exhaustive.explore import Counterexample, explore
from tests.exhaustive.model import Model
from tests.exhaustive.scope import Scope

__all__ = ["main"]


def _parse(arguments: list[str] | None) -> tuple[Scope, int | None]:
    parser = argparse.ArgumentParser(prog="python -m tests.exhaustive", description=__doc__)
    for field in fields(Scope):
        name = "--" + field.name.replace("_", "-")
        if field.name == "pre_vote":
            parser.add_argument(name, action="store_true", help="campaigns begin with a pre-vote")
        else:
            parser.add_argument(name, type=int, default=field.default, metavar="N", help="at most; %(default)s unless given")
    parser.add_argument("--states-max", type=int, metavar="N", help="give up when so many states are known")
    given = vars(parser.parse_args(arguments))
    states_max = given.pop("states_max")
    return Scope(**given), states_max


def main(arguments: list[str] | None = None) -> int:
    """Explore and print; the exit status."""
    scope, states_max = _parse(arguments)
    print(scope, flush=True)
    try:
        result = explore(Model(scope), states_max=states_max, note=_note if sys.stderr.isatty() else None)
    except Counterexample as counterexample:
        print(counterexample)
        return 1
    end = "fixpoint reached" if result.complete else "GIVEN UP before the fixpoint"
    print(f"{end}: {result.states} states, {result.transitions} transitions, depth {result.depth}")
    print(f"{result.refused} actions refused by the bound of the bag")
    print(f"{result.replicas} states of a node, {result.steps} runs of the core")
    memory_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    print(f"{result.seconds:.1f} seconds, {result.states / result.seconds:.0f} states/s, {memory_mib} MiB")
    return 0 if result.complete else 2


def _note(depth: int, states: int) -> None:
    print(f"depth {depth}: {states} states", end="\r", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
