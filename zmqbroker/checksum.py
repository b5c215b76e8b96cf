"""crc32c (Castagnoli, as in iSCSI): the one checksum of this package, from the fastest place that has it.

`storage` must not import `wire`, but the compiled codec lives there and has the function that runs without leaving C. This
module is the single door between the two. `ZMQBROKER_PURE=1`, or a build without a compiler, takes the `crc32c` package.
It refuses to be a home for any other function of the codec.

`crc32c(data, seed)` continues a checksum: crc32c(a + b) == crc32c(b, crc32c(a)).
"""

from __future__ import annotations

import importlib
import os
from typing import Protocol

__all__ = ["Checksum", "crc32c", "load_crc32c"]


class Checksum(Protocol):
    """What both implementations look like."""

    def __call__(self, data: bytes | bytearray | memoryview, seed: int = 0, /) -> int:
        """The crc32c of `data`, continued from `seed`."""
        ...


def load_crc32c(pure: bool) -> Checksum:
    """The compiled function unless `pure` is set or it was not built, then that of the `crc32c` package."""
    if not pure:
        try:
            compiled: Checksum = importlib.import_module("zmqbroker.wire._codec").crc32c
        except ImportError:
            pass
        else:
            return compiled
    package: Checksum = importlib.import_module("crc32c").crc32c
    return package


crc32c: Checksum = load_crc32c(os.environ.get("ZMQBROKER_PURE") == "1")
