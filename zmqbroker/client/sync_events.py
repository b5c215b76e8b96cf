"""Events for threads: the names of `events` without `await`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from zmqbroker.client.events import Event, EventsSubscription, PublishResult
from zmqbroker.errors import LocalProtocolError
from zmqbroker.wire.batch import Buffer
from zmqbroker.wire.realtime_requests import CREDIT_BYTES_DEFAULT, CREDIT_DEFAULT

if TYPE_CHECKING:
    from zmqbroker.client.sync import SyncClient

__all__ = ["SyncEvents", "SyncEventsSubscription"]


class SyncEvents:
    """The events of one name, or of all that match a pattern. Made by `SyncClient.events`; see `Events` for what calls do."""

    def __init__(self, client: SyncClient, name: str) -> None:
        self._client = client
        self.name = name

    def publish(
        self,
        body: Buffer,
        *,
        id: str | None = None,
        metadata: str | None = None,
        tags: Mapping[str, str] | None = None,
        trace: str | None = None,
        confirm: bool = False,
        timeout_ms: int | None = None,
    ) -> PublishResult | None:
        """Hand an event to whoever has subscribed at this moment; with `confirm` it is told where it went."""

        async def publish() -> PublishResult | None:
            events = self._client.inner().events(self.name)
            return await events.publish(
                body, id=id, metadata=metadata, tags=tags, trace=trace, confirm=confirm, timeout_ms=timeout_ms
            )

        return self._client.run(publish())

    def subscribe(
        self, *, group: str = "", credit: int = CREDIT_DEFAULT, credit_bytes: int = CREDIT_BYTES_DEFAULT
    ) -> SyncEventsSubscription:
        """Events from now on: `for event in subscription`, best inside `with subscription`. Returns when the node has it."""

        async def subscribe() -> EventsSubscription:
            events = self._client.inner().events(self.name)
            return await events.subscribe(group=group, credit=credit, credit_bytes=credit_bytes).wait_ready()

        return SyncEventsSubscription(self._client, self._client.run(subscribe()))


class SyncEventsSubscription:
    """Events of one subscription."""

    def __init__(self, client: SyncClient, subscription: EventsSubscription) -> None:
        self._client = client
        self._subscription = subscription
        self._process_id = os.getpid()

    @property
    def missed(self) -> int:
        """Events that came too fast; see `EventsSubscription.missed`."""
        return self._subscription.missed

    def __iter__(self) -> Iterator[Event]:
        try:
            while events := self.take():
                yield from events
        finally:
            self.close()

    def take(self, wait_ms: int | None = None) -> Sequence[Event]:
        """All events that are here, at least one; none when the subscription has ended, or nothing came for `wait_ms`."""
        if os.getpid() != self._process_id:
            raise LocalProtocolError(
                f"this subscription belongs to process {self._process_id}; a forked process must make its own"
            )
        return self._client.run(self._subscription.take(wait_ms))

    def close(self) -> None:
        """End the subscription. May be repeated."""
        if os.getpid() != self._process_id:
            return  # it is the parent's
        with contextlib.suppress(LocalProtocolError):  # a closed client has ended it
            self._client.run(self._subscription.close())

    def __enter__(self) -> SyncEventsSubscription:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
