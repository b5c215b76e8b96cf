"""What the driver does about connections that only the session can know the urgency of."""

from __future__ import annotations

import asyncio

import pytest

from tests.unit.client.servers import FakeServer, run
from zmqbroker.client import Client
from zmqbroker.client import driver as driver_module
from zmqbroker.client.driver import Driver
from zmqbroker.client.session import Transmit

HERE, THERE = "tcp://127.0.0.1:1", "tcp://127.0.0.1:2"


def test_driver_hurries_only_attempts_that_are_far_away() -> None:
    async def test() -> None:
        driver = Driver((HERE,), "test")
        loop = asyncio.get_running_loop()
        link = driver_module._Link()
        driver._links[THERE] = link
        driver._hurry("tcp://127.0.0.1:3")  # it is not known
        driver._hurry(THERE)  # it is being connected to
        assert link.retry is None
        link.retry = far = loop.call_later(60, print)
        driver._hurry(THERE)
        assert far.cancelled()
        assert link.retry is not far
        assert link.retry.when() <= loop.time() + driver_module._RECONNECT_S
        near = link.retry
        driver._hurry(THERE)
        assert link.retry is near
        await driver.close()

    asyncio.run(test())


def test_driver_asks_the_session_what_is_urgent() -> None:
    async def test() -> None:
        driver = Driver((HERE,), "test")
        loop = asyncio.get_running_loop()
        link = driver._links.setdefault(HERE, driver_module._Link())
        if link.connecting is not None:
            link.connecting.cancel()
            link.connecting = None
        link.retry = far = loop.call_later(60, print)
        routes = driver._session._routes
        node = routes.node(HERE)
        assert node is not None
        routes.lost(node, 0)
        routes.pong(THERE, HERE, 1, 0)
        driver._settle()
        assert far.cancelled()
        await driver.close()

    asyncio.run(test())


def test_driver_lets_go_of_links_that_nobody_wants_and_closes_once() -> None:
    async def test() -> None:
        driver = Driver((HERE,), "test")
        link = driver._links[THERE] = driver_module._Link()
        link.retry = asyncio.get_running_loop().call_later(60, print)
        driver._on_timer()  # neither link has a connection
        assert THERE not in driver._links
        assert link.retry.cancelled()
        assert driver._timer is not None
        driver._timer.cancel()
        driver._timer = None
        await driver.close()
        await driver.close()
        assert driver._context.closed

    asyncio.run(test())


def test_driver_drops_frames_for_a_node_whose_connection_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        driver = Driver((HERE,), "test")
        monkeypatch.setattr(driver._session, "pump", lambda now_ns: [Transmit(HERE, [b""]), Transmit(THERE, [b""])])
        driver._settle()
        await driver.close()

    asyncio.run(test())


def test_driver_passes_over_a_request_that_its_owner_has_cancelled() -> None:
    async def test(client: Client, server: FakeServer) -> None:
        await client.info()
        asking = asyncio.ensure_future(client.info())
        await asyncio.sleep(0)
        asking.cancel()
        await client.info()  # its answer comes behind the other one
        assert asking.cancelled()

    run(test)
