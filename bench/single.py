"""What the benchmarks of one question share: their common options, a directory for the data, and the result file.

Such a benchmark runs once and measures several things in turn; `python -m bench` is the one that repeats and compares.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.report import environment

__all__ = ["run_single"]

RESULTS = Path(__file__).resolve().parent / "results"

Measure = Callable[[Path, argparse.Namespace], dict[str, Any]]


def _end(_number: int, _frame: object) -> None:
    """SIGTERM ends a benchmark as Ctrl-C does: the processes that it started end with it."""
    sys.exit(128 + signal.SIGTERM)


def run_single(name: str, title: str, parser: argparse.ArgumentParser, measure: Measure) -> int:
    """Measure, print the figures and write them to bench/results/<time>-<name>.json; the exit status.

    The volume is persistent unless the parser has another default for it.
    """
    signal.signal(signal.SIGTERM, _end)
    volume = parser.get_default("volume") or "persistent"
    parser.add_argument("--volume", choices=("ephemeral", "persistent"), default=volume)
    parser.add_argument("--directory", default=tempfile.gettempdir(), help="where the nodes keep their data")
    parser.add_argument("--out", type=Path, help=f"result file (default: bench/results/<time>-{name}.json)")
    options = parser.parse_args()
    started, load = datetime.now(UTC), os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="zmqbroker-bench-", dir=options.directory) as data:
        found = measure(Path(data), options)
        about = environment(sys.argv[1:], Path(data), f"bench.{name}")
    parameters = {key: value for key, value in vars(options).items() if key not in ("out", "directory")}
    result = {"benchmark": title, **about, "load_before": load, "parameters": parameters, "figures": found}
    path = options.out or RESULTS / f"{started:%Y%m%dT%H%M%SZ}-{name}.json"
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=1))
    return 0
