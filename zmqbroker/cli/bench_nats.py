"""`zmqbroker bench --target nats`: the part of a client that the benchmark needs, for NATS JetStream.

A queue is a stream on files, with three replicas where there are three servers and one elsewhere, read by one durable pull
consumer with explicit acks, and deleted at the end. A send is confirmed by its PubAck; an ack is not, as is usual there. Every
publish of one pass of the loop goes out in one write, and at most `_WINDOW` are unconfirmed. Source: the NATS client protocol
(https://docs.nats.io/reference/reference-protocols/nats-protocol) and the JetStream API, which is JSON over subjects.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any

from zmqbroker.cli.bench_rival import RivalClient, RivalTarget
from zmqbroker.client import SendResult
from zmqbroker.errors import ConfigError, NoMajority

__all__ = ["NatsClient", "NatsMessage", "NatsQueue", "nats_target"]

PORT = 4222
#: Publishes without a confirm, of one connection.
_WINDOW = 5_000
#: Messages that one request asks for; the next is sent when so many are still to come.
_PULL_COUNT = 2_048
_PULL_EXPIRES_NS = 3_600_000_000_000
_REPLICAS = (3, 1)
#: Seconds that a request of the API may take, and that a cluster may take to choose a stream's leader.
_ANSWER_S = 10.0
_RETRY_S = 0.05
_CONSUMER = "bench"


@dataclass(slots=True)
class NatsMessage:
    """A delivered message."""

    body: bytes
    reply_to: bytes  # where its ack goes


class NatsClient(RivalClient):
    """One connection."""

    def __init__(self, host: str, port: int, target: RivalTarget[NatsClient]) -> None:
        super().__init__(host, port, target)
        self._answers: dict[bytes, asyncio.Future[bytes]] = {}  # token -> who waits for it
        self._next_token = 0
        self._pending: list[bytes] = []
        self.delivered: deque[NatsMessage] = deque()
        self.arrived = asyncio.Event()
        self.asked_for = 0  # messages that are still to come

    async def begin(self) -> None:
        """Subscribe to what will be asked for."""
        if not (await self._reader.readline()).startswith(b"INFO "):
            raise NoMajority(f"what listens at {self.host}:{self.port} is no NATS server")
        self.inbox = b"_INBOX.bench%x" % id(self)
        self.write(b'CONNECT {"verbose":false,"pedantic":false,"headers":true,"no_responders":true}\r\n')
        self.write(b"SUB %b.* 1\r\nSUB %b.d.* 2\r\n" % (self.inbox, self.inbox))
        self._reading = asyncio.create_task(self._read())

    async def delete(self, stream: str) -> None:
        """Delete a stream."""
        await self.ask(f"STREAM.DELETE.{stream}", {})

    def queue(self, name: str) -> NatsQueue:
        """The stream of that name, but for its dots, which are not allowed there."""
        stream = name.replace(".", "_")
        self._target.streams.add(stream)
        return NatsQueue(self, stream)

    def write(self, data: bytes) -> None:
        """Send bytes at the end of this pass of the loop."""
        if not self._pending:
            asyncio.get_running_loop().call_soon(self._flush)
        self._pending.append(data)

    async def drain(self) -> None:
        """Wait until the connection takes more. Raises what ended it."""
        if self.failure is not None:
            raise self.failure
        await self._writer.drain()

    def request(self, subject: bytes, body: bytes) -> asyncio.Future[bytes]:
        """The body of the answer."""
        if self.failure is not None:
            raise self.failure
        self._next_token += 1
        token = b"%d" % self._next_token
        future = asyncio.get_running_loop().create_future()
        self._answers[token] = future
        self.write(b"PUB %b %b.%b %d\r\n%b\r\n" % (subject, self.inbox, token, len(body), body))
        return future

    async def ask(self, subject: str, fields: dict[str, Any]) -> dict[str, Any]:
        """An answer of the API below `$JS.API.`, with its `error` if it has one."""
        async with asyncio.timeout(_ANSWER_S):
            answer = await self.request(f"$JS.API.{subject}".encode(), json.dumps(fields).encode() if fields else b"")
        found: dict[str, Any] = json.loads(answer) if answer else {"error": {"description": "JetStream is not enabled"}}
        return found

    def _flush(self) -> None:
        self._writer.write(b"".join(self._pending))
        self._pending.clear()

    async def _read(self) -> None:
        """Hand out what comes until the connection ends."""
        try:
            while line := await self._reader.readline():
                await self._take(line.split())
            raise ConnectionResetError(f"{self.host}:{self.port} closed the connection")
        except (OSError, asyncio.IncompleteReadError, NoMajority) as error:
            self.failure = error if isinstance(error, OSError | NoMajority) else ConnectionResetError(str(error))
            for future in self._answers.values():
                if not future.done():
                    future.set_exception(self.failure)
            self._answers.clear()
            self.arrived.set()

    async def _take(self, words: Sequence[bytes]) -> None:
        if not words or words[0] in (b"INFO", b"PONG", b"+OK"):
            return
        if words[0] == b"PING":
            self.write(b"PONG\r\n")
        elif words[0] == b"MSG":
            body = (await self._reader.readexactly(int(words[-1]) + 2))[:-2]
            self._deliver(words, body)
        elif words[0] == b"HMSG":  # a status: nobody answers, or a request for messages has ended
            await self._reader.readexactly(int(words[-1]) + 2)
            self._deliver(words, b"")
        else:
            raise NoMajority(f"NATS refused: {b' '.join(words).decode(errors='replace')}")

    def _deliver(self, words: Sequence[bytes], body: bytes) -> None:
        if words[2] == b"2":
            if words[0] == b"MSG":
                self.delivered.append(NatsMessage(body, words[3]))
                self.arrived.set()
                self.asked_for -= 1
            else:
                self.asked_for = 0  # a request has ended: to ask for too many does no harm
            return
        future = self._answers.pop(words[1].rpartition(b".")[2], None)
        if future is not None and not future.done():
            future.set_result(body)


def nats_target() -> RivalTarget[NatsClient]:
    """What a run measures."""
    return RivalTarget("nats", PORT, NatsClient)


class NatsQueue:
    """One stream."""

    def __init__(self, client: NatsClient, name: str) -> None:
        self._client, self.name = client, name
        self._making = asyncio.Lock()
        self._replicas = 0  # 0: it is not made yet
        self._has_consumer = False

    def producer(self, *, batch_messages: int, linger_ms: int) -> NatsProducer:
        """A producer. What is sent in one pass of the loop goes out in one write; there is nothing else to gather."""
        return NatsProducer(self._client, self)

    async def make(self) -> int:
        """Make the stream if it is not there; its number of replicas. Raises ConfigError when the server refuses."""
        async with self._making:
            for replicas in _REPLICAS if not self._replicas else ():
                fields = {"name": self.name, "subjects": [self.name], "storage": "file", "num_replicas": replicas}
                answer = await self._client.ask(f"STREAM.CREATE.{self.name}", fields)
                if "error" not in answer:
                    await self._wait_for_replicas()
                    self._replicas = answer["config"]["num_replicas"]
                    break
            else:
                if not self._replicas:
                    raise ConfigError((f"NATS does not make a stream: {answer['error']['description']}",))
        return self._replicas

    async def _wait_for_replicas(self) -> None:
        """Until the stream has a leader that all its replicas follow; before, nobody takes a message. Raises TimeoutError."""
        async with asyncio.timeout(_ANSWER_S):
            while True:
                cluster = (await self._client.ask(f"STREAM.INFO.{self.name}", {})).get("cluster", {})
                followers = cluster.get("replicas", ())
                if cluster.get("leader") and all(follower["current"] for follower in followers):
                    return
                await asyncio.sleep(_RETRY_S)

    async def receive(self, max: int = 1, *, wait_ms: int = 0) -> list[NatsMessage]:
        """Up to `max` messages as soon as there is one, none after `wait_ms`."""
        await self._make_consumer()
        delivered = self._client.delivered
        self._ask()
        if not delivered:
            self._client.arrived.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_ms / 1000):
                    await self._client.arrived.wait()
        if self._client.failure is not None:
            raise self._client.failure
        taken = [delivered.popleft() for _ in range(min(max, len(delivered)))]
        self._ask()
        return taken

    async def ack(self, messages: Iterable[NatsMessage]) -> None:
        """Ack messages, unconfirmed."""
        for message in messages:
            self._client.write(b"PUB %b 4\r\n+ACK\r\n" % message.reply_to)
        await self._client.drain()

    async def _make_consumer(self) -> None:
        replicas = await self.make()
        async with self._making:
            if self._has_consumer:
                return
            config = {"durable_name": _CONSUMER, "ack_policy": "explicit", "max_ack_pending": 20_000, "num_replicas": replicas}
            fields = {"stream_name": self.name, "config": config}
            answer = await self._client.ask(f"CONSUMER.DURABLE.CREATE.{self.name}.{_CONSUMER}", fields)
            if "error" in answer:
                raise ConfigError((f"NATS does not make a consumer: {answer['error']['description']}",))
            self._has_consumer = True

    def _ask(self) -> None:
        """Ask for more messages when too few are still to come."""
        while self._client.asked_for <= _PULL_COUNT:
            request = json.dumps({"batch": _PULL_COUNT, "expires": _PULL_EXPIRES_NS}).encode()
            subject = f"$JS.API.CONSUMER.MSG.NEXT.{self.name}.{_CONSUMER}".encode()
            self._client.write(b"PUB %b %b.d.1 %d\r\n%b\r\n" % (subject, self._client.inbox, len(request), request))
            self._client.asked_for += _PULL_COUNT


class NatsProducer:
    """Publishes to a stream, with a confirm per message."""

    def __init__(self, client: NatsClient, queue: NatsQueue) -> None:
        self._client, self._queue = client, queue
        self._room = asyncio.Semaphore(_WINDOW)
        self._confirms: set[asyncio.Future[SendResult]] = set()
        self._failure: BaseException | None = None
        self._confirm = ""

    async def __aenter__(self) -> NatsProducer:
        self._confirm = f"PubAck of {await self._queue.make()} replicas"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            await self.flush()

    async def send(self, body: bytes) -> asyncio.Future[SendResult]:
        """Publish a message; its confirm."""
        await self._room.acquire()
        if self._failure is not None:
            raise self._failure
        confirm = asyncio.get_running_loop().create_future()
        self._confirms.add(confirm)
        self._client.request(self._queue.name.encode(), body).add_done_callback(partial(self._confirmed, confirm))
        await self._client.drain()
        return confirm

    def _confirmed(self, confirm: asyncio.Future[SendResult], done: asyncio.Future[bytes]) -> None:
        self._room.release()
        self._confirms.discard(confirm)
        error = None if done.cancelled() else done.exception()
        answer = {} if done.cancelled() or error is not None else json.loads(done.result() or b"{}")
        if error is None and "seq" in answer and "error" not in answer:
            confirm.set_result(SendResult(answer["seq"], 0, duplicate=False, confirm=self._confirm))
            return
        self._failure = error or NoMajority(f"NATS refused a message: {answer.get('error', 'no stream took it')}")
        confirm.set_exception(self._failure)
        confirm.exception()  # `flush` tells of it: nobody has to look at this one

    async def flush(self) -> None:
        """Wait for every confirm. Raises the first failure."""
        while self._confirms and self._failure is None:
            await asyncio.wait(self._confirms)
        if self._failure is not None:
            raise self._failure
