"""`python -m bench`: the ceiling and the broker in turn (A B A B …), then medians, ratios and a result file.

Ends with status 1 when any suite failed: its failure is in the file, and the others still count. Measure on an idle machine
only; the load is written down before every suite, and said aloud when it is high.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.ceiling import run_ceiling
from bench.load import BenchError
from bench.macro import run_broker
from bench.plan import FULL, QUICK, Plan
from bench.report import Suite, document, environment, summarize, table, warn_of_noise

RESULTS = Path(__file__).resolve().parent / "results"

Side = Callable[[Plan, str, Path], dict[str, dict[str, float]]]
#: In the order of their turns.
SIDES: dict[str, Side] = {"ceiling": run_ceiling, "broker": run_broker}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = _options(given)
    plan = QUICK if options.quick else FULL
    plan = replace(plan, rounds=options.rounds or plan.rounds, volumes=tuple(options.volume or plan.volumes))
    started = datetime.now(UTC)
    directory = Path(options.directory or tempfile.gettempdir())
    about = {"started": started.isoformat(timespec="seconds"), **environment(given, directory)}
    warn_of_noise(directory)
    suites = _run(plan, directory)
    about["finished"] = datetime.now(UTC).isoformat(timespec="seconds")
    for line in table(summarize(suites)):
        print(line)
    path = options.out or RESULTS / _file_name(started, about, quick=options.quick)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document(plan, suites, about), indent=1) + "\n", encoding="utf-8")
    print(f"written to {os.path.relpath(path)}")
    return 1 if any(suite.failure for suite in suites) else 0


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Throughput and latency of three nodes here.")
    parser.add_argument("--quick", action="store_true", help="everything once with tiny counts: proves that it runs")
    parser.add_argument("--rounds", type=int, help="turns of ceiling and broker (default: 3)")
    parser.add_argument("--volume", action="append", choices=FULL.volumes, help="only this mode")
    parser.add_argument("--directory", help="where the nodes keep their data (default: the system's temporary directory)")
    parser.add_argument("--out", type=Path, help="result file (default: bench/results/<time>-<commit>.json)")
    return parser.parse_args(arguments)


def _file_name(started: datetime, about: dict[str, Any], *, quick: bool) -> str:
    commit = about["commit"][:8] or "unknown"
    return f"{started:%Y%m%dT%H%M%SZ}-{commit}{'-quick' if quick else ''}.json"


def _run(plan: Plan, directory: Path) -> list[Suite]:
    suites = []
    for number in range(1, plan.rounds + 1):
        for volume in plan.volumes:
            for side in SIDES:
                print(f"round {number} of {plan.rounds}: {volume}, {side}", file=sys.stderr, flush=True)
                suites.append(_run_suite(plan, number, volume, side, directory))
    return suites


def _run_suite(plan: Plan, number: int, volume: str, side: str, directory: Path) -> Suite:
    load = os.getloadavg()[0]
    figures: dict[str, dict[str, float]] = {}
    failure = ""
    with tempfile.TemporaryDirectory(prefix="zmqbroker-bench-", dir=directory) as data:
        try:
            figures = SIDES[side](plan, volume, Path(data))
        except BenchError as error:
            failure = str(error)
            print(f"failed: {failure}", file=sys.stderr, flush=True)
    return Suite(round=number, volume=volume, side=side, load_before=load, figures=figures, failure=failure)


def _end(_number: int, _frame: object) -> None:
    """SIGTERM ends the benchmark as Ctrl-C does: the processes it started end with it."""
    sys.exit(128 + signal.SIGTERM)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _end)
    sys.exit(main())
