"""The record of a node's runs: which boot, whether it stopped in order, and since when something may not be durable."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.unit.storage.support import noting
from zmqbroker.errors import Corruption, DataDirectoryError
from zmqbroker.storage.run_record import RUN_NAME, RunRecord, boot_id, next_run, read_run, sync_tree, write_run

RUN = RunRecord(boot_id="b1", clean=False, durable_unix_ns=5)
STOPPED = RunRecord(boot_id="b1", clean=True, durable_unix_ns=7, lost_since_unix_ns=3)


@pytest.mark.parametrize("record", [RUN, STOPPED])
def test_record_is_read_as_it_was_written(tmp_path: Path, record: RunRecord) -> None:
    assert read_run(tmp_path) is None
    write_run(tmp_path, record)
    assert read_run(tmp_path) == record


def test_record_that_is_damaged_is_corruption(tmp_path: Path) -> None:
    write_run(tmp_path, RUN)
    path = tmp_path / RUN_NAME
    path.write_text(path.read_text().replace('"clean": false', '"clean": true'))
    with pytest.raises(Corruption, match=r"run\.json: the run is damaged: its checksum does not fit"):
        read_run(tmp_path)


@pytest.mark.parametrize(
    ("record", "boot", "died"), [(RUN, "b1", False), (RUN, "b2", True), (STOPPED, "b1", False), (STOPPED, "b2", False)]
)
def test_machine_died_if_the_boot_is_another_and_nothing_says_that_all_is_durable(
    record: RunRecord, boot: str, died: bool
) -> None:
    assert record.died_before(boot) is died


@pytest.mark.parametrize(
    ("previous", "boot", "lossy", "durable", "lost"),
    [
        (None, "b1", False, 9, None),
        (RUN, "b1", False, 5, None),  # what it did not sync is still in the page cache only
        (STOPPED, "b1", False, 9, 3),
        (STOPPED, "b2", False, 9, 3),
        (RUN, "b2", True, 9, 5),  # what is there now was read from the disk
        (RUN, "b2", False, 9, None),  # a persistent volume
    ],
)
def test_next_run_knows_since_when_something_may_be_lost(
    previous: RunRecord | None, boot: str, lossy: bool, durable: int, lost: int | None
) -> None:
    expected = RunRecord(boot_id=boot, clean=False, durable_unix_ns=durable, lost_since_unix_ns=lost)
    assert next_run(previous, boot, 9, lossy=lossy) == expected


def test_boot_id_is_what_the_kernel_says(tmp_path: Path) -> None:
    assert boot_id() == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    with pytest.raises(DataDirectoryError, match="this boot of the machine has no name"):
        boot_id(tmp_path / "absent")


def test_sync_tree_syncs_every_file_before_the_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "one").write_bytes(b"1")
    (tmp_path / "a" / "b" / "two").write_bytes(b"2")
    calls: list[str] = []
    monkeypatch.setattr(os, "fsync", noting(calls, "fsync", os.fsync))
    sync_tree(tmp_path / "a")
    assert calls == ["fsync"] * 4
