"""`python -m bench.soak`: whether a cluster under a steady load stays as fast and as small as it was in the beginning.

Three nodes and an open-loop publisher of messages from 100 B to 1 MB. One channel is read at once; what goes into the other one
is read minutes later, so that its bodies leave the log, which is kept small: moving, recycling, dropping, and the reuse of
pages in the store all go on all the time. Everything must come back as it was sent. The figures are those of each window: p99
of sends and of what nodes tell of their flushes, and how large their directories were; then the last window beside the first,
and, for sizes, beside the middle one. SIGTERM ends the sending early; what was sent is received and the result written.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

from bench.load import BenchError
from bench.macro import NODES, cluster_pids
from bench.meter import Meter
from bench.single import run_single
from bench.soak_samples import Sampler
from bench.soak_traffic import Traffic
from tests.processes import Cluster

__all__ = ["compare", "main"]

#: A request may take this long: a stall is to be seen in the figures, not to end them.
TIMEOUT_MS = 120_000
#: What waits when sending ends is received at full speed within this.
DRAIN_S = 900.0
#: Segments: as many as the log's budget must hold at least, none larger than by default.
SEGMENTS, SEGMENT_BYTES_MAX = 4, 64 << 20
#: A result has at most so many windows: memory is bounded by them.
WINDOWS_MAX = 100

Figures = dict[str, Any]


def measure(directory: Path, chosen: argparse.Namespace) -> Figures:
    """Run it against a new cluster below `directory`. Raises `BenchError`."""
    if chosen.seconds > WINDOWS_MAX * chosen.window_s:
        raise BenchError(f"{chosen.seconds:.0f} s are more than {WINDOWS_MAX} windows of {chosen.window_s:.0f} s")
    settings = {
        "ZMQBROKER_STORAGE_LOG_BUDGET_BYTES": str(chosen.budget_bytes),
        "ZMQBROKER_STORAGE_SEGMENT_BYTES": str(min(chosen.budget_bytes // SEGMENTS, SEGMENT_BYTES_MAX)),
    }
    cluster = Cluster(directory, NODES, volume=chosen.volume, environment=settings)
    try:
        cluster.start()
        with open(chosen.samples, "w", encoding="utf-8") if chosen.samples else nullcontext() as out:
            traffic = Traffic(cluster.url, chosen.seconds, chosen.window_s, chosen.rate_bytes, chosen.late_s)
            sampler = Sampler(cluster, traffic.sends.count, out)
            return asyncio.run(_soak(traffic, sampler, Meter(cluster_pids(cluster)), chosen))
    except ExceptionGroup as errors:
        raise BenchError("; ".join(_reasons(errors))) from errors
    except TimeoutError:
        raise BenchError(f"not everything came within {DRAIN_S:.0f} s after the last send") from None
    finally:
        cluster.close()


def _reasons(error: Exception) -> Iterator[str]:
    if isinstance(error, ExceptionGroup):
        for part in error.exceptions:
            yield from _reasons(part)
    else:
        yield f"{type(error).__name__}: {error}"


async def _soak(traffic: Traffic, sampler: Sampler, meter: Meter, chosen: argparse.Namespace) -> Figures:
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, traffic.end)
    meter.start()
    async with asyncio.timeout(chosen.seconds + DRAIN_S), asyncio.TaskGroup() as group:
        group.create_task(_sample(traffic, sampler, chosen.sample_s))
        await traffic.run(TIMEOUT_MS)
    spent = meter.stop()
    windows = [_window(traffic, sampler, number) for number in range(traffic.sends.count)]
    windows = [window for window in windows if window["sends"]["count"]]  # all, unless it was ended early
    if not windows:
        raise BenchError("nothing was sent")
    return {
        "sent_for_s": round(traffic.published_s, 1),
        "drained_in_s": round(traffic.now_s - traffic.published_s, 1),
        "server_cores": round(spent.server_cpu_s / spent.seconds, 3),
        "client_cores": round(spent.client_cpu_s / spent.seconds, 3),
        "leader_changes": sampler.leader_changes,
        "channels": {name: ledger.summary() for name, ledger in traffic.ledgers.items()},
        **compare(windows),
        "after": await asyncio.to_thread(sampler.look, traffic.now_s, None, traffic.progress()),
        "counters": sampler.counters,
        "windows": windows,
    }


async def _sample(traffic: Traffic, sampler: Sampler, sample_s: float) -> None:
    """Take samples until all is received, and say what each window was like when it is over."""
    window, next_s = 0, 0.0
    while not traffic.received.is_set():
        at_s = traffic.now_s
        # What was counted since the last sample belongs to the time between them.
        number = traffic.sends.number(max(at_s - sample_s / 2, 0))
        if number != window:
            print(json.dumps(_window(traffic, sampler, window)), file=sys.stderr, flush=True)
            window = number
        await asyncio.to_thread(sampler.look, at_s, None if traffic.published.is_set() else number, traffic.progress())
        next_s = max(next_s + sample_s, traffic.now_s)
        with suppress(TimeoutError):
            async with asyncio.timeout(next_s - traffic.now_s):
                await traffic.received.wait()


def _window(traffic: Traffic, sampler: Sampler, number: int) -> Figures:
    """Everything that is known of a window: latencies of the client, durations in the nodes, the highest of each size."""
    return {
        "from_s": number * traffic.sends.window_s,
        "sends": traffic.sends.summary(number),
        "deliveries": traffic.deliveries.summary(number),
        "starts": traffic.starts.summary(number),
        **sampler.durations.summary(number),
        "peaks": sampler.peaks(number),
    }


def compare(windows: Sequence[Figures]) -> Figures:
    """The p99 of everything in the last window by that in the first, and sizes in the last by those in the middle one.

    What has none in the one below is left out.
    """
    first, middle, last = windows[0], windows[len(windows) // 2], windows[-1]
    timed = [name for name, fields in last.items() if isinstance(fields, dict) and "p99_ms" in fields]
    slower = {name: _ratio(last[name]["p99_ms"], first.get(name, {}).get("p99_ms")) for name in timed}
    grown = {name: _ratio(value, middle["peaks"].get(name)) for name, value in last["peaks"].items()}
    return {
        "p99_last_to_first": {name: ratio for name, ratio in slower.items() if ratio is not None},
        "peak_last_to_middle": {name: ratio for name, ratio in grown.items() if ratio is not None},
    }


def _ratio(above: float, below: float | None) -> float | None:
    return round(above / below, 3) if below else None


def main() -> int:
    """Run it, print the result and write it to bench/results."""
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description="A steady load of mixed sizes for an hour.")
    parser.add_argument("--seconds", type=float, default=3600, help="time of sending (default: an hour)")
    parser.add_argument("--rate-bytes", type=int, default=3_000_000, help="bytes of bodies sent per second (default: 3 MB)")
    parser.add_argument("--window-s", type=float, default=600, help="stretch of time that is compared (default: ten minutes)")
    parser.add_argument("--late-s", type=float, default=180, help="age at which half of it is received (default: 180)")
    parser.add_argument("--budget-bytes", type=int, default=256 << 20, help="log that each node keeps (default: 256 MiB)")
    parser.add_argument("--sample-s", type=float, default=10, help="time between two looks at the nodes (default: 10)")
    parser.add_argument("--samples", default="", help="file for all samples, a line of JSON each (default: none)")
    return run_single("soak", "a soak", parser, measure)


if __name__ == "__main__":
    sys.exit(main())
