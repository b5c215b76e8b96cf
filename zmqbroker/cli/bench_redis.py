"""`zmqbroker bench --target redis`: the part of a client that the benchmark needs, for Redis Streams.

A queue is a stream that one consumer group reads, with an ack for every message; it is deleted at the end. A send is confirmed
when the WAIT behind it says that a majority, the primary and half of its replicas, has it; an ack is not confirmed. What is
sent while a connection waits goes out together when it has the answer. This is replication, not consensus: a replica that
takes over need not have what was confirmed. Source: RESP2 (https://redis.io/docs/latest/develop/reference/protocol-spec/).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any

from zmqbroker.cli.bench_rival import RivalClient, RivalTarget
from zmqbroker.client import SendResult
from zmqbroker.errors import ConfigError, NoMajority

__all__ = ["RedisClient", "RedisMessage", "RedisQueue", "redis_target"]

PORT = 6379
#: Messages without a confirm, of one connection.
_WINDOW = 5_000
#: Milliseconds that the replicas may take.
_WAIT_MS = 10_000
#: Seconds that the answer to anything else may take, beyond what it was told to wait.
_ANSWER_S = 10.0
_GROUP = b"bench"
#: Levels of a value: the answer to XREADGROUP has streams, a stream, its messages, a message, its fields, and their texts.
_DEPTH_MAX = 6


@dataclass(slots=True)
class RedisMessage:
    """A delivered message."""

    body: bytes
    id: bytes


def _command(*words: bytes) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)


class RedisClient(RivalClient):
    """One connection."""

    def __init__(self, host: str, port: int, target: RivalTarget[RedisClient]) -> None:
        super().__init__(host, port, target)
        self._answers: deque[asyncio.Future[Any]] = deque()  # in the order of the commands
        self.replicas = 0

    async def begin(self) -> None:
        """Count the replicas."""
        self._reading = asyncio.create_task(self._read())
        about = (await self.ask(b"INFO", b"replication")).decode().split("\r\n")
        if "role:master" not in about:
            raise NoMajority(f"what listens at {self.host}:{self.port} is no primary of Redis")
        self.replicas = sum("state=online" in line for line in about)

    async def delete(self, stream: str) -> None:
        """Delete a stream."""
        await self.ask(b"DEL", stream.encode())

    def queue(self, name: str) -> RedisQueue:
        """The stream of that name."""
        self._target.streams.add(name)
        return RedisQueue(self, name.encode())

    def request(self, *words: bytes) -> asyncio.Future[Any]:
        """Send a command; its answer, which is a ConfigError when it is refused. Raises what ended the connection."""
        if self.failure is not None:
            raise self.failure
        self._answers.append(answer := asyncio.get_running_loop().create_future())
        self._writer.write(_command(*words))
        return answer

    async def ask(self, *words: bytes, wait_s: float = 0) -> Any:
        """The answer to a command that may itself wait so long. Raises TimeoutError, ConfigError when it is refused."""
        async with asyncio.timeout(_ANSWER_S + wait_s):
            return await self.request(*words)

    async def drain(self) -> None:
        """Wait until the connection takes more."""
        await self._writer.drain()

    async def _read(self) -> None:
        """Hand out answers until the connection ends."""
        try:
            while True:
                value = await self._value()
                if not self._answers:
                    raise self._no_server()
                answer = self._answers.popleft()
                if answer.done():
                    continue  # given up
                if isinstance(value, ConfigError):
                    answer.set_exception(value)
                    answer.exception()  # nobody has to look at that of an ack
                else:
                    answer.set_result(value)
        except (OSError, EOFError, NoMajority) as error:
            self.failure = error if isinstance(error, OSError | NoMajority) else ConnectionResetError(str(error))
            for answer in self._answers:
                if not answer.done():
                    answer.set_exception(self.failure)
                    answer.exception()
            self._answers.clear()

    async def _value(self, depth: int = _DEPTH_MAX) -> Any:
        """The next value: bytes, a number, a list, None, or the ConfigError of a refusal."""
        try:
            line = (await self._reader.readuntil(b"\n"))[:-2]
        except asyncio.LimitOverrunError:
            raise self._no_server() from None
        kind, rest = line[:1], line[1:]
        if kind == b"+":
            return rest
        if kind == b"-":
            return ConfigError((f"Redis refuses: {rest.decode(errors='replace')}",))
        if kind not in (b":", b"$", b"*") or not rest.lstrip(b"-").isdigit() or not depth:
            raise self._no_server()
        number = int(rest)
        if kind == b":":
            return number
        if number < 0:
            return None
        if kind == b"$":
            return (await self._reader.readexactly(number + 2))[:-2]
        return [await self._value(depth - 1) for _ in range(number)]

    def _no_server(self) -> NoMajority:
        return NoMajority(f"what listens at {self.host}:{self.port} is no Redis server")


def redis_target() -> RivalTarget[RedisClient]:
    """What a run measures."""
    return RivalTarget("redis", PORT, RedisClient)


class RedisQueue:
    """One stream."""

    def __init__(self, client: RedisClient, name: bytes) -> None:
        self._client, self.name = client, name
        self._making = asyncio.Lock()
        self._has_group = False

    def producer(self, *, batch_messages: int, linger_ms: int) -> RedisProducer:
        """A producer. What is sent while one WAIT is under way goes out together; there is nothing else to gather."""
        return RedisProducer(self._client, self.name)

    async def receive(self, max: int = 1, *, wait_ms: int = 0) -> list[RedisMessage]:
        """Up to `max` messages as soon as there is one, none after `wait_ms`."""
        async with self._making:
            if not self._has_group:
                await self._client.ask(b"XGROUP", b"CREATE", self.name, _GROUP, b"0", b"MKSTREAM")
                self._has_group = True
        read = (b"XREADGROUP", b"GROUP", _GROUP, b"c", b"COUNT", b"%d" % max, b"BLOCK", b"%d" % wait_ms)
        # Redis serves a connection's commands one after the other, so four of these wait in turn.
        streams = await self._client.ask(*read, b"STREAMS", self.name, b">", wait_s=4 * wait_ms / 1000)
        return [RedisMessage(fields[1], id_) for _, entries in streams or () for id_, fields in entries]

    async def ack(self, messages: Iterable[RedisMessage]) -> None:
        """Ack messages, unconfirmed."""
        self._client.request(b"XACK", self.name, _GROUP, *(message.id for message in messages))
        await self._client.drain()


class RedisProducer:
    """Appends to a stream, with a confirm per message."""

    def __init__(self, client: RedisClient, name: bytes) -> None:
        self._client, self._name = client, name
        self._room = asyncio.Semaphore(_WINDOW)
        self._waiting: list[tuple[bytes, asyncio.Future[SendResult]]] = []
        self._under_way: list[asyncio.Future[SendResult]] = []
        self._idle = asyncio.Event()
        self._failure: BaseException | None = None
        self._needed = 0  # replicas that make a majority with the primary

    async def __aenter__(self) -> RedisProducer:
        self._needed = (self._client.replicas + 1) // 2
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            await self.flush()

    async def send(self, body: bytes) -> asyncio.Future[SendResult]:
        """Append a message; its confirm."""
        await self._room.acquire()
        if self._failure is not None:
            raise self._failure
        confirm = asyncio.get_running_loop().create_future()
        if not self._waiting and not self._under_way:
            self._idle.clear()
            asyncio.get_running_loop().call_soon(self._send_burst)
        self._waiting.append((body, confirm))
        return confirm

    def _send_burst(self) -> None:
        """Send what waits, and ask for the replicas behind it."""
        self._under_way, bodies = [confirm for _, confirm in self._waiting], [body for body, _ in self._waiting]
        self._waiting = []
        try:
            added = [self._client.request(b"XADD", self._name, b"*", b"b", body) for body in bodies]
            waited = self._client.request(b"WAIT", b"%d" % self._needed, b"%d" % _WAIT_MS)
        except (OSError, NoMajority) as error:
            self._fail(error)
            return
        waited.add_done_callback(partial(self._answered, added))

    def _answered(self, added: list[asyncio.Future[Any]], waited: asyncio.Future[Any]) -> None:
        """Confirm the burst, and send the next."""
        if waited.cancelled():
            return
        refused = next((error for answer in (*added, waited) if (error := answer.exception()) is not None), None)
        if refused is not None or waited.result() < self._needed:
            self._fail(refused or NoMajority(f"not {self._needed} replicas of Redis in {_WAIT_MS} ms"))
            return
        said = f"WAIT for {self._needed} of {self._client.replicas} replicas"
        for confirm in self._under_way:
            confirm.set_result(SendResult(0, 0, duplicate=False, confirm=said))
            self._room.release()
        self._under_way = []
        if self._waiting:
            self._send_burst()
        else:
            self._idle.set()

    def _fail(self, error: BaseException) -> None:
        self._failure = error
        for confirm in (*self._under_way, *(confirm for _, confirm in self._waiting)):
            confirm.set_exception(error)
            confirm.exception()  # `flush` tells of it: nobody has to look at this one
            self._room.release()
        self._under_way, self._waiting = [], []
        self._idle.set()

    async def flush(self) -> None:
        """Wait for every confirm. Raises the first failure."""
        if self._waiting or self._under_way:
            await self._idle.wait()
        if self._failure is not None:
            raise self._failure
