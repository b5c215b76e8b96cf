"""The node's jobs, where they need neither sockets nor files."""

from __future__ import annotations

import asyncio

import pytest

from zmqbroker.config import NodeConfig
from zmqbroker.errors import Corruption
from zmqbroker.server.application import _Application, _together


@pytest.mark.parametrize("steps", range(6))
def test_job_that_is_ended_at_the_instant_of_a_change_ends(steps: int) -> None:
    """An orderly stop hands leadership over, which is a change, and then ends the jobs: both come together."""

    async def test() -> None:
        application = _Application(NodeConfig.for_test(), "serve")
        rounds = 0

        async def job() -> None:
            nonlocal rounds
            while rounds < 1000:
                rounds += 1
                await application._change()
                application._changed.clear()

        task = asyncio.ensure_future(job())
        await asyncio.sleep(0)
        application._changed.set()
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        for _ in range(10):
            await asyncio.sleep(0)
        assert task.cancelled()

    asyncio.run(test())


def test_change_that_came_before_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zmqbroker.server.application.HELLO_INTERVAL_S", 0)

    async def test() -> None:
        application = _Application(NodeConfig.for_test(), "serve")
        application._changed.set()
        await application._change()
        application._changed.clear()
        with pytest.raises(TimeoutError):
            await application._change()

    asyncio.run(test())


def test_job_that_fails_ends_those_beside_it_and_its_error_is_raised() -> None:
    """A flush that went on beside a failed scrub could begin after the store's thread had ended."""

    async def test() -> list[str]:
        ended: list[str] = []

        async def endless() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0)
                ended.append("endless")

        async def failing() -> None:
            await asyncio.sleep(0)
            raise Corruption("the value of a key is damaged")

        with pytest.raises(Corruption, match="the value of a key"):
            await _together(endless(), failing())
        return ended

    assert asyncio.run(test()) == ["endless"]
