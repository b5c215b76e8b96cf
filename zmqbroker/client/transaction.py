"""Acks and sends that happen together or not at all, as a block that a user writes.

    async with orders.transaction(message) as step:
        step.send("invoices", invoice)
        step.send("audit", note)

Leaving the block in order does all of it in one step (PROTOCOL §3, HAND_OVER); an exception that leaves it does nothing, and
the messages are still held. Nothing is sent inside the block: it only collects.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import TracebackType
from typing import TypedDict, Unpack

from zmqbroker.client.handing import Order
from zmqbroker.client.message import Content, Encoded, SendResult, check_channel, encode_message, receipts_of
from zmqbroker.client.receipts import merge
from zmqbroker.commands import Receipt
from zmqbroker.errors import LocalProtocolError
from zmqbroker.wire.batch import COUNT_MAX, Buffer
from zmqbroker.wire.columns import Treatment
from zmqbroker.wire.headers import MessageHeaders
from zmqbroker.wire.requests import RECEIPTS_MAX
from zmqbroker.wire.send_requests import HAND_OVER_BATCHES_MAX

__all__ = ["SendOptions", "Transaction", "receipts_for"]

Commit = Callable[[Order], Awaitable[dict[str, list[SendResult]]]]


class SendOptions(TypedDict, total=False):
    """What may be said of a message; the same as of `Queue.send`."""

    id: str | None
    metadata: str | None
    tags: Mapping[str, str] | None
    trace: str | None
    delay_ms: int
    expiry_ms: int
    priority: int
    group: str


def receipts_for(channel: str, messages: Sequence[Content]) -> tuple[Receipt, ...]:
    """What one step acks. Raises LocalProtocolError when these messages cannot be acked in one."""
    if not messages:
        raise LocalProtocolError("a transaction acks at least one message; without any, send")
    other = next((message.channel for message in messages if message.channel != channel), None)
    if other is not None:
        raise LocalProtocolError(f"a transaction of queue {channel!r} was given a message of {other!r}")
    receipts = merge(receipts_of(messages))
    if len(receipts) > RECEIPTS_MAX:
        raise LocalProtocolError(f"a transaction of {len(receipts)} runs of messages, the limit is {RECEIPTS_MAX}")
    return receipts


class Transaction:
    """One step: made by `Queue.transaction`, done when its block ends."""

    def __init__(self, order: Order, commit: Commit, body_size_max: int, client_id: str | None = None) -> None:
        self._order = order
        self._commit = commit
        self._body_size_max = body_size_max
        self._client_id = client_id
        self._batches: dict[str, list[Encoded]] = {}
        self._sends: list[tuple[str, int]] = []  # channel, place in its batch
        self._ended = False
        self._results: list[SendResult] | None = None

    def send(self, channel: str, body: Buffer, **options: Unpack[SendOptions]) -> None:
        """Send a message to a channel when the block ends, behind those that were sent there before.

        Options are those of `Queue.send`. Raises InvalidChannel, MessageTooLarge or LocalProtocolError; the messages of a
        transaction go to 64 channels at most, and have at most `message_bytes_max` + 1 MiB together.
        """
        if self._ended:
            raise LocalProtocolError("this transaction has ended")
        check_channel(channel)
        treatment = Treatment(
            options.get("delay_ms", 0), options.get("expiry_ms", 0), options.get("priority", 0), options.get("group", "")
        )
        headers = MessageHeaders(options.get("metadata"), options.get("tags"), self._client_id, options.get("trace"))
        encoded = encode_message(body, options.get("id"), headers, self._body_size_max, treatment)
        if channel not in self._batches and len(self._batches) == HAND_OVER_BATCHES_MAX:
            raise LocalProtocolError(f"a transaction sends to {HAND_OVER_BATCHES_MAX} channels at most")
        batch = self._batches.setdefault(channel, [])
        if len(batch) == COUNT_MAX:
            raise LocalProtocolError(f"a transaction sends {COUNT_MAX} messages to a channel at most")
        self._sends.append((channel, len(batch)))
        batch.append(encoded)

    @property
    def ended(self) -> bool:
        """Whether it was done, tried or abandoned."""
        return self._ended

    @property
    def results(self) -> list[SendResult]:
        """The result of each send, in the order of the calls. Raises LocalProtocolError before it is done."""
        if self._results is None:
            raise LocalProtocolError("this transaction is not done")
        return self._results

    async def commit(self) -> None:
        """Do it; leaving the block does so. Raises RequestError: nothing was done, unless it says `outcome_unknown`."""
        if self._ended:
            raise LocalProtocolError("this transaction has ended")
        self._ended = True
        found = await self._commit(self._order._replace(batches=self._batches))
        self._results = [found[channel][place] for channel, place in self._sends]

    def abandon(self) -> None:
        """Do nothing of it; the messages are still held."""
        self._ended = True

    async def __aenter__(self) -> Transaction:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self.abandon()
        elif not self._ended:
            await self.commit()
