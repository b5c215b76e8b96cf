"""A message broker that speaks ZeroMQ and replicates every queue with Raft: server and client.

`Client` (asyncio) and `SyncClient` are the way in; `zmqbroker.errors` has every error they raise. Importing this package
imports neither ZeroMQ nor the server: the clients are loaded when they are first asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zmqbroker.client import Answer, Client, Message, Rejected, SendResult, SyncClient

__all__ = ["Answer", "Client", "Message", "Rejected", "SendResult", "SyncClient"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from zmqbroker import client

        return getattr(client, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
