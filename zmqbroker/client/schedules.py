"""Schedules: messages that the cluster sends by itself, again and again."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

from zmqbroker.client.driver import Driver
from zmqbroker.client.message import check_channel
from zmqbroker.commands import DeleteSchedule, Plan
from zmqbroker.errors import InvalidRequest, RemoteProtocolError
from zmqbroker.wire.queue_requests import ManageRequest
from zmqbroker.wire.requests import CreateScheduleRequest, ListSchedules, Send
from zmqbroker.wire.rule_requests import schedule_fault

__all__ = ["Schedules"]


class Schedules:
    """All schedules of a cluster. Made by `Client.schedules`."""

    def __init__(self, driver: Driver, timeout_ms: int) -> None:
        self._driver = driver
        self._timeout_ms = timeout_ms

    async def create(
        self,
        name: str,
        channel: str,
        body: bytes,
        *,
        every_ms: int = 0,
        first_unix_ns: int = 0,
        delay_ms: int = 0,
        cron: str = "",
        times: int = 0,
        until_unix_ns: int = 0,
        id: str = "",
        metadata: str | None = None,
        tags: Mapping[str, str] | None = None,
        expiry_ms: int = 0,
        priority: int = 0,
    ) -> bool:
        """Send `body` to a channel again and again; False when this schedule is there already.

        Either every so many milliseconds (at least 1000), from `first_unix_ns` on, or `delay_ms` after now, or one distance
        after now; or by `cron`, five fields in UTC ("0 3 * * *": at three every night). At most `times`, and not after
        `until_unix_ns`. Raises ScheduleExists, naming what differs, when there is another one of that name, and InvalidRequest
        for what is wrong.
        """
        plan = Plan(every_ms, first_unix_ns, delay_ms, cron, times, until_unix_ns)
        check_channel(channel)
        if fault := schedule_fault(name) or plan.fault():
            raise InvalidRequest(fault)
        message = Send(channel, body, id=id, metadata=metadata, tags=tags, expiry_ms=expiry_ms, priority=priority)
        return await self._changed(CreateScheduleRequest(name, plan, message))

    async def delete(self, name: str) -> None:
        """Delete a schedule; what it has sent stays. Raises ScheduleNotFound."""
        await self._changed(ManageRequest(DeleteSchedule(name)))

    async def list(self, search: str = "") -> AsyncIterator[dict[str, Any]]:
        """The schedules with `search` in their names, by name, each as docs/PROTOCOL.md §3 has it for SCHEDULES."""
        after, more = "", True
        while more:
            answer = await self._driver.submit(ListSchedules(search, after, forward=True), self._timeout_ms)
            rows, more = answer.field("schedules", list), answer.field("more", bool)
            for row in rows:
                after = _name_of(row, after)
                yield row
            more = more and bool(rows)

    async def _changed(self, request: CreateScheduleRequest | ManageRequest) -> bool:
        return (await self._driver.submit(request, self._timeout_ms)).field("changed", bool)


def _name_of(row: object, after: str) -> str:
    """The name of a schedule in a list that goes on behind `after`. Names rise, so that no list is without end."""
    name = row.get("name") if isinstance(row, dict) else None
    if not isinstance(name, str) or name <= after:
        raise RemoteProtocolError(f"SCHEDULES has what is no schedule behind {after!r}: {row!r}")
    return name
