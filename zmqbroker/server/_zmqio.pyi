"""Types of the compiled twin of `_zmqio_py`, which is ext/_zmqio.pyx; what it does is said there."""

from zmqbroker.server._zmqio_py import ZmqIo as ZmqIo

__all__ = ["ZmqIo"]
