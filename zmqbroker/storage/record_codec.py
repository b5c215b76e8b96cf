"""The one switch between the compiled bytes of a record and their Python twin; see `_record_py` for what they do.

`ZMQBROKER_PURE=1` asks for Python. What is missing is said once, for all compiled modules, by the batch codec's switch.
"""

from __future__ import annotations

from zmqbroker._build import PURE

__all__ = ["compiled", "encode_record", "has_zero_sector"]

#: True when the compiled functions are in use.
compiled: bool

if PURE:
    from zmqbroker.storage._record_py import encode_record, has_zero_sector

    compiled = False
else:
    try:
        from zmqbroker.storage._record import encode_record, has_zero_sector

        compiled = True
    except ImportError:
        from zmqbroker.storage._record_py import encode_record, has_zero_sector

        compiled = False
