"""Run the simulator: one seed, a range of seeds, or fresh seeds for as long as it is left (see CONTRIBUTING.md).

    python -m tests.simulation --seed 7                     one run; --trace prints every message
    python -m tests.simulation --seeds 0-99
    python -m tests.simulation --seconds 3600 --ledger sim-ledger.json

The exit status is 1 when a promise was broken; the message says by which seed. An event is one thing that happens at one
instant of virtual time: frames reach a node, a node ticks, its disk has written or synced, its store is flushed, a client acts
or hears, a timer of a client or a fault is due.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from tests.simulation.failure import Violation
from tests.simulation.ledger import Ledger
from tests.simulation.options import draw
from tests.simulation.simulation import simulate
from tests.simulation.trace import Trace

#: Seconds between two lines of progress; the ledger is written as often.
_PROGRESS_S = 10


def main(arguments: list[str] | None = None) -> int:
    """Parse, run, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, help="run one seed")
    parser.add_argument("--seeds", metavar="A-B", help="run these seeds, both included")
    parser.add_argument(
        "--seconds", type=float, default=3600, help="run fresh seeds for so long (default: 3600; 0: until Ctrl-C)"
    )
    parser.add_argument("--ledger", type=Path, help="file with the totals of all long runs, to go on from and to add to")
    parser.add_argument("--nodes", type=int, help="size of the cluster, in place of the one that the seed draws")
    parser.add_argument("--trace", action="store_true", help="print everything that happens")
    options = parser.parse_args(arguments)
    if options.seed is not None:
        return _one(options.seed, options.nodes, trace=options.trace)
    if options.seeds:
        low, high = (int(part) for part in options.seeds.split("-"))
        return _many(range(low, high + 1), Ledger(), None, options.nodes)
    ledger = Ledger.load(options.ledger) if options.ledger else Ledger()
    return _many(_fresh(ledger, options.seconds), ledger, options.ledger, options.nodes)


def _one(seed: int, nodes: int | None, *, trace: bool) -> int:
    print(draw(seed, nodes=nodes))
    try:
        report = simulate(seed, nodes=nodes, trace=Trace(print) if trace else None)
    except Violation as violation:
        print(violation)
        if violation.__cause__ is not None:
            raise
        return 1
    print(f"faults: {dict(report.faults)}")
    print(f"happened: {dict(report.counters)}")
    print(f"{report.events} events, {report.virtual_ns / 1e9:.1f} s of virtual time, {report.commit_index} entries committed")
    print(f"recovered after {report.recovery_ns / 1e6:.0f} ms")
    print(f"trace {report.trace}")
    return 0


def _fresh(ledger: Ledger, seconds: float) -> Iterator[int]:
    """Seeds that were never run, until the time is over."""
    end_s = time.monotonic() + seconds if seconds else float("inf")
    while time.monotonic() < end_s:
        seed = ledger.next_seed
        ledger.next_seed += 1
        yield seed


def _many(seeds: Iterable[int], ledger: Ledger, path: Path | None, nodes: int | None) -> int:
    """Run all; a broken promise is printed, and the next seed goes on."""
    broken = len(ledger.violations)
    said_s, began_s = time.monotonic(), time.process_time()
    seed, events = ledger.next_seed, ledger.events
    try:
        for seed in seeds:
            try:
                ledger.add(simulate(seed, nodes=nodes))
            except Violation as violation:
                ledger.add_violation(violation)
                print(violation, flush=True)
            if time.monotonic() - said_s >= _PROGRESS_S:
                said_s = time.monotonic()
                rate = (ledger.events - events) / (time.process_time() - began_s)
                text = f"seed {seed}: {ledger.runs} runs, {ledger.events:,} events, {rate:,.0f} events per CPU second"
                print(text, flush=True)
                if path:
                    ledger.save(path)
    except KeyboardInterrupt:
        print("interrupted: the run under way is not counted")
        ledger.next_seed = min(ledger.next_seed, seed)
    if path:
        ledger.save(path)
    rate = (ledger.events - events) / max(time.process_time() - began_s, 1e-9)
    print(f"{ledger.describe()}; {rate:,.0f} events per CPU second")
    return int(len(ledger.violations) > broken)


if __name__ == "__main__":
    sys.exit(main())
