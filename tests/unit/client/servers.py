"""The fake broker behind real sockets: one ROUTER per node on loopback, each in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any

import zmq

from tests.unit.client.fakes import FakeBroker, FakeNode
from zmqbroker.client import Client
from zmqbroker.errors import MalformedFrame


class FakeServer:
    """One node with a socket. `stop` breaks its connections; `start` binds the same port again."""

    def __init__(self, broker: FakeBroker | None = None, address: str = "tcp://127.0.0.1") -> None:
        self.broker = broker or FakeBroker()
        self.address = address
        self.silent = False  # take everything and answer nothing
        self.before: Callable[[FakeServer, Any], None] = lambda server, frames: None  # sees every message first
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None  # one per start: its end frees the port
        self._thread: threading.Thread | None = None
        self._control: zmq.Socket[bytes] | None = None
        self.endpoint = ""
        self.start()
        self.node = FakeNode(self.endpoint, self.broker)

    def start(self) -> None:
        """Listen, and serve in a thread."""
        self._context = zmq.Context()
        router = self._context.socket(zmq.ROUTER)
        router.setsockopt(zmq.LINGER, 0)
        if self.endpoint or self.address.startswith("ipc"):
            self.endpoint = self.endpoint or self.address
            router.bind(self.endpoint)
        else:
            # Below the ports that outgoing connections get: a client could connect to itself there.
            port = router.bind_to_random_port(self.address, min_port=20_000, max_port=32_000)
            self.endpoint = f"{self.address}:{port}"
        control, other = self._context.socket(zmq.PAIR), self._context.socket(zmq.PAIR)
        control.bind("inproc://control")
        other.connect("inproc://control")
        self._control = control
        self._thread = threading.Thread(target=self._serve, args=(router, other), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop serving; connections break."""
        if self._thread is not None and self._control is not None and self._context is not None:
            self._control.send(b"stop")
            self._thread.join()
            self._control.close(0)
            self._context.term()
            self._thread = None

    def __enter__(self) -> FakeServer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def _serve(self, router: zmq.Socket[bytes], control: zmq.Socket[bytes]) -> None:
        poller = zmq.Poller()
        poller.register(router, zmq.POLLIN)
        poller.register(control, zmq.POLLIN)
        while True:
            ready = dict(poller.poll())
            if control in ready:
                break
            self._serve_one(router, router.recv_multipart())
        router.close(0)
        control.close(0)

    def _serve_one(self, router: zmq.Socket[bytes], frames: list[bytes]) -> None:
        self.before(self, frames)
        if self.silent:
            return
        try:
            answers = self.node.handle(frames[0], frames[1:])
        except MalformedFrame:
            return
        for routing_id, answer in answers:
            router.send_multipart([routing_id, *answer])


def run(test: Callable[[Client, FakeServer], Awaitable[None]], **options: Any) -> FakeServer:
    """Run a test with one node and a client for it; the node, stopped."""

    async def main(server: FakeServer) -> None:
        async with Client(server.endpoint, **options) as client:
            await test(client, server)

    with FakeServer() as server:
        asyncio.run(main(server))
    return server


async def until(condition: Callable[[], object]) -> None:
    """Let the loop work until a condition holds; the test's own time limit ends it otherwise."""
    while not condition():  # noqa: ASYNC110 - what it waits for happens in the fake node's thread
        await asyncio.sleep(0)
