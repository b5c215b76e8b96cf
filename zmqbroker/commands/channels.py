"""What is done with channels as a whole, and how they treat their messages."""

from __future__ import annotations

from dataclasses import dataclass, fields

from zmqbroker.commands.names import is_consumer, is_store, store_of

__all__ = [
    "ChannelSettings",
    "CreateChannel",
    "DeleteChannel",
    "DeleteMessages",
    "Manage",
    "Purge",
    "Redrive",
    "UpdateChannel",
    "dead_letter_fault",
    "has_setting",
]

#: What an events store can be told, and what a durable consumer of one; a queue anything else but the last of the first.
_OF_STORES = {"expiry_ms", "max_messages", "max_bytes", "overflow", "dedup_window_ms", "max_age_ms", "keep_latest"}
_OF_CONSUMERS = {"delivery_limit", "dead_letter", "max_in_flight", "single_active"}


def has_setting(channel: str, setting: str) -> bool:
    """Whether a channel of that name can have another value of a setting than its default."""
    if is_store(channel):
        return setting in _OF_STORES
    return setting in _OF_CONSUMERS if is_consumer(channel) else setting != "keep_latest"


def dead_letter_fault(channel: str, dead_letter: str) -> str | None:
    """Why a channel cannot have that dead-letter channel; None when it can."""
    if is_consumer(dead_letter):
        return f"setting dead_letter is {dead_letter!r}, a consumer of an events store, which nobody sends to"
    if is_consumer(channel) and dead_letter == store_of(channel):
        return f"setting dead_letter is {dead_letter!r}, the store that the consumer reads"
    return None


def _kind_of(channel: str) -> str:
    if is_store(channel):
        return "an events store"
    return "a consumer of an events store" if is_consumer(channel) else "a queue"


@dataclass(slots=True, frozen=True)
class ChannelSettings:
    """How a channel treats its messages. A zero, an empty name, or False stands for "no such rule"."""

    delivery_limit: int = 0  # after so many deliveries a message that returns goes to `dead_letter`, if there is one
    dead_letter: str = ""  # the channel that takes what was rejected or delivered too often
    delay_ms: int = 0  # of messages that say none themselves
    expiry_ms: int = 0  # the same
    max_messages: int = 0  # live messages
    max_bytes: int = 0  # of their batch frames
    overflow: str = "reject"  # what a send does that would exceed these: reject | drop_oldest | dead_letter
    max_in_flight: int = 0  # messages that all receivers together may hold
    dedup_window_ms: int = 0  # for so long a message is not stored again whose id was
    single_active: bool = False  # all messages go to one consumer at a time
    max_age_ms: int = 0  # so long after it was stored here a message is gone, whatever its own expiry says

    keep_latest: bool = False  # of the events of a store that have the same key only the newest is kept

    def contradiction(self, channel: str) -> str | None:
        """Why these cannot be the settings of a channel of that name, each of them being right; None when they can."""
        for field in fields(self):
            value = getattr(self, field.name)
            if value != field.default and not has_setting(channel, field.name):
                return f"setting {field.name} is {value!r}, and {_kind_of(channel)} has no such setting"
        if is_store(channel) and self.overflow == "dead_letter":
            return "setting overflow is 'dead_letter', and an events store keeps its events, or drops the oldest"
        if fault := dead_letter_fault(channel, self.dead_letter):
            return fault
        if self.dead_letter == channel:
            return f"setting dead_letter is {channel!r}, which is the channel itself"
        if self.overflow == "dead_letter" and not self.dead_letter:
            return "setting overflow is 'dead_letter' and setting dead_letter names no channel"
        return None


@dataclass(slots=True, frozen=True)
class Purge:
    """Finish all messages that nobody holds; with `in_flight` those that somebody does, too."""

    channel: str
    in_flight: bool = False


@dataclass(slots=True, frozen=True)
class DeleteMessages:
    """Finish messages by their sequences (first, last), as far as nobody holds them: so a delayed one is cancelled."""

    channel: str
    sequences: tuple[tuple[int, int], ...]


@dataclass(slots=True, frozen=True)
class Redrive:
    """Move messages that nobody holds to another channel, or each to where it came from."""

    channel: str
    to: str = ""  # empty: where it came from
    origin: str = ""  # only those that came from this channel
    count_max: int = 0  # 0: all
    first: int = 1  # only messages from this sequence on


@dataclass(slots=True, frozen=True)
class CreateChannel:
    """Create a channel; one that is there with the same settings is fine."""

    channel: str
    settings: ChannelSettings = ChannelSettings()
    explicit: tuple[str, ...] = ()  # settings that are said although they have their default; ascending


@dataclass(slots=True, frozen=True)
class UpdateChannel:
    """Give a channel other settings; they hold for what comes and what returns from now on."""

    channel: str
    settings: ChannelSettings
    explicit: tuple[str, ...] = ()  # settings that are said although they have their default; ascending


@dataclass(slots=True, frozen=True)
class DeleteChannel:
    """Delete a channel with all that is in it."""

    channel: str


Manage = Purge | DeleteMessages | Redrive | CreateChannel | UpdateChannel | DeleteChannel
