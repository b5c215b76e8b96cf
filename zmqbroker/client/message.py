"""What a user sends and gets: results, and messages without their way back to the broker.

Values only. `Message` here holds no connection; `queue.Message` adds `ack()`.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["SendResult"]


class SendResult(NamedTuple):
    """A message is stored."""

    sequence: int  # its number in the channel, from 1
    time_unix_ns: int  # when it was stored
    duplicate: bool  # True: an earlier attempt of the same send had stored it
    confirm: str  # "quorum", or "quorum+fsync" when a majority has it on disk
