"""Charts as SVG text: lines, and bars with marks. Functions of their inputs; the same figures give the same bytes.

Written by hand instead of with a plotting library, because a chart here is a few dozen elements: no dependency of tens of
megabytes that must be built for each Python, no fonts and versions that change a committed file, and a diff that can be read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

__all__ = ["Axis", "Bar", "bars", "linear_axis", "lines", "log_axis", "nines_axis"]

WIDTH, HEIGHT = 760, 420
LEFT, RIGHT, TOP, BOTTOM = 70, 20, 58, 52
#: Okabe and Ito's colours, which most eyes can tell apart; a series keeps its place in this order.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#6b6b6b")
_INK, _FAINT = "#24292f", "#d8dee4"
_BAR_HEIGHT, _BAR_GAP, _LABEL_WIDTH = 22, 12, 270


@dataclass(frozen=True, slots=True)
class Axis:
    """From a value to its place between 0 and 1, and which values are named."""

    title: str
    place: Callable[[float], float]
    ticks: Sequence[tuple[float, str]]


def log_axis(title: str, values: Sequence[float]) -> Axis:
    """Powers of ten around the values, all of which are above 0."""
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)) - 1e-9)
    high = max(high, low + 1)
    ticks = [(10.0**power, _short(10.0**power)) for power in range(low, high + 1)]
    return Axis(title, lambda value: (math.log10(max(value, 10.0**low)) - low) / (high - low), ticks)


def linear_axis(title: str, values: Sequence[float]) -> Axis:
    """From 0 to a round number above the values."""
    top = max([*values, 1e-9])
    step = 10.0 ** math.floor(math.log10(top))
    step = next(step * part for part in (0.2, 0.5, 1, 2) if top <= step * part * 5.0001)
    count = math.ceil(top / step - 1e-9)
    return Axis(title, lambda value: value / (step * count), [(step * n, _short(step * n)) for n in range(count + 1)])


def nines_axis(title: str, percentiles: Sequence[float]) -> Axis:
    """Percentiles, each further nine as far as the one before; the last place is for 100."""
    nines = max(1, math.ceil(max(-math.log10(1 - value / 100) for value in percentiles if value < 100) - 1e-9))
    ticks = [(0.0, "0"), (50.0, "50"), *((100 - 10.0 ** (2 - n), f"{100 - 10.0 ** (2 - n):.10g}") for n in range(1, nines + 1))]
    span = nines + 0.5

    def place(value: float) -> float:
        return 1.0 if value >= 100 else -math.log10(1 - value / 100) / span

    return Axis(title, place, [*ticks, (100.0, "max")])


def _short(value: float) -> str:
    """1500000 as 1.5M."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{unit}"
    return f"{value:.6g}"


# --- lines -----------------------------------------------------------------------------------------------------------

Points = Sequence[tuple[float, float]]


def lines(title: str, series: Mapping[str, Points], x_axis: Axis, y_axis: Axis) -> str:
    """A line with dots per series."""
    parts = [_text(LEFT, 24, title, size=16, weight="bold"), *_grid(x_axis, y_axis)]
    for (name, points), colour in zip(series.items(), _colours(len(series)), strict=True):
        places = [(_x(x_axis, x), _y(y_axis, y)) for x, y in points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"><title>{escape(f"{name}: {point[1]:g}")}</title></circle>'
            for (x, y), point in zip(places, points, strict=True)
        ]
    return _document(HEIGHT, [*parts, *_legend(list(series))])


def _x(axis: Axis, value: float) -> float:
    return LEFT + axis.place(value) * (WIDTH - LEFT - RIGHT)


def _y(axis: Axis, value: float) -> float:
    return HEIGHT - BOTTOM - axis.place(value) * (HEIGHT - TOP - BOTTOM)


