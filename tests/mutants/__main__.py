"""Hunt the mutants and print the table; the exit status is 1 when one survives (see CONTRIBUTING.md).

python -m tests.mutants                      all of them
python -m tests.mutants --only M3,M22        some
python -m tests.mutants --json               for machines
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterable

from tests.mutants.defects import MUTANTS
from tests.mutants.hunt import Outcome, hunt

_COLUMNS = ("mutant", "what it breaks", "caught by", "seeds", "budget", "seconds")
_ROW = "{:<6} {:<62} {:<9} {:>5} {:>6} {:>7}"


def main(arguments: list[str] | None = None) -> int:
    """Parse, hunt, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", metavar="M3,M22", help="hunt these")
    parser.add_argument("--json", action="store_true", help="print a list of objects instead of the table")
    options = parser.parse_args(arguments)
    known = {mutant.id: mutant for mutant in MUTANTS}
    ids = options.only.split(",") if options.only else list(known)
    if unknown := [id for id in ids if id not in known]:
        parser.error(f"no such mutants: {', '.join(unknown)}; there are {', '.join(known)}")
    outcomes = (hunt(known[id]) for id in ids)
    return _as_json(outcomes) if options.json else _as_table(outcomes)


def _as_json(outcomes: Iterable[Outcome]) -> int:
    found = list(outcomes)
    rows = [
        {
            "mutant": outcome.mutant.id,
            "breaks": outcome.mutant.breaks,
            "killed": outcome.killed,
            "caught_by": outcome.caught_by,
            "found": outcome.text,
            "seeds": outcome.seeds,
            "budget": 0 if outcome.mutant.check else outcome.mutant.seeds,
            "seconds": round(outcome.seconds, 2),
        }
        for outcome in found
    ]
    print(json.dumps(rows, indent=1))
    return int(not all(outcome.killed for outcome in found))


def _as_table(outcomes: Iterable[Outcome]) -> int:
    began = time.perf_counter()
    killed = count = 0
    print(_ROW.format(*_COLUMNS))
    for outcome in outcomes:
        mutant, count, killed = outcome.mutant, count + 1, killed + outcome.killed
        by = outcome.caught_by if outcome.killed or not outcome.caught_by else f"{outcome.caught_by}?"
        needed = ("-", "-") if mutant.check else (str(outcome.seeds), str(mutant.seeds))
        short = "a test" if mutant.check and outcome.killed else by or "SURVIVES"
        print(_ROW.format(mutant.id, mutant.breaks, short, *needed, f"{outcome.seconds:.1f}"), flush=True)
        if mutant.check and outcome.killed:
            print(f"{'':<6} {outcome.caught_by}")
    print(f"{killed} of {count} killed in {time.perf_counter() - began:.0f} s")
    return int(killed < count)


if __name__ == "__main__":
    sys.exit(main())
