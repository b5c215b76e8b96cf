"""The one switch between the compiled batch codec and its Python twin.

Callers import the functions from here and get the same bytes, values and errors from either. The choice is made once, at
import: `ZMQBROKER_PURE=1` asks for Python; a compiled module that is missing without that leaves its reason in
`fallback_reason`, for the server to say once. This module says nothing itself.
"""

from __future__ import annotations

from zmqbroker._build import PURE

__all__ = ["compiled", "crc32c", "decode_batch", "encode_batch", "fallback_reason", "join_parts", "read_batch", "slice_batch"]

#: True when the compiled codec is in use.
compiled: bool
#: Why Python does the work although nobody asked for it; empty otherwise.
fallback_reason: str = ""

if PURE:
    from zmqbroker.wire._codec_py import crc32c, decode_batch, encode_batch, join_parts, read_batch, slice_batch

    compiled = False
else:
    try:
        from zmqbroker.wire._codec import crc32c, decode_batch, encode_batch, join_parts, read_batch, slice_batch

        compiled = True
    except ImportError as error:
        from zmqbroker.wire._codec_py import crc32c, decode_batch, encode_batch, join_parts, read_batch, slice_batch

        compiled = False
        fallback_reason = f"the compiled codec cannot be loaded ({error}): install gcc and python3-dev, then build again"
