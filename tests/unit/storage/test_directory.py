"""The data directory: file system, lock, identity, and the one clear line for each refusal."""

from __future__ import annotations

import errno
import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.unit.storage.support import noting
from zmqbroker.checksum import crc32c
from zmqbroker.commands import Member
from zmqbroker.errors import Corruption, DataDirectoryError
from zmqbroker.storage.directory import UNSAFE_FILE_SYSTEMS, DataDirectory, file_system_type, raise_file_limit
from zmqbroker.storage.documents import document_checksum
from zmqbroker.storage.identity import IDENTITY_NAME

USE = {"name": "n1", "volume": "persistent", "cluster_name": "main", "owner": "serve"}
FOUNDERS = (Member(1, "n1", bytes(range(16)), "10.0.0.1:5591"), Member(2, "n2", bytes(16), "10.0.0.2:5591"))
MEMBERS = (*FOUNDERS, Member(4, "n2", b"4" * 16, "10.0.0.4:5591", replaces=2), Member(5, "copy", b"5" * 16, "c:1", False))
EXT4 = 0xEF53


def _open(path: Path, **changed: Any) -> DataDirectory:
    return DataDirectory.open(path, **{"type_of": lambda _: EXT4, **USE, **changed})


def test_new_directory_gets_a_fresh_identity(tmp_path: Path) -> None:
    first, second = _open(tmp_path / "deep" / "a"), _open(tmp_path / "b")
    for directory in (first, second):
        identity = directory.identity
        assert (identity.name, identity.volume, identity.cluster_name, identity.owner) == ("n1", "persistent", "main", "serve")
        assert (len(identity.node_uid), identity.cluster_uid, identity.members) == (16, None, ())
        directory.close()
        directory.close()
    assert first.identity.node_uid != second.identity.node_uid


def test_reopened_directory_has_the_same_identity(tmp_path: Path) -> None:
    directory = _open(tmp_path)
    uid = directory.identity.node_uid
    directory.save_formation(b"c" * 16, FOUNDERS, 7, MEMBERS)
    stored = directory.identity
    assert (stored.node_uid, stored.cluster_uid) == (uid, b"c" * 16)
    assert (stored.founders, stored.members_index, stored.members) == (FOUNDERS, 7, MEMBERS)
    directory.close()
    again = _open(tmp_path)
    assert again.identity == stored
    again.close()


def test_identity_of_before_members_could_change_has_its_members_as_founders(tmp_path: Path) -> None:
    _open(tmp_path).close()
    document = json.loads((tmp_path / IDENTITY_NAME).read_text())
    fields = document["identity"]
    del fields["founders"], fields["members_index"]
    rows = [{"id": one.id, "name": one.name, "uid": one.uid.hex(), "peer": one.peer} for one in FOUNDERS]
    fields.update(cluster_uid=(b"c" * 16).hex(), members=rows)
    canonical = json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()
    document["crc32c"] = f"{crc32c(canonical):08x}"
    (tmp_path / IDENTITY_NAME).write_text(json.dumps(document))
    directory = _open(tmp_path)
    identity = directory.identity
    assert (identity.cluster_uid, identity.founders, identity.members) == (b"c" * 16, FOUNDERS, FOUNDERS)
    assert identity.members_index == 0
    directory.save_formation(b"c" * 16, FOUNDERS, 3, MEMBERS)
    directory.close()
    again = _open(tmp_path)
    assert (again.identity.founders, again.identity.members) == (FOUNDERS, MEMBERS)
    again.close()


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"name": "n2"}, "belongs to node 'n1', not 'n2'"),
        ({"volume": "ephemeral"}, "belongs to volume mode 'persistent', not 'ephemeral'"),
        ({"cluster_name": "other"}, "belongs to cluster 'main', not 'other'"),
        ({"owner": "dev"}, "belongs to the command 'serve', not 'dev'"),
    ],
)
def test_directory_of_another_use_is_refused_and_unlocked(tmp_path: Path, changed: dict[str, str], match: str) -> None:
    _open(tmp_path).close()
    with pytest.raises(DataDirectoryError, match=match):
        _open(tmp_path, **changed)
    _open(tmp_path).close()


