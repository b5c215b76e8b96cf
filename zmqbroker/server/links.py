"""Watches the links to the other nodes: one that breaks is probed at once, and a port that refuses is told.

A process that was killed refuses within a millisecond, because its machine answers for it. While it is being torn down its
port may still take a connection, and resets it before it says anything; that is a refusal too, as a listening node greets at
once (ZMTP). Everything else that a probe may meet (a greeting, silence, no route) says nothing: the link comes back by itself
or the election timeout decides. At most one probe per link is under way, for at most `PROBE_S`. Source: DESIGN §4, "Fast
failover".
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping
from functools import partial

from zmqbroker.config import split_address
from zmqbroker.server.sockets import PeerLink

__all__ = ["PROBE_S", "LinkWatch", "refuses"]

#: A refusal takes one round trip; what takes longer is no refusal.
PROBE_S = 0.2


class LinkWatch:
    """Calls `on_refused(name)` whenever the link to a peer broke and its port refuses. Belongs to the running loop."""

    def __init__(self, on_refused: Callable[[str], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_refused = on_refused
        self._watched: dict[str, PeerLink] = {}
        self._probes: dict[str, asyncio.Task[None]] = {}  # by peer name

    @property
    def probing(self) -> bool:
        """Whether a probe is under way."""
        return bool(self._probes)

    def follow(self, links: Mapping[str, PeerLink]) -> None:
        """Watch these links, by peer name; call again when there are others. A link that is closed is let go of."""
        for name, link in links.items():
            if self._watched.get(name) is not link:
                descriptor = link.monitor_descriptor
                self._loop.add_reader(descriptor, self._look, name, link)
                link.on_close = partial(self._loop.remove_reader, descriptor)
                self._look(name, link)  # the edge may have come before the reader
        self._watched = dict(links)

    def close(self) -> None:
        """End the probes. The links belong to the caller."""
        for probe in self._probes.values():
            probe.cancel()

    def _look(self, name: str, link: PeerLink) -> None:
        if link.broke() and name not in self._probes:
            probe = self._loop.create_task(self._probe(name, link.address))
            self._probes[name] = probe
            probe.add_done_callback(lambda _: self._probes.pop(name))

    async def _probe(self, name: str, address: str) -> None:
        if await refuses(address):
            self._on_refused(name)


async def refuses(address: str) -> bool:
    """Whether a numeric ip:port refuses a TCP connection, or resets it unheard."""
    host, port = split_address(address) or ("", 0)
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setblocking(False)
        try:
            async with asyncio.timeout(PROBE_S):
                await loop.sock_connect(probe, (host, port))
                return not await loop.sock_recv(probe, 1)
        except (ConnectionRefusedError, ConnectionResetError):
            return True
        except OSError:  # a timeout is of this kind too
            return False
