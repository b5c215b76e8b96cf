"""Defaults and schedules, as requests: ranges and defaults of fields are those of docs/PROTOCOL.md §3.

SET_DEFAULTS and DELETE_SCHEDULE are the commands that they become in the log; CREATE_SCHEDULE brings a message, read as that of
a SEND. `requests` reads and writes them with all others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from zmqbroker.commands import CREATE_ON_USE, DeleteSchedule, Plan, SetDefaults
from zmqbroker.errors import InvalidRequest
from zmqbroker.wire.batch import CHANNEL_SIZE_MAX, Buffer
from zmqbroker.wire.frames import U64_MAX, Request, channel_fault, flag, integer, shown, text
from zmqbroker.wire.queue_requests import (
    DELAY_MS_MAX,
    LIST_MAX,
    REASON_SIZE_MAX,
    Fields,
    ManageRequest,
    read_given_settings,
)
from zmqbroker.wire.send_requests import Send, read_send

__all__ = [
    "RULE_REQUESTS",
    "CreateScheduleRequest",
    "ListDefaults",
    "ListSchedules",
    "fields_of_schedule",
    "pattern_fault",
    "read_create_schedule",
    "schedule_fault",
]

#: Fields of CREATE_SCHEDULE that say what its message is; `delay_ms` there is the schedule's.
_MESSAGE_FIELDS = ("channel", "id", "metadata", "tags", "expiry_ms", "priority")


@dataclass(slots=True, frozen=True)
class CreateScheduleRequest:
    """Have a message sent again and again. It has no producer and no delay of its own."""

    name: str
    plan: Plan
    message: Send
    forward: bool = False


@dataclass(slots=True, frozen=True)
class ListSchedules:
    """Schedules with a text in their names, from the one after `after` on, ascending."""

    search: str = ""
    after: str = ""
    count_max: int = LIST_MAX
    forward: bool = False


@dataclass(slots=True, frozen=True)
class ListDefaults:
    """All patterns for which defaults are said, with those."""

    forward: bool = False


# --- names -----------------------------------------------------------------------------------------------------------


def pattern_fault(pattern: str) -> str | None:
    """Why `pattern` cannot stand for names of channels, as one sentence with rule and pattern; None when it can."""
    tokens = pattern.split(".")
    for place, token in enumerate(tokens):
        if token == "*" or (token == ">" and place == len(tokens) - 1):
            tokens[place] = "x"
    name = ".".join(tokens)
    if (fault := channel_fault(name)) is None:
        return None
    if len(pattern.encode(errors="replace")) <= CHANNEL_SIZE_MAX and any(sign in name for sign in "*>"):
        return f"pattern {shown(pattern)}: * is a whole token between dots, and > the last one"
    return fault.replace(f"channel name {shown(name)}", f"pattern {shown(pattern)}")


def schedule_fault(name: str) -> str | None:
    """Why `name` cannot name a schedule, for which the rules are those of channels; None when it can."""
    fault = channel_fault(name)
    return None if fault is None else fault.replace("channel name", "schedule name", 1)


def _schedule_name(fields: Fields) -> str:
    name = text(fields, "name", None, REASON_SIZE_MAX)
    if fault := schedule_fault(name):
        raise InvalidRequest(fault)
    return name


# --- reading ---------------------------------------------------------------------------------------------------------


def _read_set_defaults(fields: Fields) -> ManageRequest:
    pattern = text(fields, "pattern", None, REASON_SIZE_MAX)
    if fault := pattern_fault(pattern):
        raise InvalidRequest(fault)
    given = fields.get("settings", {})
    if isinstance(given, dict) and CREATE_ON_USE in given:
        flag(given, CREATE_ON_USE)
        given = {name: value for name, value in given.items() if name != CREATE_ON_USE}
    read_given_settings(given)
    return ManageRequest(SetDefaults(pattern, fields.get("settings", {})), flag(fields, "forward"))


def _read_delete_schedule(fields: Fields) -> ManageRequest:
    return ManageRequest(DeleteSchedule(_schedule_name(fields)), flag(fields, "forward"))


def _read_list_defaults(fields: Fields) -> ListDefaults:
    return ListDefaults(flag(fields, "forward"))


def _read_list_schedules(fields: Fields) -> ListSchedules:
    return ListSchedules(
        search=text(fields, "search", "", REASON_SIZE_MAX),
        after=text(fields, "after", "", REASON_SIZE_MAX),
        count_max=integer(fields, "max", LIST_MAX, 1, LIST_MAX),
        forward=flag(fields, "forward"),
    )


def read_create_schedule(fields: Fields, bodies: Sequence[Buffer]) -> CreateScheduleRequest:
    """A CREATE_SCHEDULE from its fields and its body. Raises InvalidRequest or InvalidChannel."""
    plan = Plan(
        every_ms=integer(fields, "every_ms", 0, 0, DELAY_MS_MAX),
        first_unix_ns=integer(fields, "first_unix_ns", 0, 0, U64_MAX),
        delay_ms=integer(fields, "delay_ms", 0, 0, DELAY_MS_MAX),
        cron=text(fields, "cron", "", REASON_SIZE_MAX),
        times=integer(fields, "times", 0, 0, U64_MAX),
        until_unix_ns=integer(fields, "until_unix_ns", 0, 0, U64_MAX),
    )
    if fault := plan.fault():
        raise InvalidRequest(f"field {fault}")
    message = read_send({name: fields[name] for name in _MESSAGE_FIELDS if name in fields}, bodies)
    return CreateScheduleRequest(_schedule_name(fields), plan, message, flag(fields, "forward"))


#: How each of them that has no body frame is read, by command code.
RULE_REQUESTS: dict[Request, Callable[[Fields], ManageRequest | ListSchedules | ListDefaults]] = {
    Request.SET_DEFAULTS: _read_set_defaults,
    Request.LIST_DEFAULTS: _read_list_defaults,
    Request.DELETE_SCHEDULE: _read_delete_schedule,
    Request.LIST_SCHEDULES: _read_list_schedules,
}


# --- writing ---------------------------------------------------------------------------------------------------------


def fields_of_schedule(request: CreateScheduleRequest) -> dict[str, Any]:
    """The fields of a CREATE_SCHEDULE that differ from their default."""
    fields: dict[str, Any] = {"name": request.name, **request.plan.said()}
    for name in _MESSAGE_FIELDS:
        value = getattr(request.message, name)
        if name == "channel" or value != Send.__dataclass_fields__[name].default:
            fields[name] = value
    return fields | ({"forward": True} if request.forward else {})
