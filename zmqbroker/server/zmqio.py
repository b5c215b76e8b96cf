"""The one switch between the compiled calls on sockets and their Python twin; see `_zmqio_py` for what they do.

`ZMQBROKER_PURE=1` asks for Python; so does a pyzmq whose libzmq cannot be found.
"""

from __future__ import annotations

from zmqbroker._build import PURE

__all__ = ["ZmqIo", "compiled"]

#: True when the compiled calls are in use.
compiled: bool

if PURE:
    from zmqbroker.server._zmqio_py import ZmqIo

    compiled = False
else:
    try:
        from zmqbroker.server._zmqio import ZmqIo

        compiled = True
    except ImportError:
        from zmqbroker.server._zmqio_py import ZmqIo

        compiled = False
