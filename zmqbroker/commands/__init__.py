"""Frozen requests and replies: what a client asks, what the log carries, what the state machine answers.

Values only; bytes for them are made in `wire`. Field names, units and bounds are those of docs/PROTOCOL.md. The commands of
the replicated log (`Publish` ... `Trim`) are what an entry holds; everything a command needs is in it, so that applying it
needs no clock and no configuration.
"""

from __future__ import annotations

from zmqbroker.commands.channels import (
    ChannelSettings,
    CreateChannel,
    DeleteChannel,
    DeleteMessages,
    Manage,
    Purge,
    Redrive,
    UpdateChannel,
)
from zmqbroker.commands.log import (
    Ack,
    BatchHeader,
    Close,
    Command,
    HandOver,
    OpenProducer,
    Publish,
    Receive,
    Run,
    TakeAudit,
    Tick,
    Trim,
)
from zmqbroker.commands.members import (
    Member,
    Roster,
)
from zmqbroker.commands.receipts import (
    ANY_INCARNATION,
    RECEIPT_ORDINAL_BITS,
    Receipt,
    ReceiveKey,
)
from zmqbroker.commands.results import (
    Acked,
    Audited,
    ChannelChanged,
    Closed,
    Counted,
    Delivery,
    HandedOver,
    Origin,
    Peeked,
    Piece,
    ProducerOpened,
    Published,
    QueueStats,
    Result,
    Waiting,
)
from zmqbroker.commands.settling import (
    Extend,
    Nack,
    Reject,
    Requeue,
    Settle,
)

__all__ = [
    "ANY_INCARNATION",
    "RECEIPT_ORDINAL_BITS",
    "Ack",
    "Acked",
    "Audited",
    "BatchHeader",
    "ChannelChanged",
    "ChannelSettings",
    "Close",
    "Closed",
    "Command",
    "Counted",
    "CreateChannel",
    "DeleteChannel",
    "DeleteMessages",
    "Delivery",
    "Extend",
    "HandOver",
    "HandedOver",
    "Manage",
    "Member",
    "Nack",
    "OpenProducer",
    "Origin",
    "Peeked",
    "Piece",
    "ProducerOpened",
    "Publish",
    "Published",
    "Purge",
    "QueueStats",
    "Receipt",
    "Receive",
    "ReceiveKey",
    "Redrive",
    "Reject",
    "Requeue",
    "Result",
    "Roster",
    "Run",
    "Settle",
    "TakeAudit",
    "Tick",
    "Trim",
    "UpdateChannel",
    "Waiting",
]
