"""A node whose disk is slow: its syncs are held up by a tracer that is attached while it runs."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from tests.processes import Node, wait_until

__all__ = ["SlowDisk", "slow_disk", "why_not"]

#: What a disk takes for a sync that is busy with something else.
DELAY_MS = 200


@cache
def why_not() -> str:
    """Why no process can be held up here; empty when it can."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    words = ["strace", "-f", "-e", "trace=fdatasync", "-e", "inject=fdatasync:delay_enter=1000", sys.executable, "-c", "pass"]
    trial = subprocess.run(words, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60, check=False)
    return f"strace does not work here: {trial.stderr.strip()}" if trial.returncode else ""


class SlowDisk:
    """What the tracer saw."""

    def __init__(self, trace: Path) -> None:
        self._trace = trace

    @property
    def syncs(self) -> int:
        """Syncs so far that were held up."""
        return self._trace.read_text().count("DELAYED") if self._trace.exists() else 0


@contextmanager
def slow_disk(node: Node, delay_ms: int = DELAY_MS) -> Iterator[SlowDisk]:
    """Every fdatasync of a running node takes so much longer, for as long as this lasts."""
    assert node.process is not None
    trace, said = (node.directory.with_name(f"{node.name}.{what}") for what in ("syncs", "strace"))
    trace.unlink(missing_ok=True)
    rules = ("-e", "trace=fdatasync", "-e", f"inject=fdatasync:delay_enter={delay_ms * 1000}")
    words = ["strace", "-f", *rules, "-o", str(trace), "-p", str(node.process.pid)]
    with said.open("wb") as errors:
        tracer = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors)
        try:
            wait_until(lambda: "attached" in said.read_text(), 30, f"a tracer of {node.name}")
            yield SlowDisk(trace)
        finally:
            tracer.send_signal(signal.SIGINT)
            tracer.wait(30)
