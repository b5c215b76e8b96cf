"""The one switch between the native engine and its twin on py-lmdb.

The choice is made once, at import: `ZMQBROKER_PURE=1` asks for py-lmdb; a compiled module that is missing, or does not find
LMDB's functions in py-lmdb's library, leaves its reason in `fallback_reason`, for the server to say once.
"""

from __future__ import annotations

from zmqbroker._build import PURE

__all__ = ["compiled", "fallback_reason", "open_engine"]

#: True when the native engine is in use.
compiled: bool
#: Why py-lmdb does the work although nobody asked for it; empty otherwise.
fallback_reason: str = ""

if PURE:
    from zmqbroker.storage._store_py import open_engine

    compiled = False
else:
    try:
        from zmqbroker.storage._store import open_engine

        compiled = True
    except ImportError as error:
        from zmqbroker.storage._store_py import open_engine

        compiled = False
        fallback_reason = f"the native store cannot be loaded ({error}): install gcc and python3-dev, then build again"
