"""What the simulated runs of a session came to, in one closing line."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.simulation.simulation import Report


class Totals:
    """Sums over all runs of the session."""

    def __init__(self) -> None:
        self.runs = 0
        self.events = 0
        self.faults: Counter[str] = Counter()
        self.seconds = 0.0

    def add(self, report: Report, seconds: float) -> None:
        """Count one run."""
        self.runs += 1
        self.events += report.events
        self.faults.update(report.faults)
        self.seconds += seconds


_TOTALS = Totals()


@pytest.fixture
def totals() -> Totals:
    """The session's sums."""
    return _TOTALS


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The closing line."""
    if _TOTALS.runs:
        faults = ", ".join(f"{name} {count}" for name, count in sorted(_TOTALS.faults.items()))
        rate = _TOTALS.events / _TOTALS.seconds
        terminalreporter.write_line(
            f"simulation: {_TOTALS.runs} runs, {_TOTALS.events:,} events, {rate:,.0f} events per CPU second, faults: {faults}"
        )
