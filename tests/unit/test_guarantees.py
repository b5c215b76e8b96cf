"""docs/GUARANTEES.md names only tests that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "GUARANTEES.md").read_text(encoding="utf-8")
NAMED = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", TEXT)
ROWS = [line for line in TEXT.split("## 7.")[1].splitlines() if line.startswith("| ") and "| test |" not in line]


def names_in(path: Path) -> set[str]:
    """The test functions of a file."""
    found = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    return {node.name for node in found if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


@pytest.mark.parametrize(("file", "name"), sorted(set(NAMED)))
def test_guarantee_names_a_test_that_exists(file: str, name: str) -> None:
    assert name in names_in(ROOT / file)


def test_guarantees_name_every_file_of_fault_tests() -> None:
    named = {file for file, _ in NAMED}
    assert {path.relative_to(ROOT).as_posix() for path in (ROOT / "tests" / "fault").glob("test_*.py")} <= named


@pytest.mark.parametrize("row", ROWS, ids=lambda row: ascii(row)[:60])
def test_row_of_the_features_names_its_test(row: str) -> None:
    assert re.search(r"`tests/[\w/]+\.py::test_\w+`", row)
