"""What a soak looks at from outside: the files and the memory of each node, and the durations that it tells, by window.

A sample is taken every few seconds and goes to a file at once; what is kept are peaks and counts for each window.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from bench.load import BenchError
from tests.processes import Cluster, Node

__all__ = ["DIRECTORIES", "Durations", "Sampler", "disk_usage", "memory", "percentiles"]

DIRECTORIES = ("log", "state", "bodies", "snapshots")
#: A node that is asked for itself has this long; a sample without its answer has its files all the same.
INFO_TIMEOUT_MS = 5_000

Buckets = Mapping[int, int]


def disk_usage(directory: Path) -> tuple[int, int]:
    """Bytes that the files below a directory take on the disk, and their number; files may vanish meanwhile."""
    size = count = 0
    for place, _, names in os.walk(directory):
        for name in names:
            try:
                size += os.stat(os.path.join(place, name)).st_blocks * 512
            except FileNotFoundError:
                continue
            count += 1
    return size, count


def percentiles(buckets: Buckets) -> dict[str, float]:
    """Count, p50, p99 and maximum in milliseconds of lengths as a node counts them, each at most a sixteenth too high."""
    total = sum(buckets.values())
    found: dict[str, float] = {"count": total}
    for name, share in (("p50_ms", 50), ("p99_ms", 99), ("max_ms", 100)):
        found[name] = _bound_at(buckets, -(-total * share // 100)) / 1000
    return found


def _bound_at(buckets: Buckets, rank: int) -> int:
    """Bound of the bucket that holds the length of this rank, from 1; 0 when there is none."""
    for bound, count in sorted(buckets.items()):
        rank -= count
        if rank <= 0:
            return bound
    return 0


class Durations:
    """What was counted between the answers of nodes, by window and name."""

    def __init__(self, windows: int) -> None:
        self._last: dict[tuple[str, str], Counter[int]] = {}  # node, name -> its buckets in the last answer
        self._found: list[dict[str, Counter[int]]] = [{} for _ in range(windows)]

    def note(self, window: int, node: str, durations: Mapping[str, Any]) -> None:
        """What a node has counted since its answer before this one belongs to this window; the first answer only begins."""
        for name, fields in durations.items():
            buckets = Counter(dict(fields["buckets"]))
            last = self._last.get((node, name))
            if last is not None:
                self._found[window].setdefault(name, Counter()).update(buckets - last)
            self._last[node, name] = buckets

    def summary(self, window: int) -> dict[str, dict[str, float]]:
        """Percentiles of all nodes together by name."""
        return {name: percentiles(buckets) for name, buckets in sorted(self._found[window].items())}


class Sampler:
    """Looks at a cluster, and keeps the highest of what it saw in each window on any node."""

    def __init__(self, cluster: Cluster, windows: int, out: IO[str] | None) -> None:
        self._cluster, self._out = cluster, out
        self.durations = Durations(windows)
        self._peaks: list[dict[str, int]] = [{} for _ in range(windows)]
        self._leader = ""
        self.leader_changes = -1  # the first leader is none
        self.counters: dict[str, dict[str, int]] = {}  # node -> its counters in its last answer

    def look(self, at_s: float, window: int | None, more: Mapping[str, float]) -> dict[str, dict[str, int]]:
        """Take a sample; `window` None: it belongs to none. Raises `BenchError` when a node has ended."""
        found = {}
        for node in self._cluster.nodes.values():
            found[node.name] = self._node(node)
            info = self._cluster.info(node.name, timeout_ms=INFO_TIMEOUT_MS)
            if info is not None:
                self._note_info(node.name, info, window)
            if window is not None:
                for name, value in found[node.name].items():
                    self._peaks[window][name] = max(value, self._peaks[window].get(name, 0))
        if self._out is not None:
            self._out.write(json.dumps({"at_s": round(at_s, 1), **more, "nodes": found}) + "\n")
            self._out.flush()
        return found

    def _note_info(self, name: str, info: Mapping[str, Any], window: int | None) -> None:
        self.counters[name] = dict(info["counters"])
        if window is not None:
            self.durations.note(window, name, info["durations"])
        if any(group["role"] == "leader" for group in info["groups"]) and self._leader != name:
            self._leader, self.leader_changes = name, self.leader_changes + 1

    @staticmethod
    def _node(node: Node) -> dict[str, int]:
        if node.process is None or not node.running:
            raise BenchError(f"{node.name} has ended\n{node.log()[-2000:]}")
        found, files = {}, 0
        for directory in DIRECTORIES:
            found[f"{directory}_bytes"], count = disk_usage(node.directory / directory)
            files += count
        return {**found, "files": files, **memory(node.process.pid)}

    def peaks(self, window: int) -> dict[str, int]:
        """The highest on any node."""
        return dict(self._peaks[window])


def memory(pid: int) -> dict[str, int]:
    """Resident memory of a process in bytes: anonymous, and all."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    kib = {line.split()[0]: int(line.split()[1]) for line in lines if line.startswith(("RssAnon:", "VmRSS:"))}
    return {"anonymous_bytes": kib["RssAnon:"] * 1024, "resident_bytes": kib["VmRSS:"] * 1024}
