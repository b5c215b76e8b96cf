"""From raw rounds to medians, ratios, whether each line is met, and a table for people.

Ratios are taken within a round, where the sides ran one after the other, and then their median: the machine's mood changes
between rounds. Where the other side has several ways to do the same, its best in that round counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from bench.compare.ours import Figures
from bench.compare.plan import CEILING_LINES, EXTRA_LINES, LINES, RIVAL_LINES, Line

__all__ = ["Suite", "summarize", "table"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Suite:
    """All rows of one side in one round."""

    round: int
    volume: str
    side: str  # ours, nats, ceiling, or one of RIVAL_LINES
    load_before: float  # average of the last minute
    figures: Mapping[str, Figures]  # by row; empty after a failure
    failure: str = ""


#: Whom we are compared with, and in what.
_OTHERS: Mapping[str, Sequence[Line]] = {"nats": (*LINES, *EXTRA_LINES), "ceiling": CEILING_LINES, **RIVAL_LINES}


def summarize(suites: Sequence[Suite]) -> list[dict[str, Any]]:
    """One entry per volume and line that was measured: medians of both sides, ratios per round, their median, bar, aim, met."""
    found = []
    for volume in dict.fromkeys(suite.volume for suite in suites):
        for other, lines in _OTHERS.items():
            sides = {
                side: {suite.round: suite.figures for suite in suites if (suite.volume, suite.side) == (volume, side)}
                for side in ("ours", other)
            }
            found += [entry for line in lines if (entry := _summarize_line(line, volume, other, sides))]
    return found


def _summarize_line(
    line: Line, volume: str, other: str, sides: Mapping[str, Mapping[int, Mapping[str, Figures]]]
) -> dict[str, Any] | None:
    values = {
        side: {number: _best(line, figures[line.row]) for number, figures in rounds.items() if line.row in figures}
        for side, rounds in sides.items()
    }
    if not any(values.values()) or (other in RIVAL_LINES and not values[other]):
        return None
    ratios = [
        values["ours"][number] / theirs for number, theirs in values[other].items() if theirs and number in values["ours"]
    ]
    bar = line.bars.get(volume)
    ratio = median(ratios) if ratios else None
    judged = median(values["ours"].values()) if line.absolute and values["ours"] else ratio
    return {
        "volume": volume,
        "line": line.name,
        "figure": line.figure,
        "unit": line.unit,
        "against": "itself" if line.absolute else other,
        "ours": median(values["ours"].values()) if values["ours"] else None,
        "theirs": median(values[other].values()) if values[other] else None,
        "ratios": [round(value, 3) for value in ratios],
        "ratio": None if ratio is None else round(ratio, 3),
        "must": bar and bar.must,
        "aim": bar and bar.aim,
        "met": None if judged is None or bar is None else _reaches(line, judged, bar.must),
        "aim_met": None if judged is None or bar is None or bar.aim is None else _reaches(line, judged, bar.aim),
    }


def _best(line: Line, figures: Figures) -> float:
    return (max if line.higher else min)(ways[line.figure] for ways in figures.values())


def _reaches(line: Line, ratio: float, wanted: float) -> bool:
    return ratio >= wanted if line.higher else ratio <= wanted


# --- for people ------------------------------------------------------------------------------------------------------

_TITLES = ("volume", "line", "unit", "ours", "theirs", "ratio", "must", "aim", "")
_WIDTHS = (10, 33, 17, 12, 12, 7, 7, 7, 7)
_LINES = {line.name: line for lines in _OTHERS.values() for line in lines}


def table(summary: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The lines of a table."""
    yield _row(_TITLES)
    yield _row(["-" * width for width in _WIDTHS])
    for entry in summary:
        digits, sign = _LINES[entry["line"]].digits, "≥" if _LINES[entry["line"]].higher else "≤"
        verdict = {None: "", False: "MISSED", True: "met"}[entry["met"]]
        yield _row(
            (
                entry["volume"],
                entry["line"],
                entry["unit"],
                _number(entry["ours"], digits),
                _number(entry["theirs"], digits),
                _number(entry["ratio"], 2),
                "" if entry["must"] is None else f"{sign} {entry['must']:g}",
                "" if entry["aim"] is None else f"{sign} {entry['aim']:g}",
                "aim met" if entry["aim_met"] else verdict,
            )
        )


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:,.{digits}f}"


def _row(values: Sequence[str]) -> str:
    cells = [
        value.ljust(width) if column < 3 or column == 8 else value.rjust(width)
        for column, (value, width) in enumerate(zip(values, _WIDTHS, strict=True))
    ]
    return " ".join(cells).rstrip()
