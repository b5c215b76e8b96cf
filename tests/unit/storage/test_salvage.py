"""A log that nobody can give its node again: what its checksums prove is kept, whatever is damaged."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from tests.unit.storage.support import SEGMENT_BYTES, append, change, contents, open_log, run, segments
from zmqbroker.errors import Corruption
from zmqbroker.raft.messages import HardState
from zmqbroker.storage.segment_log import SegmentLog


def _salvage(directory: Path) -> SegmentLog:
    return SegmentLog.open(directory, sync=False, segment_bytes=SEGMENT_BYTES, cache_bytes_max=0, salvage=True)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[int, bytes]]:
    """A log of several segments, and what is in it."""
    directory = tmp_path_factory.mktemp("salvage") / "log"
    log = open_log(directory)
    for index in range(1, 40):
        run(log, append(index, bytes([index]) * 1500, state=HardState(1, 1, index - 1)))
    whole = contents(log)
    log.close()
    assert len(segments(directory)) > 3
    return directory, whole


def _is_a_prefix_that_goes_on(directory: Path, whole: dict[int, bytes]) -> int:
    """Salvage a log, look what is kept, and append to it; how many entries were kept."""
    log = _salvage(directory)
    kept = contents(log)
    assert kept == {index: whole[index] for index in range(1, len(kept) + 1)}
    assert log.view(1).hard_state().commit <= len(kept)
    run(log, append(len(kept) + 1, b"more", term=2))
    log.close()
    again = open_log(directory)
    assert contents(again) == {**kept, len(kept) + 1: b"more"}
    again.close()
    return len(kept)


@pytest.mark.parametrize("seed", range(60))
def test_salvage_keeps_all_before_what_is_damaged(tmp_path: Path, image: tuple[Path, dict[int, bytes]], seed: int) -> None:
    chance = random.Random(seed)
    directory = tmp_path / "log"
    shutil.copytree(image[0], directory)
    position = chance.randrange(1, len(segments(directory)))
    path = segments(directory)[position]
    data, offset = path.read_bytes(), chance.randrange(path.stat().st_size)
    match chance.choice(["flip", "cut", "missing"]):
        case "flip":
            change(path, offset, bytes([data[offset] ^ 1 << chance.randrange(8)]))
        case "cut":
            path.write_bytes(data[:offset])
        case _:
            path.unlink()
    assert _is_a_prefix_that_goes_on(directory, image[1]) >= 7 * position, "all segments before it"


def test_salvage_of_what_is_whole_changes_nothing(tmp_path: Path, image: tuple[Path, dict[int, bytes]]) -> None:
    shutil.copytree(image[0], tmp_path / "log")
    assert _is_a_prefix_that_goes_on(tmp_path / "log", image[1]) == 39


def test_salvage_without_the_oldest_header_begins_anew(tmp_path: Path, image: tuple[Path, dict[int, bytes]]) -> None:
    shutil.copytree(image[0], tmp_path / "log")
    change(segments(tmp_path / "log")[0], 0, b"?")
    assert _is_a_prefix_that_goes_on(tmp_path / "log", image[1]) == 0


def test_without_salvage_the_same_is_damage(tmp_path: Path, image: tuple[Path, dict[int, bytes]]) -> None:
    shutil.copytree(image[0], tmp_path / "log")
    change(segments(tmp_path / "log")[1], 5000, b"?")
    with pytest.raises(Corruption, match=r"00000002\.segment"):
        open_log(tmp_path / "log")
