"""Virtual time and chance: everything that a simulated cluster does happens as an event of this world.

Events happen in the order of their time, and in the order of their making where times are equal. Each concern has a seeded
generator of its own, so that one more draw in one place changes nothing in another. Only `random()` and integer arithmetic are
drawn from: both are the same on every machine and every Python.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from heapq import heappop, heappush
from random import Random
from typing import TypeVar

from tests.simulation.trace import Trace

__all__ = ["MILLISECOND", "SECOND", "Chance", "World"]

MILLISECOND = 1_000_000
SECOND = 1_000_000_000

Item = TypeVar("Item")


class Chance:
    """A seeded generator with the few ways of drawing that are the same everywhere."""

    __slots__ = ("_random",)

    def __init__(self, seed: int, concern: int) -> None:
        self._random = Random(seed * 1_000 + concern).random

    def happens(self, probability: float) -> bool:
        """True with that probability."""
        return self._random() < probability

    def below(self, count: int) -> int:
        """0 .. count - 1."""
        return int(self._random() * count)

    def between(self, low: int, high: int) -> int:
        """low .. high, both included."""
        return low + int(self._random() * (high - low + 1))

    def choice(self, items: Sequence[Item]) -> Item:
        """One of the items."""
        return items[int(self._random() * len(items))]

    def some(self, items: Sequence[Item], count: int) -> list[Item]:
        """`count` different ones of the items, in random order."""
        rest = list(items)
        return [rest.pop(int(self._random() * len(rest))) for _ in range(count)]

    def around(self, mean: int) -> int:
        """An integer from 0 to about four times `mean`, most of them below it: a tail without a logarithm."""
        value = self._random() * self._random() * 4
        return int(value * mean)


class World:
    """The clock, the events to come, and the generators."""

    def __init__(self, seed: int, trace: Trace) -> None:
        self.seed = seed
        self.trace = trace
        self.now_ns = 0
        self.events = 0  # that happened
        self._heap: list[tuple[int, int, Callable[..., object], tuple[object, ...]]] = []
        self._made = 0

    def chance(self, concern: int) -> Chance:
        """A generator for one concern, from 1 to 999; each number is asked for once, or gives the same draws again."""
        return Chance(self.seed, concern)

    def after(self, delay_ns: int, call: Callable[..., object], *arguments: object) -> None:
        """Let `call` happen so much later."""
        self._made += 1
        heappush(self._heap, (self.now_ns + delay_ns, self._made, call, arguments))

    def step(self) -> bool:
        """Let the next event happen; False when there is none."""
        if not self._heap:
            return False
        self.now_ns, _, call, arguments = heappop(self._heap)
        self.events += 1
        call(*arguments)
        return True

    def note(self, text: str) -> None:
        """A line of the text trace. Ask `trace.text` before putting a costly one together."""
        if self.trace.text:
            self.trace.line(self.now_ns, text)
