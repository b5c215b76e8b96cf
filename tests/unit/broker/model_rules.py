"""What the slow model knows of defaults and schedules: every pattern tried, every instant counted up one by one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.unit.broker.model_state import MILLISECOND, Channel
from zmqbroker.broker import MachineLimits
from zmqbroker.commands import (
    ChannelSettings,
    CreateSchedule,
    DefaultsChanged,
    DeleteSchedule,
    Plan,
    Result,
    ScheduleChanged,
    SetDefaults,
)
from zmqbroker.errors import Busy, ChannelNotFound, InvalidRequest, ScheduleExists, ScheduleNotFound

__all__ = ["ModelSchedule", "Rules"]

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(eq=False)
class ModelSchedule:
    """One schedule; `instant` 0 means that it has ended, at `ended`."""

    command: CreateSchedule
    number: int
    instant: int
    stored: int = 0
    skipped: int = 0
    ended: int = 0

    @property
    def index(self) -> int:
        return self.number >> 16

    def row(self) -> tuple[Any, ...]:
        return (self.command.name, self.command.plan, self.number, self.stored, self.skipped, self.instant)


def fits(pattern: str, name: str) -> bool:
    """Dots stay, a star is anything without a dot, and what stands at the end for the rest is anything."""
    tokens = [{"*": "[^.]*", ">": ".*"}.get(token, re.escape(token)) for token in pattern.split(".")]
    return re.fullmatch(r"\.".join(tokens), name) is not None


def specific(pattern: str) -> str:
    """In the order of these texts the most specific of those that fit a name comes first."""
    return "".join("b" if token == "*" else "c" if token == ">" else "a" for token in pattern.split("."))


class Rules:
    """What is said beside channels and messages."""

    def __init__(self, limits: MachineLimits) -> None:
        self.limits = limits
        self.now = self.index = self.assigning = 0
        self.channels: dict[str, Channel] = {}  # in the order of creation
        self.patterns: dict[str, Mapping[str, Any]] = {}
        self.frame_index = 0  # of the entry with the frame that is being stored, when that is another one
        self.schedules: dict[str, ModelSchedule] = {}  # in the order of creation

    # --- defaults -----------------------------------------------------------------------------------------------------

    def set_defaults(self, command: SetDefaults) -> Result:
        there = self.patterns.get(command.pattern, {})
        wanted = {**command.settings, **there} if command.keep else {**command.settings}
        if command.pattern not in self.patterns and wanted and len(self.patterns) == self.limits.defaults_max:
            return Busy("", retry_ms=self.limits.retry_ms)
        self.patterns[command.pattern] = wanted
        self.patterns = {pattern: said for pattern, said in self.patterns.items() if said}
        return DefaultsChanged(command.pattern, wanted != there)

    def said_for(self, name: str, key: str) -> Any:
        """What the most specific pattern says that says it; None when none does."""
        for pattern in sorted(self.patterns, key=specific):
            if fits(pattern, name) and key in self.patterns[pattern]:
                return self.patterns[pattern][key]
        return None

    def settings_for(self, name: str, said: Mapping[str, Any]) -> ChannelSettings:
        values = {**asdict(ChannelSettings())}
        for key in values:
            default = self.said_for(name, key)
            if default is not None and not (key == "dead_letter" and default == name):
                values[key] = default
            if key in said:
                values[key] = said[key]
        if values["overflow"] == "dead_letter" and values["dead_letter"] == "" and "overflow" not in said:
            values["overflow"] = "reject"
        return ChannelSettings(**values)

    def found(self, name: str, incarnation: int = 0) -> Channel | ChannelNotFound:
        channel = self.channels.get(name)
        return channel if channel is not None and incarnation in (0, channel.incarnation) else ChannelNotFound("")

    def used(self, name: str, incarnation: int = 0) -> Channel | ChannelNotFound | Busy:
        if name in self.channels or incarnation:
            return self.found(name, incarnation)
        return ChannelNotFound("") if self.said_for(name, "create_on_use") is False else self.made(name, {})

    def made(self, name: str, said: Mapping[str, Any]) -> Channel | Busy:
        if len(self.channels) == self.limits.channels_max:
            return Busy("", retry_ms=self.limits.retry_ms)
        return self.channels.setdefault(name, Channel(name, self.index, self.settings_for(name, said)))

    # --- schedules ----------------------------------------------------------------------------------------------------

    def create_schedule(self, command: CreateSchedule) -> Result:
        there = self.schedules.get(command.name)
        if there is not None:
            return self.repeat(there.command, command)
        first = self.first_of(command.plan)
        if first is None:
            return InvalidRequest("")
        if len(self.schedules) == self.limits.schedules_max:
            return Busy("", retry_ms=self.limits.retry_ms)
        self.schedules[command.name] = ModelSchedule(command, self.assigning, first)
        return ScheduleChanged(command.name, changed=True)

    def repeat(self, there: CreateSchedule, command: CreateSchedule) -> Result:
        plan = asdict(there.plan)
        differing = [key for key, value in asdict(command.plan).items() if value != plan[key]]
        if there.message.header.channel != command.message.header.channel:
            differing.append("channel")
        elif (there.message.size, there.checksum) != (command.message.size, command.checksum):
            differing.append("message")
        return ScheduleExists("", differing=sorted(differing)) if differing else ScheduleChanged(command.name, changed=False)

    def delete_schedule(self, command: DeleteSchedule) -> Result:
        if command.name not in self.schedules:
            return ScheduleNotFound("")
        del self.schedules[command.name]
        return ScheduleChanged(command.name, changed=True)

    def first_of(self, plan: Plan) -> int | None:
        if plan.cron:
            return self.following(plan, 0)
        instant = plan.first_unix_ns or self.now + (plan.delay_ms or plan.every_ms) * MILLISECOND
        while instant < self.now:
            instant += plan.every_ms * MILLISECOND
        return self.in_time(plan, instant)

    def following(self, plan: Plan, instant: int) -> int | None:
        """The next one behind an instant that is in the future."""
        if plan.cron:  # every so many minutes
            every = int(plan.cron.split()[0].removeprefix("*/"))
            moment = EPOCH + timedelta(minutes=self.now // (60_000 * MILLISECOND) + 1)
            while moment.minute % every:
                moment += timedelta(minutes=1)
            return self.in_time(plan, (moment - EPOCH) // timedelta(minutes=1) * 60_000 * MILLISECOND)
        while instant <= self.now:
            instant += plan.every_ms * MILLISECOND
        return self.in_time(plan, instant)

    def in_time(self, plan: Plan, instant: int) -> int | None:
        return None if plan.until_unix_ns and instant > plan.until_unix_ns else instant

    def send_due(self) -> None:
        """Every schedule that is due sends one message, whatever it has missed."""
        for schedule in list(self.schedules.values()):
            kept = self.limits.schedule_kept_ms * MILLISECOND
            if schedule.ended and self.now >= schedule.ended + kept:
                del self.schedules[schedule.command.name]
            elif schedule.instant and schedule.instant <= self.now:
                sent = self.send(schedule)
                schedule.stored, schedule.skipped = schedule.stored + sent, schedule.skipped + (not sent)
                schedule.instant = self.following(schedule.command.plan, schedule.instant) or 0
                if schedule.stored + schedule.skipped == schedule.command.plan.times or not schedule.instant:
                    schedule.instant, schedule.ended = 0, self.now

    def send(self, schedule: ModelSchedule) -> bool:
        raise NotImplementedError

    def schedule_instants(self) -> list[int]:
        kept = self.limits.schedule_kept_ms * MILLISECOND
        return [schedule.instant or schedule.ended + kept for schedule in self.schedules.values()]
