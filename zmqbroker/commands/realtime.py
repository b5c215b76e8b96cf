"""What never enters the log, as values: who wants what, and what one node tells another of it."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

__all__ = ["Announcement", "RealtimeKind", "Want"]


class RealtimeKind(IntEnum):
    """What a subscription is for. The numbers are those between nodes."""

    EVENTS = 1
    COMMANDS = 2
    QUERIES = 3


class Want(NamedTuple):
    """What subscriptions are alike in: those with the same `group` share what comes, unless it is empty."""

    kind: RealtimeKind
    pattern: str
    group: str


class Announcement(NamedTuple):
    """What one node tells another of what its clients want: a change, a piece of the whole, or only where it stands.

    A change (`pieces` 0) has the counts that are others since version `version - 1`; without rows it says that `version` is
    the newest. A piece has a part of the whole as of `version`; pieces are numbered from 0.
    """

    run: bytes  # 16 bytes of chance, made when the node started: with another one all that was told before is void
    version: int  # of the sender's interest; counts its changes
    rows: tuple[tuple[Want, int], ...] = ()  # with the number of subscriptions; 0: nobody wants it any more
    piece: int = 0
    pieces: int = 0
    ask: bool = False  # the receiver is asked to tell the whole of its own
