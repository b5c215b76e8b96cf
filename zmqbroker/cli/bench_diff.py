"""`zmqbroker bench diff A B`: two result files side by side, and the ratio of every figure that both have.

It reads what `zmqbroker bench --json` printed and the files of the repository's benchmarks, and knows none of their figures: a
figure is a number, its name is the path to it. It does not say which is better: a rate should rise and a latency fall.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from zmqbroker.cli.options import json_option
from zmqbroker.cli.output import emit_json, emit_table, note
from zmqbroker.errors import ConfigError

__all__ = ["compare", "diff", "figures_of"]

#: What describes a run and is no figure of it, and what its medians were taken from.
_NO_FIGURES = {"parameters", "host", "python", "rounds", "rows", "must", "aim", "load_before", "changed_files"}
#: What names an entry of a list.
_LABELS = ("volume", "line", "axis", "point", "name", "case")


@click.command("diff")
@click.argument("before", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("after", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@json_option
def diff(before: Path, after: Path, as_json: bool) -> None:
    """Compare two result files: every figure that both have, and AFTER divided by BEFORE."""
    documents = [_read(path) for path in (before, after)]
    rows = compare(*documents)
    if not rows:
        raise ConfigError((f"{before} and {after} have no figure in common",))
    if documents[0].get("parameters") != documents[1].get("parameters"):
        note("the parameters of the two runs differ")
    if as_json:
        emit_json({name: {"before": first, "after": second, "ratio": ratio} for name, first, second, ratio in rows})
        return
    cells = [
        (name, f"{first:,g}", f"{second:,g}", "" if ratio is None else f"{ratio:.3f}") for name, first, second, ratio in rows
    ]
    emit_table(("figure", "before", "after", "ratio"), cells)


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ConfigError((f"{path} is no JSON: {error}",)) from error
    if not isinstance(found, dict):
        raise ConfigError((f"{path} is no result: it holds no JSON object",))
    return found


def compare(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[tuple[str, float, float, float | None]]:
    """Name, both values and their ratio (None: by zero) of every figure that both documents have, in the order of the first."""
    second = dict(figures_of(after))
    return [
        (name, value, second[name], round(second[name] / value, 4) if value else None)
        for name, value in figures_of(before)
        if name in second
    ]


def figures_of(value: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """The numbers of a document, each with the path to it; an entry of a list is named by its labels."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if key not in _NO_FIGURES and not (name and key in _LABELS):
                yield from figures_of(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list):
        for entry in value:
            if isinstance(entry, Mapping) and (labels := [str(entry[label]) for label in _LABELS if label in entry]):
                yield from figures_of(entry, f"{name}[{' '.join(labels)}]")
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield name, value
