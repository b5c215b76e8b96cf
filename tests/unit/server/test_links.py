"""The watch over links, on loopback: which ends of a connection are told, and which are not.

The peer is a plain TCP port, so that the test decides in which order connection and port go.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable

import zmq

from zmqbroker.server.links import LinkWatch, refuses
from zmqbroker.server.sockets import PeerLink

#: For things that happen in milliseconds.
PATIENCE_S = 20
#: The first byte of a ZMTP greeting.
GREETING = b"\xff"


class Peer:
    """A port that takes connections when the test says so."""

    def __init__(self, port: int = 0) -> None:
        self.listener = socket.socket()
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listener.bind(("127.0.0.1", port))
        self.listener.listen()
        self.listener.setblocking(False)
        self.port = int(self.listener.getsockname()[1])
        self.address = f"127.0.0.1:{self.port}"

    async def accept(self) -> socket.socket:
        """The next connection."""
        async with asyncio.timeout(PATIENCE_S):
            return (await asyncio.get_running_loop().sock_accept(self.listener))[0]

    async def serve(self, answer: Callable[[socket.socket], object]) -> None:
        """Do the same to every connection."""
        connections = []
        try:
            while True:
                connections.append(await self.accept())
                answer(connections[-1])
        finally:
            for connection in connections:
                connection.close()


class Scene:
    """A node with one link, its peer, and what the watch tells."""

    def __init__(self) -> None:
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.refused: asyncio.Queue[str] = asyncio.Queue()
        self.watch = LinkWatch(self.refused.put_nowait)
        self.peer = Peer()
        self.link = PeerLink(self.context, self.peer.address)
        self.watch.follow({"peer": self.link})

    async def told(self) -> str:
        """The next peer whose port refused."""
        async with asyncio.timeout(PATIENCE_S):
            return await self.refused.get()

    async def until_probing(self, wanted: bool) -> None:
        """Until a probe is under way, or none."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                if self.watch.probing is wanted:
                    return
                await asyncio.sleep(0)

    def close(self) -> None:
        """Close everything, in the order of a node."""
        self.watch.close()
        self.link.close()
        self.peer.listener.close()
        self.context.term()


def run(test: Callable[[Scene], Awaitable[None]]) -> None:
    """Run a test of one scene."""

    async def main() -> None:
        scene = Scene()
        try:
            await test(scene)
        finally:
            scene.close()

    asyncio.run(main())


def test_links_peer_whose_port_is_closed_is_told_each_time() -> None:
    async def test(scene: Scene) -> None:
        for _ in range(2):
            connection = await scene.peer.accept()
            scene.peer.listener.close()
            connection.close()
            assert await scene.told() == "peer"
            scene.peer = Peer(scene.peer.port)
        assert scene.refused.empty()

    run(test)


def test_links_broken_connection_to_a_peer_that_greets_is_not_told() -> None:
    async def test(scene: Scene) -> None:
        (await scene.peer.accept()).close()
        await scene.until_probing(True)
        serving = asyncio.create_task(scene.peer.serve(lambda connection: connection.send(GREETING)))
        await scene.until_probing(False)
        serving.cancel()
        assert scene.refused.empty()

    run(test)


def test_links_port_that_closes_under_the_probe_is_told() -> None:
    async def test(scene: Scene) -> None:
        serving = asyncio.create_task(scene.peer.serve(lambda connection: connection.close()))
        assert await scene.told() == "peer"
        serving.cancel()

    run(test)


def test_links_closed_in_the_middle_of_a_probe_tells_nothing() -> None:
    async def test(scene: Scene) -> None:
        (await scene.peer.accept()).close()
        await scene.until_probing(True)
        scene.watch.close()
        await scene.until_probing(False)
        assert scene.refused.empty()

    run(test)


def test_links_another_link_to_the_same_peer_is_followed_instead() -> None:
    async def test(scene: Scene) -> None:
        scene.link.close()
        scene.peer.listener.close()
        scene.peer = Peer()
        scene.link = PeerLink(scene.context, scene.peer.address)
        for _ in range(2):
            scene.watch.follow({"peer": scene.link})
        connection = await scene.peer.accept()
        scene.peer.listener.close()
        connection.close()
        assert await scene.told() == "peer"

    run(test)


def test_probe_tells_a_refusal_from_silence_and_from_no_address() -> None:
    async def test(scene: Scene) -> None:
        assert not await refuses(scene.peer.address), "it takes the connection and says nothing"
        assert not await refuses("255.255.255.255:1"), "no such way"
        scene.peer.listener.close()
        assert await refuses(scene.peer.address)

    run(test)
