"""Where every message is, and how it ended: once (I16, I17), with the right delivery count and limit (I25), never early (I26).

The ledger knows a message by where its body lies in the log (entry, batch, place), which never changes, however often it is
moved. It is told what each entry did, in the order of its commands, and works out from that alone who holds what until when,
and what returns, expires, or leaves for a dead-letter channel. The sequence that a moved message gets is learned when it is
seen again. What a bound drops no result tells: it is found by looking into the machine when a count is not as expected.

After every entry the counts of each channel must be those of the machine, and at intervals (`audit`) every message must be in
it, where and as the ledger has it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from heapq import heappop, heappush

from tests.simulation.tracked import Body, ChannelLedger, Tracked, due_after, places_in, sends_of
from zmqbroker.broker import Applied, Machine
from zmqbroker.commands import (
    RECEIPT_ORDINAL_BITS,
    Ack,
    Acked,
    BindingChanged,
    ChannelChanged,
    Close,
    Closed,
    Command,
    Counted,
    CreateChannel,
    Delivery,
    Extend,
    Nack,
    Origin,
    Piece,
    Publish,
    Published,
    Receipt,
    Receive,
    ReceiveKey,
    Reject,
    Requeue,
    Result,
    Run,
    SetBinding,
    UpdateChannel,
    is_store,
)
from zmqbroker.errors import StaleReceipt

__all__ = ["MessageLedger"]

#: Ordinal of what falls due with an entry, before its commands.
_DUE = (1 << RECEIPT_ORDINAL_BITS) - 1
_MS = 1_000_000

Settled = Ack | Nack | Reject | Requeue | Extend


class MessageLedger:
    """All messages of all channels. `fail` is told an invariant, what is wrong, and a node; it raises."""

    def __init__(self, fail: Callable[[str, str, int], object]) -> None:
        self._fail_with = fail
        self.channels: dict[str, ChannelLedger] = {}
        self.places: dict[
            tuple[str, int], Tracked
        ] = {}  # what was ever seen at a channel's sequence, first of all when it was sent
        self._by_body: dict[Body, Tracked] = {}
        self._by_session: dict[bytes, dict[Tracked, None]] = {}  # what each session holds
        self._deadlines: list[tuple[int, int, Tracked]] = []  # heap: until when, a number that makes it unique, what
        self._expiries: list[tuple[int, int, Tracked]] = []
        self._pushed = 0
        self._visibility_ms: dict[ReceiveKey, int] = {}  # of every receive
        self.bound: dict[str, str] = {}  # by store: the queue that it feeds, which has no other senders, no rules and no bounds
        self._node = self._now = self._index = 0  # of the entry that is being told

    def channel(self, name: str) -> ChannelLedger:
        """One channel."""
        found = self.channels.get(name)
        if found is None:
            found = self.channels[name] = ChannelLedger(name)
        return found

    def is_over(self, channel: str, sequence: int) -> bool:
        """Whether a message that was seen there is there no more."""
        found = self.channel(channel)
        return sequence <= found.last and sequence not in found.at

    def is_held(self, channel: str, session: bytes, receipt: Receipt) -> bool:
        """Whether the session holds anything under that receipt."""
        there = (self.channel(channel).at.get(sequence) for sequence in range(receipt.first, receipt.last + 1))
        return any(one is not None and (one.assigning, one.session) == (receipt.assigning, session) for one in there)

    # --- entries -------------------------------------------------------------------------------------------------------

    def applied(self, node: int, machine: Machine, commands: Sequence[Command], applied: Applied) -> None:
        """An entry was applied for the first time, by the machine of `node`."""
        self._node, self._now, self._index = node, machine.now_unix_ns, machine.applied_index
        deliveries = self._by_ordinal(commands, applied.deliveries) if applied.deliveries else {}
        self._fall_due()
        for delivery in deliveries.get(_DUE, ()):
            self._delivered(delivery)
        for ordinal, (command, result) in enumerate(zip(commands, applied.results, strict=True)):
            self._command(command, result)
            for delivery in deliveries.get(ordinal, ()):
                self._delivered(delivery)
        for channel in list(self.channels.values()):
            self._count(channel, machine)

    def _by_ordinal(self, commands: Sequence[Command], deliveries: Sequence[Delivery]) -> dict[int, list[Delivery]]:
        """With which command each delivery came: that which assigned it, or the receive that was repeated."""
        base = self._index << RECEIPT_ORDINAL_BITS
        receives: dict[ReceiveKey, int] = {}
        for ordinal, command in enumerate(commands):
            if isinstance(command, Receive):
                receives.setdefault(command.key, ordinal)
        found: defaultdict[int, list[Delivery]] = defaultdict(list)
        for delivery in deliveries:
            if delivery.pieces:
                ordinal = delivery.pieces[0].receipt.assigning - base
                found[ordinal if ordinal >= 0 else receives[delivery.key]].append(delivery)
        return found

    def _fall_due(self) -> None:
        now = self._now
        while self._expiries and self._expiries[0][0] <= now:
            expires, _, message = heappop(self._expiries)
            if not message.ended and not message.assigning and message.expires == expires:
                self._end(message, "expired")
        while self._deadlines and self._deadlines[0][0] <= now:
            deadline, _, message = heappop(self._deadlines)
            if message.assigning and message.deadline == deadline:
                self._return(message)

    def _command(self, command: Command, result: Result) -> None:
        for batch, told in sends_of(command, result):
            if is_store(batch.header.channel):
                self._feed(batch, told)
            else:
                self._publish(batch, told)
        if isinstance(command, Receive):
            self._visibility_ms.setdefault(command.key, command.visibility_ms)
        elif isinstance(command, Settled):
            self._settle(command, result)
        elif isinstance(command, Close):
            assert isinstance(result, Closed)
            held = [one for one in self._by_session.get(command.session, ()) if command.consumer in (None, one.consumer)]
            for message in held:
                self._return(message)
            self._agree(len(held), result.returned, command)
        elif isinstance(command, CreateChannel | UpdateChannel) and isinstance(result, ChannelChanged):
            self.channel(command.channel).settings = command.settings
        elif isinstance(command, SetBinding) and isinstance(result, BindingChanged):
            self.bound[command.source] = command.queues

    # --- commands ------------------------------------------------------------------------------------------------------

    def _publish(self, command: Publish, result: Result) -> None:
        channel = self.channel(command.header.channel)
        channel.may_drop = channel.is_bounded
        if not isinstance(result, Published) or result.duplicate:
            return
        settings, sequence = channel.settings, result.first_sequence
        for run in command.runs or (Run(command.header.count),):
            delay_ms, expiry_ms = run.delay_ms or settings.delay_ms, run.expiry_ms or settings.expiry_ms
            due = due_after(self._now, delay_ms) if delay_ms else 0
            expires = due_after(self._now, expiry_ms) if expiry_ms else 0
            for _ in range(run.count):
                if (channel.name, sequence) in self.places:
                    self._fail("I15", f"sequence {sequence} of {channel.name!r} is given out twice")
                body = self._index, command.position, sequence - result.first_sequence
                message = self._by_body[body] = Tracked(body, channel.name, sequence, due, expires)
                self.places[channel.name, sequence] = message
                channel.put(message)
                if expires:
                    self._push(self._expiries, expires, message)
                sequence += 1

    def _feed(self, command: Publish, result: Result) -> None:
        """What a store has taken is in the queue that is bound to it: with the same body, behind all others."""
        name, channel = command.header.channel, self.bound.get(command.header.channel)
        if channel is None or not isinstance(result, Published) or result.duplicate:
            return
        queue = self.channel(channel)
        for place in range(result.count):
            body, sequence = (self._index, command.position, place), queue.last + 1
            message = self._by_body[body] = Tracked(body, channel, sequence, 0, 0)
            message.origin = Origin(name, result.first_sequence + place, 0, "binding")
            self.places[channel, sequence] = message
            queue.put(message)

    def _settle(self, command: Settled, result: Result) -> None:
        if not isinstance(result, Acked | Counted | StaleReceipt):
            return
        count = 0
        for message in self._named(command, result):
            count += 1
            match command:
                case Ack():
                    message.acked_under = message.assigning
                    self._end(message, "acked")
                case Nack():
                    due = due_after(self._now, command.delay_ms) if command.delay_ms else 0
                    self._return(message, due, behind=command.behind)
                case Reject():
                    self._leave(message, self.channel(message.channel).settings.dead_letter, command.reason, "dead_lettered")
                case Requeue():
                    if message.is_expired(self._now):
                        self._end(message, "expired")
                    else:
                        self._leave(message, command.to, "requeued", "moved", expires=message.expires)
                case _:
                    self._hold_until(message, self._now + command.visibility_ms * _MS)
        if not isinstance(command, Ack):  # an ack counts what was over before, too
            self._agree(count, result.fields["count"] if isinstance(result, StaleReceipt) else result.count, command)

    def _named(self, command: Settled, result: Acked | Counted | StaleReceipt) -> Iterator[Tracked]:
        """The messages that the command is about and that are held by who sent it."""
        stale = {Receipt(*one) for one in result.fields["stale"]} if isinstance(result, StaleReceipt) else ()
        channel = self.channel(command.channel)
        for receipt in command.receipts:
            found, other, moved = [], 0, False
            for sequence in range(receipt.first, receipt.last + 1):
                message = channel.at.get(sequence)
                if message is not None and receipt not in stale and self._was_pushed_out(message, channel):
                    message = None
                if message is None:
                    moved = moved or (isinstance(command, Ack) and self._has_moved(command.channel, sequence))
                    continue
                if (message.assigning, message.session) == (receipt.assigning, command.session):
                    found.append(message)
                else:
                    other = sequence
            if receipt not in stale:
                if moved:
                    self._fail("I16", f"{command} is served, and a message of {receipt} lives elsewhere")
                if other:
                    self._fail("I16", f"{command} is served, and its sender does not hold {other}")
                yield from found
            elif not other and not moved and receipt.last <= channel.last:
                self._fail("I16", f"{command} is refused, and its sender holds {receipt}")

    def _was_pushed_out(self, message: Tracked, channel: ChannelLedger) -> bool:
        """Whether a send of this entry must have pushed a message out: a receipt of it is served, and nobody holds it."""
        pushed_out = channel.may_drop and not message.assigning and message.due <= self._now
        if pushed_out:
            self._overflow(message)
        return pushed_out

    def _has_moved(self, channel: str, sequence: int) -> bool:
        """Whether the message that was there is, or was at its end, somewhere else."""
        message = self.places.get((channel, sequence))
        return message is not None and (message.channel, message.sequence) != (channel, sequence)

    def _agree(self, count: int, told: int, command: Command) -> None:
        if count != told:
            self._fail("I16", f"{command} is said to be of {told} messages, it was of {count}")

    # --- where a message goes ------------------------------------------------------------------------------------------

    def _push(self, heap: list[tuple[int, int, Tracked]], instant: int, message: Tracked) -> None:
        self._pushed += 1
        heappush(heap, (instant, self._pushed, message))

    def _hold_until(self, message: Tracked, deadline: int) -> None:
        message.deadline = deadline
        self._push(self._deadlines, deadline, message)

    def _release(self, message: Tracked) -> None:
        if message.assigning:
            message.assigning = 0
            self.channels[message.channel].held -= 1
            del self._by_session[message.session][message]

    def _end(self, message: Tracked, how: str) -> None:
        self._release(message)
        message.ended = how
        self.channels[message.channel].take(message, how)

    def _return(self, message: Tracked, due: int = 0, *, behind: bool = False) -> None:
        """Its holder has it no more."""
        self._release(message)
        channel = self.channels[message.channel]
        settings = channel.settings
        if message.is_expired(self._now):
            self._end(message, "expired")
        elif settings.dead_letter and 0 < settings.delivery_limit <= message.count:
            self._leave(message, settings.dead_letter, "delivery_limit", "dead_lettered")
        else:
            message.due = due
            if behind:
                channel.put_behind(message)

    def _leave(self, message: Tracked, to: str, reason: str, how: str, expires: int = 0) -> None:
        """It goes to another channel, where it is new."""
        self._release(message)
        self.channels[message.channel].take(message, how)
        message.origin = Origin(message.channel, message.sequence, message.count, reason)
        message.channel, message.sequence, message.count, message.due, message.expires = to, 0, 0, 0, expires
        self.channel(to).put(message)

    # --- deliveries ----------------------------------------------------------------------------------------------------

    def _delivered(self, delivery: Delivery) -> None:
        channel = self.channel(delivery.channel)
        for piece in delivery.pieces:
            receipt = piece.receipt
            for step in range(receipt.last - receipt.first + 1):
                message = self._by_body.get((piece.index, piece.position, piece.low + step))
                sequence = receipt.first + step
                where = f"sequence {sequence} of {channel.name!r}"
                if message is None:
                    self._fail("I16", f"{where} is delivered and was never stored")
                    return
                if message.ended:
                    self._fail("I17", f"{where} is delivered, and it is over: {message.ended}")
                self._place(message, channel, sequence, piece, step)
                if message.assigning == receipt.assigning and message.session == delivery.key.session:
                    if piece.delivery_count != message.count:
                        self._fail("I25", f"{where} is told again with count {piece.delivery_count}, it was {message.count}")
                    continue
                self._assign(message, channel, where, delivery, piece)

    def _assign(self, message: Tracked, channel: ChannelLedger, where: str, delivery: Delivery, piece: Piece) -> None:
        if message.assigning:
            self._fail("I16", f"{where} is delivered, and somebody holds it")
        if message.due > self._now:
            self._fail("I26", f"{where} is delivered {(message.due - self._now) // _MS} ms early")
        if piece.delivery_count != message.count + 1:
            self._fail("I25", f"{where} is delivered with count {piece.delivery_count} instead of {message.count + 1}")
        message.count, message.assigning = piece.delivery_count, piece.receipt.assigning
        message.session, message.consumer = delivery.key.session, delivery.key.consumer
        channel.held += 1
        if 0 < channel.settings.max_in_flight < channel.held:
            self._fail("I25", f"{where} is delivered as one of {channel.held}, allowed are {channel.settings.max_in_flight}")
        self._by_session.setdefault(message.session, {})[message] = None
        message.due = 0
        self._hold_until(message, self._now + self._visibility_ms[delivery.key] * _MS)

    def _place(self, message: Tracked, channel: ChannelLedger, sequence: int, piece: Piece, step: int) -> None:
        """A message was seen: is that where it should be?"""
        if message.channel != channel.name and self.channels[message.channel].may_drop:
            self._overflow(message)
        if (message.channel, message.sequence or sequence) != (channel.name, sequence):
            text = f"a message of {message.channel!r}, {message.sequence} is seen in {channel.name!r} at {sequence}"
            self._fail("I25" if message.count or message.origin else "I16", f"{text}: {message}")
        if not message.sequence:
            self._learn(channel, message, sequence)
        origin = message.origin
        if origin is not None:
            told = piece.origin
            place = 0 if told is None else told.sequence + step
            same = told is not None and (told.channel, told.delivery_count, told.reason) == (
                origin.channel,
                origin.delivery_count,
                origin.reason,
            )
            if not same or origin.sequence not in (0, place):
                self._fail("I25", f"{message} is said to come from {told}, it came from {origin}")

    def _learn(self, channel: ChannelLedger, message: Tracked, sequence: int) -> None:
        """It was moved, and now it is known where to."""
        if (channel.name, sequence) in self.places:
            self._fail("I16", f"sequence {sequence} of {channel.name!r} is given to {message}, it was another's")
        self.places[channel.name, sequence] = message
        channel.learn(message, sequence)

    # --- the machine ---------------------------------------------------------------------------------------------------

    def _count(self, channel: ChannelLedger, machine: Machine) -> None:
        """The machine must have as many messages."""
        queue = machine.channel(channel.name)
        depth, held = (0, 0) if queue is None else (queue.depth, queue.in_flight.count)
        if depth != len(channel.live) and queue is not None and channel.may_drop:
            there = {place.body for place in places_in(queue)}
            for message in [one for one in channel.live if one.body not in there]:
                self._overflow(message)
        channel.may_drop = False
        if (depth, held) != (len(channel.live), channel.held):
            text = f"channel {channel.name!r} has {depth} messages, {held} of them held"
            self._fail("I16", f"{text}; they should be {len(channel.live)} and {channel.held}")

    def _overflow(self, message: Tracked) -> None:
        """A send has pushed a message out; only one that is ready may be."""
        settings = self.channels[message.channel].settings
        if message.assigning or message.due > self._now:
            self._fail("I16", f"{message} was pushed out by a send")
        if settings.overflow == "dead_letter":
            self._leave(message, settings.dead_letter, "overflow", "dead_lettered")
        else:
            self._end(message, "dropped")

    def audit(self, node: int, machine: Machine) -> None:
        """Every message must be where it is here, in a machine that has applied what was told here, and nothing else."""
        self._node, self._index, self._now = node, machine.applied_index, machine.now_unix_ns
        for name, channel in self.channels.items():
            queue = machine.channel(name)
            places = [] if queue is None else list(places_in(queue))
            if len(places) != len(channel.live):
                self._fail("I16", f"channel {name!r} has {len(places)} messages, they should be {len(channel.live)}")
            for place in places:
                message = self._by_body.get(place.body)
                if (
                    message is None
                    or message.ended
                    or (message.channel, message.sequence or place.sequence)
                    != (
                        name,
                        place.sequence,
                    )
                ):
                    self._fail("I16", f"channel {name!r} has {place}, it should be {message}")
                    continue
                due = message.due if message.due > self._now else 0
                count = message.count if not place.is_held else -1
                if (place.is_held, place.deliveries, place.due) != (message.assigning > 0, count, due):
                    self._fail("I25", f"channel {name!r} has {place}, it should be {message}")
                if not message.sequence:
                    self._learn(channel, message, place.sequence)
            if queue is not None:
                counters = queue.counters
                told = {how: getattr(counters, how) for how in ("acked", "expired", "dropped", "dead_lettered", "moved")}
                if told != {how: channel.counts[how] for how in told}:
                    self._fail("I16", f"channel {name!r} tells {told}, it should be {dict(channel.counts)}")

    def _fail(self, invariant: str, text: str) -> None:
        self._fail_with(invariant, f"{text} (entry {self._index})", self._node)
