"""A quick run of `bench.compare` as a process of its own, as the tests of its sides need it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["quick_run"]

ROOT = Path(__file__).resolve().parents[1]
#: A quick run takes 20 s on an idle machine. After so long it has stopped: it tells where, and the test fails with that.
STOPPED_S = 200


def quick_run(directory: Path, *arguments: str, without: Sequence[str] = ()) -> tuple[dict[str, Any], str]:
    """The result file and what was printed, as if the servers of the peers `without` were not installed."""
    out = directory / "result.json"
    hide = "".join(f"import bench.peers.{peer}_server as server; server.find_server = lambda: None; " for peer in without)
    code = f"{hide}import runpy; runpy.run_module('bench.compare', run_name='__main__', alter_sys=True)"
    python = [sys.executable, "-X", "faulthandler", "-c", code]
    command = [*python, "--quick", "--directory", str(directory), "--out", str(out), *arguments]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    said, complained = _ended(process)
    assert process.returncode == 0, complained
    assert [path.name for path in directory.iterdir()] == ["result.json"], "data was left behind"
    return json.loads(out.read_text(encoding="utf-8")), said


def _ended(process: subprocess.Popen[str]) -> tuple[str, str]:
    """What a process has said on both its outputs by its end. One that has stopped says where, and its servers end too."""
    try:
        return process.communicate(timeout=STOPPED_S)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGABRT)
        process.wait(10)
        os.killpg(process.pid, signal.SIGKILL)
        return process.communicate()
