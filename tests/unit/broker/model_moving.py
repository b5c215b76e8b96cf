"""How messages of the slow model get from one state, or channel, to another."""

from __future__ import annotations

from typing import Any

from tests.unit.broker.model_rules import Rules
from tests.unit.broker.model_state import (
    MILLISECOND,
    Answer,
    Channel,
    Given,
    Hold,
    Message,
    Part,
    Turn,
    first_step_after,
    runs_of,
)
from zmqbroker.broker import MachineLimits
from zmqbroker.commands import Origin, Receive, ReceiveKey
from zmqbroker.errors import ChannelFull

__all__ = ["Movements"]

Runs = list[list[Message]]


class Movements(Rules):
    """All channels, and what happens to their messages."""

    def __init__(self, limits: MachineLimits) -> None:
        super().__init__(limits)
        self.trimmed = self.order = 0
        self.answers: list[Answer] = []
        self.to_serve: list[Channel] = []  # those that got something in this command

    def holds(self) -> list[tuple[Channel, Hold]]:
        return [(channel, hold) for channel in self.channels.values() for hold in channel.holds]

    # --- to consumers -------------------------------------------------------------------------------------------------

    def serve_all(self) -> None:
        for channel in dict.fromkeys(self.to_serve):
            self.serve(channel)

    def serve(self, channel: Channel) -> None:
        self.take_turns(channel)
        while served := [hold for hold in channel.waiters() if channel.available_to(hold.key) >= hold.command.count_min]:
            self.answer(channel, served[0])

    def take_turns(self, channel: Channel) -> None:
        """It is the turn of the first of those who wait, if it is nobody's."""
        if not channel.settings.single_active:
            channel.turn = None
        elif channel.turn is None and channel.waiters():
            self.begin_turn(channel, channel.waiters()[0].command)

    def begin_turn(self, channel: Channel, command: Receive) -> None:
        channel.turn = Turn(command.key.session, command.key.consumer, command.visibility_ms)

    def end_entry(self) -> None:
        """The time of those runs who have their turn and do nothing."""
        for channel in self.channels.values():
            turn = channel.turn
            if turn is None:
                continue
            if any(turn.of(hold.key) for hold in channel.holds):
                turn.order = turn.deadline = 0
            elif not turn.order:
                self.order += 1
                turn.order, turn.deadline = self.order, self.now + turn.visibility_ms * MILLISECOND

    def answer(self, channel: Channel, hold: Hold) -> None:
        """End a wait with whatever is ready and fits."""
        channel.holds.remove(hold)
        taken = self.fitting(channel, hold.command)
        hold.assigning = self.assigning
        if taken and not hold.command.auto_ack:
            channel.holds.append(hold)
            self.order += 1
            hold.order = self.order
            hold.deadline = self.now + hold.command.visibility_ms * MILLISECOND
        for message in taken:
            channel.redelivered += message.deliveries > 0
            channel.delivered += 1
            channel.delivered_bytes += message.share()
            message.deliveries += 1
            message.hold = hold
        self.tell(channel, hold.key)
        if hold.command.auto_ack:
            channel.finish(taken, "acked")
            self.serve(channel)  # what was behind them in their groups is ready

    def fitting(self, channel: Channel, command: Receive) -> list[Message]:
        """Highest priority first, then oldest; see `Part.cost`."""
        best = sorted(channel.ready(), key=lambda m: (-m.part.priority, m.sequence))
        taken: list[Message] = []
        room = command.size_max
        for run in runs_of(best[: min(command.count_max, channel.available_to(command.key))]):
            fits = len(run)
            while fits > 0 and run[0].part.cost(fits) > room:
                fits -= 1
            if not taken and fits == 0:
                fits = 1
            taken += run[:fits]
            room -= run[0].part.cost(fits)
            if fits < len(run):
                break
        return taken

    def tell(self, channel: Channel, key: ReceiveKey) -> None:
        """Answer a receive with all that it holds."""
        held = [m for m in channel.in_flight() if m.hold and m.hold.key == key]
        held.sort(key=lambda m: (-m.part.priority, m.sequence))
        self.answers.append(Answer(key, channel.name, tuple(self.given(m) for m in held)))

    def given(self, message: Message) -> Given:
        part, hold = message.part, message.hold
        assert hold is not None
        assert hold.assigning is not None
        common = part.time, part.index, part.position, part.size
        return Given(hold.assigning, message.sequence, message.deliveries, *common, message.place_in_frame, message.origin)

    def age(self, part: Part, channel: Channel) -> None:
        """What is stored now in a channel with a `max_age_ms` is gone so long from now at the latest."""
        if channel.settings.max_age_ms:
            last = first_step_after(self.now, channel.settings.max_age_ms)
            part.expires = min(part.expires, last) if part.expires else last

    # --- back, and elsewhere ------------------------------------------------------------------------------------------

    def give_back(self, channel: Channel, hold: Hold) -> int:
        messages = channel.held(hold)
        self.come_back(channel, channel.release(messages))
        return len(messages)

    def come_back(self, channel: Channel, runs: Runs, due: int = 0, *, behind: bool = False) -> None:
        """Messages that were held return: expired ones finish, those delivered too often are dead letters."""
        settings = channel.settings
        limit = settings.delivery_limit if settings.dead_letter else 0
        left = self.unexpired(channel, runs)
        spent = [run for run in left if limit and run[0].deliveries >= limit]
        rest = [run for run in left if run not in spent]
        self.to_serve.append(channel)
        if behind:
            self.move(channel, rest, channel, "moved", "", due=due)
        else:
            for message in (message for run in rest for message in run):
                message.due = due
        self.dead_letter(channel, spent, "delivery_limit")

    def unexpired(self, channel: Channel, runs: Runs) -> Runs:
        channel.finish([m for run in runs for m in run if m.has_expired(self.now)], "expired")
        return [run for run in runs if run[0].is_live]

    def dead_letter(self, channel: Channel, runs: Runs, reason: str) -> bool:
        """False, and they are ready as they were, where there can be no such channel."""
        target = self.used(channel.settings.dead_letter) if runs else channel
        if isinstance(target, Channel):
            self.move(channel, runs, target, "dead_lettered", reason)
        return isinstance(target, Channel)

    def move(
        self,
        source: Channel,
        runs: Runs,
        target: Channel,
        finished: str,
        reason: str,
        *,
        expiring: bool = False,
        due: int = 0,
    ) -> None:
        self.to_serve += [source, target]
        for run in runs:
            part = run[0].part.cut(run[0].place, len(run))
            if target is not source:
                part.expires = part.expires if expiring else 0
                self.age(part, target)
            for place, old in enumerate(run):
                new = Message(len(target.messages) + 1, part, place, old.place_in_frame, due=due)
                if target is source:
                    new.deliveries, new.origin = old.deliveries, old.origin
                else:
                    new.origin = Origin(source.name, old.sequence, old.deliveries, reason)
                target.add([new])
                old.finished = finished
            target.take_turns()
            source.take_turns()

    # --- bounds -------------------------------------------------------------------------------------------------------

    def over(self, channel: Channel, count: int) -> int:
        most = channel.settings.max_messages
        return len(channel.live()) + count - most if most else 0

    def exceeds(self, channel: Channel, count: int, size: int) -> bool:
        most = channel.settings.max_bytes
        return self.over(channel, count) > 0 or (most > 0 and channel.size_bytes() + size > most)

    def make_room(self, channel: Channel, count: int, size: int) -> ChannelFull | None:
        settings = channel.settings
        kept = len(channel.live()) - len(self.droppable(channel))
        never = 0 < settings.max_messages < kept + count or 0 < settings.max_bytes < size
        if self.exceeds(channel, count, size) and (never or settings.overflow == "reject"):
            return self.full(channel)
        while self.exceeds(channel, count, size) and self.droppable(channel):
            run = runs_of(self.droppable(channel))[0]
            if (over := self.over(channel, count)) > 0:
                run = run[:over]
            if settings.overflow == "drop_oldest":
                channel.finish(run, "dropped")
            elif not self.dead_letter(channel, [run], "overflow"):
                return self.full(channel)
        return self.full(channel) if self.exceeds(channel, count, size) else None

    def droppable(self, channel: Channel) -> list[Message]:
        return [m for m in channel.messages if m.is_due]

    def full(self, channel: Channel) -> ChannelFull:
        fields: dict[str, Any] = {"depth": len(channel.live()), "size_bytes": channel.size_bytes()}
        fields |= {"max_messages": channel.settings.max_messages, "max_bytes": channel.settings.max_bytes}
        return ChannelFull("", **fields)
