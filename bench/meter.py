"""The clock of a measurement, and how much processor time the servers and this client spent meanwhile.

Processor time says what bounds a case: servers that use every core are bound by it, servers that use little wait for the disk
or for each other. It also stays comparable when something else uses the machine, which rates do not.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

__all__ = ["Meter", "Spent", "cpu_s"]


class Spent(NamedTuple):
    """Between start and stop."""

    seconds: float
    server_cpu_s: float  # of all server processes together
    client_cpu_s: float


class Meter:
    """Start it once, stop it once; may be started again."""

    def __init__(self, server_pids: Sequence[int]) -> None:
        self._paths = [Path(f"/proc/{pid}/stat") for pid in server_pids]
        self._started = self._now()

    def start(self) -> None:
        """Begin."""
        self._started = self._now()

    def stop(self) -> Spent:
        """What was spent since the start."""
        return Spent(*(now - before for now, before in zip(self._now(), self._started, strict=True)))

    def _now(self) -> Spent:
        return Spent(time.perf_counter(), sum(map(cpu_s, self._paths)), time.process_time())


def cpu_s(path: Path) -> float:
    """User and system time in a process's /proc/…/stat, in steps of usually 10 ms."""
    # The second field is a name in brackets that may hold spaces; the times are the 12th and 13th after it.
    fields = path.read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
