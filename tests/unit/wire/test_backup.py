"""BACKUP as a value, the head of a backup's bytes, and whether all of them fit their checksums."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zmqbroker.errors import Corruption, InvalidRequest, MalformedFrame, UnsupportedVersion
from zmqbroker.wire import backup, codec
from zmqbroker.wire.backup import BackupCheck, BackupGroup, BackupHead, decode_backup_head, encode_backup_head
from zmqbroker.wire.frames import Request, decode_header, pack
from zmqbroker.wire.requests import BackupRequest, command_of, decode_request, encode_request

ID = bytes(range(16))
U64 = st.integers(0, 2**64 - 1)
HEAD = BackupHead(
    cluster_name="production",
    cluster_uid=ID,
    volume="persistent",
    node="node-1",
    taken_unix_ns=1_700_000_000_000_000_000,
    software="0.1",
    groups=(BackupGroup(1, 70, 3, 9, 1234),),
)


# --- the request -----------------------------------------------------------------------------------------------------


@given(st.builds(BackupRequest, st.binary(min_size=16, max_size=16), U64, U64), U64)
def test_backup_request_encoded_and_decoded_is_the_same(request: BackupRequest, request_id: int) -> None:
    header, *bodies = encode_request(request_id, request)
    command, found, fields = decode_header(header, from_client=True)
    assert (command, found) == (command_of(request), request_id) == (Request.BACKUP, request_id)
    assert decode_request(command, fields, bodies) == request


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({}, "field id is missing, it must be binary of 16 bytes"),
        ({"id": bytes(15)}, "field id has 15 bytes, it must have 16"),
        ({"id": "text"}, "field id must be binary of 16 bytes: 'text'"),
        ({"id": ID, "offset": -1}, "field offset is -1"),
        ({"id": ID, "index": 2**64}, "field index"),
    ],
)
def test_backup_request_out_of_range_is_named(fields: dict[str, Any], match: str) -> None:
    with pytest.raises((InvalidRequest, MalformedFrame), match=match):
        decode_request(Request.BACKUP, fields, [])


# --- the head --------------------------------------------------------------------------------------------------------


def damaged_in_map(changes: dict[str, Any]) -> bytes:
    """A head whose checksum fits and whose map says something else."""
    fields = {
        "format": 1,
        "cluster": "c",
        "cluster_uid": ID,
        "volume": "persistent",
        "node": "n",
        "taken_unix_ns": 1,
        "software": "0",
        "groups": [[1, 2, 3, 4, 5]],
    }
    packed = pack({**fields, **changes}, "test")
    rest = len(packed).to_bytes(4, "little") + packed
    return b"ZBBACK01" + codec.crc32c(rest).to_bytes(4, "little") + rest


def test_head_encoded_and_decoded_is_the_same() -> None:
    data = encode_backup_head(HEAD)
    assert decode_backup_head(data, "file") == (HEAD, len(data))
    assert decode_backup_head(data + b"more", "file") == (HEAD, len(data))
    assert HEAD.size == 9


def test_head_with_any_bit_flipped_or_cut_anywhere_is_damaged() -> None:
    data = encode_backup_head(HEAD)
    for position in range(len(data)):
        flipped = bytearray(data)
        flipped[position] ^= 1 << position % 8
        for wrong in (bytes(flipped), data[:position]):
            with pytest.raises(Corruption, match="file: offset 0: "):
                decode_backup_head(wrong, "file")


@pytest.mark.parametrize(
    "changes",
    [{"groups": [[1, 2, 3]]}, {"groups": [[1, 2, 3, 0, 5]]}, {"groups": [[1, 2, 3, "4", 5]]}, {"groups": 7}, {"groups": [7]}],
)
def test_head_that_fits_its_checksum_and_makes_no_sense_is_damaged(changes: dict[str, Any]) -> None:
    with pytest.raises(Corruption, match="the head cannot be understood"):
        decode_backup_head(damaged_in_map(changes), "file")


def test_head_without_a_key_is_damaged() -> None:
    packed = pack({"format": 1}, "test")
    rest = len(packed).to_bytes(4, "little") + packed
    with pytest.raises(Corruption, match="cannot be understood"):
        decode_backup_head(b"ZBBACK01" + codec.crc32c(rest).to_bytes(4, "little") + rest, "file")


def test_head_of_a_later_format_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedVersion, match="written in format 2; this version reads format 1"):
        decode_backup_head(damaged_in_map({"format": 2}), "file")


# --- the whole -------------------------------------------------------------------------------------------------------


def whole(*parts: bytes) -> tuple[BackupHead, bytes]:
    """A backup whose groups have these bytes."""
    groups = tuple(BackupGroup(number, 7, 2, len(part), codec.crc32c(part)) for number, part in enumerate(parts, 1))
    head = replace(HEAD, groups=groups)
    return head, encode_backup_head(head) + b"".join(parts)


def check(data: bytes, piece: int) -> BackupHead:
    """Feed all in pieces."""
    found = BackupCheck("file")
    for start in range(0, len(data), piece):
        found.feed(data[start : start + piece])
    return found.finish()


@pytest.mark.parametrize("piece", [1, 7, 1 << 20])
@pytest.mark.parametrize("head_size_max", [300, 1 << 20])
def test_whole_backup_is_right_however_it_is_fed(piece: int, head_size_max: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backup, "HEAD_SIZE_MAX", head_size_max)
    chance = random.Random(piece)
    for parts in ((), (b"one",), (chance.randbytes(500), b"two", chance.randbytes(90))):
        head, data = whole(*parts)
        assert check(data, piece) == head


def test_backup_cut_anywhere_ends_too_early() -> None:
    _, data = whole(b"one", b"two")
    for size in range(len(data)):
        with pytest.raises(Corruption):
            check(data[:size], 5)


@pytest.mark.parametrize("piece", [1, 1 << 20])
def test_backup_that_is_too_long_is_damaged(piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backup, "HEAD_SIZE_MAX", 300)
    _, data = whole(bytes(range(250)), bytes(range(250)))
    with pytest.raises(Corruption, match=f"offset {len(data)}: it should end here"):
        check(data + b"x", piece)


def test_backup_with_a_flipped_bit_names_the_group() -> None:
    _, data = whole(b"one", b"two")
    with pytest.raises(Corruption, match=f"offset {len(data) - 3}: the state of group 2 does not fit its checksum"):
        check(data[:-1] + b"!", 1 << 20)
    with pytest.raises(Corruption, match=f"offset {len(data) - 6}: the state of group 1"):
        check(data[:-5] + b"!" + data[-4:], 1 << 20)
