"""Acks and sends in one step, for threads."""

from __future__ import annotations

from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Protocol, TypeVar, Unpack

from zmqbroker.client.message import SendResult
from zmqbroker.client.transaction import SendOptions, Transaction
from zmqbroker.wire.batch import Buffer

__all__ = ["SyncTransaction"]

Result = TypeVar("Result")


class Runner(Protocol):
    """What runs a coroutine in the client's loop: `SyncClient`."""

    def run(self, action: Coroutine[Any, Any, Result]) -> Result:
        """Run a coroutine, and wait for the result."""
        ...


class SyncTransaction:
    """One step: made by `SyncQueue.transaction`, done when its block ends. It belongs to one thread."""

    def __init__(self, client: Runner, transaction: Transaction) -> None:
        self._client = client
        self._transaction = transaction

    def send(self, channel: str, body: Buffer, **options: Unpack[SendOptions]) -> None:
        """Send a message to a channel when the block ends; see `Transaction.send`."""
        self._transaction.send(channel, body, **options)

    @property
    def results(self) -> list[SendResult]:
        """The result of each send, in the order of the calls. Raises LocalProtocolError before it is done."""
        return self._transaction.results

    def commit(self) -> None:
        """Do it; leaving the block does so. Raises RequestError: nothing was done, unless it says `outcome_unknown`."""
        self._client.run(self._transaction.commit())

    def abandon(self) -> None:
        """Do nothing of it; the messages are still held."""
        self._transaction.abandon()

    def __enter__(self) -> SyncTransaction:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is not None:
            self.abandon()
        elif not self._transaction.ended:
            self.commit()
