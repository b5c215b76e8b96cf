"""Messages without a confirm in the client: once, in order, bounded, and forgotten."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from tests.unit.client.servers import FakeServer, run, until
from zmqbroker.client import Client, SyncClient
from zmqbroker.client import posting as posting_module
from zmqbroker.client.posting import Posts
from zmqbroker.errors import Busy, DeadlineExceeded, LocalProtocolError
from zmqbroker.wire.batch import Buffer
from zmqbroker.wire.requests import Info, Send

NOWHERE = "tcp://127.0.0.1:1"


def test_posts_are_offered_in_order_until_one_is_not_taken() -> None:
    posts, taken = Posts(), list[Sequence[Buffer]]()

    def take_three(frames: Sequence[Buffer]) -> bool:
        if len(taken) == 3:
            return False
        taken.append(frames)
        return True

    for number in range(5):
        posts.add([b"%d" % number])
    posts.send(take_three)
    assert (taken, len(posts)) == ([[b"0"], [b"1"], [b"2"]], 2)
    posts.send(lambda frames: True)
    assert not posts


def test_posts_are_bounded_by_count_and_bytes_and_one_always_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(posting_module, "COUNT_MAX", 2)
    monkeypatch.setattr(posting_module, "BYTES_MAX", 10)
    posts = Posts()
    posts.add([b"x" * 50])
    with pytest.raises(Busy, match="1 messages of 50 bytes wait for a connection"):
        posts.add([b"x"])
    posts.send(lambda frames: True)
    for body in (b"x" * 5, b"y" * 5):
        posts.add([body])
    with pytest.raises(Busy, match="2 messages of 10 bytes"):
        posts.add([b""])


def test_send_without_a_confirm_returns_at_once_and_leaves_nothing_under_way() -> None:
    async def test(client: Client, server: FakeServer) -> None:
        queue = client.queue("q")
        assert await queue.send(b"one", id="i", metadata="m", tags={"a": "b"}, delay_ms=5, confirm="none") is None  # type: ignore[func-returns-value]
        await queue.send(b"two", expected_sequence=7, expiry_ms=9, priority=3, confirm="none")
        await queue.wait_idle()
        assert server.broker.posted == [
            Send("q", b"one", 0, 0, "i", "m", {"a": "b"}, delay_ms=5, forward=True, confirm="none"),
            Send("q", b"two", expiry_ms=9, priority=3, forward=True, expected_sequence=7, confirm="none"),
        ]
        session = queue._driver._session
        assert (len(session._table), session._batches, session._active) == (0, {}, {})
        before = len([request for request in server.node.seen if isinstance(request, Info)])
        await queue.wait_idle()
        assert len([request for request in server.node.seen if isinstance(request, Info)]) == before, "nothing was sent since"

    run(test)


def test_sender_that_never_waits_is_bounded_by_the_connection_alone() -> None:
    async def test(client: Client, server: FakeServer) -> None:
        await client.info()
        queue = client.queue("q")
        for number in range(3 * posting_module.COUNT_MAX):
            await queue.send(b"%d" % number, confirm="none")
            assert len(queue._driver._posts) < posting_module.COUNT_MAX
        await queue.wait_idle()
        assert [request.body for request in server.broker.posted] == [
            b"%d" % number for number in range(3 * posting_module.COUNT_MAX)
        ]

    run(test)


def test_send_without_a_confirm_and_without_a_connection_waits_and_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(posting_module, "COUNT_MAX", 3)

    async def test() -> None:
        async with Client(NOWHERE, timeout_ms=100) as client:
            queue = client.queue("q")
            for _ in range(3):
                await queue.send(b"x", confirm="none")
            with pytest.raises(Busy):
                await queue.send(b"x", confirm="none")
            with pytest.raises(DeadlineExceeded, match="3 messages without a confirm still wait"):
                await queue.wait_idle()

    asyncio.run(test())


def test_what_waits_for_a_connection_is_sent_when_there_is_one() -> None:
    async def test(client: Client, server: FakeServer) -> None:
        server.stop()
        queue = client.queue("q")
        await queue.send(b"x", confirm="none")
        server.start()
        await queue.wait_idle()
        assert [request.body for request in server.broker.posted] == [b"x"]

    run(test, timeout_ms=10_000)


def test_full_pipe_is_offered_the_rest_later(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(client: Client, server: FakeServer) -> None:
        await client.info()
        queue = client.queue("q")
        (link,) = queue._driver._links.values()
        assert link.connection is not None
        offers, offer = list[int](), link.connection.offer

        def refuse_twice(frames: Sequence[Buffer]) -> bool:
            if len(offers) == 2:
                return offer(frames)
            offers.append(1)
            return False

        monkeypatch.setattr(link.connection, "offer", refuse_twice)
        await queue.send(b"x", confirm="none")
        assert server.broker.posted == []
        await queue.wait_idle()
        assert ([request.body for request in server.broker.posted], len(offers)) == ([b"x"], 2)

    run(test)


def test_close_ends_who_waits_for_posts() -> None:
    async def test() -> None:
        client = Client(NOWHERE, timeout_ms=60_000)
        async with client:
            queue = client.queue("q")
            await queue.send(b"x", confirm="none")
            waiting = asyncio.ensure_future(queue.wait_idle())
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await waiting

    asyncio.run(test())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"confirm": "leader"}, "confirm is 'leader', allowed is quorum or none"),
        ({"expected_sequence": -1}, "expected_sequence is -1, allowed is 0 to"),
        ({"expected_sequence": True}, "expected_sequence is True"),
        ({"expected_sequence": "7"}, "expected_sequence is '7'"),
    ],
)
def test_send_that_cannot_be_asked_for_is_refused_here(options: dict[str, object], said: str) -> None:
    async def test(client: Client, server: FakeServer) -> None:
        with pytest.raises(LocalProtocolError, match=said):
            await client.queue("q").send(b"x", **options)  # type: ignore[call-overload]
        assert server.node.seen == []

    run(test)


def test_sync_client_sends_without_a_confirm_and_behind_a_sequence() -> None:
    with FakeServer() as server, SyncClient(server.endpoint) as client:
        queue = client.queue("q")
        assert queue.send(b"first", expected_sequence=0).sequence == 1
        queue.send(b"silent", confirm="none")
        assert queue.send(b"second", expected_sequence=1).sequence == 2
        asyncio.run(until(lambda: server.broker.posted))