def _grid(x_axis: Axis, y_axis: Axis) -> list[str]:
    parts = []
    for value, name in y_axis.ticks:
        y = _y(y_axis, value)
        parts += [_rule(LEFT, y, WIDTH - RIGHT, y), _text(LEFT - 8, y + 4, name, anchor="end")]
    for value, name in x_axis.ticks:
        x = _x(x_axis, value)
        parts += [_rule(x, TOP, x, HEIGHT - BOTTOM), _text(x, HEIGHT - BOTTOM + 18, name, anchor="middle")]
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(_text(middle, HEIGHT - 12, x_axis.title, anchor="middle"))
    parts.append(_text(WIDTH - RIGHT, TOP - 10, y_axis.title, anchor="end"))
    return parts


# --- bars ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Bar:
    """One value with its label; `marks` are drawn across it, such as what it should reach."""

    label: str
    value: float
    text: str
    series: str
    marks: Sequence[float] = ()


def bars(title: str, items: Sequence[Bar], axis_of: Callable[[str, Sequence[float]], Axis], x_title: str) -> str:
    """Horizontal bars from the left, one below the other."""
    names = list(dict.fromkeys(item.series for item in items))
    colour_of = dict(zip(names, _colours(len(names)), strict=True))
    axis = axis_of(x_title, [value for item in items for value in (item.value, *item.marks)])
    height = TOP + BOTTOM + len(items) * (_BAR_HEIGHT + _BAR_GAP)
    left, right = _LABEL_WIDTH, WIDTH - 70

    def place(value: float) -> float:
        return left + axis.place(value) * (right - left)

    parts = [_text(16, 24, title, size=16, weight="bold")]
    for value, name in axis.ticks:
        x = place(value)
        parts += [_rule(x, TOP, x, height - BOTTOM), _text(x, height - BOTTOM + 18, name, anchor="middle")]
    for number, item in enumerate(items):
        y = TOP + _BAR_GAP / 2 + number * (_BAR_HEIGHT + _BAR_GAP)
        width = max(place(item.value) - left, 1)
        parts.append(
            f'<rect x="{left}" y="{y:.1f}" width="{width:.1f}" height="{_BAR_HEIGHT}" fill="{colour_of[item.series]}" rx="2"/>'
        )
        parts.append(_text(left - 8, y + 15, item.label, anchor="end"))
        parts += [_rule(place(mark), y - 3, place(mark), y + _BAR_HEIGHT + 3, colour=_INK, width=2) for mark in item.marks]
        parts.append(_ground(place(item.value) + 5, y, item.text))
        parts.append(_text(place(item.value) + 7, y + 15, item.text))
    parts.append(_text((left + right) / 2, height - 12, x_title, anchor="middle"))
    return _document(height, [*parts, *_legend(names)])


# --- elements --------------------------------------------------------------------------------------------------------


def _colours(count: int) -> list[str]:
    return [COLOURS[number % len(COLOURS)] for number in range(count)]


def _legend(names: Sequence[str]) -> list[str]:
    parts, x = [], 16.0 if len(names) > 3 else float(LEFT)
    for name, colour in zip(names, _colours(len(names)), strict=True):
        parts.append(f'<rect x="{x:.1f}" y="34" width="12" height="12" fill="{colour}" rx="2"/>')
        parts.append(_text(x + 17, 44, name))
        x += 36 + 7 * len(name)
    return parts


def _ground(x: float, y: float, text: str) -> str:
    """What a text stands on, so that it can be read across a line or a mark."""
    return f'<rect x="{x:.1f}" y="{y + 4:.1f}" width="{4 + 7 * len(text)}" height="14" fill="#ffffff"/>'


def _rule(x1: float, y1: float, x2: float, y2: float, *, colour: str = _FAINT, width: int = 1) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" stroke-width="{width}"/>'


def _text(x: float, y: float, text: str, *, anchor: str = "start", size: int = 12, weight: str = "normal") -> str:
    look = f'text-anchor="{anchor}" font-size="{size}" font-weight="{weight}" fill="{_INK}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {look}>{escape(text)}</text>'


def _document(height: float, parts: Sequence[str]) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height:.0f}" viewBox="0 0 {WIDTH} {height:.0f}" '
    background = f'<rect width="{WIDTH}" height="{height:.0f}" fill="#ffffff"/>'
    return "\n".join([f'{head}font-family="system-ui, sans-serif">', background, *parts, "</svg>", ""])
