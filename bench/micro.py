"""`python -m bench.micro`: nanoseconds of each step of the hot paths, compiled and in Python beside each other.

Which half works is chosen once per process, so every turn is a process of its own: compiled, Python, compiled, Python … A
figure is the lowest of its turns' medians: what disturbs a step of microseconds only ever adds. The core has one half; its two
figures say how far two figures of the same thing differ here.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from bench.load import BenchError
from bench.micro_cases import CASES as PATH_CASES
from bench.micro_stores import CASES as STORE_CASES
from bench.single import run_single

__all__ = ["CASES", "halves", "measure", "take"]

CASES = {**PATH_CASES, **STORE_CASES}
HALVES = {"compiled": "0", "pure": "1"}  # ZMQBROKER_PURE
#: A case is repeated for this long, what is outside its figure included, and for this many steps at least.
CASE_NS, STEPS_MIN = 500_000_000, 5
_TIMEOUT_S = 300

Row = dict[str, Any]


def take(name: str, directory: Path, case_ns: int = CASE_NS) -> float:
    """Nanoseconds of one operation: the median of the steps of a case."""
    found: list[float] = []
    directory.mkdir()
    with CASES[name](directory) as step:
        step()
        end_ns = time.perf_counter_ns() + case_ns
        while time.perf_counter_ns() < end_ns or len(found) < STEPS_MIN:
            done, ns = step()
            if done:
                found.append(ns / done)
    return round(median(found), 1)


def halves(turns: Sequence[tuple[str, Mapping[str, float]]]) -> list[Row]:
    """A row per case: the lowest figure of each half, and how many times the compiled one is as fast."""
    rows = []
    for name in dict.fromkeys(name for _, figures in turns for name in figures):
        row: Row = {"case": name}
        for half in HALVES:
            row[f"{half}_ns"] = min(figures[name] for turn, figures in turns if turn == half)
        row["times_as_fast"] = round(row["pure_ns"] / row["compiled_ns"], 2)
        rows.append(row)
    return rows


def measure(directory: Path, chosen: argparse.Namespace) -> Row:
    """All turns. Raises `BenchError`."""
    names = chosen.cases or list(CASES)
    turns = []
    for number in range(chosen.rounds):
        for half in HALVES:
            print(f"round {number + 1} of {chosen.rounds}: {half}", file=sys.stderr, flush=True)
            turns.append((half, _turn(half, names, directory / f"{number}-{half}", chosen.case_ms)))
    return {"cases": halves(turns), "turns": turns}


def _turn(half: str, names: Sequence[str], directory: Path, case_ms: int) -> dict[str, float]:
    directory.mkdir()
    command = [sys.executable, "-m", "bench.micro", "--turn", str(directory), "--case-ms", str(case_ms), "--cases", *names]
    environment = {**os.environ, "ZMQBROKER_PURE": HALVES[half]}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=_TIMEOUT_S)
    if done.returncode:
        raise BenchError(f"a turn ended with status {done.returncode}:\n{done.stderr[-2000:]}")
    found: dict[str, float] = json.loads(done.stdout)
    return found


def main() -> int:
    """Run it, print the result and write it to bench/results; with --turn, be one turn."""
    parser = argparse.ArgumentParser(prog="python -m bench.micro", description="Nanoseconds of the steps of the hot paths.")
    parser.add_argument("--cases", nargs="+", choices=list(CASES), help="only these")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--case-ms", type=int, default=CASE_NS // 1_000_000, help="time measured for a case in a turn")
    parser.add_argument("--turn", help=argparse.SUPPRESS)
    options, _ = parser.parse_known_args()
    if options.turn:
        with tempfile.TemporaryDirectory(dir=options.turn) as data:
            found = {name: take(name, Path(data) / name, options.case_ms * 1_000_000) for name in options.cases}
        print(json.dumps(found))
        return 0
    return run_single("micro", "steps of the hot paths", parser, measure)


if __name__ == "__main__":
    sys.exit(main())
