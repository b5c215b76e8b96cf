"""A slow, obvious queue: one object per message, every question answered by looking at all of them.

Shares no code with the machine but the values of `commands` and `errors`. It keeps every message and every result for ever
and knows nothing of ranges, batches as units, stored keys or indexes.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from zmqbroker.broker import MachineLimits
from zmqbroker.commands import (
    Ack,
    Acked,
    Close,
    Closed,
    Command,
    Delivery,
    OpenProducer,
    Piece,
    ProducerOpened,
    Publish,
    Published,
    QueueStats,
    Receipt,
    Receive,
    ReceiveKey,
    Result,
    Trim,
    Waiting,
)
from zmqbroker.errors import Busy, ChannelNotFound, Duplicate, OutOfSequence, StaleReceipt, UnknownProducer

__all__ = ["Model"]

MILLISECOND = 1_000_000


@dataclass(eq=False)
class Hold:
    """A receive that waits (assigning None) or holds messages."""

    order: int
    command: Receive
    deadline: int
    assigning: int | None = None

    @property
    def key(self) -> ReceiveKey:
        return self.command.key


@dataclass(eq=False)
class Message:
    """One message; `hold` None and not finished means ready."""

    sequence: int
    publish: Publish
    index: int
    time: int
    offset: int
    deliveries: int = 0
    hold: Hold | None = None
    finished: bool = False


@dataclass(eq=False)
class KnownProducer:
    """Every accepted batch of one producer."""

    used: int
    results: list[tuple[int, int, int, int]] = field(default_factory=list)  # base, count, first, time

    @property
    def last(self) -> int:
        return self.results[-1][0] + self.results[-1][1] - 1 if self.results else 0


@dataclass(eq=False)
class Channel:
    """One channel; message n is at n - 1."""

    name: str
    incarnation: int
    messages: list[Message] = field(default_factory=list)
    holds: list[Hold] = field(default_factory=list)  # in the order of creation
    producers: dict[int, KnownProducer] = field(default_factory=dict)
    redelivered: int = 0

    def ready(self) -> list[Message]:
        return [m for m in self.messages if not m.finished and m.hold is None]

    def held(self, hold: Hold) -> list[Message]:
        return [m for m in self.messages if m.hold is hold]

    def waiters(self) -> list[Hold]:
        return [hold for hold in self.holds if hold.assigning is None]

    def batches(self) -> list[Message]:
        """The first message of every batch with a live message."""
        live = {id(m.publish) for m in self.messages if not m.finished}
        return [m for m in self.messages if m.offset == 0 and id(m.publish) in live]


class Model:
    """What a machine with these limits must do."""

    def __init__(self, limits: MachineLimits) -> None:
        self.limits = limits
        self.channels: dict[str, Channel] = {}
        self.now = 0
        self.trimmed = 0
        self.order = 0
        self.index = 0
        self.deliveries: list[Delivery] = []

    def apply(self, index: int, time: int, commands: list[Command]) -> tuple[list[Result], list[Delivery]]:
        self.index, self.now, self.deliveries = index, max(self.now, time), []
        self.fall_due(index << 16 | 0xFFFF)
        results = [self.command(command, index << 16 | ordinal) for ordinal, command in enumerate(commands)]
        return results, self.deliveries

    def holds(self) -> list[tuple[Channel, Hold]]:
        return [(channel, hold) for channel in self.channels.values() for hold in channel.holds]

    def stats(self, name: str) -> QueueStats | None:
        channel = self.channels.get(name)
        if channel is None:
            return None
        live = [m for m in channel.messages if not m.finished]
        ready = len(channel.ready())
        return QueueStats(
            channel=name,
            incarnation=channel.incarnation,
            depth=len(live),
            ready=ready,
            in_flight=len(live) - ready,
            waiting_receives=len(channel.waiters()),
            last_sequence=len(channel.messages),
            acked=len(channel.messages) - len(live),
            redelivered=channel.redelivered,
            size_bytes=sum(m.publish.size for m in channel.batches()),
        )

    def lowest_live_index(self) -> int | None:
        return min((m.index for channel in self.channels.values() for m in channel.batches()), default=None)

    # --- time ---------------------------------------------------------------------------------------------------------

    def fall_due(self, assigning: int) -> None:
        due = sorted(((h.deadline, h.order, c, h) for c, h in self.holds() if h.deadline <= self.now), key=lambda d: d[:2])
        for _, _, channel, hold in due:
            if hold in channel.holds and hold.assigning is None:
                self.answer(channel, hold, assigning)
            elif hold in channel.holds and hold.assigning != assigning:
                self.give_back(channel, hold)
                self.serve(channel, assigning)

    def give_back(self, channel: Channel, hold: Hold) -> int:
        messages = channel.held(hold)
        for message in messages:
            message.hold = None
        channel.holds.remove(hold)
        return len(messages)

    def serve(self, channel: Channel, assigning: int) -> None:
        for hold in channel.waiters():
            if len(channel.ready()) >= hold.command.count_min:
                self.answer(channel, hold, assigning)

    def answer(self, channel: Channel, hold: Hold, assigning: int) -> None:
        """End a wait with whatever is ready and fits."""
        channel.holds.remove(hold)
        taken = self.fitting(channel.ready(), hold.command)
        if taken:
            channel.holds.append(hold)
            self.order += 1
            hold.order, hold.assigning = self.order, assigning
            hold.deadline = self.now + hold.command.visibility_ms * MILLISECOND
        for message in taken:
            channel.redelivered += message.deliveries > 0
            message.deliveries += 1
            message.hold = hold
        self.deliver(channel, hold)

    def fitting(self, ready: list[Message], command: Receive) -> list[Message]:
        """Lowest first; runs of one batch and delivery count cost their count times its largest body, or all its bytes."""
        taken: list[Message] = []
        room = command.size_max
        for run in self.runs(ready[: command.count_max]):
            header = run[0].publish.header
            fits = len(run)
            while fits > 0 and min(fits * header.body_size_max, header.body_bytes) > room:
                fits -= 1
            if not taken and fits == 0:
                fits = 1
            taken += run[:fits]
            room -= min(fits * header.body_size_max, header.body_bytes)
            if fits < len(run):
                break
        return taken

    def runs(self, messages: list[Message]) -> list[list[Message]]:
        found: list[list[Message]] = []
        for message in messages:
            last = found[-1][-1] if found else None
            if (
                last is not None
                and last.sequence == message.sequence - 1
                and last.publish is message.publish
                and last.deliveries == message.deliveries
            ):
                found[-1].append(message)
            else:
                found.append([message])
        return found

    def deliver(self, channel: Channel, hold: Hold) -> None:
        pieces = [
            Piece(
                Receipt(hold.assigning or 0, run[0].sequence, run[-1].sequence),
                run[0].deliveries,
                run[0].time,
                run[0].index,
                run[0].publish.position,
                run[0].publish.size,
                run[0].offset,
            )
            for run in self.runs(channel.held(hold))
        ]
        self.deliveries.append(Delivery(hold.key, channel.name, tuple(pieces)))

    # --- commands -----------------------------------------------------------------------------------------------------

    def command(self, command: Command, assigning: int) -> Result:
        if isinstance(command, Close):
            return self.close(command, assigning)
        if isinstance(command, Trim):
            self.trimmed = max(self.trimmed, command.index)
        if not isinstance(command, Publish | OpenProducer | Receive | Ack):
            return None
        channel = self.channel(command)
        if not isinstance(channel, Channel):
            return channel
        if isinstance(command, Publish):
            return self.publish(channel, command, assigning)
        if isinstance(command, OpenProducer):
            return self.open(channel, command.producer)
        if isinstance(command, Receive):
            return self.receive(channel, command, assigning)
        return self.ack(channel, command)

    def channel(self, command: Publish | OpenProducer | Receive | Ack) -> Channel | ChannelNotFound | Busy:
        name = command.header.channel if isinstance(command, Publish) else command.channel
        incarnation = 0 if isinstance(command, Ack) else command.incarnation
        channel = self.channels.get(name)
        if channel is not None and incarnation in (0, channel.incarnation):
            return channel
        if channel is not None or incarnation or isinstance(command, Ack):
            return ChannelNotFound("")
        if len(self.channels) == self.limits.channels_max:
            return Busy("", retry_ms=self.limits.retry_ms)
        return self.channels.setdefault(name, Channel(name, self.index))

    def use(self, channel: Channel, producer: int) -> KnownProducer:
        self.order += 1
        channel.producers[producer].used = self.order
        return channel.producers[producer]

    def open(self, channel: Channel, producer: int) -> Result:
        if producer not in channel.producers:
            if len(channel.producers) == self.limits.producers_max:
                del channel.producers[min(channel.producers, key=lambda p: channel.producers[p].used)]
            channel.producers[producer] = KnownProducer(0)
        return ProducerOpened(self.use(channel, producer).last)

    def publish(self, channel: Channel, command: Publish, assigning: int) -> Result:
        header = command.header
        if header.producer:
            if header.producer not in channel.producers:
                return UnknownProducer("")
            refusal = self.repeated(self.use(channel, header.producer), header.base_sequence, header.count)
            if refusal is not None:
                return refusal
        first = len(channel.messages) + 1
        for offset in range(header.count):
            channel.messages.append(Message(first + offset, command, self.index, self.now, offset))
        if header.producer:
            channel.producers[header.producer].results.append((header.base_sequence, header.count, first, self.now))
        self.serve(channel, assigning)
        return Published(first, header.count, False, self.now)

    def repeated(self, producer: KnownProducer, base: int, count: int) -> Result:
        if base == producer.last + 1:
            return None
        kept = producer.results[-self.limits.results_kept :]
        for known_base, known_count, first, time in kept:
            if (known_base, known_count) == (base, count):
                return Published(first, count, True, time)
        if base >= 1 and kept and base + count - 1 < kept[0][0]:
            return Duplicate("")
        return OutOfSequence("", expected=producer.last + 1)

    def receive(self, channel: Channel, command: Receive, assigning: int) -> Result:
        for hold in channel.holds:
            if hold.key == command.key:
                if hold.assigning is not None:
                    self.deliver(channel, hold)
                return Waiting()
        self.order += 1
        hold = Hold(self.order, command, self.now + command.wait_ms * MILLISECOND)
        enough = len(channel.ready()) >= command.count_min or command.wait_ms == 0
        if not enough and len(channel.waiters()) == self.limits.waiting_max:
            return Busy("", retry_ms=self.limits.retry_ms)
        channel.holds.append(hold)
        if enough:
            self.answer(channel, hold, assigning)
        return Waiting()

    def ack(self, channel: Channel, command: Ack) -> Result:
        count, stale = 0, []
        for receipt in command.receipts:
            messages = [m for m in channel.messages if receipt.first <= m.sequence <= receipt.last]
            complete = len(messages) == receipt.last - receipt.first + 1 and messages
            if complete and all(self.may_finish(m, command.session, receipt.assigning) for m in messages):
                count += len(messages)
                for message in messages:
                    message.finished, message.hold = True, None
            else:
                stale.append([receipt.assigning, receipt.first, receipt.last])
        channel.holds = [hold for hold in channel.holds if hold.assigning is None or channel.held(hold)]
        return StaleReceipt("", stale=stale, count=count) if stale else Acked(count)

    def may_finish(self, message: Message, session: bytes, assigning: int) -> bool:
        hold = message.hold
        return message.finished or (hold is not None and hold.assigning == assigning and hold.key.session == session)

    def close(self, command: Close, assigning: int) -> Closed:
        ended = [
            (channel, hold)
            for channel, hold in self.holds()
            if hold.key.session == command.session and command.consumer in (None, hold.key.consumer)
        ]
        given: list[tuple[Channel, Hold]] = []
        for channel, hold in ended:
            if hold.assigning is None:
                channel.holds.remove(hold)
            else:
                given.append((channel, hold))
        given.sort(key=lambda pair: pair[1].order)
        returned = sum(self.give_back(channel, hold) for channel, hold in given)
        for channel in dict.fromkeys(channel for channel, _ in given):
            self.serve(channel, assigning)
        return Closed(returned)
