"""Acks that are gathered, and what becomes of stale ones."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from zmqbroker.client.acks import AckGatherer
from zmqbroker.client.receipts import merge, portions
from zmqbroker.client.session import Answer
from zmqbroker.commands import Receipt
from zmqbroker.errors import Busy, NoMajority, RemoteProtocolError, StaleReceipt
from zmqbroker.wire.requests import AckRequest


class Node:
    """Takes ACK requests; the test answers them."""

    def __init__(self) -> None:
        self.requests: list[AckRequest] = []
        self.answers: list[asyncio.Future[Answer]] = []
        self.refusal: Exception | None = None

    def submit(self, request: AckRequest) -> asyncio.Future[Answer]:
        """What a driver does."""
        if self.refusal is not None:
            raise self.refusal
        self.requests.append(request)
        self.answers.append(asyncio.get_running_loop().create_future())
        return self.answers[-1]

    def stale(self, number: int, *stale: Any) -> None:
        """Answer a request with STALE_RECEIPT."""
        self.answers[number].set_exception(StaleReceipt("stale", stale=list(stale), count=0))


async def settle() -> None:
    """Let everything that is ready run."""
    for _ in range(5):
        await asyncio.sleep(0)


def run(test: Callable[[AckGatherer, Node], Awaitable[None]]) -> None:
    """Run a test with a gatherer for channel q."""

    async def main() -> None:
        node = Node()
        await test(AckGatherer("q", node.submit), node)

    asyncio.run(main())


def ack(gatherer: AckGatherer, *held: tuple[int, int]) -> asyncio.Task[None]:
    """Ack in a task of its own."""
    return asyncio.ensure_future(gatherer.ack([Receipt(assigning, sequence, sequence) for assigning, sequence in held]))


def test_merge_joins_neighbours_and_repeats_of_the_same_assigning() -> None:
    given = [(1, 3, 3), (1, 1, 1), (1, 2, 2), (1, 2, 2), (1, 5, 9), (1, 6, 7), (1, 9, 10), (2, 11, 11)]
    assert merge(Receipt(*numbers) for numbers in given) == (Receipt(1, 1, 3), Receipt(1, 5, 10), Receipt(2, 11, 11))
    assert merge([]) == ()


def test_portions_divide_receipts_where_one_is_full() -> None:
    given = [Receipt(1, 1, 2), Receipt(2, 5, 12), Receipt(3, 1, 1)]
    assert list(portions(given, 4)) == [
        [Receipt(1, 1, 2), Receipt(2, 5, 6)],
        [Receipt(2, 7, 10)],
        [Receipt(2, 11, 12), Receipt(3, 1, 1)],
    ]
    assert list(portions(given[:1], 2)) == [given[:1]]


def test_acks_of_a_range_count_its_messages() -> None:
    async def test(gatherer: AckGatherer, node: Node) -> None:
        task = asyncio.ensure_future(gatherer.ack([Receipt(1, 1, 10_000)]))
        await settle()
        assert [request.receipts for request in node.requests] == [
            (Receipt(1, 1, 4096),),
            (Receipt(1, 4097, 8192),),
            (Receipt(1, 8193, 10_000),),
        ]
        node.answers[0].set_result(Answer({}, []))
        node.answers[2].set_result(Answer({}, []))
        node.stale(1, [1, 4097, 8192])
        await settle()
        assert len(node.requests[3].receipts) == 4096
        node.stale(3, [1, 5000, 5000])
        with pytest.raises(StaleReceipt) as caught:
            await task
        assert caught.value.fields == {"stale": [[1, 5000, 5000]], "count": 4095}

    run(test)


def test_acks_while_others_are_under_way_go_out_together() -> None:
    async def test(gatherer: AckGatherer, node: Node) -> None:
        tasks = []
        for sequence in range(1, 11):
            tasks.append(ack(gatherer, (1, sequence)))
            await settle()
        assert len(node.requests) == 4
        node.answers[0].set_result(Answer({}, []))
        await settle()
        assert node.requests[4].receipts == (Receipt(1, 5, 10),)
        for answer in node.answers[1:]:
            answer.set_result(Answer({}, []))
        await asyncio.gather(*tasks)

    run(test)


def test_acks_of_more_than_one_request_takes_are_split() -> None:
    async def test(gatherer: AckGatherer, node: Node) -> None:
        task = ack(gatherer, *((sequence, sequence) for sequence in range(10_000)))
        await settle()
        assert [len(request.receipts) for request in node.requests] == [4096, 4096, 10_000 - 2 * 4096]
        for answer in node.answers:
            answer.set_result(Answer({}, []))
        await task

    run(test)


def test_acks_gathered_stay_within_one_request() -> None:
    async def test(gatherer: AckGatherer, node: Node) -> None:
        tasks = [ack(gatherer, *((at, at) for at in range(base, base + 3000))) for base in range(0, 18_000, 3000)]
        await settle()
        node.answers[0].set_result(Answer({}, []))
        await settle()
        assert [len(request.receipts) for request in node.requests] == [3000] * 5
        for answer in node.answers[1:]:
            answer.set_result(Answer({}, []))
        await settle()
        node.answers[5].set_result(Answer({}, []))
        await asyncio.gather(*tasks)

    run(test)


def test_acks_stale_range_is_sent_again_one_by_one() -> None:
    async def test(gatherer: AckGatherer, node: Node) -> None:
        task = ack(gatherer, (1, 1), (1, 2), (1, 3), (4, 9))
        await settle()
        assert node.requests[0].receipts == (Receipt(1, 1, 3), Receipt(4, 9, 9))
        node.stale(0, [1, 1, 3])
        await settle()
        assert node.requests[1].receipts == (Receipt(1, 1, 1), Receipt(1, 2, 2), Receipt(1, 3, 3))
        node.stale(1, [1, 2, 2])
        with pytest.raises(StaleReceipt) as caught:
            await task
        assert caught.value.fields == {"stale": [[1, 2, 2]], "count": 3}

    run(test)


def test_acks_stale_of_one_caller_does_not_fail_another() -> None:
    async def test(gatherer: AckGatherer, node: Node) -> None:
        blocking = [ack(gatherer, (9, at)) for at in range(4)]
        await settle()
        good, bad = ack(gatherer, (1, 1)), ack(gatherer, (1, 5))
        await settle()
        for answer in node.answers:
            answer.set_result(Answer({}, []))
        await asyncio.gather(*blocking)
        node.stale(4, [1, 5, 5])
        await good
        with pytest.raises(StaleReceipt):
            await bad

    run(test)


def test_acks_all_good_the_second_time_succeed() -> None:
    async def test(gatherer: AckGatherer, node: Node) -> None:
        task = ack(gatherer, (1, 1), (1, 2))
        await settle()
        node.stale(0, [1, 1, 2])
        await settle()
        node.answers[1].set_result(Answer({}, []))
        await task

    run(test)


def test_acks_node_that_always_names_wide_ranges_makes_no_loop() -> None:
    async def test(gatherer: AckGatherer, node: Node) -> None:
        task = ack(gatherer, (1, 1), (1, 2))
        await settle()
        node.stale(0, [1, 0, 2**63])
        await settle()
        node.stale(1, [1, 0, 2**63])
        with pytest.raises(StaleReceipt):
            await task
        assert len(node.requests) == 2

    run(test)


@pytest.mark.parametrize("stale", [[], "x", [1], [[1, 2]], [["a", 1, 2]]])
def test_acks_stale_without_receipts_is_the_nodes_fault(stale: Any) -> None:
    async def test(gatherer: AckGatherer, node: Node) -> None:
        task = ack(gatherer, (1, 1))
        await settle()
        node.answers[0].set_exception(StaleReceipt("stale", stale=stale))
        with pytest.raises(RemoteProtocolError):
            await task

    run(test)


def test_acks_stale_that_names_others_fails_nobody() -> None:
    async def test(gatherer: AckGatherer, node: Node) -> None:
        task = ack(gatherer, (1, 1), (1, 2))
        await settle()
        node.stale(0, [7, 1, 2])
        await task

    run(test)


def test_acks_other_error_fails_every_caller_with_its_own() -> None:
    async def test(gatherer: AckGatherer, node: Node) -> None:
        tasks = [ack(gatherer, (1, 1)), ack(gatherer, (1, 2))]
        await settle()
        for answer in node.answers:
            answer.set_exception(NoMajority("no", outcome_unknown=True))
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(result) for result in results] == [NoMajority, NoMajority]
        assert results[0] is not results[1]
        assert isinstance(results[0], NoMajority)
        assert results[0].outcome_unknown

    run(test)


def test_acks_refused_here_fail_and_do_not_block_later_ones() -> None:
    async def test(gatherer: AckGatherer, node: Node) -> None:
        node.refusal = Busy("too many")
        for _ in range(6):
            with pytest.raises(Busy):
                await gatherer.ack([Receipt(1, 1, 1)])
        node.refusal = None
        task = ack(gatherer, (1, 1))
        await settle()
        node.answers[0].set_result(Answer({}, []))
        await task

    run(test)


def test_acks_cancelled_caller_is_skipped() -> None:
    async def test(gatherer: AckGatherer, node: Node) -> None:
        task = ack(gatherer, (1, 1))
        await settle()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        node.answers[0].set_result(Answer({}, []))
        await settle()
        assert task.cancelled()

    run(test)
