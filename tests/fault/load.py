"""The load of a fault test, as a process of its own: producers or consumers that note everything they see.

    python -m tests.fault.load produce --url URL --channel NAME --clients 4 --rate 2500 --output DIR/produce
    python -m tests.fault.load consume --url URL --channel NAME --clients 4 --output DIR/consume

Each client is a `zmqbroker.Client` of its own. SIGTERM ends the load in order: producers wait for what they have sent. The
history goes to OUTPUT when the process ends, a count of what is done to OUTPUT.progress while it runs. `Load` is the side of
the test.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.fault.history import Ack, Delivery, History, Outcome, Send, body_of, read, value_of, write
from zmqbroker import Client, Message
from zmqbroker.client import Confirm
from zmqbroker.errors import BrokerError, RequestError

__all__ = ["Load"]

#: Sends of one producer that may be unanswered: enough to keep it busy, few enough to go on sending during a failover.
OUTSTANDING_MAX = 4_000
#: How often a producer is let send its share of the rate.
BURST_S = 0.01
PROGRESS_S = 0.05
#: Longer than any fault lasts: a send ends in an error only if the broker gives it up.
TIMEOUT_MS = 120_000
VISIBILITY_MS = 600_000
BODY_BYTES = 128
CREDIT = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wish:
    """What the command line asked for."""

    url: str
    channel: str
    name: str
    rate: int  # messages a second and producer
    output: Path


class _Recorder:
    """The history of this process, and how far it is."""

    def __init__(self, output: Path) -> None:
        self.history = History()
        self.done = 0  # messages confirmed, or acked
        self._output = output

    def show(self) -> None:
        """Say how much is done."""
        temporary = self._output.with_suffix(".new")
        temporary.write_text(f"{self.done}\n")
        os.replace(temporary, self._output.with_suffix(".progress"))

    async def show_for_ever(self) -> None:
        """Say it again and again."""
        while True:
            self.show()
            await asyncio.sleep(PROGRESS_S)

    def sent(self, producer: str, number: int, invoke_ns: int, confirm: Confirm) -> None:
        """A send has ended."""
        complete_ns = time.monotonic_ns()
        error = confirm.exception()
        if error is None:
            self.done += 1
            send = Send(producer, number, Outcome.CONFIRMED, invoke_ns, complete_ns, confirm.result().sequence)
        else:
            known = isinstance(error, RequestError) and not error.outcome_unknown
            send = Send(producer, number, Outcome.REFUSED if known else Outcome.UNKNOWN, invoke_ns, complete_ns)
        self.history.sends.append(send)

    def received(self, messages: Sequence[Message]) -> None:
        """Messages have come."""
        now_ns = time.monotonic_ns()
        for message in messages:
            producer, number = value_of(message.body)
            self.history.deliveries.append(Delivery(message.sequence, producer, number, message.delivery_count, now_ns))

    def acked(self, messages: Sequence[Message], invoke_ns: int, confirmed: bool) -> None:
        """An ack has ended."""
        complete_ns = time.monotonic_ns() if confirmed else 0
        self.done += len(messages) * confirmed
        for message in messages:
            self.history.acks.append(Ack(message.sequence, message.delivery_count, invoke_ns, complete_ns))


async def _produce(wish: _Wish, recorder: _Recorder, stop: asyncio.Event) -> None:
    """One producer: numbered messages at a steady rate, or slower while too many are unanswered."""
    slots = asyncio.Semaphore(OUTSTANDING_MAX)
    share, number, debt = wish.rate * BURST_S, 0, 0.0

    def ended(at: int, invoke_ns: int, confirm: Confirm) -> None:
        slots.release()
        recorder.sent(wish.name, at, invoke_ns, confirm)

    async with Client(wish.url) as client:
        producer = client.queue(wish.channel).producer(linger_ms=2, timeout_ms=TIMEOUT_MS)
        while not stop.is_set():
            debt += share
            while debt >= 1 and not stop.is_set():
                await slots.acquire()
                number, debt = number + 1, debt - 1
                invoke_ns = time.monotonic_ns()
                confirm = await producer.send(body_of((wish.name, number), BODY_BYTES))
                confirm.add_done_callback(partial(ended, number, invoke_ns))
            await asyncio.sleep(BURST_S)
        for _ in range(OUTSTANDING_MAX):  # all slots are free when every send has ended
            await slots.acquire()


async def _consume(wish: _Wish, recorder: _Recorder, stop: asyncio.Event) -> None:
    """One consumer: acks what it gets, a delivery at a time, while the next ones come."""
    async with Client(wish.url) as client:
        queue = client.queue(wish.channel)
        under_way: set[asyncio.Task[None]] = set()

        async def ack(messages: Sequence[Message]) -> None:
            invoke_ns = time.monotonic_ns()
            try:
                await queue.ack(messages)
            except BrokerError as error:
                print(f"{wish.name}: ack of {len(messages)}: {error!r}", file=sys.stderr)
                recorder.acked(messages, invoke_ns, confirmed=False)
            else:
                recorder.acked(messages, invoke_ns, confirmed=True)

        async with queue.consume(credit=CREDIT, visibility_ms=VISIBILITY_MS) as consumer:
            stopper = asyncio.create_task(stop.wait())
            stopper.add_done_callback(lambda _: consumer.stop())
            while messages := await consumer.take():
                recorder.received(messages)
                task = asyncio.create_task(ack(messages))
                under_way.add(task)
                task.add_done_callback(under_way.discard)
            await asyncio.gather(*under_way)


async def _run(role: str, wishes: list[_Wish]) -> None:
    recorder, stop = _Recorder(wishes[0].output), asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    showing = asyncio.create_task(recorder.show_for_ever())
    work = _produce if role == "produce" else _consume
    try:
        async with asyncio.TaskGroup() as group:
            for wish in wishes:
                group.create_task(work(wish, recorder, stop))
    finally:
        showing.cancel()
        recorder.show()
        write(wishes[0].output, recorder.history)


def main() -> None:
    """Run the load that the command line asks for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=["produce", "consume"])
    parser.add_argument("--url", required=True)
    parser.add_argument("--channel", required=True)
    parser.add_argument("--clients", type=int, required=True)
    parser.add_argument("--rate", type=int, default=0)
    parser.add_argument("--output", type=Path, required=True)
    given = parser.parse_args()
    name = given.output.name
    wishes = [
        _Wish(url=given.url, channel=given.channel, name=f"{name}-{number}", rate=given.rate, output=given.output)
        for number in range(1, given.clients + 1)
    ]
    asyncio.run(_run(given.role, wishes))


