"""Clients: `Client` for asyncio and `SyncClient` for threads, over one session that does no I/O.

session, routing, table, pipeline, parcel, exchange   what to say to whom, what the answers mean (no clock, no sockets)
framing                                               the batch frame of some parcels, compressed if that is wanted
driver, connection                                    the same with sockets, in one event loop
aio, queue, producer, confirm, consumer, worker       the names that users of asyncio meet
acks, settling, receipts, message                     what is done with received messages, and what they are
transaction, handing                                  acks and sends in one step
destinations, idle_producers                          sends to several destinations
home, home_driver, events                             one connection that stays, for what never enters the log
store, store_subscription, cursor, durable            events stores and their readers
commands, calling, requests, call_values              commands and queries over it: calling and responding
channels, schedules, cluster, route_tables            what operators do
sync, sync_queue, sync_producer and other sync_…       the same names for threads
"""

from __future__ import annotations

from zmqbroker.client.aio import Client
from zmqbroker.client.call_values import Answer
from zmqbroker.client.channels import Channels
from zmqbroker.client.commands import Command, Query
from zmqbroker.client.confirm import BatchConfirm, Confirm
from zmqbroker.client.consumer import Consumer
from zmqbroker.client.cursor import Gap
from zmqbroker.client.destinations import DestinationResult
from zmqbroker.client.durable import DurableSubscription
from zmqbroker.client.events import Event, Events, EventsSubscription, PublishResult
from zmqbroker.client.held import Message
from zmqbroker.client.message import Content, Explained, Origin, SendResult
from zmqbroker.client.producer import Producer
from zmqbroker.client.queue import Queue
from zmqbroker.client.requests import Request, Requests
from zmqbroker.client.route_tables import Bindings, Routes
from zmqbroker.client.schedules import Schedules
from zmqbroker.client.store import ConsumerInfo, Store
from zmqbroker.client.store_subscription import StoredEvent, StoreSubscription
from zmqbroker.client.sync import SyncClient
from zmqbroker.client.sync_channels import SyncChannels
from zmqbroker.client.sync_commands import SyncCommand, SyncQuery, SyncRequest, SyncRequests
from zmqbroker.client.sync_events import SyncEvents, SyncEventsSubscription
from zmqbroker.client.sync_producer import SyncBatchConfirm, SyncConfirm, SyncProducer
from zmqbroker.client.sync_queue import SyncConsumer, SyncMessage, SyncQueue
from zmqbroker.client.sync_routing import SyncBindings, SyncRoutes
from zmqbroker.client.sync_schedules import SyncSchedules
from zmqbroker.client.sync_store import SyncDurableSubscription, SyncStore, SyncStoreSubscription
from zmqbroker.client.sync_transaction import SyncTransaction
from zmqbroker.client.transaction import Transaction
from zmqbroker.client.worker import Rejected

__all__ = [
    "Answer",
    "BatchConfirm",
    "Bindings",
    "Channels",
    "Client",
    "Command",
    "Confirm",
    "Consumer",
    "ConsumerInfo",
    "Content",
    "DestinationResult",
    "DurableSubscription",
    "Event",
    "Events",
    "EventsSubscription",
    "Explained",
    "Gap",
    "Message",
    "Origin",
    "Producer",
    "PublishResult",
    "Query",
    "Queue",
    "Rejected",
    "Request",
    "Requests",
    "Routes",
    "Schedules",
    "SendResult",
    "Store",
    "StoreSubscription",
    "StoredEvent",
    "SyncBatchConfirm",
    "SyncBindings",
    "SyncChannels",
    "SyncClient",
    "SyncCommand",
    "SyncConfirm",
    "SyncConsumer",
    "SyncDurableSubscription",
    "SyncEvents",
    "SyncEventsSubscription",
    "SyncMessage",
    "SyncProducer",
    "SyncQuery",
    "SyncQueue",
    "SyncRequest",
    "SyncRequests",
    "SyncRoutes",
    "SyncSchedules",
    "SyncStore",
    "SyncStoreSubscription",
    "SyncTransaction",
    "Transaction",
]
