"""Latencies of `zmqbroker bench` as HDR histograms: no percentile is an average of averages."""

from __future__ import annotations

import time
from pathlib import Path

from zmqbroker.errors import ConfigError

__all__ = ["Latencies", "hgrm_path"]

_PERCENTILES = (50.0, 90.0, 99.0, 99.9)
#: The histograms hold 1 µs to one minute with three digits; whatever takes longer counts as one minute.
_LATENCY_US_MAX = 60_000_000
_US_PER_MS = 1_000.0
#: As HdrHistogram's own tools have it.
_TICKS_PER_HALF_DISTANCE = 5


class Latencies:
    """A histogram of microseconds. Raises ConfigError when the package for it is not installed."""

    def __init__(self) -> None:
        try:
            from hdrh.histogram import HdrHistogram
        except ImportError as error:
            raise ConfigError(("bench needs the package hdrhistogram: pip install hdrhistogram",)) from error
        self._histogram = HdrHistogram(1, _LATENCY_US_MAX, 3)

    def record(self, started_ns: int) -> None:
        """Add the time from `started_ns` until now."""
        elapsed_us = (time.perf_counter_ns() - started_ns) // 1_000
        self._histogram.record_value(min(max(elapsed_us, 1), _LATENCY_US_MAX))

    def in_ms(self) -> dict[str, float]:
        """Percentiles and the maximum, in milliseconds."""
        values = {f"p{percent:g}": self._histogram.get_value_at_percentile(percent) / _US_PER_MS for percent in _PERCENTILES}
        return {**values, "max": self._histogram.get_max_value() / _US_PER_MS}

    def write_hgrm(self, path: Path) -> None:
        """Write the percentile distribution in milliseconds, as plotters of HdrHistogram read it.

        The package's own writer leaves the standard deviation in microseconds.
        """
        histogram = self._histogram
        lines = [f"{'Value':>12} {'Percentile':>14} {'TotalCount':>10} {'1/(1-Percentile)':>14}", ""]
        for step in histogram.get_percentile_iterator(_TICKS_PER_HALF_DISTANCE):
            share = step.percentile_level_iterated_to / 100
            line = f"{step.value_iterated_to / _US_PER_MS:12.3f} {share:2.12f} {step.total_count_to_this_value:10d}"
            lines.append(line if share == 1 else f"{line} {1 / (1 - share):14.2f}")
        mean, deviation = histogram.get_mean_value() / _US_PER_MS, histogram.get_stddev() / _US_PER_MS
        lines.append(f"#[Mean    = {mean:12.3f}, StdDeviation   = {deviation:12.3f}]")
        total = histogram.get_total_count()
        lines.append(f"#[Max     = {histogram.get_max_value() / _US_PER_MS:12.3f}, TotalCount     = {total:12d}]")
        lines.append(f"#[Buckets = {histogram.bucket_count:12d}, SubBuckets     = {histogram.sub_bucket_count:12d}]")
        path.write_text("\n".join(lines) + "\n", encoding="ascii")


def hgrm_path(path: Path, what: str) -> Path:
    """The file of one of several histograms: run.hgrm and confirm give run.confirm.hgrm."""
    return path.with_name(f"{path.stem}.{what}{path.suffix or '.hgrm'}")
