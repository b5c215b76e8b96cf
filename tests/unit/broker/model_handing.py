"""How the slow model stores batches, and hands over: it asks everybody first, and then does it."""

from __future__ import annotations

from tests.unit.broker.model_moving import Movements
from tests.unit.broker.model_state import Channel, KnownProducer, Message, Part, Sighting, first_step_after, groups_of
from zmqbroker.commands import Ack, BatchHeader, HandedOver, HandOver, Publish, Published, Receipt, Receive, Result, Run, Settle
from zmqbroker.errors import (
    Busy,
    ChannelNotFound,
    Duplicate,
    InvalidRequest,
    OutOfSequence,
    RequestError,
    StaleReceipt,
    UnknownProducer,
)

__all__ = ["HandingOver"]

Wanted = dict[str, tuple[int, int]]


class HandingOver(Movements):
    """What a model does with batches."""

    def closed_to(self, name: str, command: Receive | Ack | Settle | HandOver) -> RequestError | None:
        """Why a channel is none that a session may receive from, or settle messages of."""
        return None

    def is_delayed_event(self, command: Publish) -> bool:
        return False

    def unsendable(self, name: str) -> RequestError | None:
        return None

    def use(self, channel: Channel, producer: int) -> KnownProducer:
        self.order += 1
        channel.producers[producer].used = self.order
        return channel.producers[producer]

    def put(self, channel: Channel, command: Publish, messages: list[Message], duplicates: tuple[tuple[int, int], ...]) -> int:
        """Store what `messages_of` made; the sequence of the first."""
        header, first = command.header, len(channel.messages) + 1
        stored = [m for m in messages if m.is_live]
        channel.sent += len(stored)
        channel.sent_bytes += sum(part.share for part in {m.part for m in stored})
        channel.add(messages)
        if channel.settings.dedup_window_ms:
            ids = {id: first + n for n, id in enumerate(command.ids) if id and messages[n] in stored}
            channel.sightings.append(Sighting(first, self.now, ids, duplicates if header.producer else ()))
        channel.forget_ids(self.now, self.limits.dedup_ids_max)
        if header.producer:
            channel.producers[header.producer].results.append((header.base_sequence, header.count, first, self.now))
        return first

    def messages_of(self, channel: Channel, command: Publish, duplicates: dict[int, int]) -> list[Message]:
        """The messages of a batch, one by one; those that are duplicates are finished, and part the others."""
        header, first, made = command.header, len(channel.messages) + 1, list[Message]()
        whole = Part.of_frame(header, command.position, command.size, self.frame_index or self.index, self.now)
        place_in_frame = 0
        for run in command.runs or (Run(header.count),):
            part = whole.cut(place_in_frame, run.count) if run.count < header.count else whole
            part.priority, part.group = run.priority, run.group
            delay_ms = run.delay_ms or channel.settings.delay_ms
            expiry_ms = run.expiry_ms or channel.settings.expiry_ms
            if expiry_ms:
                part.expires = first_step_after(self.now, expiry_ms)
            self.age(part, channel)
            due = first_step_after(self.now, delay_ms) if delay_ms else 0
            begin = len(made)
            for _ in range(run.count):
                made.append(Message(first + len(made), part, len(made) - begin, len(made), due=due))
            for neighbours in groups_of([m for m in made[begin:] if m.place_in_frame not in duplicates]):
                if len(neighbours) < run.count:
                    cut = part.cut(neighbours[0].place, len(neighbours))
                    for place, message in enumerate(neighbours):
                        message.part, message.place = cut, place
            place_in_frame += run.count
        for place in duplicates:
            made[place].finished, made[place].due = "deduplicated", 0
        return made

    def repeated(self, channel: Channel, producer: KnownProducer, base: int, count: int, ahead: int = 0) -> Result:
        if base == producer.last + ahead + 1:
            return None
        kept = producer.results[-self.limits.results_kept :]
        for known_base, known_count, first, time in kept:
            if (known_base, known_count) == (base, count):
                told = [s.duplicates for s in channel.sightings if s.first == first]
                return Published(first, count, True, time, told[0] if told else ())
        if base >= 1 and kept and base + count - 1 < kept[0][0]:
            return Duplicate("")
        return OutOfSequence("", expected=producer.last + ahead + 1)

    # --- handing over -------------------------------------------------------------------------------------------------

    def hand_over(self, command: HandOver) -> Result:
        headers = [batch.header for batch in command.batches]
        results = [self.stored(header) for header in headers]
        if headers and all(results) and all(self.is_finished(command.channel, receipt) for receipt in command.receipts):
            sent = tuple((h.channel, r.first_sequence, r.count) for h, r in zip(headers, results, strict=True) if r)
            time = next(r.time_unix_ns for r in results if r)
            return HandedOver(sum(r.last - r.first + 1 for r in command.receipts), sent, True, time)
        source, refusal = self.channels.get(command.channel), self.closed_to(command.channel, command)
        if source is None or refusal is not None:
            return refusal or ChannelNotFound("")
        named = [number for receipt in command.receipts for number in range(receipt.first, receipt.last + 1)]
        bad = [b for b in command.batches if b.header.count < 1 or (b.runs and sum(r.count for r in b.runs) != b.header.count)]
        delayed = any(map(self.is_delayed_event, command.batches))
        if not headers or not command.receipts or bad or delayed or len(set(named)) < len(named):
            return InvalidRequest("")
        stale = [[r.assigning, r.first, r.last] for r in command.receipts if not self.has_all(source, command.session, r)]
        if stale:
            return StaleReceipt("", stale=stale, count=0)
        wanted = self.wanted_by(list(command.batches))
        return self.refused(headers) or self.no_room(source, wanted, len(named)) or self.do_it(source, command)

    def stored(self, header: BatchHeader) -> Published | None:
        channel = self.channels.get(header.channel)
        producer = channel.producers.get(header.producer) if channel else None
        for base, count, first, time in producer.results[-self.limits.results_kept :] if producer else []:
            if (base, count) == (header.base_sequence, header.count):
                return Published(first, count, True, time)
        return None

    def is_finished(self, name: str, receipt: Receipt) -> bool:
        channel = self.channels.get(name)
        messages = channel.between(receipt.first, receipt.last) if channel else []
        return bool(messages) and len(messages) == receipt.last - receipt.first + 1 and all(m.finished for m in messages)

    def has_all(self, channel: Channel, session: bytes, receipt: Receipt) -> bool:
        messages = channel.between(receipt.first, receipt.last)
        if not messages or len(messages) != receipt.last - receipt.first + 1:
            return False
        return all(
            m.is_live and m.hold is not None and (m.hold.assigning, m.hold.key.session) == (receipt.assigning, session)
            for m in messages
        )

    def refused(self, headers: list[BatchHeader]) -> Result:
        for place, header in enumerate(headers):
            if not header.producer:
                continue
            channel = self.channels.get(header.channel)
            if channel is None or header.producer not in channel.producers:
                return UnknownProducer("")
            mine = [h for h in headers[:place] if (h.channel, h.producer) == (header.channel, header.producer)]
            known = channel.producers[header.producer]
            refusal = self.repeated(channel, known, header.base_sequence, header.count, sum(h.count for h in mine))
            if refusal is not None:
                return Duplicate("") if isinstance(refusal, Published) else refusal
        return None

    def no_room(self, source: Channel | None, wanted: Wanted, leaving: int) -> Result:
        new: set[str] = set()
        for name, (count, size) in wanted.items():
            channel = self.channels.get(name)
            if refusal := self.unsendable(name):
                return refusal
            if channel is None:
                if self.said_for(name, "create_on_use") is False:
                    return ChannelNotFound("")
                settings = self.settings_for(name, {})
                if 0 < settings.max_messages < count or 0 < settings.max_bytes < size:
                    return self.full(Channel(name, self.index, settings))
                new.add(name)
                continue
            leave = leaving if channel is source else 0
            settings, live, ready = channel.settings, channel.live(), [*channel.ready(), *channel.parked()]
            over_count = settings.max_messages > 0 and len(live) - leave + count > settings.max_messages
            over_size = settings.max_bytes > 0 and channel.size_bytes() + size > settings.max_bytes
            if not over_count and not over_size:
                continue
            held = [m for m in live if m not in ready]
            stays = sum(part.share for part in {m.part for m in held})
            too_many = settings.max_messages > 0 and len(held) - leave + count > settings.max_messages
            too_large = settings.max_bytes > 0 and stays + size > settings.max_bytes
            if settings.overflow == "reject" or too_many or too_large:
                return self.full(channel)
            if settings.overflow == "dead_letter":
                if settings.dead_letter not in self.channels and self.said_for(settings.dead_letter, "create_on_use") is False:
                    return self.full(channel)
                new.add(settings.dead_letter)
        count = sum(name not in self.channels for name in new)
        room = len(self.channels) + count <= self.limits.channels_max
        return None if room else Busy("", retry_ms=self.limits.retry_ms)

    def do_it(self, source: Channel, command: HandOver) -> Result:
        self.to_serve.append(source)
        for receipt in command.receipts:
            source.finish(source.between(receipt.first, receipt.last), "acked")
        firsts = [first for first, _ in self.store_all(list(command.batches))]
        sent = tuple((b.header.channel, firsts[place], b.header.count) for place, b in enumerate(command.batches))
        count = sum(receipt.last - receipt.first + 1 for receipt in command.receipts)
        return HandedOver(count, sent, False, self.now)

    def wanted_by(self, batches: list[Publish]) -> Wanted:
        wanted: Wanted = {}
        for batch in batches:
            count, size = wanted.get(batch.header.channel, (0, 0))
            wanted[batch.header.channel] = count + batch.header.count, size + batch.size
        return wanted

    def store_all(self, batches: list[Publish]) -> list[tuple[int, tuple[tuple[int, int], ...]]]:
        """Store what nothing refuses; of each the sequence of the first message, and its duplicates."""
        known: dict[int, tuple[tuple[int, int], ...]] = {}
        wanted = self.wanted_by(batches)
        for name in wanted:
            self.used(name)
            self.to_serve.append(self.channels[name])
        fits = [name for name, total in wanted.items() if not self.exceeds(self.channels[name], *total)]
        firsts: dict[int, int] = {}
        for name in [*fits, *(name for name in wanted if name not in fits)]:
            channel = self.channels[name]
            assert self.make_room(channel, *wanted[name]) is None
            for place, batch in enumerate(batches):
                if batch.header.channel == name:
                    if batch.header.producer:
                        self.use(channel, batch.header.producer)
                    duplicates = known[place] = channel.duplicates(batch.ids)
                    messages = self.messages_of(channel, batch, dict(duplicates))
                    firsts[place] = self.put(channel, batch, messages, duplicates)
        for place, batch in enumerate(batches):
            self.feed(batch, firsts[place], known[place])
        return [(firsts[place], known[place]) for place in range(len(batches))]

    def feed(self, command: Publish, first: int, known: tuple[tuple[int, int], ...]) -> None:
        """Store what a channel has taken where that is bound to."""
        raise NotImplementedError
