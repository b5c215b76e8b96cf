"""Types of the compiled twin of `_log_py`, which is ext/_log.pyx; what it does is said there."""

from zmqbroker.storage._log_py import LogWriter as LogWriter

__all__ = ["LogWriter"]
