"""How the fake broker hands over (PROTOCOL §3, HAND_OVER): it asks everybody first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zmqbroker.commands import BatchHeader
from zmqbroker.errors import OutOfSequence, StaleReceipt, UnknownProducer
from zmqbroker.wire.codec import read_batch
from zmqbroker.wire.frames import Reply
from zmqbroker.wire.requests import HandOverRequest

if TYPE_CHECKING:
    from tests.unit.client.fakes import FakeBroker

__all__ = ["hand_over"]


def hand_over(broker: FakeBroker, request: HandOverRequest, session: bytes) -> tuple[Reply, dict[str, Any], list[bytes]]:
    """All or nothing; a repeat gets the first answer."""
    channel = broker.channel(request.channel)
    named = [(at, receipt) for receipt in request.receipts for at in range(receipt.first, receipt.last + 1)]
    headers = [read_batch(batch) for batch in request.batches]
    firsts = [_stored(broker, header) for header in headers]
    duplicate = all(firsts) and all(at in channel.acked for at, _ in named)
    if not duplicate:
        stale = [
            [one.assigning, at, at] for at, one in named if channel.in_flight.get(at, (0, b""))[:2] != (one.assigning, session)
        ]
        if stale:
            raise StaleReceipt(f"{len(stale)} receipts are stale", stale=stale, count=0)
        for header in headers:
            producer = broker.channel(header.channel).producers.get(header.producer)
            if producer is None:
                raise UnknownProducer(f"producer {header.producer} is not open")
            if header.base_sequence != producer.last + 1:
                raise OutOfSequence("no", expected=producer.last + 1)
        for at, _ in named:
            del channel.in_flight[at]
            channel.acked.add(at)
        pairs = zip(headers, request.batches, strict=True)
        firsts = [broker.channel(header.channel).publish(batch)["sequence"] for header, batch in pairs]
    sent = [[header.channel, first, header.count] for header, first in zip(headers, firsts, strict=True)]
    fields = {"count": len(named), "sent": sent, "time_unix_ns": 5, "duplicate": duplicate, "confirm": "quorum"}
    return Reply.HANDED_OVER, fields, []


def _stored(broker: FakeBroker, header: BatchHeader) -> int:
    """The sequence that an earlier attempt got, 0 for none."""
    producer = broker.channel(header.channel).producers.get(header.producer)
    return producer.results.get((header.base_sequence, header.count), 0) if producer else 0
