"""The replicated state machine of the queues: committed entries in, results and deliveries out.

Pure: no clock, no sockets, no files, no chance. What it stores and how is in `snapshot`.
"""

from zmqbroker.broker.audit import BUCKETS, Audit
from zmqbroker.broker.limits import MachineLimits
from zmqbroker.broker.machine import Applied, Machine

__all__ = ["BUCKETS", "Applied", "Audit", "Machine", "MachineLimits"]
