"""The cluster itself, as a client changes it: its members and its leader."""

from __future__ import annotations

from typing import Any

from zmqbroker.client.driver import Driver
from zmqbroker.wire.requests import AnyRequest, AuditRequest, ChangeMembers, Info, Transfer

__all__ = ["Cluster"]


class Cluster:
    """Members and leadership. Made by `Client.cluster`. Every call may be repeated: what is there already changes nothing."""

    def __init__(self, driver: Driver, timeout_ms: int) -> None:
        self._driver = driver
        self._timeout_ms = timeout_ms

    async def info(self) -> dict[str, Any]:
        """What a node tells of itself and its cluster (PROTOCOL §7)."""
        return await self._ask(Info())

    async def add(self, name: str, *, learner: bool = False) -> list[dict[str, Any]]:
        """Take in a node that was started with the cluster's nodes among its peers; the members then (PROTOCOL §3, MEMBERS).

        It is a learner first and a voter when it has caught up, unless `learner` is true. Raises NodeNotFound when no such node
        was heard of, InvalidRequest when it cannot be taken in.
        """
        return await self._change(ChangeMembers("add", name, learner=learner))

    async def replace(self, name: str, by: str = "") -> list[dict[str, Any]]:
        """Let a new node, of the same name unless `by` names another, take a member's place when it has caught up.

        Raises as `add`.
        """
        return await self._change(ChangeMembers("replace", name, by))

    async def remove(self, name: str) -> list[dict[str, Any]]:
        """Remove a member. Raises NodeNotFound, or InvalidRequest when those who stay could not decide anything."""
        return await self._change(ChangeMembers("remove", name))

    async def transfer(self, to: str = "") -> str:
        """Begin to hand leadership to a voter, the furthest one unless `to` names it; the name of who is to lead.

        Raises NodeNotFound, InvalidRequest for a learner, or NoMajority when nobody can take over.
        """
        return str((await self._ask(Transfer(to))).get("to", ""))

    async def audit(self) -> int:
        """Take an audit of the replicated state on every node; the index that it was taken at."""
        return int((await self._ask(AuditRequest())).get("index", 0))

    async def _change(self, request: ChangeMembers) -> list[dict[str, Any]]:
        return list((await self._ask(request)).get("members", ()))

    async def _ask(self, request: AnyRequest) -> dict[str, Any]:
        return (await self._driver.submit(request, self._timeout_ms)).fields