class Load:
    """A load process, as the test that started it sees it. Use it inside `with`."""

    def __init__(self, role: str, url: str, channel: str, output: Path, *, clients: int = 4, rate: int = 0) -> None:
        self._output = output
        self._log = output.with_suffix(".log").open("wb")
        arguments = [
            "--url",
            url,
            "--channel",
            channel,
            "--clients",
            str(clients),
            "--rate",
            str(rate),
            "--output",
            str(output),
        ]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.fault.load", role, *arguments, "--output", str(output)],
            cwd=Path(__file__).resolve().parents[2],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
        )

    @property
    def done(self) -> int:
        """Messages that were confirmed, or acked, so far. AssertionError when the process has ended by itself."""
        assert self._process.poll() is None, self._said()
        progress = self._output.with_suffix(".progress")
        return int(progress.read_text()) if progress.exists() else 0

    def finish(self, timeout_s: float = 60) -> History:
        """End the load in order; what it saw."""
        self._process.terminate()
        status = self._process.wait(timeout_s)
        assert status == 0, self._said()
        return read(self._output)

    def _said(self) -> str:
        return f"{self._output.name} ended with {self._process.returncode}: {self._output.with_suffix('.log').read_text()}"

    def __enter__(self) -> Load:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait(10)
        self._log.close()


if __name__ == "__main__":
    main()
