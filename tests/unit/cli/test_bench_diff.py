"""`zmqbroker bench diff`: every figure that two results share, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.unit.cli.fakes import FakeBroker
from zmqbroker.cli.app import run
from zmqbroker.cli.bench_diff import compare, figures_of
from zmqbroker.cli.exits import Exit


def write(directory: Path, name: str, document: Any) -> str:
    """A result file."""
    path = directory / name
    path.write_text(document if isinstance(document, str) else json.dumps(document), encoding="utf-8")
    return str(path)


def test_diff_of_two_runs_has_a_ratio_per_figure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = []
    for name in ("a", "b"):
        assert run(["bench", "--count", "30", "--json"], FakeBroker().context) == Exit.DONE
        paths.append(write(tmp_path, name, capsys.readouterr().out))
    assert run(["bench", "diff", *paths, "--json"]) == Exit.DONE
    found = json.loads(capsys.readouterr().out)
    assert found["sent"] == {"before": 30, "after": 30, "ratio": 1}
    assert {"confirmed_per_s", "confirm_ms.p50", "end_to_end_ms.max"} <= set(found)
    assert not [name for name in found if name.startswith("parameters")]


def test_diff_as_a_table_says_when_parameters_differ(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = write(tmp_path, "a", {"parameters": {"size": 1}, "confirmed_per_s": 1000, "confirm_ms": {"p50": 2}})
    after = write(tmp_path, "b", {"parameters": {"size": 2}, "confirmed_per_s": 1500, "confirm_ms": {"p50": 1}})
    assert run(["bench", "diff", before, after]) == Exit.DONE
    captured = capsys.readouterr()
    assert [line.split() for line in captured.out.splitlines()] == [
        ["figure", "before", "after", "ratio"],
        ["confirmed_per_s", "1,000", "1,500", "1.500"],
        ["confirm_ms.p50", "2", "1", "0.500"],
    ]
    assert "parameters of the two runs differ" in captured.err


@pytest.mark.parametrize(
    ("text", "said"), [("no json", "is no JSON"), ("[1]", "holds no JSON object"), ('{"other": 1}', "no figure in common")]
)
def test_diff_of_what_is_no_result_is_refused(text: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, after = write(tmp_path, "a", {"confirmed_per_s": 1}), write(tmp_path, "b", text)
    assert run(["bench", "diff", before, after]) == Exit.USAGE
    assert said in capsys.readouterr().err


def test_diff_of_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert run(["bench", "diff", str(tmp_path / "a"), str(tmp_path / "b")]) == Exit.USAGE


def test_figures_of_lists_are_named_by_their_labels() -> None:
    document = {
        "summary": [{"volume": "ephemeral", "line": "batched", "ours": 3, "met": True, "ratios": [1, 2]}],
        "rounds": [{"volume": "ephemeral", "line": "batched", "ours": 9}],
        "figures": {"points": [{"axis": "clients", "point": 10, "messages_per_s": 4}], "plain": [{"ours": 1}]},
    }
    assert list(figures_of(document)) == [
        ("summary[ephemeral batched].ours", 3),
        ("figures.points[clients 10].messages_per_s", 4),
    ]


def test_compare_by_zero_has_no_ratio() -> None:
    assert compare({"a": 0, "b": 1}, {"a": 2, "c": 1}) == [("a", 0, 2, None)]
