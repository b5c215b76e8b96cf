"""docs/GUARANTEES.md names only tests that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NAMED = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", (ROOT / "docs" / "GUARANTEES.md").read_text(encoding="utf-8"))


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
