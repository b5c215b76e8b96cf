"""Breadth first through all states of a scope; what it took, or the shortest way to a violation."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tests.exhaustive.model import Failure, Model
from tests.exhaustive.replica import Violation

__all__ = ["Counterexample", "Result", "explore"]


@dataclass(frozen=True, slots=True)
class Result:
    """`depth` is the longest of all shortest ways; `complete` tells whether the fixpoint was reached."""

    states: int
    transitions: int
    depth: int
    refused: int  # actions that would have brought the bag over its bound
    replicas: int  # distinct states of one node, those met by renaming included
    steps: int  # runs of the core
    seconds: float
    complete: bool


class Counterexample(Violation):
    """An invariant is broken; `path` is a shortest way there, as calls of `Walk`."""

    def __init__(self, what: str, path: list[str]) -> None:
        lines = "\n".join(f"    walk.{call}" for call in path)
        super().__init__(f"{what}, after {len(path)} steps:\n    walk = Walk(scope)\n{lines}")
        self.what, self.path = what, path


@contextmanager
def _without_collector() -> Iterator[None]:
    """There are no cycles to be found, and looking for them in millions of states takes longer than anything else."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def explore(model: Model, *, states_max: int | None = None, note: Callable[[int, int], None] | None = None) -> Result:
    """Visit every state. Raises `Counterexample`. `note` is told the depth and the states so far, once a level."""
    began = time.monotonic()
    first = model.pack(model.initial)
    parents = {first: first}
    level, depth, transitions = [first], 0, 0
    with _without_collector():
        while level and (states_max is None or len(parents) < states_max):
            following: list[int] = []
            for number in level:
                try:
                    for _, _, _, group in model.expand(model.unpack(number)):
                        transitions += 1
                        successor = model.pack(group)
                        if successor not in parents:
                            parents[successor] = number
                            following.append(successor)
                except Failure as failure:
                    raise _counterexample(model, parents, number, failure) from failure
            if note is not None:
                note(depth, len(parents))
            level = following
            depth += bool(level)
    seconds = time.monotonic() - began
    return Result(len(parents), transitions, depth, model.cut, len(model.replicas), model.steps, seconds, complete=not level)


def _counterexample(model: Model, parents: dict[int, int], last: int, failure: Failure) -> Counterexample:
    """The calls that lead to a failure at `last`, with the names that nodes have from the beginning."""
    numbers = [last]
    while parents[numbers[-1]] != numbers[-1]:
        numbers.append(parents[numbers[-1]])
    group, path = model.initial, []
    for number in reversed(numbers[:-1]):
        step = next(step for step in model.expand(group) if model.pack(step[-1]) == number)
        path.append(model.call(*step[:-1]))
        group = step[-1]
    try:
        for _ in model.expand(group):
            pass
    except Failure as renamed:
        failure = renamed
    return Counterexample(str(failure), [*path, model.call(failure.action, failure.place, failure.message)])
