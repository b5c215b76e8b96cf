"""One connection: full pipes, budgets, ends, and peers that say nothing."""

from __future__ import annotations

import asyncio
import select
import socket
import struct
import zlib
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import pytest
import zmq

from zmqbroker.client import connection as connection_module
from zmqbroker.client.connection import Connection


class Recorder:
    """Listens to connections."""

    def __init__(self) -> None:
        self.ready = asyncio.Event()
        self.gone = asyncio.Event()
        self.gone_count = 0
        self.came = asyncio.Event()
        self.passes: list[int] = []
        self.messages: list[list[bytes]] = []

    def on_ready(self, connection: Connection) -> None:
        """The connection stands."""
        self.ready.set()

    def on_messages(self, connection: Connection, messages: list[list[bytes]]) -> None:
        """Messages came."""
        self.passes.append(len(messages))
        self.messages += messages
        self.came.set()

    async def until(self, count: int) -> None:
        """Wait for that many messages."""
        while len(self.messages) < count:
            self.came.clear()
            await self.came.wait()

    def on_gone(self, connection: Connection) -> None:
        """The connection is gone."""
        self.gone_count += 1
        self.gone.set()


@contextmanager
def peer(high_water_mark: int = 1000) -> Iterator[tuple[zmq.Context[zmq.Socket[bytes]], zmq.Socket[bytes], str]]:
    """A ROUTER that the test drives itself: (context, socket, endpoint)."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    router = context.socket(zmq.ROUTER)
    router.setsockopt(zmq.LINGER, 0)
    router.setsockopt(zmq.RCVHWM, high_water_mark)
    port = router.bind_to_random_port("tcp://127.0.0.1", min_port=20_000, max_port=32_000)
    try:
        yield context, router, f"tcp://127.0.0.1:{port}"
    finally:
        router.close(0)
        context.term()


def run(test: Callable[[Connection, zmq.Socket[bytes], Recorder], Awaitable[None]], high_water_mark: int = 1000) -> None:
    """Run a test with a connection that stands."""

    async def main() -> None:
        with peer(high_water_mark) as (context, router, endpoint):
            recorder = Recorder()
            connection = Connection(context, endpoint, endpoint, recorder)
            await recorder.ready.wait()
            try:
                await test(connection, router, recorder)
            finally:
                connection.close()
                connection.close()

    asyncio.run(main())


def test_connection_full_pipe_keeps_messages_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    small = tuple((option, 1 if option == zmq.SNDHWM else value) for option, value in connection_module._OPTIONS)
    monkeypatch.setattr(connection_module, "_OPTIONS", small)

    async def test(connection: Connection, router: zmq.Socket[bytes], recorder: Recorder) -> None:
        count = 60
        for number in range(count):
            connection.send([b"%d" % number, bytes(1 << 20)])
        assert connection._outbox, "the pipe never was full"
        loop = asyncio.get_running_loop()
        numbers = [int((await loop.run_in_executor(None, router.recv_multipart))[1]) for _ in range(count)]
        assert numbers == list(range(count))
        assert not connection._outbox

    run(test, high_water_mark=1)


def test_connection_closed_with_a_full_pipe_forgets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    small = tuple((option, 1 if option == zmq.SNDHWM else value) for option, value in connection_module._OPTIONS)
    monkeypatch.setattr(connection_module, "_OPTIONS", small)

    async def test(connection: Connection, router: zmq.Socket[bytes], recorder: Recorder) -> None:
        for _ in range(60):
            connection.send([bytes(1 << 20)])
        connection.close()
        connection.look_again()
        assert recorder.gone_count == 0

    run(test, high_water_mark=1)


def test_connection_drains_in_passes_of_its_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "_BUDGET", 4)

    async def test(connection: Connection, router: zmq.Socket[bytes], recorder: Recorder) -> None:
        connection.send([b"hello"])
        loop = asyncio.get_running_loop()
        routing_id, _ = await loop.run_in_executor(None, router.recv_multipart)
        for number in range(50):
            router.send_multipart([routing_id, b"%d" % number])
        await recorder.until(50)
        assert recorder.messages == [[b"%d" % number] for number in range(50)]
        assert max(recorder.passes) <= 4

    run(test)


def test_connection_send_that_swallows_the_sign_of_a_message_still_reads_it() -> None:
    async def test(connection: Connection, router: zmq.Socket[bytes], recorder: Recorder) -> None:
        loop = asyncio.get_running_loop()
        connection.send([b"0"])
        routing_id, _ = await loop.run_in_executor(None, router.recv_multipart)
        for number in range(20):
            router.send_multipart([routing_id, b"%d" % number])
            # The loop stands still until the message is at the socket, and then for some milliseconds of work, after which
            # libzmq takes signs in during a send.
            assert select.select([connection._descriptors[0]], [], [], 10)[0]
            zlib.crc32(bytes(16 << 20))
            connection.send([b"x"])
            await recorder.until(number + 1)

    run(test)


def test_connection_nobody_listens_is_gone_once() -> None:
    async def main() -> None:
        with peer() as (context, router, endpoint):
            router.unbind(endpoint)
            recorder = Recorder()
            connection = Connection(context, "ipc:///nowhere/at/all", "ipc:///nowhere/at/all", recorder)
            await recorder.gone.wait()
            await asyncio.sleep(0)
            assert not connection.ready
            assert recorder.gone_count == 1

    asyncio.run(main())


def test_connection_peer_that_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "_HANDSHAKE_S", 0.05)

    async def main() -> None:
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            recorder = Recorder()
            address = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
            connection = Connection(context, address, address, recorder)
            await recorder.gone.wait()
            assert not connection.ready
            assert recorder.gone_count == 1
        context.term()

    asyncio.run(main())


def test_connection_address_that_cannot_be_used_leaves_nothing_open() -> None:
    async def main() -> None:
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        with pytest.raises(zmq.ZMQError):
            Connection(context, "x", "nonsense://x", Recorder())
        context.term()

    asyncio.run(main())


class Monitor:
    """Tells these events."""

    def __init__(self, *events: zmq.Event) -> None:
        self._left = list(events)

    def recv_multipart(self, flags: int) -> list[bytes]:
        """The next event."""
        if not self._left:
            raise zmq.Again
        return [struct.pack("=Hi", self._left.pop(0), 0), b""]

    def close(self, linger: int) -> None:
        """Nothing to close."""


def test_connection_that_stands_is_not_told_twice() -> None:
    async def test(connection: Connection, router: zmq.Socket[bytes], recorder: Recorder) -> None:
        recorder.ready.clear()
        monitor, connection._monitor = connection._monitor, Monitor(zmq.Event.HANDSHAKE_SUCCEEDED)  # type: ignore[assignment]
        connection._on_monitor()
        connection._monitor = monitor
        assert not recorder.ready.is_set()

    run(test)


def test_connection_closed_by_what_it_reads_at_its_end_tells_nothing_more() -> None:
    async def test(connection: Connection, router: zmq.Socket[bytes], recorder: Recorder) -> None:
        connection.send([b"hello"])
        loop = asyncio.get_running_loop()
        routing_id, _ = await loop.run_in_executor(None, router.recv_multipart)
        recorder.on_messages = lambda connection, messages: connection.close()  # type: ignore[method-assign]
        router.send_multipart([routing_id, b"last"])
        while not int(connection._socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
            select.select([connection._descriptors[0]], [], [], 1)
        connection._monitor.close(0)
        connection._monitor = Monitor(zmq.Event.DISCONNECTED)  # type: ignore[assignment]
        connection._on_monitor()
        assert connection._closed
        connection._on_socket()  # as a call that was on its way does
        assert recorder.gone_count == 0

    run(test)
