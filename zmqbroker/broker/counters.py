"""What has happened in a channel since it was created."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Counters"]


@dataclass(slots=True)
class Counters:
    """Messages, counted. What ever came is acked, expired, dropped, dead-lettered, moved, deduplicated, or still there.

    What is stored was sent, or moved here. Bytes are those of batch frames.
    """

    acked: int = 0
    expired: int = 0  # their time was over
    dropped: int = 0  # purged or deleted by somebody, lost with their bodies, or finished to make room for others
    dead_lettered: int = 0  # now in the dead-letter channel
    moved: int = 0  # requeued or redriven: elsewhere, or behind all others
    redelivered: int = 0  # assignments of a message beyond its first
    deduplicated: int = 0  # finished as they came, since a message with the same id is stored
    sent: int = 0  # stored by senders
    sent_bytes: int = 0
    delivered: int = 0  # assignments of a message
    delivered_bytes: int = 0  # each message's share of its frame, at every assignment
