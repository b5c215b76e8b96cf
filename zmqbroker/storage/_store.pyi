"""Types of the compiled twin of `_store_py`, which is ext/_store.pyx; what its functions do is said there."""

from pathlib import Path

from zmqbroker.storage.engine import Engine

__all__ = ["open_engine"]

def open_engine(path: Path, *, sync: bool, map_size: int, read_only: bool) -> Engine: ...
