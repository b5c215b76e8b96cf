"""Everything stored is read again and again, at the pace that was asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from zmqbroker.errors import Corruption
from zmqbroker.server.scrub import REST_S, STEP_BYTES, STEP_S, scrub
from zmqbroker.storage.interfaces import Scrubbed
from zmqbroker.storage.memory import MemoryState


class Store(MemoryState):
    """A store whose scrub takes three steps, of these sizes."""

    def __init__(self, *sizes: int) -> None:
        super().__init__()
        self._sizes = sizes
        self.asked: list[tuple[Scrubbed | None, int]] = []
        self.damaged = False

    def scrub(self, after: Scrubbed | None, bytes_max: int) -> tuple[Scrubbed | None, int]:
        self.asked.append((after, bytes_max))
        if self.damaged:
            raise Corruption("damaged")
        step = 0 if after is None else after[0]
        return ((step + 1, b"") if step + 1 < len(self._sizes) else None), self._sizes[step]


def pauses_of(store: Store, bytes_per_s: int, count: int, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The first pauses of a scrub."""
    pauses: list[float] = []

    async def pause(delay_s: float) -> None:
        if len(pauses) == count:
            raise asyncio.CancelledError
        pauses.append(delay_s)

    async def job(work: Callable[[], Any]) -> Any:
        return work()

    async def limited() -> None:
        monkeypatch.setattr(asyncio, "sleep", pause)
        await scrub(store, job, bytes_per_s)

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(limited())
    return pauses


def test_scrub_goes_through_everything_and_begins_again(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(1000, 0, 4000)
    assert pauses_of(store, 1000, 5, monkeypatch) == [STEP_S, 1.0, STEP_S, REST_S, 1.0]
    assert store.asked == [(after, 1000) for after in (None, (1, b""), (2, b""), None, (1, b""))]


def test_scrub_of_a_large_end_rests_as_long_as_its_pace_says(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(2 * int(REST_S) << 20)
    assert pauses_of(store, 1 << 20, 2, monkeypatch) == [STEP_S, 2 * REST_S]
    assert {bytes_max for _, bytes_max in store.asked} == {STEP_BYTES}


def test_scrub_of_zero_bytes_a_second_does_nothing() -> None:
    asyncio.run(scrub(Store(1), None, 0))  # type: ignore[arg-type]


def test_scrub_that_finds_damage_ends_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(1)
    store.damaged = True
    with pytest.raises(Corruption, match="damaged"):
        pauses_of(store, 1, 5, monkeypatch)
