"""Work for the store of applied state that can be told again: `python -m tests.fault.store_workload DIRECTORY SEED STEPS`.

Like a node's: small keys that come, change and go, some values of many pages, now and then a snapshot that replaces all.
Each step is one transaction. What has begun and what has returned is written to DIRECTORY/marks, so that it stands between
the system calls that a tracer sees.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

from zmqbroker.storage.lmdb_state import LmdbState

__all__ = ["GROUP", "MARKS", "STORE", "State", "Step", "states", "steps"]

GROUP = 1
STORE, MARKS = "state", "marks"
#: Applied index, and all keys with their values.
State = tuple[int, dict[bytes, bytes]]

_KEYS = 60
#: Most values fit beside others in a page of 4 KiB; the largest take several pages.
_SIZES = (8, 40, 400, 1900, 9000, 30_000)


@dataclass(frozen=True, slots=True)
class Step:
    """One transaction: changes, or with `installs` all that there is from then on."""

    index: int
    changes: tuple[tuple[bytes, bytes | None], ...]
    installs: bool


def steps(seed: int, count: int) -> Iterator[Step]:
    """The work that a seed stands for."""
    random, index = Random(seed), 0
    for _ in range(count):
        index += random.randint(1, 5)
        installs = random.random() < 0.08
        names = random.sample(range(_KEYS), random.randint(1, _KEYS if installs else 8))
        changes = tuple(
            (b"key %d" % name, None if not installs and random.random() < 0.3 else random.randbytes(random.choice(_SIZES)))
            for name in names
        )
        yield Step(index, changes, installs)


def states(work: Iterator[Step]) -> list[State]:
    """What is stored after so many steps."""
    found: list[State] = [(0, {})]
    for step in work:
        held = {} if step.installs else dict(found[-1][1])
        for key, value in step.changes:
            if value is None:
                held.pop(key, None)
            else:
                held[key] = value
        found.append((step.index, held))
    return found


def _do(store: LmdbState, step: Step) -> None:
    if step.installs:
        items = sorted((key, value) for key, value in step.changes if value is not None)
        store.install(GROUP, step.index, 1, items, [])
    else:
        store.commit(GROUP, step.index, step.changes)


def main(directory: Path, seed: int, count: int) -> None:
    """Do the work."""
    marks = os.open(directory / MARKS, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    store = LmdbState.open(directory / STORE, sync=True)
    for step in steps(seed, count):
        os.write(marks, b"began\n")
        _do(store, step)
        os.write(marks, b"returned\n")
    store.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
