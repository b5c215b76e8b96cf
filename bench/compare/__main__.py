"""`python -m bench.compare`: NATS JetStream, ours and the ceiling in turn, then medians, ratios and what was to be reached.

Only one side's processes are alive at a time. Both of NATS's durability settings are compared: its default sync with our
ephemeral volume, `sync_interval: always` with our persistent one. `--extra` adds sides that nothing must be reached against.
Where a peer's server is missing the run says so and measures the others. It ends with status 1 when a measurement failed; a
line that is missed is a result and no failure.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.ceiling import run_ceiling
from bench.compare.nats import measure_nats
from bench.compare.ours import Figures, measure_ours, measure_pure
from bench.compare.plan import EXTRA_ROWS, FULL, QUICK, RIVAL_LINES, ROWS, VOLUMES, VOLUMES_OF, ComparePlan
from bench.compare.rabbitmq import measure_rabbitmq
from bench.compare.redis import measure_redis
from bench.compare.report import Suite, summarize, table
from bench.compare.servers import Servers
from bench.load import BenchError
from bench.plan import SEED
from bench.report import environment, warn_of_noise

RESULTS = Path(__file__).resolve().parents[1] / "results"
SIDES = ("nats", "ours", "ceiling")
EXTRA_SIDES = tuple(RIVAL_LINES)


class Comparison:
    """A run: its parameters and what it has found so far."""

    def __init__(self, plan: ComparePlan, rows: Sequence[str], servers: Servers, rate: int, directory: Path) -> None:
        self._plan, self._rows, self._servers, self._directory = plan, rows, servers, directory
        self.rates = dict.fromkeys(VOLUMES, rate)  # of the open loop; 0: half of what NATS carries, which its first turn finds
        self.suites: list[Suite] = []

    def run(self, volumes: Sequence[str], sides: Sequence[str]) -> None:
        """All rounds."""
        for number in range(1, self._plan.rounds + 1):
            for volume in volumes:
                for side in self._measured(sides, volume):
                    print(f"round {number} of {self._plan.rounds}: {volume}, {side}", file=sys.stderr, flush=True)
                    self.suites.append(self._suite(number, volume, side))

    def _measured(self, sides: Sequence[str], volume: str) -> list[str]:
        """The sides that have this volume, and one of the rows."""
        return [
            side
            for side in sides
            if volume in VOLUMES_OF.get(side, VOLUMES)
            and (side not in RIVAL_LINES or any(line.row in self._rows for line in RIVAL_LINES[side]))
        ]

    def _suite(self, number: int, volume: str, side: str) -> Suite:
        load, failure, figures = os.getloadavg()[0], "", dict[str, Figures]()
        with tempfile.TemporaryDirectory(prefix="zmqbroker-bench-", dir=self._directory) as data:
            try:
                figures = self._measure(volume, side, Path(data))
            except BenchError as error:
                failure = str(error)
                print(f"failed: {failure}", file=sys.stderr, flush=True)
        return Suite(round=number, volume=volume, side=side, load_before=load, figures=figures, failure=failure)

    def _measure(self, volume: str, side: str, data: Path) -> dict[str, Figures]:
        rate, binary = self.rates[volume], self._servers.binaries.get(side, "")
        if side == "nats":
            figures, self.rates[volume] = measure_nats(binary, self._plan, volume, self._rows, rate, data)
            return figures
        if side == "redis":
            return measure_redis(binary, self._plan.redis, volume, self._rows, data, settle=self._plan.settle)
        if side == "rabbitmq":
            return measure_rabbitmq(binary, self._plan.rabbitmq, self._rows, data, settle=self._plan.settle)
        if side == "pure":
            return measure_pure(self._plan, volume, self._rows, data)
        if side == "ours":
            return measure_ours(self._plan, volume, self._rows, rate, data)
        return {row: {"relay": figures} for row, figures in run_ceiling(self._plan.ceiling(self._rows), volume, data).items()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the comparison; returns the exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = _options(given)
    plan = QUICK if options.quick else FULL
    plan = replace(plan, rounds=options.rounds or plan.rounds)
    started, directory = datetime.now(UTC), Path(options.directory or tempfile.gettempdir())
    about = {"started": started.isoformat(timespec="seconds"), **environment(given, directory, "bench.compare")}
    warn_of_noise(directory)
    rows = options.rows or (*ROWS, *(EXTRA_ROWS if options.extra else ()))
    sides = options.sides or (*SIDES, *(EXTRA_SIDES if options.extra else ()))
    servers = Servers(sides)
    comparison = Comparison(plan, rows, servers, options.rate, directory)
    comparison.run(options.modes or VOLUMES, [side for side in sides if side not in servers.missing])
    summary = summarize(comparison.suites)
    print("\n".join(table(summary)))
    path = options.out or RESULTS / f"{started:%Y%m%dT%H%M%SZ}-compare{'-quick' if options.quick else ''}.json"
    document = {
        "benchmark": "zmqbroker against what people would pick instead, three nodes on one machine, in turn",
        **about,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        **servers.versions,
        **servers.missing,
        "parameters": {"seed": SEED, "open_loop_rates": comparison.rates, **asdict(plan)},
        "summary": summary,
        "rounds": [asdict(suite) for suite in comparison.suites],
    }
    _write(path, document)
    return 1 if any(suite.failure for suite in comparison.suites) else 0


def _write(path: Path, document: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(f"written to {os.path.relpath(path)}")


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.compare", description="Ours against NATS JetStream and others, in turn."
    )
    parser.add_argument("--quick", action="store_true", help="everything once with tiny counts: proves that it runs")
    parser.add_argument("--rounds", type=int, help=f"turns of each side (default: {FULL.rounds})")
    parser.add_argument("--rows", nargs="+", choices=(*ROWS, *EXTRA_ROWS), help="only these")
    parser.add_argument("--sides", nargs="+", choices=(*SIDES, *EXTRA_SIDES), help="only these")
    parser.add_argument("--extra", action="store_true", help="also what lies beside the table: more rows, and more sides")
    parser.add_argument(
        "--modes", "--volume", nargs="+", action="extend", choices=VOLUMES, help="only these (ephemeral: NATS's default sync)"
    )
    parser.add_argument("--rate", type=int, default=0, help="messages/s of the open loop (default: half of what NATS carries)")
    parser.add_argument("--directory", help="where the nodes keep their data (default: the system's temporary directory)")
    parser.add_argument("--out", type=Path, help="result file (default: bench/results/<time>-compare.json)")
    return parser.parse_args(arguments)


def _end(_number: int, _frame: object) -> None:
    """SIGTERM ends the comparison as Ctrl-C does: the processes it started end with it."""
    sys.exit(128 + signal.SIGTERM)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _end)
    sys.exit(main())
