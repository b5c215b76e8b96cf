"""Where a confirm's time goes while a benchmark runs: single messages that ask for their timeline, now and then.

They are sends of their own, beside the load and not part of its latencies. What a step took is the time since the one before,
so the medians of all steps add up to about the median of the whole.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from zmqbroker.cli.output import emit_table

if TYPE_CHECKING:
    from zmqbroker.client import Explained, Queue

__all__ = ["Explanation", "show"]

#: Seconds between two such messages: seldom enough to be no load.
_PAUSE_S = 0.02
#: Kept at most, the first ones: half an hour's worth.
_COUNT_MAX = 100_000
_SHARES = (50.0, 99.0)


class Explanation:
    """What has been learned so far."""

    def __init__(self) -> None:
        self._rows: list[dict[str, int]] = []
        self.sent = 0

    async def ask(self, queue: Queue, body: Callable[[], bytes], until: asyncio.Event) -> None:
        """Send explained messages until `until` is set; each `body` is made as it is sent."""
        while not until.is_set() and len(self._rows) < _COUNT_MAX:
            self.sent += 1
            self.add(await queue.explain(body()))
            await asyncio.sleep(_PAUSE_S)

    def add(self, explained: Explained) -> None:
        """Take in one timeline."""
        row, before_us = {}, 0
        for step, at_us in sorted(explained.steps_us.items(), key=lambda pair: pair[1]):
            row[step] = at_us - before_us
            before_us = at_us
        self._rows.append(row | {"elsewhere": explained.total_us - before_us, "whole": explained.total_us})

    def figures(self) -> dict[str, dict[str, float]]:
        """Milliseconds of each step: percentiles over the messages in which it was taken."""
        steps = dict.fromkeys(step for row in self._rows for step in row)
        return {step: _percentiles(sorted(row[step] for row in self._rows if step in row)) for step in steps}


def _percentiles(values: list[int]) -> dict[str, float]:
    return {f"p{share:g}": values[min(int(len(values) * share / 100), len(values) - 1)] / 1000 for share in _SHARES}


def show(figures: dict[str, dict[str, float]]) -> None:
    """A row for each step; `elsewhere` is network, client, and the way to the leader and back."""
    names = [f"p{share:g}" for share in _SHARES]
    rows = [(step, *(f"{found[name]:.3f}" for name in names)) for step, found in figures.items()]
    emit_table(("step of a confirm, in ms", *names), rows)
