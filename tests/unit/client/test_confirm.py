"""Confirms of the asyncio client: awaited, asked, called back, cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from zmqbroker.client.confirm import BatchConfirm, Confirm
from zmqbroker.client.message import SendResult
from zmqbroker.client.parcel import Parcel
from zmqbroker.errors import Busy


def parcel_of(count: int) -> Parcel:
    """A sealed parcel."""
    return Parcel([b""] * count, 16 * count, 0, 0)


def end(parcel: Parcel, first: int = 1) -> None:
    """Store a parcel and tell."""
    parcel.stored(first, 9, False, "quorum")
    parcel.tell()


def run(test: Callable[[], Awaitable[None]]) -> None:
    """Run a test in a loop."""

    async def main() -> None:
        await test()

    asyncio.run(main())


def test_confirm_before_the_end_has_neither_result_nor_error() -> None:
    confirm = Confirm(parcel_of(1), 0)
    assert not confirm.done()
    with pytest.raises(asyncio.InvalidStateError):
        confirm.result()
    with pytest.raises(asyncio.InvalidStateError):
        confirm.exception()


def test_confirm_is_awaited_before_and_after_the_end() -> None:
    async def test() -> None:
        parcel = parcel_of(3)
        confirms = [Confirm(parcel, place) for place in range(3)]
        waiting = [asyncio.ensure_future(confirm) for confirm in confirms]
        await asyncio.sleep(0)
        end(parcel, 5)
        assert [(await one).sequence for one in waiting] == [5, 6, 7]
        assert await confirms[1] == confirms[1].result() == SendResult(6, 9, False, "quorum")
        assert confirms[1].exception() is None
        assert confirms[1].done()

    run(test)


def test_confirm_failed_raises_its_own_error() -> None:
    async def test() -> None:
        parcel = parcel_of(2)
        parcel.failed(Busy("full"))
        found = await asyncio.gather(Confirm(parcel, 0), Confirm(parcel, 1), return_exceptions=True)
        assert [type(one) for one in found] == [Busy, Busy]
        assert found[0] is not found[1]
        with pytest.raises(Busy):
            Confirm(parcel, 0).result()

    run(test)


def test_confirm_wait_cancelled_ends_only_that_wait() -> None:
    async def test() -> None:
        parcel = parcel_of(1)
        waiting, other = (asyncio.ensure_future(Confirm(parcel, 0)) for _ in range(2))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.sleep(0)
        end(parcel)
        assert (await other).sequence == 1
        assert waiting.cancelled()

    run(test)


def test_confirm_callbacks_come_from_the_loop_also_after_the_end() -> None:
    async def test() -> None:
        parcel, called = parcel_of(2), list[Confirm]()
        first, second = Confirm(parcel, 0), Confirm(parcel, 1)
        first.add_done_callback(called.append)
        end(parcel)
        second.add_done_callback(called.append)
        assert called == []
        await asyncio.sleep(0)
        assert called == [first, second]

    run(test)


def test_batch_confirm_is_its_messages_in_order() -> None:
    async def test() -> None:
        parcels = [parcel_of(2), parcel_of(1), parcel_of(3)]
        confirm = BatchConfirm(parcels)
        assert (len(confirm), confirm.done()) == (6, False)
        waiting = asyncio.ensure_future(confirm)
        await asyncio.sleep(0)
        for parcel, first in zip(parcels, (1, 11, 21), strict=True):
            end(parcel, first)
        expected = [1, 2, 11, 21, 22, 23]
        assert [result.sequence for result in await waiting] == [result.sequence for result in await confirm] == expected
        assert [one.result().sequence for one in confirm] == expected
        assert [confirm[at].result().sequence for at in range(-6, 0)] == expected
        assert confirm.done()
        for at in (6, -7):
            with pytest.raises(IndexError):
                confirm[at]

    run(test)


def test_batch_confirm_of_nothing_is_done() -> None:
    async def test() -> None:
        confirm = BatchConfirm([])
        assert (len(confirm), confirm.done(), await confirm) == (0, True, [])
        with pytest.raises(IndexError):
            confirm[0]

    run(test)


def test_batch_confirm_with_a_part_that_failed_raises_its_error() -> None:
    async def test() -> None:
        parcels = [parcel_of(1), parcel_of(1)]
        end(parcels[0])
        parcels[1].failed(Busy("full"))
        confirm = BatchConfirm(parcels)
        with pytest.raises(Busy):
            await confirm
        assert confirm[0].result().sequence == 1

    run(test)
