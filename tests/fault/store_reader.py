"""A reader of an events store as a process of its own, which a test ends with SIGKILL and starts again.

    python -m tests.fault.store_reader URL STORE consumer|group NAME FILE

It writes a line to FILE for every event that it got, and another when its ack was confirmed: what, sequence, number in the
body, instant by the machine's monotonic clock. A line is in the file when the call that writes it returns.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time

from zmqbroker import Client
from zmqbroker.errors import BrokerError

VISIBILITY_MS = 30_000
TIMEOUT_MS = 60_000


async def read(url: str, store: str, kind: str, name: str, path: str) -> None:
    """Get and ack events for ever."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def note(what: str, sequence: int, body: bytes) -> None:
        os.write(file, b"%s %d %d %d\n" % (what.encode(), sequence, int.from_bytes(body, "big"), time.monotonic_ns()))

    async with Client(url, timeout_ms=TIMEOUT_MS) as client:
        start = {"start": "first", "ack": "explicit", "visibility_ms": VISIBILITY_MS, "credit": 32}
        async with client.store(store).subscribe(**{kind: name}, **start) as events:  # type: ignore[call-overload]
            async for event in events:
                note("got", event.sequence, event.body)
                try:
                    await event.ack()
                except BrokerError:
                    note("doubtful", event.sequence, event.body)
                else:
                    note("acked", event.sequence, event.body)


if __name__ == "__main__":
    asyncio.run(read(*sys.argv[1:]))
