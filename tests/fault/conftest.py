"""What fault tests measure, shown once at the end of the run. No test depends on a time."""

from __future__ import annotations

from collections.abc import Callable

import pytest

Note = Callable[[str], None]

_notes: list[str] = []


@pytest.fixture
def note(request: pytest.FixtureRequest) -> Note:
    """Add a line to the summary at the end of the run."""
    name = request.node.nodeid.rpartition("/")[2]
    return lambda text: _notes.append(f"{name}: {text}")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what was measured."""
    if _notes:
        terminalreporter.section("timings of the fault tests (measured, never asserted)")
        for line in _notes:
            terminalreporter.write_line(line)
