"""Server processes of a peer: started with a log file each, and ended whatever happens."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

__all__ = ["Processes", "processes"]

_STOP_TIMEOUT_S = 15


class Processes:
    """Running servers, in the order in which they were started."""

    def __init__(self) -> None:
        self._started: list[subprocess.Popen[bytes]] = []

    @property
    def pids(self) -> list[int]:
        """Their process ids."""
        return [process.pid for process in self._started]

    def start(self, command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None) -> None:
        """Start one more, which says what it has to say in the file `log`."""
        with log.open("wb") as file:
            started = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=environment)
        self._started.append(started)

    def end(self) -> None:
        """SIGTERM to all, in the opposite order, and SIGKILL to those that do not end in time."""
        for process in reversed(self._started):
            process.terminate()
        for process in reversed(self._started):
            try:
                process.wait(_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def processes() -> Iterator[Processes]:
    """Processes that are ended at the end."""
    running = Processes()
    try:
        yield running
    finally:
        running.end()
