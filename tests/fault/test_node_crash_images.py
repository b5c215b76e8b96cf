"""A node on its real files, and a power cut after any system call: the next start keeps all that the node has promised.

A follower works under strace, from the making of its directory through appends, votes, roll-overs, recycling, moves of bodies,
flushes, snapshots that it installs and a restart, to an orderly stop (tests/fault/leader_script.py). From its calls all files
of its directory are made again, at every moment, with any part of what was not synced (tests/fault/sector_images.py), and
opened.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections import Counter
from functools import cache
from itertools import compress
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import pytest

from tests.fault.conftest import Note
from tests.fault.follower_promises import Broken, Promises, check
from tests.fault.leader_script import Script
from tests.fault.node_workload import MARKS
from tests.fault.sector_images import Call, Replay, record
from tests.fault.test_durability_trace import tracing_fault
from zmqbroker.storage import headroom

#: Of images: with a member of a cluster; whose log begins behind its first entry; with bodies in the store; with a snapshot
#: that was installed; with entries behind the state.
KINDS = ("members", "dropped", "bodies", "snapshots", "replays")
#: Put into the work of the short test: see `shown_by`. Empty but for the mutants.
DEFECT = ""
#: Images are opened in memory where there is a place for that: a sync of theirs shows nothing.
_MEMORY = Path("/dev/shm")


@pytest.fixture(scope="module", autouse=True)
def _tracing() -> None:
    if fault := tracing_fault():
        pytest.skip(fault)


def trace(directory: Path, *work: str) -> list[Call]:
    """The calls of a follower that works in `directory`: see `node_workload`."""
    program = [sys.executable, "-m", "tests.fault.node_workload", str(directory), *work]
    return record(program, directory.with_suffix(".trace"), timeout_s=120)


def draw(image: Path, replay: Replay, random: Random) -> None:
    """Draw an image in the place of the last one."""
    shutil.rmtree(image, ignore_errors=True)
    image.mkdir()
    replay.image(random, image)


def look_at_start(place: Path, replay: Replay, random: Random, promises: Promises) -> Counter[str]:
    """Let the power fail, and again at every call of the start on what that has left. Raises Broken."""
    found, work, looked_at = place / "found", place / "start", Counter[str]()
    draw(found, replay, random)
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(found, work)
    again = Replay(work, MARKS, found)
    try:
        calls = trace(work)
    except subprocess.CalledProcessError as error:
        raise Broken(f"what the cut left cannot be started on: exit status {error.returncode}") from error
    for _ in again.steps(calls):
        looked_at += look_at_one(place / "image", again, random, promises)
    return looked_at


def look_at_one(image: Path, replay: Replay, random: Random, promises: Promises) -> Counter[str]:
    """Draw one image and check it: what kind of image it was. Raises Broken."""
    draw(image, replay, random)
    found = check(image, promises)
    if found is None:
        return Counter(["images"])
    replays = bool(found.log) and found.applied_index < found.log[-1][0]
    holds = (True, found.first_index > 1, bool(found.bodies), found.installed != (0, 0), replays)
    return Counter(["images", *compress(KINDS, holds)])


def look_at_images(place: Path, seed: int, steps: int, images: int, starts: float = 0.0, defect: str = "") -> Counter[str]:
    """Draw so many images after every call that changes a disk, and check each: calls and images by kind. Raises Broken.

    After a share `starts` of the calls the start on an image is itself cut off, at each of its calls.
    """
    random, looked_at, work = Random(seed), Counter[str](), place / "work"
    promises, replay = Promises(Script(seed, steps)), Replay(work, MARKS)
    work.mkdir()
    calls = trace(work, str(seed), str(steps), *([defect] if defect else []))
    looked_at.update(call.name for call in calls)
    with TemporaryDirectory(dir=_MEMORY if _MEMORY.is_dir() else place) as memory, pytest.MonkeyPatch.context() as patch:
        patch.setattr(headroom, "HEADROOM_BYTES", 4096)
        for moment, marks in enumerate(replay.steps(calls)):
            promises.take(marks)
            try:
                for _ in range(images):
                    looked_at += look_at_one(Path(memory) / "image", replay, random, promises)
                if random.random() < starts:
                    looked_at += look_at_start(Path(memory), replay, random, promises)
            except Broken as error:
                raise Broken(f"seed {seed}, moment {moment}, step {promises.steps}: {error}") from error
    assert promises.steps == len(promises.script.steps)
    return looked_at


def assert_saw_everything(found: Counter[str]) -> None:
    """The work came to all that it is there for."""
    assert min(found[call] for call in ("fallocate", "fdatasync", "fsync", "rename", "unlink")) > 1, found
    assert min(found[kind] for kind in KINDS) > found["images"] // 10, found


def shown(found: Counter[str]) -> str:
    """What the images were of, for the summary."""
    return f"{found['images']} images: {', '.join(f'{found[kind]} {kind}' for kind in KINDS)}"


@cache
def short_work(defect: str) -> Counter[str] | Broken:
    """What a short work shows of a defect, by its place "module:function"; of "", the product as it is: nothing."""
    with TemporaryDirectory() as place:
        try:
            return look_at_images(Path(place), 1, 50, 1, starts=0.01, defect=defect)
        except Broken as broken:
            return broken


def test_node_after_any_crash_of_a_short_work_keeps_what_it_promised() -> None:
    """The mutants of the order between log and store are hunted with this one."""
    if fault := tracing_fault():
        pytest.skip(fault)
    found = short_work(DEFECT)
    assert not isinstance(found, Broken), found
    if not DEFECT:  # which might keep the work from coming to something, and must be found by what it leaves
        assert_saw_everything(found)


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(100, 104))
def test_node_after_any_crash_of_a_long_work_keeps_what_it_promised(tmp_path: Path, note: Note, seed: int) -> None:
    found = look_at_images(tmp_path, seed, 120, 4, starts=0.02)
    assert_saw_everything(found)
    note(shown(found))
