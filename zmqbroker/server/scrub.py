"""Reads everything that is stored, slowly and again and again, so that damage is found before somebody needs what it hit.

It repairs nothing: the first value that does not fit its checksum ends the node. Each step runs as a job of the store's thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from zmqbroker.storage.interfaces import Scrubbed, StateStore

__all__ = ["scrub"]

#: Bytes of one step: the flush that comes behind it waits some milliseconds for a cold disk.
STEP_BYTES = 256 << 10
#: Seconds between two steps at least, and between the end of everything and the next beginning.
STEP_S, REST_S = 0.05, 60.0

Job = Callable[[Callable[[], Any]], Awaitable[Any]]


async def scrub(state: StateStore, job: Job, bytes_per_s: int) -> None:
    """Check what is stored for ever, so many bytes a second on average; never if that is 0. Raises Corruption."""
    after: Scrubbed | None = None
    pause_s = STEP_S
    while bytes_per_s:
        await asyncio.sleep(pause_s)
        after, size = await job(partial(state.scrub, after, min(STEP_BYTES, bytes_per_s)))
        pause_s = max(size / bytes_per_s, REST_S if after is None else STEP_S)
