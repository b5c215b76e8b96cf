"""A quick run of `bench.compare` as a process of its own, as the tests of its sides need it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["quick_run"]

ROOT = Path(__file__).resolve().parents[1]


def quick_run(directory: Path, *arguments: str, without: Sequence[str] = ()) -> tuple[dict[str, Any], str]:
    """The result file and what was printed, as if the servers of the peers `without` were not installed."""
    out = directory / "result.json"
    hide = "".join(f"import bench.peers.{peer}_server as server; server.find_server = lambda: None; " for peer in without)
    code = f"{hide}import runpy; runpy.run_module('bench.compare', run_name='__main__', alter_sys=True)"
    command = [sys.executable, "-c", code, "--quick", "--directory", str(directory), "--out", str(out), *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in directory.iterdir()] == ["result.json"], "data was left behind"
    return json.loads(out.read_text(encoding="utf-8")), done.stdout
