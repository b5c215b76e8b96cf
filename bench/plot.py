"""`python -m bench.plot FILE…`: charts of results as SVG beside them, or below `--out`.

What a file is decides what is drawn: the comparison with NATS gives a chart of ratios per mode and one of latency percentiles,
`python -m bench` one of rates per mode, `bench.growth` one with a line per axis. All `.hgrm` files together give one chart of
latency percentiles, a line each. Of other results there is nothing to draw, and it says so.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from bench.paced import PERCENTILES
from bench.svg import Bar, bars, linear_axis, lines, log_axis, nines_axis

__all__ = ["charts_of", "latency_chart", "main", "read_hgrm"]

Document = Mapping[str, Any]
_HGRM_LINE = re.compile(r"^\s*([\d.]+)\s+([\d.]+)\s+\d+(?:\s+\S+)?\s*$")


def charts_of(document: Document) -> Iterator[tuple[str, str]]:
    """Name and SVG of every chart of a result."""
    summary = document.get("summary")
    if isinstance(summary, list):
        yield from _comparison(document, summary)
    elif isinstance(summary, dict):
        yield from _macro(summary)
    elif points := document.get("figures", {}).get("points"):
        yield "growth", _growth(points)


# --- the comparison --------------------------------------------------------------------------------------------------


def _comparison(document: Document, summary: Sequence[Document]) -> Iterator[tuple[str, str]]:
    for volume in dict.fromkeys(entry["volume"] for entry in summary):
        items = [_ratio_bar(entry) for entry in summary if entry["volume"] == volume and entry["ratio"]]
        if items:
            title = f"ours ÷ theirs, {volume}; marks: what it must reach, and the aim"
            yield f"ratios-{volume}", bars(title, items, log_axis, "ratio")
        if curves := _curves(document["rounds"], volume):
            rate = document["parameters"]["open_loop_rates"][volume]
            yield f"latency-{volume}", latency_chart(f"send to handler, {volume}, {rate:,} messages/s, open loop", curves)


def _ratio_bar(entry: Document) -> Bar:
    marks = [value for value in (entry["must"], entry["aim"]) if value is not None]
    lower = "_ms" in entry["figure"] or "cpu" in entry["figure"]
    return Bar(
        entry["line"], entry["ratio"], f"{entry['ratio']:.2f}", "lower is better" if lower else "higher is better", marks
    )


def _curves(rounds: Sequence[Document], volume: str) -> dict[str, list[tuple[float, float]]]:
    """Side -> percentiles of the open loop, medians of the rounds."""
    curves = {}
    for side in ("ours", "nats"):
        found = [
            figures
            for suite in rounds
            if (suite["side"], suite["volume"]) == (side, volume)
            for figures in suite["figures"].get("send-to-handler-128B", {}).values()
        ]
        if found:
            curves[side] = [(value, median(figures[name] for figures in found)) for name, value in PERCENTILES]
    return curves


def latency_chart(title: str, curves: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """Milliseconds by percentile."""
    points = [point for curve in curves.values() for point in curve]
    x_axis = nines_axis("percentile", [percentile for percentile, _ in points])
    return lines(title, curves, x_axis, log_axis("latency, ms", [max(latency, 1e-3) for _, latency in points]))


# --- the others ------------------------------------------------------------------------------------------------------


def _macro(summary: Mapping[str, Mapping[str, Document]]) -> Iterator[tuple[str, str]]:
    for volume, cases in summary.items():
        items = [
            Bar(
                case if side == "broker" else "",
                figures[side]["messages_per_s"],
                f"{figures[side]['messages_per_s']:,.0f}",
                side,
            )
            for case, figures in cases.items()
            for side in ("broker", "ceiling")
            if side in figures
        ]
        yield f"rates-{volume}", bars(f"messages per second, {volume}", items, log_axis, "messages/s")


def _growth(points: Sequence[Document]) -> str:
    series: dict[str, list[tuple[float, float]]] = {}
    for point in points:
        series.setdefault(point["axis"], []).append((max(point["point"], 1), point["messages_per_s"]))
    places = [place for curve in series.values() for place in curve]
    x_axis = log_axis("how many (none is drawn as 1)", [x for x, _ in places])
    return lines(
        "rate of publishing 128 B with many of something", series, x_axis, linear_axis("messages/s", [y for _, y in places])
    )


def read_hgrm(text: str) -> list[tuple[float, float]]:
    """Percentile and value of every line of a percentile distribution. Raises ValueError when there is none."""
    found = [(float(line[2]) * 100, float(line[1])) for line in map(_HGRM_LINE.match, text.splitlines()) if line]
    if not found:
        raise ValueError("it holds no percentile distribution")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.plot", description="Charts of results as SVG.")
    parser.add_argument("files", nargs="+", type=Path, help="results (.json), percentile distributions (.hgrm)")
    parser.add_argument("--out", type=Path, help="directory for the charts (default: beside the first file)")
    options = parser.parse_args(arguments)
    out: Path = options.out or options.files[0].parent
    out.mkdir(parents=True, exist_ok=True)
    curves, status = {}, 0
    for path in options.files:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".hgrm":
            curves[path.stem] = read_hgrm(text)
            continue
        charts = dict(charts_of(json.loads(text)))
        for name, chart in charts.items():
            _write(out / f"{path.stem}-{name}.svg", chart)
        if not charts:
            print(f"{path}: nothing to draw", file=sys.stderr)
            status = 1
    if curves:
        _write(out / "latency.svg", latency_chart("latency", curves))
    return status


def _write(path: Path, chart: str) -> None:
    path.write_text(chart, encoding="utf-8")
    print(path)


if __name__ == "__main__":
    sys.exit(main())
