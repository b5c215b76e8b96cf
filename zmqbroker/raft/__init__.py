"""Consensus: the Raft core of one group, pure, without clock, socket or file.

`RaftCore` is the whole interface; `messages` and `view` are the values it exchanges with its shell and its log.
"""

from __future__ import annotations

from zmqbroker.raft.config import RaftConfig
from zmqbroker.raft.core import RaftCore
from zmqbroker.raft.membership import Membership
from zmqbroker.raft.progress import ProgressState, ProgressStatus

__all__ = ["Membership", "ProgressState", "ProgressStatus", "RaftConfig", "RaftCore"]
