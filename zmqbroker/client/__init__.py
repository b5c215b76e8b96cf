"""Clients: `Client` for asyncio and `SyncClient` for threads, over one session that does no I/O.

session, routing, table, pipeline, exchange   what to say to whom, and what the answers mean (no clock, no sockets)
driver, connection                            the same with sockets, in one event loop
aio, queue, producer, consumer, acks          the names that users of asyncio meet
sync                                          the same names for threads
"""

from __future__ import annotations

from zmqbroker.client.aio import Client
from zmqbroker.client.consumer import Consumer
from zmqbroker.client.message import SendResult
from zmqbroker.client.producer import Producer
from zmqbroker.client.queue import Message, Queue
from zmqbroker.client.sync import SyncClient, SyncConsumer, SyncMessage, SyncProducer, SyncQueue

__all__ = [
    "Client",
    "Consumer",
    "Message",
    "Producer",
    "Queue",
    "SendResult",
    "SyncClient",
    "SyncConsumer",
    "SyncMessage",
    "SyncProducer",
    "SyncQueue",
]
