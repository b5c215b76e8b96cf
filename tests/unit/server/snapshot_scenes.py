"""What tests of snapshots begin with: a node that stayed away while the others dropped log; and what they end with."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.unit.broker.builders import acked_by
from tests.unit.server.harness import receive, waiting
from tests.unit.server.snapshot_sites import GROUP, Cut, Site, Sites
from zmqbroker.commands import Delivery
from zmqbroker.server import snapshot_making, snapshot_transfer, snapshots, trimming
from zmqbroker.server.membership import membership_of

__all__ = ["Test", "ack", "assert_caught_up", "drive", "failing", "installed", "left_behind"]

Test = Callable[[Sites], Awaitable[None]]


def _make_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small chunks and a short patience, so that everything takes many steps and few ticks."""
    monkeypatch.setattr(snapshot_transfer, "CHUNK_BYTES", 8 << 10)
    monkeypatch.setattr(snapshot_transfer, "REPEAT_NS", 0)
    monkeypatch.setattr(snapshots, "RETRY_NS", 0)
    monkeypatch.setattr(snapshot_making, "SLICE_BYTES", 16 << 10)
    monkeypatch.setattr(trimming, "AWAY_TICKS", 5)
    monkeypatch.setattr(trimming, "WINDOW_MARKS", 1)


def drive(directory: Path, test: Test) -> None:
    """Run a test on three nodes; none may end by itself."""

    async def whole() -> None:
        sites = Sites(directory)
        bugs: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: bugs.append(context))
        try:
            await test(sites)
            assert [context for context in bugs if not isinstance(context.get("exception"), Cut)] == []
        finally:
            await sites.close()

    with pytest.MonkeyPatch.context() as patch:
        _make_small(patch)
        asyncio.run(whole())


async def left_behind(sites: Sites) -> None:
    """Nodes 1 and 2 hold messages, and their log begins behind the end of node 3's, which does not run."""
    for site in sites.sites.values():
        site.open()
    await sites.lead(1)
    await sites.write(3)
    await sites[3].kill()
    await sites.write(60)

    def beyond() -> bool:
        return sites[1].log.view(GROUP).first_index() > 10

    # The log of live messages stays, so they are taken away: all but those at the end.
    await ack(sites, 55)
    await sites.write(20)
    await sites.write(5)
    assert beyond(), sites[1].log.view(GROUP).first_index()


async def ack(sites: Sites, count: int) -> None:
    """Receive and ack the oldest messages, through the log."""
    assert sites.leader is not None
    group, node = sites.leader.group, sites.leader.node
    delivered: list[Delivery] = []
    node.deliver = lambda _pending, delivery, _number: delivered.append(delivery)  # type: ignore
    for request in range(count):
        asked = waiting(100_000 + request)
        group.submit(receive(asked, count_max=1), asked)
    await sites.settle()
    assert len(delivered) == count
    for delivery in delivered:
        group.submit(acked_by(delivery))
    await sites.settle()


def assert_caught_up(sites: Sites, site: Site) -> None:
    """The node has what the others have, messages included."""
    leader = sites.leader
    assert leader is not None
    assert sites.equal
    assert len(sites.digests()) == 1
    assert site.group.core.membership == membership_of(site.group.machine.roster) == leader.group.core.membership
    live = [index for index in range(1, leader.group.machine.applied_index + 1) if leader.group.machine.is_live(index)]
    assert len(live) >= 20
    for index in live:
        assert site.node.bodies.read(GROUP, index) == leader.node.bodies.read(GROUP, index)


def installed(sites: Sites) -> bool:
    """Whether node 3 has installed a snapshot."""
    return sites[3].counters["snapshots_installed"] > 0


def failing(real: Callable[..., Any], error: Exception, times: int = 1) -> Callable[..., Any]:
    """`real`, which fails the first times."""
    left = [error] * times

    def call(*arguments: Any) -> Any:
        if left:
            raise left.pop()
        return real(*arguments)

    return call
