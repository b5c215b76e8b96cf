"""Queues as a user of asyncio meets them: send, receive, ack, and messages that know their queue."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from zmqbroker.client.acks import AckGatherer
from zmqbroker.client.consumer import Consumer
from zmqbroker.client.driver import Driver
from zmqbroker.client.message import Content, SendResult, encode_message, read_messages
from zmqbroker.client.pipeline import PipelineSettings
from zmqbroker.client.producer import Producer, Sender
from zmqbroker.errors import BrokerError, DeadlineExceeded, LocalProtocolError
from zmqbroker.wire.batch import Buffer
from zmqbroker.wire.requests import (
    RECEIVE_SIZE_DEFAULT,
    VISIBILITY_MS_DEFAULT,
    AckRequest,
    CloseRequest,
    ReceiveRequest,
    StatsRequest,
)

if TYPE_CHECKING:
    from zmqbroker.client.aio import Client

__all__ = ["Message", "Queue"]

#: Batches under way and bytes pending that a user may ask for. The broker keeps 128 results per producer (PROTOCOL §4).
_WINDOW_MAX = 128
#: A batch of this size fits whatever `message_bytes_max` is (PROTOCOL §5); a larger message travels alone.
_BATCH_BYTES_MAX = 1_000_000
_BATCH_MESSAGES_MAX = 65_535
_LINGER_MS_MAX = 60_000


class Message(Content):
    """A received message. It is ready again for others when it is not acked within its visibility timeout."""

    __slots__ = ("_queue",)

    def __init__(self, queue: Queue, content: Content) -> None:
        for name in Content.__slots__:
            setattr(self, name, getattr(content, name))
        self._queue = queue

    async def ack(self) -> None:
        """Finish the message for good. Raises StaleReceipt when it was not held any more."""
        await self._queue.ack((self,))
