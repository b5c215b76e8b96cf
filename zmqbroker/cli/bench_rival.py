"""What the clients of other brokers, which `zmqbroker bench --target` measures, have in common: how a run begins and ends.

All clients of a run use the streams that it makes, and the last one that closes deletes them. What is said on a connection is
each broker's own (bench_nats, bench_redis).
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Generic, Self, TypeVar

from zmqbroker.errors import ConfigError

__all__ = ["RivalClient", "RivalTarget"]

Client = TypeVar("Client", bound="RivalClient")

#: Most bytes of one line; an INFO of NATS lists every server.
_LINE_BYTES_MAX = 1 << 20


class RivalTarget(Generic[Client]):
    """The clients of one run: the last that leaves deletes what they made."""

    def __init__(self, name: str, port: int, make: Callable[[str, int, RivalTarget[Client]], Client]) -> None:
        self.streams: set[str] = set()
        self.default_url = f"{name}://127.0.0.1:{port}"
        self._name, self._port, self._make = name, port, make
        self._open = 0

    def connect(self, url: str, timeout_ms: int = 0) -> Client:
        """A client of the server at `url`; requests of it have a limit of their own. Raises ConfigError on another URL."""
        scheme = f"{self._name}://"
        host, _, port = url.removeprefix(scheme).partition(":")
        if not url.startswith(scheme) or not host or not (port or "1").isdigit():
            raise ConfigError((f"{url!r}: with --target {self._name} it must be {scheme}host:port",))
        return self._make(host, int(port or self._port), self)

    def enter(self) -> None:
        """A client has connected."""
        self._open += 1

    async def leave(self, client: RivalClient) -> None:
        """A client is about to close."""
        self._open -= 1
        if not self._open and client.failure is None:
            for stream in self.streams:
                await client.delete(stream)


class RivalClient(ABC):
    """One connection, with the methods of `zmqbroker.client.Client` that the benchmark calls."""

    def __init__(self, host: str, port: int, target: RivalTarget[Self]) -> None:
        self.host, self.port = host, port
        self.failure: Exception | None = None  # what ended the connection
        self._target = target
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter
        self._reading: asyncio.Task[None] | None = None  # which hands out what comes

    @abstractmethod
    async def begin(self) -> None:
        """See who is there, and begin to read. Raises OSError, or NoMajority when it is somebody else."""

    @abstractmethod
    async def delete(self, stream: str) -> None:
        """Delete what a run has made."""

    async def __aenter__(self) -> Self:
        """Connect. Raises OSError, or NoMajority when what listens there is not what was asked for."""
        self._reader, self._writer = await asyncio.open_connection(self.host, self.port, limit=_LINE_BYTES_MAX)
        try:
            await self.begin()
        except BaseException:  # a cancelled wait included
            self._end()
            raise
        self._target.enter()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self._target.leave(self)
        finally:  # a cancelled wait included
            self._end()
        with suppress(OSError):
            await self._writer.wait_closed()

    def _end(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
        self._writer.close()
