"""Recurring messages: schedules that store a message in their channel whenever they fall due, as if it was sent then.

The message's body stays in the entry that made the schedule, which is live as long as the schedule, or a message made from
it, is: no body is ever copied. What falls due is decided by the stamps of entries, as everything is. Instants that nobody
lived through are not made up one by one: after them comes one message, and then the next instant in the future. A message
that its channel refuses is left out and counted. A schedule whose end has come stays a while, so that a repeat of the
request that made it finds it, and then goes by itself.

Source: docs/PROTOCOL.md §3, CREATE_SCHEDULE.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import asdict, astuple, dataclass
from typing import Any

import msgpack

from zmqbroker.broker.channels import Channels, unsendable
from zmqbroker.broker.dirty import Dirty
from zmqbroker.broker.feeding import publish_and_feed
from zmqbroker.broker.limits import MachineLimits
from zmqbroker.broker.parts import SCHEDULE, pack
from zmqbroker.broker.publishing import contradiction
from zmqbroker.broker.records import Moment, deadline_after
from zmqbroker.broker.timetable import Agenda
from zmqbroker.commands import (
    RECEIPT_ORDINAL_BITS,
    BatchHeader,
    CreateSchedule,
    DeleteSchedule,
    Delivery,
    Plan,
    Publish,
    Result,
    Run,
    ScheduleChanged,
    is_consumer,
)
from zmqbroker.errors import Busy, Corruption, InvalidRequest, RequestError, ScheduleExists, ScheduleNotFound

__all__ = ["SCHEDULE_KEY", "Schedule", "Schedules"]

#: Kind, and the number of the schedule.
SCHEDULE_KEY = struct.Struct(">BQ")


@dataclass(slots=True)
class Schedule:
    """One schedule."""

    number: int  # assigning number of the command that made it: names it in the store, and tells the entry
    name: str
    plan: Plan
    message: Publish  # what is stored whenever it falls due; its frame lies in the entry that made the schedule
    checksum: int  # crc32c of that frame
    instant_unix_ns: int  # the next one; with `ended` that at which it is forgotten
    ended: bool = False  # no instant comes any more
    stored: int = 0  # messages so far
    skipped: int = 0  # instants at which the channel took none

    @property
    def index(self) -> int:
        """The entry with the message."""
        return self.number >> RECEIPT_ORDINAL_BITS

    @property
    def times_left(self) -> int | None:
        """How often it falls due at most; None for any number."""
        return self.plan.times - self.stored - self.skipped if self.plan.times else None


class Schedules:
    """All schedules of one machine."""

    def __init__(self, channels: Channels, limits: MachineLimits) -> None:
        self._channels, self._limits = channels, limits
        self._by_number: dict[int, Schedule] = {}  # in ascending order
        self._by_name: dict[str, Schedule] = {}
        self._agenda = Agenda()
        self._dirty: Dirty[int] = Dirty()

    def __iter__(self) -> Iterator[Schedule]:
        """All schedules, by name."""
        return iter(sorted(self._by_name.values(), key=lambda schedule: schedule.name))

    # --- commands -------------------------------------------------------------------------------------------------------

    def change(self, command: CreateSchedule | DeleteSchedule, moment: Moment) -> Result:
        """Make a schedule, or delete one."""
        if isinstance(command, CreateSchedule):
            return self._create(command, moment)
        there = self._by_name.get(command.name)
        if there is None:
            return ScheduleNotFound(f"no schedule is called {command.name!r}")
        self._remove(there)
        return ScheduleChanged(command.name, changed=True)

    def _create(self, command: CreateSchedule, moment: Moment) -> Result:
        there, header = self._by_name.get(command.name), command.message.header
        if there is not None:
            return _repeated(there, command)
        if is_consumer(header.channel):
            return unsendable(header.channel)
        if refusal := contradiction(command.message):
            return refusal
        if fault := command.plan.fault():
            return InvalidRequest(fault)
        if header.count != 1 or header.producer:
            return InvalidRequest(f"a schedule has 1 message without a producer, this one {header.count}")
        first = command.plan.first_instant(moment.now_unix_ns)
        if first is None:
            return InvalidRequest(f"until_unix_ns is {command.plan.until_unix_ns}, before the schedule falls due once")
        if len(self._by_name) >= self._limits.schedules_max:
            text = f"there are {self._limits.schedules_max} schedules, the most a group may have"
            return Busy(text, retry_ms=self._limits.retry_ms)
        self._add(Schedule(moment.assigning, command.name, command.plan, command.message, command.checksum, first))
        self._channels.entries.add(moment.entry_index)
        return ScheduleChanged(command.name, changed=True)

    # --- time -----------------------------------------------------------------------------------------------------------

    def earliest(self) -> int | None:
        """The next instant of any schedule."""
        return self._agenda.earliest()

    def due(self, now_unix_ns: int) -> list[int]:
        """The schedules whose instant is not after now, in the order in which they were made; `fall_due` is given them."""
        return self._agenda.due(now_unix_ns)

    def fall_due(self, numbers: list[int], moment: Moment, deliveries: list[Delivery]) -> None:
        """Store the messages of schedules; what others get by it is added to `deliveries`."""
        for number in numbers:
            schedule = self._by_number[number]
            if schedule.ended:
                self._remove(schedule)
                continue
            frame = Moment(schedule.index << RECEIPT_ORDINAL_BITS, moment.now_unix_ns)
            if isinstance(publish_and_feed(self._channels, schedule.message, moment, deliveries, frame), RequestError):
                schedule.skipped += 1
            else:
                schedule.stored += 1
            following = schedule.plan.next_instant(schedule.instant_unix_ns, moment.now_unix_ns)
            schedule.ended = following is None or schedule.times_left == 0
            kept = deadline_after(moment.now_unix_ns, self._limits.schedule_kept_ms)
            schedule.instant_unix_ns = kept if following is None or schedule.ended else following
            self._agenda.put(number, schedule.instant_unix_ns)
            self._dirty.changed(number)

    def lose(self, is_lost: Callable[[int], bool]) -> None:
        """Forget the schedules whose entries are lost with their messages."""
        for schedule in [schedule for schedule in self._by_number.values() if is_lost(schedule.index)]:
            self._remove(schedule)

    # --- parts ----------------------------------------------------------------------------------------------------------

    def _add(self, schedule: Schedule) -> None:
        self._by_number[schedule.number] = self._by_name[schedule.name] = schedule
        self._agenda.put(schedule.number, schedule.instant_unix_ns)
        self._dirty.created(schedule.number)

    def _remove(self, schedule: Schedule) -> None:
        del self._by_number[schedule.number], self._by_name[schedule.name]
        self._agenda.put(schedule.number, None)
        self._dirty.deleted(schedule.number)
        self._channels.entries.remove(schedule.index)

    # --- storing --------------------------------------------------------------------------------------------------------

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """All keys and values."""
        return ((SCHEDULE_KEY.pack(SCHEDULE, schedule.number), _value(schedule)) for schedule in self._by_number.values())

    def changes(self) -> Iterator[tuple[bytes, bytes | None]]:
        """The changed keys with their values, None for deleted ones; from now on they count as stored."""
        for number in self._dirty.take():
            schedule = self._by_number.get(number)
            yield SCHEDULE_KEY.pack(SCHEDULE, number), None if schedule is None else _value(schedule)

    def restore(self, key: bytes, value: bytes) -> None:
        """Add what is under a key, in the order of keys; that its entry is live is the caller's to note.

        It counts as stored. Raises Corruption, TypeError or ValueError.
        """
        schedule = _read(SCHEDULE_KEY.unpack(key)[1], value)
        if schedule.name in self._by_name or schedule.plan.fault():
            raise Corruption(f"the state has schedule {schedule.name!r} twice, or without a time")
        self._add(schedule)
        self._dirty.take()


def _repeated(there: Schedule, command: CreateSchedule) -> Result:
    """The answer to a schedule whose name is taken: fine when it is the same."""
    ours, wanted = (asdict(plan) for plan in (there.plan, command.plan))
    differing = {name: f"{name} is {ours[name]!r} and not {wanted[name]!r}" for name in ours if ours[name] != wanted[name]}
    message, other = there.message, command.message
    if message.header.channel != other.header.channel:
        differing["channel"] = f"channel is {message.header.channel!r} and not {other.header.channel!r}"
    # The channel's name is in the frame; of two channels nobody can tell whether the messages are the same.
    elif (message.size, there.checksum) != (other.size, command.checksum):
        differing["message"] = f"message is another one, of {message.size} and not {other.size} bytes, or of another checksum"
    if not differing:
        return ScheduleChanged(there.name, changed=False)
    text = f"schedule {there.name!r} is there and says something else: {', '.join(differing.values())}"
    return ScheduleExists(text, differing=sorted(differing))


def _value(schedule: Schedule) -> bytes:
    message, header = schedule.message, schedule.message.header
    runs = [list(astuple(run)) for run in message.runs]
    return pack(
        *(schedule.name, header.channel, message.position, message.size, header.body_bytes, runs, schedule.checksum),
        *(list(astuple(schedule.plan)), schedule.instant_unix_ns, int(schedule.ended), schedule.stored, schedule.skipped),
    )


def _read(number: int, value: bytes) -> Schedule:
    name, channel, position, size, body_bytes, runs, checksum, plan, *state = msgpack.unpackb(value)
    if not all(type(item) is int for item in (position, size, body_bytes, checksum, *state)):
        raise TypeError(f"schedule {name!r} holds what is no number")
    header = BatchHeader(channel, 0, 0, 1, body_bytes, body_bytes, 0)
    message = Publish(header, position, size, runs=tuple(map(_read_run, runs)))
    instant_unix_ns, ended, stored, skipped = state
    return Schedule(number, name, Plan(*plan), message, checksum, instant_unix_ns, ended > 0, stored, skipped)


def _read_run(values: list[Any]) -> Run:
    run = Run(*values)
    if type(run.group) is not str:
        raise ValueError(f"a group is {run.group!r}")
    return run
