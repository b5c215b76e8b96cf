"""A slow, obvious queue: one object per message, every question answered by looking at all of them.

Shares no code with the machine but the values of `commands` and `errors`. It keeps every message and every result for ever
and knows nothing of ranges, batches as units, stored keys or indexes. `model_state` has what it keeps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any, TypeVar

from tests.unit.broker.model_routing import Routing
from tests.unit.broker.model_rules import ModelSchedule
from tests.unit.broker.model_state import (
    MILLISECOND,
    Answer,
    Channel,
    Hold,
    KnownProducer,
    Message,
    Turn,
    end_of_wait,
    first_step_after,
)
from zmqbroker.commands import (
    Ack,
    Acked,
    ChannelChanged,
    ChannelSettings,
    Close,
    Closed,
    Command,
    Counted,
    CreateChannel,
    CreateSchedule,
    DeleteBinding,
    DeleteChannel,
    DeleteMessages,
    DeleteRoute,
    DeleteSchedule,
    Extend,
    HandOver,
    Nack,
    OpenProducer,
    ProducerOpened,
    Publish,
    PublishAll,
    Published,
    Purge,
    QueueStats,
    Receipt,
    Receive,
    Redrive,
    Reject,
    Requeue,
    Result,
    SetBinding,
    SetDefaults,
    SetRoute,
    Settle,
    Trim,
    UpdateChannel,
    Waiting,
)
from zmqbroker.errors import (
    Busy,
    ChannelExists,
    ChannelNotFound,
    InvalidRequest,
    RequestError,
    SequenceMismatch,
    StaleReceipt,
    UnknownProducer,
)

__all__ = ["Model"]

C = TypeVar("C", bound=Command)


class Model(Routing):
    """What a machine with these limits must do."""

    def apply(self, index: int, time: int, commands: list[Command]) -> tuple[list[Result], list[Answer]]:
        self.index, self.now, self.answers = index, max(self.now, time), []
        self.fall_due(index << 16 | 0xFFFF)
        results = []
        for ordinal, command in enumerate(commands):
            self.assigning, self.to_serve = index << 16 | ordinal, []
            results.append(self.command(command))
            self.serve_all()
        self.end_entry()
        return results, self.answers

    # --- what the node asks -------------------------------------------------------------------------------------------

    def stats(self, name: str) -> QueueStats | None:
        return self.channels[name].stats() if name in self.channels else None

    def lowest_live_index(self) -> int | None:
        live = [part.index for channel in self.channels.values() for part in channel.parts()]
        return min([*live, *(schedule.index for schedule in self.schedules.values())], default=None)

    def next_due(self) -> int | None:
        waiting = [m for channel in self.channels.values() for m in channel.messages if m.waits]
        dues = [m.due for m in waiting if m.due] + [m.part.expires for m in waiting if m.part.expires]
        turns = [channel.turn.deadline for channel in self.channels.values() if channel.turn and channel.turn.order]
        dues += [*turns, *self.schedule_instants()]
        return min([*dues, *(hold.deadline for _, hold in self.holds())], default=None)

    # --- time ---------------------------------------------------------------------------------------------------------

    def fall_due(self, assigning: int) -> None:
        self.assigning = assigning
        claims: list[tuple[Channel, Hold | Turn]] = [*self.holds()]
        claims += [(c, c.turn) for c in self.channels.values() if c.turn and c.turn.order]
        due = sorted(((h.deadline, h.order, c, h) for c, h in claims if h.deadline <= self.now), key=lambda d: d[:2])
        for channel in list(self.channels.values()):
            channel.forget_ids(self.now, self.limits.dedup_ids_max)
            for message in channel.messages:
                if message.due <= self.now:
                    message.due = 0
            channel.take_turns()
            channel.finish([m for m in channel.messages if m.waits and m.has_expired(self.now)], "expired")
            self.serve(channel)
        self.send_due()
        for _, _, channel, hold in due:
            self.to_serve = []
            if isinstance(hold, Turn):
                channel.turn = None
                self.to_serve.append(channel)
            elif hold in channel.holds and hold.assigning is None:
                self.answer(channel, hold)
            elif hold in channel.holds and hold.assigning != assigning:
                self.give_back(channel, hold)
            self.serve_all()

    # --- commands -----------------------------------------------------------------------------------------------------

    def command(self, command: Command) -> Result:
        match command:
            case Publish():
                if command.expected_sequence and command.header.channel not in self.channels and not command.header.producer:
                    return self.mismatch(command, 0)
                return self.on(self.used(command.header.channel, command.incarnation), self.publish, command)
            case OpenProducer():
                return self.on(self.used(command.channel, command.incarnation), self.open, command)
            case Receive():
                return self.on(self.used(command.channel, command.incarnation), self.receive, command)
            case Ack():
                return self.on(self.found(command.channel), self.ack, command)
            case Nack() | Reject() | Requeue() | Extend():
                return self.on(self.found(command.channel), self.settle, command)
            case Purge():
                return self.on(self.found(command.channel), self.purge, command)
            case DeleteMessages():
                return self.on(self.found(command.channel), self.delete_messages, command)
            case Redrive():
                return self.on(self.found(command.channel), self.redrive, command)
            case CreateChannel():
                return self.create(command)
            case UpdateChannel():
                return self.update(command)
            case DeleteChannel():
                return self.on(self.found(command.channel), self.delete, command)
            case HandOver():
                return self.hand_over(command)
            case PublishAll():
                return self.publish_all(command)
            case SetRoute() | DeleteRoute() | SetBinding() | DeleteBinding():
                return self.set_routing(command)
            case SetDefaults():
                return self.set_defaults(command)
            case CreateSchedule():
                return self.create_schedule(command)
            case DeleteSchedule():
                return self.delete_schedule(command)
            case Close():
                return self.close(command)
            case Trim():
                self.trimmed = max(self.trimmed, command.index)
        return None

    def on(self, channel: Channel | RequestError, do: Callable[[Channel, C], Result], command: C) -> Result:
        return channel if isinstance(channel, RequestError) else do(channel, command)

    # --- producing ----------------------------------------------------------------------------------------------------

    def open(self, channel: Channel, command: OpenProducer) -> Result:
        if command.producer not in channel.producers:
            if len(channel.producers) == self.limits.producers_max:
                del channel.producers[min(channel.producers, key=lambda p: channel.producers[p].used)]
            channel.producers[command.producer] = KnownProducer(0)
        return ProducerOpened(self.use(channel, command.producer).last)

    def publish(self, channel: Channel, command: Publish) -> Result:
        header = command.header
        if header.producer:
            if header.producer not in channel.producers:
                return UnknownProducer("")
            refusal = self.repeated(channel, self.use(channel, header.producer), header.base_sequence, header.count)
            if refusal is not None:
                return refusal
        if command.expected_sequence is not None and command.expected_sequence != len(channel.messages):
            return self.mismatch(command, len(channel.messages))
        duplicates = channel.duplicates(command.ids)
        messages = self.messages_of(channel, command, dict(duplicates))
        fresh = [m for m in messages if m.is_live]
        full = self.make_room(channel, len(fresh), sum(p.share for p in {m.part for m in fresh})) if fresh else None
        if full is not None:
            return full
        first = self.put(channel, command, messages, duplicates)
        self.to_serve.append(channel)
        self.serve_all()  # who waits here, before anybody has room made in what is bound
        self.to_serve = []
        self.feed(command, first, duplicates)
        return Published(first, header.count, False, self.now, duplicates)

    def mismatch(self, command: Publish, last_sequence: int) -> SequenceMismatch:
        return SequenceMismatch("", expected=command.expected_sequence, last_sequence=last_sequence)

    def send(self, schedule: ModelSchedule) -> bool:
        """As if the message was sent now, but for the entry that it is in."""
        command, self.to_serve, self.frame_index = schedule.command.message, [], schedule.index
        result = self.on(self.used(command.header.channel), self.publish, command)
        self.frame_index = 0
        self.serve_all()
        return isinstance(result, Published)

    # --- receiving ----------------------------------------------------------------------------------------------------

    def receive(self, channel: Channel, command: Receive) -> Result:
        mine = [hold for hold in channel.holds if hold.key == command.key]
        if any(hold.assigning is not None for hold in mine):
            self.tell(channel, command.key)
        if mine:
            return Waiting()
        self.order += 1
        hold = Hold(self.order, command, end_of_wait(self.now, command.wait_ms))
        if channel.settings.single_active:
            if channel.turn is None:
                self.begin_turn(channel, command)
            elif channel.turn.of(command.key):
                channel.turn.visibility_ms, channel.turn.order = command.visibility_ms, 0
        enough = channel.available_to(command.key) >= command.count_min or command.wait_ms == 0
        if not enough and len(channel.waiters()) == self.limits.waiting_max:
            return Busy("", retry_ms=self.limits.retry_ms)
        channel.holds.append(hold)
        if enough:
            self.answer(channel, hold)
        return Waiting()

    def close(self, command: Close) -> Closed:
        ended = [
            (channel, hold)
            for channel, hold in self.holds()
            if hold.key.session == command.session
            and command.consumer in (None, hold.key.consumer)
            and command.request in (0, hold.key.request)
        ]
        for channel, hold in ended:
            if hold.assigning is None:
                channel.holds.remove(hold)
        held = sorted((pair for pair in ended if pair[1].assigning is not None), key=lambda pair: pair[1].order)
        closed = Closed(sum(self.give_back(channel, hold) for channel, hold in held))
        for channel in self.channels.values():
            turn = channel.turn
            if turn and turn.session == command.session and command.consumer in (None, turn.consumer) and not command.request:
                channel.turn = None
                self.to_serve.append(channel)
        return closed

    # --- settling -----------------------------------------------------------------------------------------------------

    def is_held(self, channel: Channel, session: bytes, receipt: Receipt) -> bool:
        messages = channel.between(receipt.first, receipt.last)
        complete = messages and len(messages) == receipt.last - receipt.first + 1
        return bool(complete) and all(
            m.finished or (m.hold and m.hold.assigning == receipt.assigning and m.hold.key.session == session) for m in messages
        )

    def ack(self, channel: Channel, command: Ack) -> Result:
        count, stale = 0, []
        self.to_serve.append(channel)
        for receipt in command.receipts:
            messages = channel.between(receipt.first, receipt.last)
            elsewhere = any(m.finished in ("moved", "dead_lettered") for m in messages)
            if self.is_held(channel, command.session, receipt) and not elsewhere:
                channel.finish([m for m in messages if m.is_live], "acked")
                count += len(messages)
            else:
                stale.append([receipt.assigning, receipt.first, receipt.last])
        return StaleReceipt("", stale=stale, count=count) if stale else Acked(count)

    def settle(self, channel: Channel, command: Settle) -> Result:
        target: Channel | RequestError = channel
        if isinstance(command, Reject):
            dead_letter = channel.settings.dead_letter
            target = self.used(dead_letter) if dead_letter else InvalidRequest("")
        elif isinstance(command, Requeue):
            target = self.used(command.to)
        if not isinstance(target, Channel):
            return target
        count, stale = 0, []
        for receipt in command.receipts:
            if self.is_held(channel, command.session, receipt):
                messages = [m for m in channel.between(receipt.first, receipt.last) if m.is_live]
                count += len(messages)
                self.settle_held(channel, target, command, messages)
            else:
                stale.append([receipt.assigning, receipt.first, receipt.last])
        return StaleReceipt("", stale=stale, count=count) if stale else Counted(count)

    def settle_held(self, channel: Channel, target: Channel, command: Settle, messages: list[Message]) -> None:
        if isinstance(command, Extend):
            self.extend(channel, messages, self.now + command.visibility_ms * MILLISECOND)
            return
        runs = channel.release(messages)
        if isinstance(command, Nack):
            due = first_step_after(self.now, command.delay_ms) if command.delay_ms else 0
            self.come_back(channel, runs, due, behind=command.behind)
        elif isinstance(command, Reject):
            self.move(channel, runs, target, "dead_lettered", command.reason)
        else:
            self.move(channel, self.unexpired(channel, runs), target, "moved", "requeued", expiring=True)

    def extend(self, channel: Channel, messages: list[Message], deadline: int) -> None:
        for hold in list(dict.fromkeys(m.hold for m in messages if m.hold)):
            self.order += 1
            longer = Hold(self.order, hold.command, deadline, hold.assigning)
            channel.holds.append(longer)
            for message in messages:
                message.hold = longer if message.hold is hold else message.hold
            if not channel.held(hold):
                channel.holds.remove(hold)

    # --- managing -----------------------------------------------------------------------------------------------------

    def purge(self, channel: Channel, command: Purge) -> Counted:
        return Counted(channel.finish([m for m in channel.live() if command.in_flight or m.waits], "dropped"))

    def delete_messages(self, channel: Channel, command: DeleteMessages) -> Counted:
        self.to_serve.append(channel)
        parts = [channel.between(first, last) for first, last in command.sequences]
        return Counted(sum(channel.finish([m for m in part if m.waits], "dropped") for part in parts))

    def redrive(self, channel: Channel, command: Redrive) -> Result:
        count = 0
        firsts, lasts = channel.ends()
        parts = [part for part in channel.parts() if lasts[part] >= command.first]
        limit = self.limits.redriven_max
        for part in parts[:limit]:
            waiting = [m for m in channel.live() if m.part is part and m.waits and m.sequence >= command.first]
            origin = waiting[0].origin if waiting else None
            to = command.to or (origin.channel if origin and "events_store:" not in origin.channel else "")
            wanted = not command.origin or (origin is not None and origin.channel == command.origin)
            if command.count_max:
                waiting = waiting[: command.count_max - count]
            if not waiting or not wanted or to in ("", channel.name):
                continue
            target = self.used(to)
            if not isinstance(target, Channel):
                return Counted(count, firsts[part]) if count else target
            self.move(channel, channel.release(waiting), target, "moved", "redriven")
            count += len(waiting)
        done = command.count_max and count >= command.count_max
        return Counted(count, 0 if done or len(parts) <= limit else firsts[parts[limit]])

    def contradiction(self, command: CreateChannel | UpdateChannel) -> bool:
        dead_letter = command.settings.dead_letter
        return dead_letter == command.channel or (command.settings.overflow == "dead_letter" and not dead_letter)

    def create(self, command: CreateChannel) -> Result:
        if self.contradiction(command):
            return InvalidRequest("")
        there, usual = self.channels.get(command.channel), self.usual(command.channel)
        plain = asdict(ChannelSettings())
        said = {k: v for k, v in asdict(command.settings).items() if v != plain[k] or k in command.explicit}
        if there is None:
            made = self.made(command.channel, said)
            return made if isinstance(made, RequestError) else ChannelChanged(made.name, changed=True)
        settings = asdict(there.settings)
        wanted = {name: said.get(name, value) for name, value in usual.items()}
        free = {name for name in usual if name not in said and self.said_for(command.channel, name) is not None}
        differing = sorted(name for name in usual if name not in free and settings[name] != wanted[name])
        return ChannelExists("", differing=differing) if differing else ChannelChanged(there.name, changed=False)

    def usual(self, name: str) -> dict[str, Any]:
        """The settings of a channel of which nobody has said anything."""
        return asdict(ChannelSettings())

    def update(self, command: UpdateChannel) -> Result:
        if self.contradiction(command):
            return InvalidRequest("")
        channel = self.found(command.channel)
        if isinstance(channel, ChannelNotFound):
            return channel
        changed, channel.settings = channel.settings != command.settings, command.settings
        channel.forget_ids(self.now, self.limits.dedup_ids_max)
        self.to_serve.append(channel)
        return ChannelChanged(channel.name, changed)

    def delete(self, channel: Channel, command: DeleteChannel) -> ChannelChanged:
        oldest_first = sorted(channel.waiters(), key=lambda hold: hold.order)
        self.answers += [Answer(hold.key, channel.name, ()) for hold in oldest_first]
        del self.channels[command.channel]
        return ChannelChanged(command.channel, changed=True, deleted=True)
