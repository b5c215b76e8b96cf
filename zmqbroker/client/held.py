"""Received messages as a user of asyncio holds them: each knows the queue that it came from."""

from __future__ import annotations

from typing import Unpack

from zmqbroker.client.message import Content, SendResult
from zmqbroker.client.transaction import SendOptions
from zmqbroker.wire.batch import Buffer

__all__ = ["Message"]


class Message(Content):
    """A received message. It is ready again for others when it is not acked within its visibility timeout."""

    __slots__ = ()

    async def ack(self) -> None:
        """Finish the message for good. Raises StaleReceipt when it was not held any more, as all of these do."""
        await self.piece.owner.ack((self,))

    async def ack_and_send(
        self, channel: str, body: Buffer, *, timeout_ms: int | None = None, **options: Unpack[SendOptions]
    ) -> SendResult:
        """Ack it and send another message in one step: both happen, or neither; see `Queue.transaction`."""
        sent: SendResult = await self.piece.owner.ack_and_send((self,), channel, body, timeout_ms=timeout_ms, **options)
        return sent

    async def nack(self, *, delay_ms: int = 0, behind: bool = False) -> None:
        """Give it back: ready again in its place, now or after a delay, or behind all others."""
        await self.piece.owner.nack((self,), delay_ms=delay_ms, behind=behind)

    async def reject(self, reason: str = "") -> None:
        """Move it to the channel's dead-letter channel. Raises InvalidRequest when there is none."""
        await self.piece.owner.reject((self,), reason)

    async def requeue(self, to: str) -> None:
        """Move it to another channel."""
        await self.piece.owner.requeue((self,), to)

    async def extend(self, visibility_ms: int) -> None:
        """Hold it for so long from now on."""
        await self.piece.owner.extend((self,), visibility_ms)
