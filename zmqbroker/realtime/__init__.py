"""What never enters the log: who wants which events, commands and queries, and who of them gets one.

Values in, values out: no sockets, no clock. The node's shell for it is `server/realtime.py`; what is promised is at most once,
docs/GUARANTEES.md.
"""

from __future__ import annotations

from zmqbroker.realtime.audience import HERE, Audience, Share
from zmqbroker.realtime.interest import Found, Interest
from zmqbroker.realtime.subscription import Subscription

__all__ = ["HERE", "Audience", "Found", "Interest", "Share", "Subscription"]
