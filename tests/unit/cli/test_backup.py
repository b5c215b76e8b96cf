"""`backup` and `restore` as commands: files that are there, files that are left, what is printed, how it ends."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.server.test_restoring import backup_of
from tests.unit.server.test_snapshot_files import Source
from zmqbroker.cli.app import run
from zmqbroker.cli.exits import Exit
from zmqbroker.client import backup
from zmqbroker.client.backup import Chunk
from zmqbroker.errors import DeadlineExceeded, NodeNotFound


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """A backup's bytes, which every node has."""
    path = backup_of(Source(), tmp_path)
    found = path.read_bytes()
    path.unlink()

    def fetch(url: str, node: str, timeout_ms: int) -> Iterator[Chunk]:
        assert (url, timeout_ms) == ("tcp://h:1", 120_000)
        if node:
            raise NodeNotFound(f"no node {node!r} answers")
        for start in range(0, len(found), 300):
            yield Chunk("n1", 7, len(found), found[start : start + 300])

    monkeypatch.setattr(backup, "fetch_backup", fetch)
    monkeypatch.setenv("ZMQBROKER_URL", "tcp://h:1")
    return found


def test_backup_is_written_whole_and_told(tmp_path: Path, data: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "file"
    assert run(["backup", str(file)]) == Exit.DONE
    assert file.read_bytes() == data
    printed = capsys.readouterr()
    assert printed.out.startswith(f"{file}: {len(data)} bytes, cluster first as of index 7, taken from n1 in ")
    assert printed.err == ""
    assert os.listdir(tmp_path) == ["file"]


def test_backup_tells_scripts_what_it_is_of(tmp_path: Path, data: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["backup", str(tmp_path / "file"), "--json"]) == Exit.DONE
    told = json.loads(capsys.readouterr().out)
    assert (told["bytes"], told["cluster"], told["node"], told["volume"]) == (len(data), "first", "n1", "ephemeral")
    assert told["groups"] == [{"group": 1, "index": 7, "term": 2}]


def test_backup_does_not_replace_a_file_unless_forced(tmp_path: Path, data: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"precious")
    assert run(["backup", str(file)]) == Exit.USAGE
    assert f"{file} exists already" in capsys.readouterr().err
    assert file.read_bytes() == b"precious"
    assert run(["backup", str(file), "--force"]) == Exit.DONE
    assert file.read_bytes() == data


def test_backup_that_fails_leaves_nothing_and_the_old_file(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"precious")
    assert run(["backup", str(file), "--force", "--node", "none"]) == Exit.NOTHING_THERE
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("file", b"precious")]


def test_backup_that_reads_back_wrong_is_damaged_and_not_kept(
    tmp_path: Path, data: bytes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = data[:-1] + b"!"
    monkeypatch.setattr(backup, "fetch_backup", lambda *_: iter([Chunk("n1", 7, len(wrong), wrong)]))
    assert run(["backup", str(tmp_path / "file")]) == Exit.DAMAGED
    assert "does not fit its checksum" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_backup_without_an_answer_is_unreachable(tmp_path: Path, data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> Iterator[Chunk]:
        raise DeadlineExceeded("no node answers")

    monkeypatch.setattr(backup, "fetch_backup", fail)
    assert run(["backup", str(tmp_path / "file")]) == Exit.UNREACHABLE


def test_backup_shows_progress_at_a_terminal_alone(
    tmp_path: Path, data: bytes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert run(["backup", str(tmp_path / "file"), "--json"]) == Exit.DONE
    printed = capsys.readouterr()
    assert "100%" in printed.err
    assert json.loads(printed.out)["bytes"] == len(data)


def test_restore_tells_what_is_there_and_how_to_start_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, target = backup_of(Source(), tmp_path), tmp_path / "new data"
    assert run(["restore", str(file), "--data-dir", str(target)]) == Exit.DONE
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines[:2]] == [["channel", "messages"], ["c", "3"]]
    assert lines[2].startswith(f"{target}: cluster first with the one node n1, uid ")
    assert lines[3].strip() == (
        f"zmqbroker serve --name n1 --data-dir '{target}' --volume ephemeral --peers n1=127.0.0.1:5591 --set cluster.name=first"
    )


def test_restore_refuses_a_directory_in_use_before_it_reads_the_backup(tmp_path: Path) -> None:
    (tmp_path / "no backup").write_bytes(b"")
    assert run(["restore", str(tmp_path / "no backup"), "--data-dir", str(tmp_path)]) == Exit.USAGE
    assert run(["restore", str(tmp_path / "no backup"), "--data-dir", str(tmp_path / "new")]) == Exit.DAMAGED
    assert not (tmp_path / "new").exists()


def test_restore_refuses_names_and_addresses_that_no_node_may_have(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["restore", str(backup_of(Source(), tmp_path)), "--data-dir", str(tmp_path / "new")]
    assert run([*words, "--name", "two words", "--cluster", "", "--peer", "nowhere"]) == Exit.USAGE
    faults = capsys.readouterr().err
    assert "'two words' is not a name" in faults
    assert "'two words=nowhere' is not name=host:port" in faults
    assert not (tmp_path / "new").exists()


def test_restored_node_that_others_are_to_reach_listens_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["restore", str(backup_of(Source(), tmp_path)), "--data-dir", str(tmp_path / "new"), "--peer", "broker-1:6001"]
    assert run([*words, "--json"]) == Exit.DONE
    start = json.loads(capsys.readouterr().out)["start"]
    assert start.endswith(" --peers n1=broker-1:6001 --set cluster.name=first --client tcp://0.0.0.0:5590 --peer 0.0.0.0:6001")
