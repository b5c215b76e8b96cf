"""Events stores of the client for threads: the names of `store`, `subscription` and `durable` without `await`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Unpack, cast, overload

from zmqbroker.client.cursor import Gap
from zmqbroker.client.durable import DurableSubscription, Opened
from zmqbroker.client.message import SendResult
from zmqbroker.client.options import (
    DurableOptions,
    ProducerOptions,
    PublishOptions,
    ReadOptions,
    ReadSubscribeOptions,
    StartOptions,
)
from zmqbroker.client.producer import Producer
from zmqbroker.client.store import ConsumerInfo, Store
from zmqbroker.client.store_subscription import StoredEvent, StoreSubscription
from zmqbroker.client.sync_producer import SyncProducer
from zmqbroker.client.sync_queue import SyncMessage, SyncQueue
from zmqbroker.errors import LocalProtocolError
from zmqbroker.wire.batch import Buffer

if TYPE_CHECKING:
    from zmqbroker.client.sync import SyncClient

__all__ = ["SyncDurableSubscription", "SyncStore", "SyncStoreSubscription"]


class SyncStore:
    """One events store. Made by `SyncClient.store`; see `Store` for what each call does and raises."""

    def __init__(self, client: SyncClient, name: str) -> None:
        self._client = client
        self.name = name

    @property
    def _store(self) -> Store:
        return self._client.inner_store(self.name)

    @property
    def channel(self) -> str:
        """The name of its channel."""
        return self._store.channel

    def publish(self, body: Buffer, **options: Unpack[PublishOptions]) -> SendResult:
        """Store one event, exactly once, and wait for the confirm. Options are those of `Store.publish`."""
        return self._client.run(self._store.publish(body, **options))

    def producer(self, **settings: Unpack[ProducerOptions]) -> SyncProducer:
        """A producer for many events. Settings are those of `Queue.producer`."""
        return SyncProducer(self._client, self._client.run(self._producer(settings)))

    def read(self, max: int = 1, **options: Unpack[ReadOptions]) -> list[StoredEvent]:
        """Up to `max` events from one place on. Options are those of `Store.read`."""
        return self._client.run(self._store.read(max, **options))

    def get(self, sequence: int, *, timeout_ms: int | None = None) -> StoredEvent | None:
        """The event with a sequence; see `Store.get`."""
        return self._client.run(self._store.get(sequence, timeout_ms=timeout_ms))

    def last(self, *, key: str = "", timeout_ms: int | None = None) -> StoredEvent | None:
        """The newest event, or that of a key; see `Store.last`."""
        return self._client.run(self._store.last(key=key, timeout_ms=timeout_ms))

    @overload
    def subscribe(
        self, *, on_gap: Callable[[Gap], object] | None = ..., **options: Unpack[ReadSubscribeOptions]
    ) -> SyncStoreSubscription:
        """Keep the position here."""

    @overload
    def subscribe(self, *, consumer: str, exclusive: bool = ..., **options: Unpack[DurableOptions]) -> SyncDurableSubscription:
        """Have the broker keep the position, for one reader."""

    @overload
    def subscribe(self, *, group: str, **options: Unpack[DurableOptions]) -> SyncDurableSubscription:
        """The same for a group."""

    def subscribe(self, **options: Any) -> SyncStoreSubscription | SyncDurableSubscription:
        """An iterator over events from one place on, which begins with this call. Options are those of `Store.subscribe`.

        `on_gap` is called in the client's thread.
        """
        inner = self._client.run(self._begin(options))
        if isinstance(inner, DurableSubscription):
            return SyncDurableSubscription(self._client, inner)
        return SyncStoreSubscription(self._client, inner)

    def consumer(self, name: str) -> SyncQueue:
        """A durable consumer as the queue that it is; see `Store.consumer`."""
        return self._client.queue(self._client.run(self._consumer_name(name)))

    def reset(self, consumer: str, **start: Unpack[StartOptions]) -> Opened:
        """Have a durable consumer go on from another place; see `Store.reset`."""
        return self._client.run(self._store.reset(consumer, **start))

    def consumers(self) -> list[ConsumerInfo]:
        """The durable consumers and groups of this store, by name."""
        return self._client.run(self._store.consumers())

    def delete_consumer(self, name: str) -> None:
        """Forget a durable consumer, or a group, and its position. Raises ChannelNotFound."""
        self._client.run(self._store.delete_consumer(name))

    async def _begin(self, options: dict[str, Any]) -> StoreSubscription | DurableSubscription:
        subscribe = cast(Callable[..., StoreSubscription | DurableSubscription], self._store.subscribe)
        return await subscribe(**options).__aenter__()

    async def _consumer_name(self, name: str) -> str:
        return self._store.consumer(name).name

    async def _producer(self, settings: ProducerOptions) -> Producer:
        return await self._store.producer(**settings).__aenter__()


class _OfOneProcess:
    """What a forked child must not use: it has neither the connection nor the loop."""

    def __init__(self) -> None:
        self._process_id = os.getpid()

    @property
    def _inherited(self) -> bool:
        return os.getpid() != self._process_id

    def _check_process(self) -> None:
        if self._inherited:
            raise LocalProtocolError(
                f"this subscription belongs to process {self._process_id}; a forked process must make its own"
            )


class SyncStoreSubscription(_OfOneProcess):
    """Events of one store: `for event in subscription`, best inside `with subscription`."""

    def __init__(self, client: SyncClient, subscription: StoreSubscription) -> None:
        super().__init__()
        self._client, self._inner = client, subscription

    def __iter__(self) -> Iterator[StoredEvent]:
        self._check_process()
        try:
            while events := self._client.run(self._inner.take()):
                yield from events
                self._check_process()
        finally:
            self.close()

    def close(self) -> None:
        """Stop. May be repeated."""
        if self._inherited:
            return  # it is the parent's
        with contextlib.suppress(LocalProtocolError):  # a closed client has nothing under way
            self._client.run(self._inner.close())

    def __enter__(self) -> SyncStoreSubscription:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class SyncDurableSubscription(_OfOneProcess):
    """Events for one durable consumer: `for event in durable`, best inside `with durable`."""

    def __init__(self, client: SyncClient, durable: DurableSubscription) -> None:
        super().__init__()
        self._client, self._inner = client, durable

    def __iter__(self) -> Iterator[SyncMessage]:
        self._check_process()
        try:
            while events := self._client.run(self._inner.take()):
                yield from self._settled(cast(Sequence[SyncMessage], events))
                self._check_process()
        finally:
            self.close()

    def _settled(self, events: Sequence[SyncMessage]) -> Iterator[SyncMessage]:
        for event in events:
            yield event
            if self._inner.auto and self._inner.note(cast(Any, event)):
                self._client.run(self._inner.settle())
        if self._inner.auto:
            self._client.run(self._inner.settle())

    def close(self) -> None:
        """Stop; events that are not acked come again, to whoever reads on. May be repeated."""
        if self._inherited:
            return  # it is the parent's
        with contextlib.suppress(LocalProtocolError):  # a closed client has returned everything
            self._client.run(self._inner.close())

    def __enter__(self) -> SyncDurableSubscription:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
