"""Small files that a node keeps beside its log and store: JSON that an operator can read, replaced whole or not at all.

    {"format": 1, "crc32c": hex text, KIND: {…}}

The checksum is that of the fields as JSON with sorted keys and without white space. In any format but 1 the format is among
what is summed, so that a damaged number is not taken for a later version. Nothing is repaired here: the caller judges.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from zmqbroker.checksum import crc32c
from zmqbroker.errors import Corruption, DataDirectoryError
from zmqbroker.storage.disk import OS_DISK, Disk, read_all, write_all

__all__ = ["document_checksum", "read_document", "read_value", "write_document", "write_file"]

_FORMAT = 1

Value = TypeVar("Value")


def document_checksum(kind: str, fields: dict[str, Any], version: int) -> str:
    """The checksum of a document's fields, as text."""
    summed = fields if version == _FORMAT else {"format": version, kind: fields}
    return f"{crc32c(json.dumps(summed, sort_keys=True, separators=(',', ':')).encode()):08x}"


def write_document(path: Path, kind: str, fields: dict[str, Any], disk: Disk = OS_DISK) -> None:
    """Replace the document at `path`; durable when this returns. Raises OSError."""
    document = {"format": _FORMAT, "crc32c": document_checksum(kind, fields, _FORMAT), kind: fields}
    write_file(path, (json.dumps(document, indent=2) + "\n").encode(), disk)


def write_file(path: Path, data: bytes, disk: Disk = OS_DISK) -> None:
    """Replace a file by way of one with the suffix `.new`; durable when this returns. Raises OSError."""
    temporary = path.with_suffix(".new")
    if temporary.name in disk.names(path.parent):
        disk.unlink(temporary)  # of a process that died before the rename
    descriptor = disk.create(temporary)
    try:
        write_all(disk, descriptor, [data], 0)
        disk.fsync(descriptor)
    finally:
        disk.close(descriptor)
    disk.rename(temporary, path)
    disk.sync_directory(path.parent)


def read_document(path: Path, kind: str, disk: Disk = OS_DISK) -> dict[str, Any] | None:
    """The fields of the document at `path`, None when there is none. Raises Corruption, DataDirectoryError or OSError."""
    try:
        descriptor = disk.open(path)
    except FileNotFoundError:
        return None
    try:
        data = read_all(disk, descriptor, disk.size(descriptor), 0)
    finally:
        disk.close(descriptor)
    try:
        document = json.loads(data)
        fields, version = document[kind], document["format"]
        whole = document_checksum(kind, fields, version) == document["crc32c"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Corruption(f"{path}: the {kind} is damaged: {error}") from error
    if not whole:
        raise Corruption(f"{path}: the {kind} is damaged: its checksum does not fit")
    if version != _FORMAT:
        raise DataDirectoryError(f"{path}: written in format {version}; this version reads format {_FORMAT}")
    found: dict[str, Any] = fields
    return found


def read_value(path: Path, kind: str, make: Callable[[dict[str, Any]], Value], disk: Disk = OS_DISK) -> Value | None:
    """What `make` makes of the fields of the document at `path`, None when there is none. Raises as `read_document`.

    A whole document with other fields than `make` needs, which no version writes, is damaged too.
    """
    fields = read_document(path, kind, disk)
    try:
        return None if fields is None else make(fields)
    except (ValueError, KeyError, TypeError) as error:
        raise Corruption(f"{path}: the {kind} cannot be understood: {type(error).__name__}: {error}") from error
