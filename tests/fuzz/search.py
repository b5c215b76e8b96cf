"""The search for inputs that a decoder cannot take: mutation of samples, where what gives a new kind of answer joins them.

`search` is a function of its seed as long as it is bounded by a number of runs. `guided` lets atheris, where it is installed,
choose the inputs by the branches that they reach; it does not come back from libFuzzer, so it has a process of its own.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from tests.fuzz.mutation import mutate
from tests.fuzz.target import INPUT_SIZE_MAX, Find, Target, look

__all__ = ["Outcome", "guided", "search"]

#: New kinds of answers whose inputs join the samples.
_KEPT_MAX = 2000
#: Finds of one kind after the first tell nothing new; so many kinds are kept.
_FINDS_MAX = 50


@dataclass(slots=True)
class Outcome:
    """What a search has seen so far."""

    runs: int = 0
    kinds: set[str] = field(default_factory=set)
    finds: dict[str, Find] = field(default_factory=dict)

    def note(self, target: Target, data: bytes) -> bool:
        """Run once; True when the kind of answer is a new one."""
        kind, found = look(target, data)
        self.runs += 1
        if found is not None and len(self.finds) < _FINDS_MAX:
            self.finds.setdefault(found.kind, found)
        if kind in self.kinds or len(self.kinds) >= _KEPT_MAX:
            return False
        self.kinds.add(kind)
        return found is None


def search(target: Target, seed: int, goes_on: Callable[[Outcome], bool]) -> Outcome:
    """Mutate samples of `target`, and what they led to, while `goes_on`."""
    random, outcome, samples = Random(seed), Outcome(), target.samples()
    for sample in samples:
        outcome.note(target, sample)
    while goes_on(outcome):
        data = mutate(random, samples)
        if target.repair is not None and random.random() < 0.8:
            data = target.repair(data)
        if outcome.note(target, data):
            samples.append(data)
    return outcome


def guided(target: Target, seconds: int, corpus: Path, seed: int, done: Callable[[Outcome], None]) -> None:
    """Let atheris search for `seconds`, its inputs kept in `corpus`; `done` is called in the end. Never returns."""
    import atheris

    outcome, end = Outcome(), time.monotonic() + seconds
    for number, sample in enumerate(target.samples()):
        (corpus / f"sample-{number}").write_bytes(sample)

    def one(data: bytes) -> None:
        if time.monotonic() > end:
            done(outcome)
            os._exit(1 if outcome.finds else 0)  # libFuzzer has no way to end that is not a find
        outcome.note(target, data)
        if target.repair is not None:
            outcome.note(target, target.repair(data))

    arguments = (f"-seed={seed + 1}", f"-max_len={INPUT_SIZE_MAX // 8}", "-timeout=20", "-rss_limit_mb=2048", "-verbosity=0")
    atheris.Setup([sys.argv[0], *arguments, f"-artifact_prefix={corpus.parent}/", str(corpus)], one)
    atheris.Fuzz()
