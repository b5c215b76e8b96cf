"""From raw rounds to medians, ratios, a table for people and a file for later.

Ratios are taken within a round, where broker and ceiling ran one after the other, and then their median: the machine's mood
changes between rounds. The file holds everything that was measured, so that nothing has to be believed.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import zmq

from bench.plan import SEED, Plan
from zmqbroker.wire import codec

__all__ = ["Suite", "document", "environment", "file_system_of", "summarize", "table", "warn_of_noise"]

ROOT = Path(__file__).resolve().parents[1]

#: Runnable processes beyond this, averaged over the last minute, before anything was started: others use the machine.
LOAD_QUIET = 0.5

Figures = dict[str, dict[str, float]]  # case -> figure -> value


@dataclass(frozen=True, kw_only=True, slots=True)
class Suite:
    """Every case of one side in one round."""

    round: int
    volume: str
    side: str  # broker or ceiling
    load_before: float  # average of the last minute
    figures: Figures  # empty after a failure
    failure: str = ""


def summarize(suites: Sequence[Suite]) -> dict[str, dict[str, dict[str, Any]]]:
    """volume -> case -> {broker, ceiling: medians of the rounds; rate_ratio, p50_ratio: medians of broker to ceiling}."""
    summary: dict[str, dict[str, dict[str, Any]]] = {}
    for volume in dict.fromkeys(suite.volume for suite in suites):
        by_side = {
            side: {suite.round: suite.figures for suite in suites if (suite.volume, suite.side) == (volume, side)}
            for side in ("broker", "ceiling")
        }
        cases = dict.fromkeys(case for figures in by_side["broker"].values() for case in figures)
        summary[volume] = {case: _summarize_case(case, by_side) for case in cases}
    return summary


def _summarize_case(case: str, by_side: dict[str, dict[int, Figures]]) -> dict[str, Any]:
    rows = {
        side: {number: figures[case] for number, figures in rounds.items() if case in figures}
        for side, rounds in by_side.items()
    }
    found: dict[str, Any] = {side: _medians(list(measured.values())) for side, measured in rows.items() if measured}
    for name, figure in (("rate_ratio", "messages_per_s"), ("p50_ratio", "p50_ms")):
        ratios = [
            measured[figure] / rows["ceiling"][number][figure]
            for number, measured in rows["broker"].items()
            if number in rows["ceiling"]
        ]
        if ratios:
            found[name] = round(median(ratios), 3)
    return found


def _medians(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: median(row[name] for row in rows) for name in rows[0]}


# --- for people ------------------------------------------------------------------------------------------------------


def table(summary: dict[str, dict[str, dict[str, Any]]]) -> Iterator[str]:
    """The lines of a table: one row per volume and case."""
    widths = (11, 40, 12, 7, 8, 8, 6, 12, 8, 6, 6)
    titles = ("volume", "case", "messages/s", "MB/s", "p50 ms", "p99 ms", "cores", "ceiling/s", "p50 ms", "cores", "ratio")
    yield _line(titles, widths)
    yield _line(["-" * width for width in widths], widths)
    for volume, cases in summary.items():
        for case, found in cases.items():
            broker, ceiling = found["broker"], found.get("ceiling", {})
            values = (
                volume,
                case,
                _number(broker.get("messages_per_s"), 0),
                _number(broker.get("mb_per_s"), 1),
                _number(broker.get("p50_ms"), 2),
                _number(broker.get("p99_ms"), 2),
                _number(broker.get("server_cores"), 2),
                _number(ceiling.get("messages_per_s"), 0),
                _number(ceiling.get("p50_ms"), 2),
                _number(ceiling.get("server_cores"), 2),
                _number(found.get("rate_ratio"), 2),
            )
            yield _line(values, widths)


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:,.{digits}f}"


def _line(values: Sequence[str], widths: Sequence[int]) -> str:
    cells = [
        value.ljust(width) if column < 2 else value.rjust(width)
        for column, (value, width) in enumerate(zip(values, widths, strict=True))
    ]
    return " ".join(cells).rstrip()


# --- for later -------------------------------------------------------------------------------------------------------


def document(plan: Plan, suites: Sequence[Suite], about: dict[str, Any]) -> dict[str, Any]:
    """The result file: what ran where, with which parameters, every round, and what follows from them."""
    return {
        "benchmark": "zmqbroker three nodes on one machine",
        **about,
        "parameters": {"seed": SEED, **asdict(plan)},
        "summary": summarize(suites),
        "rounds": [asdict(suite) for suite in suites],
    }


def environment(command: Sequence[str], directory: Path, module: str = "bench") -> dict[str, Any]:
    """What a figure depends on besides its parameters."""
    return {
        "command": " ".join(["python", "-m", module, *command]),
        "commit": _git("rev-parse", "HEAD"),
        "changed_files": len(_git("status", "--porcelain").splitlines()),
        "host": {
            "name": platform.node(),
            "system": platform.platform(),
            "processors": os.cpu_count(),
            "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            "file_system": file_system_of(directory),
        },
        "python": {
            "version": platform.python_version(),
            "pyzmq": zmq.pyzmq_version(),
            "libzmq": zmq.zmq_version(),
            "codec": "compiled" if codec.compiled else "python",
            "implementation": sys.implementation.name,
        },
    }


def warn_of_noise(directory: Path) -> None:
    """Say what will spoil the figures: a busy machine, or a disk that is none."""
    load = os.getloadavg()[0]
    if load > LOAD_QUIET:
        print(f"the machine is busy (load {load:.2f}): figures will be low", file=sys.stderr)
    if file_system_of(directory) == "tmpfs":
        print(f"{directory} is in memory: persistent figures will be too good; use --directory", file=sys.stderr)


def _git(*arguments: str) -> str:
    """What git says of this checkout; empty where there is no git or no repository."""
    try:
        done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def file_system_of(directory: Path) -> str:
    """Type of the file system that holds a directory, such as ext4; empty where the system does not say."""
    try:
        lines = Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    found, longest = "", 0
    for _, mount_point, kind, *_ in (line.split(" ") for line in lines):
        if directory.resolve().is_relative_to(mount_point) and len(mount_point) >= longest:
            found, longest = kind, len(mount_point)
    return found
