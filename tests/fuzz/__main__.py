"""Search every target for a while, or run inputs that were found again.

python -m tests.fuzz --seconds 600 --only peer,batch     two targets at a time; finds go to .fuzz/TARGET/
python -m tests.fuzz peer .fuzz/peer/0123456789ab         what that input does now
"""

from __future__ import annotations

import argparse
import hashlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from types import FrameType

from tests.fuzz.search import Outcome, guided, search
from tests.fuzz.target import look

_FOLDER = Path(".fuzz")
#: A call that takes this long does not end; libFuzzer has its own bound.
_HANG_S = 20


def main(arguments: Sequence[str]) -> int:
    """Exit code 1 when something was found."""
    options = _parser().parse_args(arguments)
    if options.engine == "guided":
        _instrument()
    from tests.fuzz.targets import TARGETS  # only now: what is imported already has no counters

    if options.child:
        return _child(options)
    if options.target:
        found = look(TARGETS[options.target], Path(options.input).read_bytes())[1]
        print("nothing" if found is None else found.text)
        return 0 if found is None else 1
    names = options.only.split(",") if options.only else list(TARGETS)
    engines = ["mutation", "guided"] if find_spec("atheris") else ["mutation"]
    with ThreadPoolExecutor(options.jobs) as pool:
        failed = list(pool.map(lambda name: _run(name, engines, options), names))
    return 1 if any(failed) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("target", nargs="?", help="the target whose input is run again")
    parser.add_argument("input", nargs="?", help="the file with the input")
    parser.add_argument("--seconds", type=int, default=600, help="how long each target is searched")
    parser.add_argument("--only", default="", help="names of targets, with commas; without it all")
    parser.add_argument("--jobs", type=int, default=2, help="targets at a time")
    parser.add_argument("--seed", type=int, help="of the mutations; without it a fresh one")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--engine", default="mutation", help=argparse.SUPPRESS)
    return parser


def _run(name: str, engines: list[str], options: argparse.Namespace) -> bool:
    """Search one target, a process per engine; True when it found something."""
    failed, seconds = False, max(1, options.seconds // len(engines))
    seed = time.time_ns() % 2**31 if options.seed is None else options.seed
    for engine in engines:
        words = ["--child", "--engine", engine, "--seconds", str(seconds), "--seed", str(seed), name]
        process = subprocess.run(
            [sys.executable, "-m", "tests.fuzz", *words], capture_output=True, text=True, timeout=10 * seconds + 120
        )
        lines = [line for line in process.stdout.splitlines() if line.startswith('{"target"')]
        print(lines[-1] if lines else f"{name}: {engine} ended with {process.returncode}: {process.stderr[-2000:]}", flush=True)
        if process.returncode != 0 or not lines:
            failed = True
    return failed


def _child(options: argparse.Namespace) -> int:
    from tests.fuzz.targets import TARGETS

    target, folder = TARGETS[options.target], _FOLDER / options.target
    (folder / "corpus").mkdir(parents=True, exist_ok=True)

    def report(outcome: Outcome) -> None:
        for find in outcome.finds.values():
            path = folder / hashlib.sha256(find.data).hexdigest()[:12]
            path.write_bytes(find.data)
            path.with_suffix(".txt").write_text(find.text, encoding="utf-8", errors="replace")
        summary = {"runs": outcome.runs, "kinds": len(outcome.kinds), "finds": sorted(outcome.finds)}
        print(json.dumps({"target": target.name, "engine": options.engine, "seed": options.seed} | summary), flush=True)

    if options.engine == "guided":
        guided(target, options.seconds, folder / "corpus", options.seed, report)
    signal.signal(signal.SIGALRM, _hangs)
    end: float = time.monotonic() + options.seconds

    def goes_on(_outcome: Outcome) -> bool:
        signal.alarm(_HANG_S)
        return time.monotonic() < end

    outcome = search(target, options.seed, goes_on)
    signal.alarm(0)
    report(outcome)
    return 1 if outcome.finds else 0


def _hangs(_number: int, _frame: FrameType | None) -> None:
    raise TimeoutError(f"a call took {_HANG_S} s")


def _instrument() -> None:
    """Let atheris count the branches of the decoders, before anything else imports them."""
    import atheris

    traced = ["zmqbroker.wire", "zmqbroker.client", "zmqbroker.storage", "zmqbroker.broker", "zmqbroker.config", "tomllib"]
    with atheris.instrument_imports(include=traced, enable_loader_override=False):
        __import__("tests.fuzz.targets")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
