"""An open loop: messages are sent when they are due, whatever became of those before.

A latency runs from the instant at which a message was *due* to its arrival at the handler, so a stall counts for every message
that it held up (no coordinated omission), and so does a client that is late; how late it was is kept beside it. Sender and
handler are one process: one clock, and as little of the machine as a client can take.
"""

from __future__ import annotations

import select
import time
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from hdrh.histogram import HdrHistogram

from bench.load import HISTOGRAM_DIGITS, HISTOGRAM_US_MAX, BenchError

__all__ = ["PERCENTILES", "Lane", "Paced", "percentiles_ms", "run_paced"]

#: The name of a figure, and the percentile that it is.
_SHARES = (50.0, 75.0, 90.0, 95.0, 99.0, 99.5, 99.9, 99.99)
PERCENTILES = (*((f"p{share:g}_ms", share) for share in _SHARES), ("max_ms", 100.0))
#: The client sleeps no shorter: it would take the processor that the servers need, on either side alike.
SLEEP_MIN_S = 0.0001
SILENCE_S = 30.0
_LEAD_NS = 20_000_000


class Lane(Protocol):
    """A way from the sender to the handler."""

    def descriptors(self) -> Sequence[int]:
        """What becomes readable when `take` has something to do."""
        ...

    def ready(self) -> bool:
        """Whether `take` has something to do that no descriptor tells any more."""
        ...

    def send(self, count: int) -> None:
        """Send the next `count` messages."""
        ...

    def take(self) -> list[tuple[int, int]]:
        """Ranges of messages that have arrived since, counted from 0; they are acked. Never waits."""
        ...

    def unsettled(self) -> int:
        """Messages sent that are not confirmed yet."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Paced:
    """What was measured; the messages of the warm-up are left out."""

    arrivals_ns: array[int]  # from due to arrival
    starts_ns: array[int]  # from due to sent


def run_paced(lane: Lane, rate: int, count: int, warmup_count: int, *, linger_ns: int = 0) -> Paced:
    """Send `warmup_count` and then `count` messages at `rate` a second, and wait until all have arrived and are confirmed.

    With a linger what is due waits until that long after the send before, so that more goes together; it counts as latency.
    """
    total, interval_ns, now_ns = warmup_count + count, 1_000_000_000 // rate, time.perf_counter_ns
    arrivals_ns, starts_ns = array("q", bytes(8 * total)), array("q", bytes(8 * total))
    begin_ns = now_ns() + _LEAD_NS
    sent = arrived = 0
    next_ns, heard_ns = 0, 0  # after the begin: when the next send may be; when something came
    while arrived < total or lane.unsettled():
        passed_ns = now_ns() - begin_ns
        due = min(total, passed_ns // interval_ns + 1) if passed_ns >= next_ns else 0
        if due > sent:
            lane.send(due - sent)
            starts_ns[sent:due] = array("q", (passed_ns - number * interval_ns for number in range(sent, due)))
            sent, next_ns = due, max(passed_ns + linger_ns, due * interval_ns)
        ranges = lane.take()
        passed_ns = now_ns() - begin_ns
        for first, last in ranges:
            arrived += last - first + 1
            for number in range(first, last + 1):
                if arrivals_ns[number]:
                    raise BenchError(f"message {number} was delivered twice")
                arrivals_ns[number] = passed_ns - number * interval_ns
        if ranges:
            heard_ns = passed_ns
        elif passed_ns > heard_ns + SILENCE_S * 1e9:
            raise BenchError(f"{arrived} of {sent} messages arrived, then nothing for {SILENCE_S:g} s")
        elif not lane.ready():
            _sleep(lane, begin_ns + next_ns if sent < total else None)
    return Paced(arrivals_ns=arrivals_ns[warmup_count:], starts_ns=starts_ns[warmup_count:])


def _sleep(lane: Lane, next_send_ns: int | None) -> None:
    """Until something comes or the next messages may be sent."""
    left_s = SILENCE_S if next_send_ns is None else (next_send_ns - time.perf_counter_ns()) / 1e9
    select.select(lane.descriptors(), [], [], min(max(left_s, SLEEP_MIN_S), SILENCE_S))


def percentiles_ms(latencies_ns: Sequence[int]) -> dict[str, float]:
    """The percentiles of latencies, under the names of the result file."""
    histogram = HdrHistogram(1, HISTOGRAM_US_MAX, HISTOGRAM_DIGITS)
    for latency_ns in latencies_ns:
        histogram.record_value(min(max(1, latency_ns // 1000), HISTOGRAM_US_MAX))
    return {name: histogram.get_value_at_percentile(percentile) / 1000 for name, percentile in PERCENTILES}
