"""Clients: `Client` for asyncio and `SyncClient` for threads, over one session that does no I/O.

session, routing, table, pipeline, parcel, exchange   what to say to whom, what the answers mean (no clock, no sockets)
framing                                               the batch frame of some parcels, compressed if that is wanted
driver, connection                                    the same with sockets, in one event loop
aio, queue, producer, confirm, consumer, worker       the names that users of asyncio meet
acks, settling, receipts, message                     what is done with received messages, and what they are
transaction, handing                                  acks and sends in one step
home, home_driver, events                             one connection that stays, for what never enters the log
destinations, idle_producers                          sends to several destinations
channels, schedules, cluster, route_tables            what operators do
sync, sync_queue, sync_producer and other sync_…       the same names for threads
"""

from __future__ import annotations

from zmqbroker.client.aio import Client
from zmqbroker.client.channels import Channels
from zmqbroker.client.confirm import BatchConfirm, Confirm
from zmqbroker.client.consumer import Consumer
from zmqbroker.client.destinations import DestinationResult
from zmqbroker.client.events import Event, Events, EventsSubscription, PublishResult
from zmqbroker.client.held import Message
from zmqbroker.client.message import Content, Explained, Origin, SendResult
from zmqbroker.client.producer import Producer
from zmqbroker.client.queue import Queue
from zmqbroker.client.route_tables import Bindings, Routes
from zmqbroker.client.schedules import Schedules
from zmqbroker.client.sync import SyncClient
from zmqbroker.client.sync_channels import SyncChannels
from zmqbroker.client.sync_events import SyncEvents, SyncEventsSubscription
from zmqbroker.client.sync_producer import SyncBatchConfirm, SyncConfirm, SyncProducer
from zmqbroker.client.sync_queue import SyncConsumer, SyncMessage, SyncQueue
from zmqbroker.client.sync_routing import SyncBindings, SyncRoutes
from zmqbroker.client.sync_schedules import SyncSchedules
from zmqbroker.client.sync_transaction import SyncTransaction
from zmqbroker.client.transaction import Transaction
from zmqbroker.client.worker import Rejected

__all__ = [
    "BatchConfirm",
    "Bindings",
    "Channels",
    "Client",
    "Confirm",
    "Consumer",
    "Content",
    "DestinationResult",
    "Event",
    "Events",
    "EventsSubscription",
    "Explained",
    "Message",
    "Origin",
    "Producer",
    "PublishResult",
    "Queue",
    "Rejected",
    "Routes",
    "Schedules",
    "SendResult",
    "SyncBatchConfirm",
    "SyncBindings",
    "SyncChannels",
    "SyncClient",
    "SyncConfirm",
    "SyncConsumer",
    "SyncEvents",
    "SyncEventsSubscription",
    "SyncMessage",
    "SyncProducer",
    "SyncQueue",
    "SyncRoutes",
    "SyncSchedules",
    "SyncTransaction",
    "Transaction",
]
