"""The slow model with events stores and their durable consumers.

A store is a channel in which every event has its turn; a consumer is one whose messages are made from its store's when it takes
some. What is below a consumer's cursor and was never taken stands there as finished, so that message n is at n - 1 there, too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from tests.unit.broker.model import Model
from tests.unit.broker.model_state import Answer, Channel, Hold, Message, Part
from zmqbroker.broker import MachineLimits
from zmqbroker.commands import (
    Ack,
    ChannelChanged,
    ChannelSettings,
    Command,
    ConsumerOpened,
    CreateChannel,
    CreateSchedule,
    DeleteChannel,
    DeleteMessages,
    HandOver,
    Nack,
    OpenConsumer,
    Publish,
    Purge,
    QueueStats,
    Receive,
    Redrive,
    ResetConsumer,
    Result,
    Settle,
    UpdateChannel,
)
from zmqbroker.errors import (
    Busy,
    ChannelNotFound,
    ConsumerTaken,
    InvalidRequest,
    PositionGone,
    RequestError,
    Unsupported,
)

__all__ = ["ModelConsumer", "ModelStore", "StoreModel"]

PREFIX, MARK = "events_store:", ">"
OF_STORES = {"keep_latest", "max_messages", "max_bytes", "overflow", "max_age_ms", "expiry_ms", "dedup_window_ms"}
OF_CONSUMERS = {"dead_letter", "delivery_limit", "max_in_flight", "single_active"}
LONG_AGO = " long ago"


def unknown_settings(name: str) -> set[str]:
    """The settings that a channel of that name has not."""
    if not name.startswith(PREFIX):
        return {"keep_latest"}
    return {"delay_ms"} | (OF_STORES if MARK in name else OF_CONSUMERS)


def is_bad_dead_letter(name: str, dead_letter: str) -> bool:
    return MARK in dead_letter or (MARK in name and dead_letter == name.split(MARK)[0])


@dataclass(eq=False)
class ModelStore(Channel):
    """A store."""

    consumers: list[ModelConsumer] = field(default_factory=list)  # in the order of creation

    def take_turns(self) -> None:
        for message in self.messages:
            message.has_turn = True

    def first(self) -> int:
        return self.live()[0].sequence if self.live() else len(self.messages) + 1

    def since(self, instant: int) -> int:
        return next((m.sequence for m in self.live() if m.part.time >= instant), len(self.messages) + 1)

    def newest_of_key(self, key: str) -> int | None:
        return max((m.sequence for m in self.live() if m.part.group == key), default=None)

    def add(self, messages: list[Message]) -> None:
        """Times do not go back, priorities do not count, and of a key only the newest may be kept."""
        for message in messages:
            if message.is_live:
                message.part.priority = 0
                message.part.time = max(message.part.time, *(m.part.time for m in self.live()[-1:]), 0)
            self.messages.append(message)
        for message in messages:
            if message.is_live and message.part.group and self.settings.keep_latest:
                same = [m for m in self.live() if m.part.group == message.part.group and m.sequence < message.sequence]
                self.finish(same, "dropped")
        self.take_turns()


@dataclass(eq=False)
class ModelConsumer(Channel):
    """A consumer of a store; `store` is set with it."""

    store: ModelStore = field(default_factory=lambda: ModelStore("", 0))
    owner: tuple[bytes, int] | None = None
    missed: int = 0
    gone: Counter[str] = field(default_factory=Counter)  # how messages finished that may be taken once more

    def skip_to(self, cursor: int) -> None:
        nothing = Part(0, 0, 0, 0, 1, 0, 0, 0)
        while len(self.messages) < cursor - 1:
            self.messages.append(Message(len(self.messages) + 1, nothing, 0, 0, finished="never taken"))

    def go_to(self, cursor: int) -> None:
        self.finish(self.live(), "dropped")
        for message in self.messages:  # that some left for other channels is forgotten
            if message.finished in ("moved", "dead_lettered"):
                message.finished += LONG_AGO
        self.gone.update(m.finished.removesuffix(LONG_AGO) for m in self.messages[cursor - 1 :])
        del self.messages[cursor - 1 :]
        self.skip_to(cursor)

    def position(self) -> int:
        return self.live()[0].sequence if self.live() else len(self.messages) + 1

    def take(self) -> bool:
        """Neighbours of one part that the store has, from the cursor on."""
        if (gone := self.store.first() - len(self.messages) - 1) > 0:
            self.missed += gone
            self.skip_to(self.store.first())
        left = [m for m in self.store.live() if m.sequence > len(self.messages)]
        if not left:
            self.skip_to(len(self.store.messages) + 1)
            return False
        run = [m for place, m in enumerate(left) if m.part is left[0].part and m.sequence == left[0].sequence + place]
        part = left[0].part.cut(left[0].place, len(run))
        if self.owner is not None:
            part.group = ""
        self.skip_to(left[0].sequence)
        self.add([Message(m.sequence, part, n, m.place_in_frame, origin=m.origin) for n, m in enumerate(run)])
        return True

    def fill(self, wanted: int, parked_max: int, records: int = 1 << 20) -> None:
        while records and len(self.messages) < len(self.store.messages):
            if len(self.ready()) >= wanted or len(self.parked()) >= parked_max or not self.take():
                return
            records -= 1

    def stats(self) -> QueueStats:
        finished = self.gone + Counter(m.finished.removesuffix(LONG_AGO) for m in self.messages)
        counted: dict[str, Any] = {how: finished[how] for how in ("acked", "expired", "dead_lettered", "moved", "dropped")}
        unread = max(len(self.store.messages) - len(self.messages), 0)
        return replace(super().stats(), **counted, position=self.position(), unread=unread, missed=self.missed)


class StoreModel(Model):
    """What a machine with these limits must do with stores, too."""

    def __init__(self, limits: MachineLimits) -> None:
        super().__init__(limits)
        self.serving: set[str] = set()  # consumers that are being served: nothing is taken until nobody can be served

    def command(self, command: Command) -> Result:
        refusal = self.refused_at_once(command)
        if refusal is not None:
            return refusal
        match command:
            case OpenConsumer():
                return self.open_consumer(command)
            case ResetConsumer():
                return self.on(self.found(f"{command.store}>{command.consumer}"), self.reset_consumer, command)
            case Receive() if MARK in command.channel:
                return self.on(self.found(command.channel, command.incarnation), self.receive, command)
            case UpdateChannel() if self.kind(command.channel) is ModelStore and "overflow" not in command.explicit:
                overflow = command.settings.overflow.replace("reject", "drop_oldest")
                command = replace(command, settings=replace(command.settings, overflow=overflow))
        return super().command(command)

    def kind(self, name: str) -> type[Channel]:
        return Channel if not name.startswith(PREFIX) else ModelConsumer if MARK in name else ModelStore

    # --- what is refused ----------------------------------------------------------------------------------------------

    def refused_at_once(self, command: Command) -> RequestError | None:
        if isinstance(command, Receive | Ack | Settle):
            return self.closed_to(command.channel, command)
        if isinstance(command, Publish):
            return InvalidRequest("") if self.is_delayed_event(command) else None
        if isinstance(command, CreateChannel | UpdateChannel) and self.contradiction(command):
            return InvalidRequest("")
        if isinstance(command, OpenConsumer | ResetConsumer) and command.start == "sequence" and command.value == 0:
            return InvalidRequest("")
        if isinstance(command, CreateSchedule) and command.name not in self.schedules:
            delayed = InvalidRequest("") if self.is_delayed_event(command.message) else None
            return self.unsendable(command.message.header.channel) or delayed
        if isinstance(command, UpdateChannel | CreateChannel | Redrive | Purge | DeleteMessages):
            return self.unmanageable(command)
        return None

    def is_delayed_event(self, command: Publish) -> bool:
        return self.kind(command.header.channel) is ModelStore and any(run.delay_ms for run in command.runs)

    def unsendable(self, name: str) -> RequestError | None:
        return Unsupported("") if MARK in name else None

    def closed_to(self, name: str, command: Receive | Ack | Settle | HandOver) -> RequestError | None:
        if self.kind(name) is ModelStore:
            return Unsupported("")
        consumer = self.channels.get(name)
        if not isinstance(consumer, ModelConsumer):
            return None
        reader = (command.key.session, command.key.consumer) if isinstance(command, Receive) else (command.session,)
        if consumer.owner is not None and consumer.owner[: len(reader)] != reader:
            return ConsumerTaken("")
        return Unsupported("") if isinstance(command, Nack) and command.behind else None

    def unmanageable(self, command: UpdateChannel | CreateChannel | Redrive | Purge | DeleteMessages) -> RequestError | None:
        kind, channel = self.kind(command.channel), self.channels.get(command.channel)
        if kind is ModelConsumer:
            return None if isinstance(command, UpdateChannel) else Unsupported("")
        if kind is ModelStore and isinstance(command, Redrive):
            return Unsupported("")
        late = isinstance(channel, ModelStore) and not channel.settings.keep_latest and channel.live()
        return InvalidRequest("") if late and isinstance(command, UpdateChannel) and command.settings.keep_latest else None

    def contradiction(self, command: CreateChannel | UpdateChannel) -> bool:
        name, settings, usual = command.channel, asdict(command.settings), asdict(ChannelSettings())
        if any(settings[key] != usual[key] for key in unknown_settings(name)):
            return True
        if is_bad_dead_letter(name, command.settings.dead_letter):
            return True
        return super().contradiction(command)

    def used(self, name: str, incarnation: int = 0) -> Any:
        return self.unsendable(name) or super().used(name, incarnation)

    # --- making -------------------------------------------------------------------------------------------------------

    def usual(self, name: str) -> dict[str, Any]:
        return super().usual(name) | ({"overflow": "drop_oldest"} if self.kind(name) is ModelStore else {})

    def settings_for(self, name: str, said: Mapping[str, Any]) -> ChannelSettings:
        unknown, kept = unknown_settings(name), self.patterns
        self.patterns = {p: {k: v for k, v in s.items() if k not in unknown} for p, s in kept.items()}
        settings = super().settings_for(name, said)
        if "dead_letter" not in said and is_bad_dead_letter(name, settings.dead_letter):
            settings = replace(settings, dead_letter="")
            if "overflow" not in said and settings.overflow == "dead_letter":
                settings = replace(settings, overflow="reject")
        if self.kind(name) is ModelStore and "overflow" not in said and self.said_for(name, "overflow") != "reject":
            settings = replace(settings, overflow="drop_oldest")
        self.patterns = kept
        return settings

    def made(self, name: str, said: Mapping[str, Any]) -> Channel | Busy:
        made = super().made(name, said)
        if isinstance(made, Busy) or self.kind(name) is Channel:
            return made
        common = made.name, made.incarnation, made.settings
        store = self.channels.get(name.split(MARK)[0])
        if MARK in name:
            assert isinstance(store, ModelStore)
            consumer = ModelConsumer(*common, store=store)
            store.consumers.append(consumer)
            self.channels[name] = consumer
        else:
            self.channels[name] = ModelStore(*common)
        return self.channels[name]

    def delete(self, channel: Channel, command: DeleteChannel) -> ChannelChanged:
        if isinstance(channel, ModelStore):
            for consumer in list(channel.consumers):
                self.delete(consumer, DeleteChannel(consumer.name))
        if isinstance(channel, ModelConsumer):
            channel.store.consumers.remove(channel)
        return super().delete(channel, command)

    # --- consumers ----------------------------------------------------------------------------------------------------

    def open_consumer(self, command: OpenConsumer) -> Result:
        name = f"{command.store}{MARK}{command.consumer}"
        there = self.channels.get(name)
        if self.contradiction(CreateChannel(name, command.settings)):
            return InvalidRequest("")
        made: Any = self.new_consumer(name, command) if there is None else there
        if isinstance(made, RequestError):
            return made
        owner = (command.session, command.number) if command.exclusive else None
        if owner is not None:
            self.take_over(made, owner)
        made.owner = owner
        return self.opened(made, created=there is None)

    def new_consumer(self, name: str, command: OpenConsumer) -> ModelConsumer | RequestError:
        missing = command.store not in self.channels
        if missing and self.said_for(command.store, "create_on_use") is False:
            return ChannelNotFound("")
        if len(self.channels) + 1 + missing > self.limits.channels_max:
            return Busy("", retry_ms=self.limits.retry_ms)
        start = self.start(self.used(command.store), command)
        if isinstance(start, RequestError):
            return start
        usual = asdict(ChannelSettings())
        said = {k: v for k, v in asdict(command.settings).items() if v != usual[k] or k in command.explicit}
        consumer = self.made(name, said)
        assert isinstance(consumer, ModelConsumer)
        consumer.skip_to(start)
        return consumer

    def start(self, store: ModelStore, command: OpenConsumer | ResetConsumer) -> int | RequestError:
        last = store.live()[-1].sequence if store.live() else len(store.messages) + 1
        instant = self.now - command.value * 1_000_000
        places = {"new": len(store.messages) + 1, "first": store.first(), "last": last, "time": store.since(command.value)}
        places |= {"time_delta_ms": store.since(instant), "sequence": command.value}
        if command.start == "sequence" and command.value < store.first():
            return PositionGone("", first=store.first())
        return places[command.start]

    def take_over(self, consumer: ModelConsumer, owner: tuple[bytes, int]) -> None:
        others = [hold for hold in consumer.holds if (hold.key.session, hold.key.consumer) != owner]
        for hold in [hold for hold in others if hold.assigning is None]:
            consumer.holds.remove(hold)
            self.answers.append(Answer(hold.key, consumer.name, ()))
        for hold in [hold for hold in others if hold.assigning is not None]:
            self.give_back(consumer, hold)
        consumer.turn = None
        if owner != consumer.owner:
            for message in consumer.live():
                message.part.group = ""
        self.to_serve.append(consumer)

    def reset_consumer(self, consumer: Channel, command: ResetConsumer) -> Result:
        assert isinstance(consumer, ModelConsumer)
        start = self.start(consumer.store, command)
        if isinstance(start, RequestError):
            return start
        consumer.go_to(start)
        self.to_serve.append(consumer)
        return self.opened(consumer, created=False)

    def opened(self, consumer: ModelConsumer, *, created: bool) -> ConsumerOpened:
        self.serve_all()
        store = consumer.store
        return ConsumerOpened(consumer.position(), created, store.first(), len(store.messages))

    # --- receiving ----------------------------------------------------------------------------------------------------

    def receive(self, channel: Channel, command: Receive) -> Result:
        if isinstance(channel, ModelConsumer):
            channel.fill(command.count_max, self.limits.parked_max, self.limits.taken_records)
            channel.fill(command.count_min, self.limits.parked_max)
        result = super().receive(channel, command)
        self.serve(channel)
        return result

    def answer(self, channel: Channel, hold: Hold) -> None:
        super().answer(channel, hold)
        self.serve(channel)

    def serve(self, channel: Channel) -> None:
        if isinstance(channel, ModelStore):
            for consumer in channel.consumers:
                self.serve(consumer)
        if not isinstance(channel, ModelConsumer) or channel.name in self.serving:
            super().serve(channel)
            return
        self.serving.add(channel.name)
        before = -1
        while len(self.answers) != before:
            before = len(self.answers)
            if needs := [hold.command.count_min for hold in channel.waiters()]:
                channel.fill(max(self.limits.taken_ready, *needs), self.limits.parked_max)
            super().serve(channel)
        self.serving.remove(channel.name)