def test_directory_in_use_names_the_other_process(tmp_path: Path) -> None:
    script = (
        "import sys; from zmqbroker.storage.directory import DataDirectory\n"
        f"directory = DataDirectory.open(sys.argv[1], **{USE!r})\n"
        "print('locked', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "locked\n"
        with pytest.raises(DataDirectoryError, match=rf"in use by another node \(pid {other.pid}\)"):
            _open(tmp_path)
        other.kill()
    _open(tmp_path).close()


def test_directory_locked_without_a_pid_is_refused(tmp_path: Path) -> None:
    directory = _open(tmp_path)
    os.truncate(tmp_path / "LOCK", 0)
    with pytest.raises(DataDirectoryError, match=r"\(pid unknown\)"):
        _open(tmp_path)
    directory.close()


@pytest.mark.parametrize(("kind", "name"), UNSAFE_FILE_SYSTEMS.items())
def test_unsafe_file_system_is_refused_unless_allowed(tmp_path: Path, kind: int, name: str) -> None:
    with pytest.raises(DataDirectoryError, match=f"is on {name}, which cannot be trusted"):
        _open(tmp_path, type_of=lambda _: kind)
    assert not (tmp_path / IDENTITY_NAME).exists()
    _open(tmp_path, type_of=lambda _: kind, allow_network_file_system=True).close()


def test_file_system_type_is_what_stat_says(tmp_path: Path) -> None:
    said = subprocess.run(["stat", "-f", "-c", "%t", str(tmp_path)], capture_output=True, text=True, check=True).stdout
    assert file_system_type(tmp_path) == int(said, 16)
    with pytest.raises(FileNotFoundError):
        file_system_type(tmp_path / "absent")


def test_directory_where_a_file_is_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataDirectoryError, match="cannot be used as a data directory"):
        _open(tmp_path / "file")


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"format": 1}', b'{"identity": {}, "format": 1, "crc32c": "00000000"}'])
def test_damaged_identity_is_corruption(tmp_path: Path, data: bytes) -> None:
    _open(tmp_path).close()
    (tmp_path / IDENTITY_NAME).write_bytes(data)
    with pytest.raises(Corruption, match=r"identity\.json: the identity is damaged"):
        _open(tmp_path)


def test_edited_identity_is_corruption(tmp_path: Path) -> None:
    _open(tmp_path).close()
    path = tmp_path / IDENTITY_NAME
    path.write_text(path.read_text().replace('"n1"', '"n2"'))
    with pytest.raises(Corruption, match="its checksum does not fit"):
        _open(tmp_path, name="n2")


def test_identity_of_a_later_format_is_refused_by_name(tmp_path: Path) -> None:
    _open(tmp_path).close()
    path = tmp_path / IDENTITY_NAME
    document = json.loads(path.read_text()) | {"format": 2}
    path.write_text(json.dumps(document))
    with pytest.raises(Corruption, match="its checksum does not fit"):
        _open(tmp_path)
    document["crc32c"] = document_checksum("identity", document["identity"], 2)
    path.write_text(json.dumps(document))
    with pytest.raises(DataDirectoryError, match="format 2; this version reads format 1"):
        _open(tmp_path)


@pytest.mark.parametrize("name", ["log", "state"])
def test_missing_identity_beside_data_is_corruption(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(Corruption, match=rf"identity\.json: is missing, but the data of a node is there \({name}\)"):
        _open(tmp_path)


def test_identity_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = _open(tmp_path)
    before = (tmp_path / IDENTITY_NAME).read_bytes()

    def refuse(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    for call in ("fsync", "rename"):
        with monkeypatch.context() as patch:
            patch.setattr(os, call, refuse)
            with pytest.raises(DataDirectoryError, match="the identity cannot be stored"):
                directory.save_formation(b"c" * 16, FOUNDERS, 7, MEMBERS)
        assert (tmp_path / IDENTITY_NAME).read_bytes() == before
        assert (directory.identity.founders, directory.identity.members) == ((), ())
    directory.close()


def test_identity_is_synced_before_it_is_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = _open(tmp_path)
    calls: list[str] = []
    for name in ("fsync", "rename", "pwritev"):
        monkeypatch.setattr(os, name, noting(calls, name, getattr(os, name)))
    directory.save_formation(b"c" * 16, FOUNDERS, 7, MEMBERS)
    monkeypatch.undo()
    assert calls == ["pwritev", "fsync", "rename", "fsync"]
    directory.close()


def test_raise_file_limit_takes_the_hard_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[tuple[int, tuple[int, int]]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 4096))
    monkeypatch.setattr(resource, "setrlimit", lambda kind, limits: taken.append((kind, limits)))
    assert raise_file_limit() == 4096
    assert taken == [(resource.RLIMIT_NOFILE, (4096, 4096))]
