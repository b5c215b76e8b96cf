"""What the holder of messages does with them, besides to ack."""

from __future__ import annotations

from dataclasses import dataclass

from zmqbroker.commands.receipts import Receipt

__all__ = [
    "Extend",
    "Nack",
    "Reject",
    "Requeue",
    "Settle",
]


@dataclass(slots=True, frozen=True)
class Nack:
    """Give messages back: ready again, now or after a delay, in their places or behind all others."""

    session: bytes
    channel: str
    receipts: tuple[Receipt, ...]
    delay_ms: int = 0
    behind: bool = False  # they get new sequences


@dataclass(slots=True, frozen=True)
class Reject:
    """Move messages that can never be processed to the channel's dead-letter channel."""

    session: bytes
    channel: str
    receipts: tuple[Receipt, ...]
    reason: str = ""  # for people; at most 255 bytes


@dataclass(slots=True, frozen=True)
class Requeue:
    """Move messages that are held to another channel."""

    session: bytes
    channel: str
    receipts: tuple[Receipt, ...]
    to: str


@dataclass(slots=True, frozen=True)
class Extend:
    """Hold messages for `visibility_ms` from now on."""

    session: bytes
    channel: str
    receipts: tuple[Receipt, ...]
    visibility_ms: int


Settle = Nack | Reject | Requeue | Extend
