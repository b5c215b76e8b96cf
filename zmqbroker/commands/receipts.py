"""Who holds which messages: what receives and acks name."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "ANY_INCARNATION",
    "RECEIPT_ORDINAL_BITS",
    "Receipt",
    "ReceiveKey",
]

#: Incarnation that fits whatever channel has the name now, or creates it.
ANY_INCARNATION = 0

#: A receipt's `assigning` number is (index of the assigning entry << 16) | command ordinal in that entry.
RECEIPT_ORDINAL_BITS = 16


@dataclass(slots=True, frozen=True, order=True)
class Receipt:
    """Messages first..last (channel sequences, inclusive) that were assigned together; the holder acks by it."""

    assigning: int
    first: int
    last: int


@dataclass(slots=True, frozen=True)
class ReceiveKey:
    """Who waits: a session's request. A repeated RECEIVE with the same key is the same receive."""

    session: bytes  # 16 bytes
    consumer: int  # chosen by the client; 0 for plain receives
    request: int  # the client's request id
