"""A node whose disk says that it has synced, and has not: `python -m tests.fault.lying_disk WHAT`, configured as any node.

For the power-cut test's test of itself. WHAT is `log`: the log's records are not synced, but new files, names and the store
are; or `log+store`: the store is not, either. The native twins go round it: start it with ZMQBROKER_PURE=1.
"""

from __future__ import annotations

import sys
from pathlib import Path

from zmqbroker.server.__main__ import main
from zmqbroker.storage.disk import OsDisk
from zmqbroker.storage.lmdb_state import LmdbState


def _lie_in_log() -> None:
    def return_at_once(disk: OsDisk, descriptor: int) -> None:
        """No sync."""

    OsDisk.fdatasync = return_at_once  # type: ignore[assignment, method-assign]


def _lie_in_store() -> None:
    opened = LmdbState.open

    def open_without_sync(path: Path, *, sync: bool, map_size: int | None = None) -> LmdbState:
        return opened(path, sync=False, map_size=map_size)

    LmdbState.open = open_without_sync  # type: ignore[method-assign]


if __name__ == "__main__":
    _lie_in_log()
    if sys.argv[1] == "log+store":
        _lie_in_store()
    sys.exit(main())
