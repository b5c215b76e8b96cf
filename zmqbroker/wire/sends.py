"""The one switch between the compiled reader of plain SENDs and its Python twin; see `_sends_py` for what they do.

The choice is made once, at import; that compiled modules are missing is said by the codec's switch, for all of them.
"""

from __future__ import annotations

from zmqbroker._build import PURE
from zmqbroker.wire._sends_py import SendRun

__all__ = ["SendRun", "compiled", "gather", "put_confirms"]

#: True when the compiled functions are in use.
compiled: bool

if PURE:
    from zmqbroker.wire._sends_py import gather, put_confirms

    compiled = False
else:
    try:
        from zmqbroker.wire._sends import gather, put_confirms

        compiled = True
    except ImportError:
        from zmqbroker.wire._sends_py import gather, put_confirms

        compiled = False
