"""Charts are valid SVG with everything in its place."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from bench.paced import PERCENTILES
from bench.plot import main, read_hgrm
from bench.svg import HEIGHT, WIDTH, Bar, bars, linear_axis, lines, log_axis, nines_axis
from zmqbroker.cli.bench_latency import Latencies

SVG = "{http://www.w3.org/2000/svg}"


def texts(chart: str) -> list[str]:
    """All that is written in a chart."""
    return [element.text or "" for element in ElementTree.fromstring(chart).iter(f"{SVG}text")]


def dots(chart: str) -> list[tuple[float, float]]:
    """Places of the points of a line chart."""
    return [(float(dot.get("cx", "")), float(dot.get("cy", ""))) for dot in ElementTree.fromstring(chart).iter(f"{SVG}circle")]


# --- axes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ([3, 700], ["1", "10", "100", "1k"]),
        ([1000], ["1k", "10k"]),
        ([0.02, 5e6], ["0.01", "0.1", "1", "10", "100", "1k", "10k", "100k", "1M", "10M"]),
    ],
)
def test_log_axis_spans_whole_powers_of_ten(values: list[float], names: list[str]) -> None:
    axis = log_axis("", values)
    assert [name for _, name in axis.ticks] == names
    assert [axis.place(value) for value, _ in axis.ticks] == pytest.approx([n / (len(names) - 1) for n in range(len(names))])


@pytest.mark.parametrize(
    ("top", "names"), [(93, ["0", "20", "40", "60", "80", "100"]), (1, ["0", "0.2", "0.4", "0.6", "0.8", "1"])]
)
def test_linear_axis_ends_at_a_round_number(top: float, names: list[str]) -> None:
    axis = linear_axis("", [top / 2, top])
    assert [name for _, name in axis.ticks] == names
    assert 0 < axis.place(top) <= 1


def test_nines_axis_gives_every_nine_the_same_room() -> None:
    axis = nines_axis("", [50, 99, 99.9, 100])
    assert [name for _, name in axis.ticks] == ["0", "50", "90", "99", "99.9", "max"]
    places = [axis.place(value) for value in (0, 90, 99, 99.9)]
    assert [later - earlier for earlier, later in itertools.pairwise(places)] == pytest.approx([1 / 3.5] * 3)
    assert axis.place(100) == 1


# --- charts ----------------------------------------------------------------------------------------------------------


def test_lines_put_larger_values_higher_and_further_right() -> None:
    chart = lines("a < b", {"one & only": [(1, 1), (10, 10), (100, 100)]}, log_axis("x", [1, 100]), log_axis("y", [1, 100]))
    places = dots(chart)
    assert [x for x, _ in places] == sorted(x for x, _ in places)
    assert [y for _, y in places] == sorted((y for _, y in places), reverse=True)
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in places)
    assert {"a < b", "one & only", "x", "y"} <= set(texts(chart))
    assert chart == lines(
        "a < b", {"one & only": [(1, 1), (10, 10), (100, 100)]}, log_axis("x", [1, 100]), log_axis("y", [1, 100])
    )


def test_bars_have_their_length_and_their_marks() -> None:
    chart = bars("t", [Bar("a", 2, "two", "s"), Bar("b", 4, "four", "s", marks=[2])], linear_axis, "x")
    tree = ElementTree.fromstring(chart)
    widths = [float(bar.get("width", "")) for bar in tree.iter(f"{SVG}rect") if bar.get("height") == "22"]
    assert widths[1] == pytest.approx(2 * widths[0], abs=0.2)
    first = next(bar for bar in tree.iter(f"{SVG}rect") if bar.get("height") == "22")
    mark = next(line for line in tree.iter(f"{SVG}line") if line.get("stroke-width") == "2")
    assert float(mark.get("x1", "")) == pytest.approx(float(first.get("x", "")) + widths[0], abs=0.2)
    assert {"two", "four"} <= set(texts(chart))


# --- files -----------------------------------------------------------------------------------------------------------


def comparison() -> dict[str, Any]:
    """A result of bench.compare with two lines."""
    line = {"volume": "ephemeral", "figure": "messages_per_s", "ratio": 7.5, "must": 6, "aim": None}
    latencies = {name: share / 10 for name, share in PERCENTILES}
    rounds = [
        {
            "side": side,
            "volume": "ephemeral",
            "figures": {"send-to-handler-128B": {"way": {n: v * f for n, v in latencies.items()}}},
        }
        for side, f in (("nats", 2), ("ours", 1), ("ours", 3))
    ]
    return {
        "summary": [{**line, "line": "batched-128B"}, {**line, "line": "not measured", "ratio": None}],
        "rounds": rounds,
        "parameters": {"open_loop_rates": {"ephemeral": 12_000}},
    }


def test_plot_of_a_comparison_draws_ratios_and_latencies(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text(json.dumps(comparison()))
    assert main([str(path), "--out", str(tmp_path / "charts")]) == 0
    ratios = (tmp_path / "charts" / "r-ratios-ephemeral.svg").read_text()
    assert {"batched-128B", "7.50"} <= set(texts(ratios))
    assert "not measured" not in ratios
    latency = (tmp_path / "charts" / "r-latency-ephemeral.svg").read_text()
    assert {"ours", "nats"} <= set(texts(latency))
    assert any("12,000 messages/s" in text for text in texts(latency))
    ours, nats = dots(latency)[: len(PERCENTILES)], dots(latency)[len(PERCENTILES) :]
    assert ours == nats  # the median of 1 and 3 is what NATS has


def test_plot_of_rates_and_of_growth(tmp_path: Path) -> None:
    rates, growth = tmp_path / "rates.json", tmp_path / "growth.json"
    rates.write_text(
        json.dumps(
            {"summary": {"persistent": {"case": {"broker": {"messages_per_s": 5e3}, "ceiling": {"messages_per_s": 1e4}}}}}
        )
    )
    points = [{"axis": "waiting", "point": n, "messages_per_s": 10 + n} for n in (0, 10)]
    growth.write_text(json.dumps({"figures": {"points": points}}))
    assert main([str(rates), str(growth)]) == 0
    assert {"broker", "ceiling", "case", "10,000"} <= set(texts((tmp_path / "rates-rates-persistent.svg").read_text()))
    assert len(dots((tmp_path / "growth-growth.svg").read_text())) == 2


def test_plot_of_percentile_files_is_one_chart(tmp_path: Path) -> None:
    latencies = Latencies()
    latencies.record(0)
    for name in ("a.hgrm", "b.hgrm"):
        latencies.write_hgrm(tmp_path / name)
    assert main([str(tmp_path / "a.hgrm"), str(tmp_path / "b.hgrm")]) == 0
    assert {"a", "b", "max"} <= set(texts((tmp_path / "latency.svg").read_text()))


def test_percentile_file_is_read_to_its_last_line(tmp_path: Path) -> None:
    latencies = Latencies()
    for _ in range(3):
        latencies.record(0)
    latencies.write_hgrm(tmp_path / "a.hgrm")
    found = read_hgrm((tmp_path / "a.hgrm").read_text())
    assert (found[0][0], found[-1][0]) == (0, 100)
    with pytest.raises(ValueError, match="no percentile"):
        read_hgrm("nothing\n")


def test_plot_of_anything_else_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "r.json"
    path.write_text('{"figures": {}}')
    assert main([str(path)]) == 1
    assert "nothing to draw" in capsys.readouterr().err
