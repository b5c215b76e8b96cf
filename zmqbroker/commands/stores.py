"""Durable consumers of events stores: how one is opened, and how its position is set anew."""

from __future__ import annotations

from dataclasses import dataclass, field

from zmqbroker.commands.channels import ChannelSettings
from zmqbroker.commands.names import consumer_of

__all__ = ["STARTS", "OpenConsumer", "ResetConsumer"]

#: Where a consumer begins: behind all events; with the first that is kept; with the last; with the sequence `value`, or the
#: first behind it; with the first that was stored at the instant `value`, in nanoseconds since 1970, or later; with the first
#: of the last `value` milliseconds.
STARTS = ("new", "first", "last", "sequence", "time", "time_delta_ms")


@dataclass(slots=True, frozen=True)
class OpenConsumer:
    """Make a durable consumer, or go on with the one that is there; start and settings hold for one that is made."""

    store: str
    consumer: str  # its name at the store
    start: str = "new"  # one of STARTS
    value: int = 0  # of a start that has one
    exclusive: bool = False  # True: it is this reader's alone, from now until it is opened again
    session: bytes = b""  # of the reader
    number: int = 0  # the reader's `ReceiveKey.consumer`
    settings: ChannelSettings = field(default_factory=ChannelSettings)
    explicit: tuple[str, ...] = ()  # settings that are said although they have their default; ascending

    @property
    def channel(self) -> str:
        """The name that it is received from."""
        return consumer_of(self.store, self.consumer)


@dataclass(slots=True, frozen=True)
class ResetConsumer:
    """Forget what a consumer has ready and in flight, and go on elsewhere."""

    store: str
    consumer: str
    start: str = "first"  # one of STARTS
    value: int = 0

    @property
    def channel(self) -> str:
        """The name that it is received from."""
        return consumer_of(self.store, self.consumer)
