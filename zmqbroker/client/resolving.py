"""Endpoints as sockets take them: names are resolved before, in the loop's executor, and never by libzmq."""

from __future__ import annotations

import asyncio
import socket

from zmqbroker.client.url import split_endpoint

__all__ = ["address_of"]


async def address_of(endpoint: str) -> str:
    """The endpoint with its host's name resolved. Raises OSError; socket.gaierror when nobody knows the name."""
    if endpoint.startswith("ipc://"):
        return endpoint
    host, port = split_endpoint(endpoint)
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    address = str(found[0][4][0])
    return f"tcp://[{address}]:{port}" if ":" in address else f"tcp://{address}:{port}"
