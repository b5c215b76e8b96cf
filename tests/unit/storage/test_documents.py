"""Documents whose checksum is right and whose fields are not, and what JSON itself cannot take: named, with the file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from zmqbroker.errors import Corruption
from zmqbroker.storage.distrust import NOTE_NAME, read_note
from zmqbroker.storage.documents import read_document, write_document
from zmqbroker.storage.identity import IDENTITY_NAME, Identity, read_identity, write_identity
from zmqbroker.storage.run_record import RUN_NAME, read_run

READERS: list[tuple[str, str, Callable[[Path], object]]] = [
    (IDENTITY_NAME, "identity", read_identity),
    (RUN_NAME, "run", read_run),
    (NOTE_NAME, "distrust", read_note),
]


@pytest.mark.parametrize(("name", "kind", "read"), READERS)
@pytest.mark.parametrize("fields", [{}, {"unknown": 1}, {"cause": "x", "cluster_uid": None, "members": 5}])
def test_document_with_other_fields_is_corruption(
    tmp_path: Path, name: str, kind: str, read: Callable[[Path], object], fields: dict[str, Any]
) -> None:
    write_document(tmp_path / name, kind, fields)
    with pytest.raises(Corruption, match=rf"{name}: the {kind} cannot be understood"):
        read(tmp_path)


@pytest.mark.parametrize("members", [5, [5], [{}], [{"uid": "no hex", "id": 1}], [{"uid": "00", "more": 1}]])
def test_identity_with_members_that_are_none_is_corruption(tmp_path: Path, members: object) -> None:
    identity = Identity(node_uid=bytes(16), name="n1", volume="persistent", cluster_name="c", owner="serve")
    write_identity(tmp_path, identity)
    document = json.loads((tmp_path / IDENTITY_NAME).read_text())["identity"]
    write_document(tmp_path / IDENTITY_NAME, "identity", document | {"members": members})
    with pytest.raises(Corruption, match="the identity cannot be understood"):
        read_identity(tmp_path)


@pytest.mark.parametrize("text", ["[" * 100_000, "9" * 5000, "[]", "5", '{"run": 1}'])
def test_document_that_is_another_json_is_corruption(tmp_path: Path, text: str) -> None:
    (tmp_path / RUN_NAME).write_text(text)
    with pytest.raises(Corruption, match="the run is damaged"):
        read_document(tmp_path / RUN_NAME, "run")
