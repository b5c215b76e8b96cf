"""LMDB under the store, and a power cut after any system call: the store opens, and holds exactly what one commit left.

The commit is the last one that returned, or the one under way. A program works on a store under strace; from its calls the
files are made again, at every moment, with any part of what was not synced (tests/fault/sector_images.py).
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from random import Random

import pytest

from tests.fault.conftest import Note
from tests.fault.sector_images import Call, Replay, record
from tests.fault.store_workload import GROUP, MARKS, STORE, State, states, steps
from tests.fault.test_durability_trace import tracing_fault
from zmqbroker.storage.lmdb_state import LmdbState

#: Steps of the work, and images for every moment.
SIZES = [pytest.param(30, 2, id="short"), pytest.param(150, 10, id="long", marks=pytest.mark.long)]


@pytest.fixture(scope="module", autouse=True)
def _tracing() -> None:
    if fault := tracing_fault():
        pytest.skip(fault)


def trace(directory: Path, seed: int, count: int) -> list[Call]:
    """The calls of a program that does this work in `directory`."""
    directory.mkdir()
    program = [sys.executable, "-m", "tests.fault.store_workload", str(directory), str(seed), str(count)]
    return record(program, directory.with_suffix(".trace"), timeout_s=120)


def stored(directory: Path) -> State:
    """What a store that was left like this holds."""
    store = LmdbState.open(directory / STORE, sync=True)
    try:
        return store.applied_index(GROUP), dict(store.load(GROUP))
    finally:
        store.close()


def read(image: Path, replay: Replay, random: Random) -> State:
    """Draw an image into an empty directory, and read it."""
    shutil.rmtree(image, ignore_errors=True)
    image.mkdir()
    replay.image(random, image)
    return stored(image)


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("count", "images"), SIZES)
def test_store_after_any_crash_holds_what_one_commit_left(tmp_path: Path, note: Note, count: int, images: int) -> None:
    seed = Random().randrange(1 << 32)
    expected, random = states(steps(seed, count)), Random(seed)
    began = returned = looked_at = 0
    replay = Replay(tmp_path / "work", MARKS)
    for mark in replay.steps(trace(tmp_path / "work", seed, count)):
        began, returned = began + (mark == b"began\n"), returned + (mark == b"returned\n")
        for _ in range(images):
            found = read(tmp_path / "image", replay, random)
            assert found in expected[returned : began + 1], f"seed {seed}: step {returned} had returned, it holds {found[0]}"
            looked_at += 1
    assert (began, returned) == (count, count)
    note(f"{looked_at} images of {count} commits, seed {seed}")
