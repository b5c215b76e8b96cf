"""Record codec: round trip, every flipped bit noticed, no zero sector ever stored."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zmqbroker.checksum import crc32c
from zmqbroker.raft.messages import Entry, HardState
from zmqbroker.storage import _record_py, record_codec
from zmqbroker.storage.record import (
    FLAG_MASKED,
    MAGIC_BYTES,
    PAYLOAD_OFFSET,
    SECTOR_SIZE,
    Record,
    RecordCursor,
    RecordType,
    SegmentKey,
    has_zero_sector,
    parse_header,
    record_of_entry,
    record_of_hard_state,
    restore_payload,
    to_entry,
    to_hard_state,
)

KEY = SegmentKey(bytes(range(16)))
OTHER_KEY = SegmentKey(bytes(range(1, 17)))
U64 = (1 << 64) - 1
TWINS = ("python", "compiled")

_payloads = st.one_of(
    st.binary(max_size=1500), st.lists(st.sampled_from([bytes(700), bytes(3), b"x", b"y" * 200]), max_size=5).map(b"".join)
)


def _encode(record: Record, position: int = 4096, lsn: int = 9) -> bytes:
    return b"".join(RecordCursor(KEY, position, lsn).encode(record, lsn - 1))


def _decode(data: bytes, size: int) -> Entry:
    header = parse_header(data, 0, KEY)
    assert header is not None
    payload = restore_payload(header, data[PAYLOAD_OFFSET : PAYLOAD_OFFSET + size], KEY)
    assert payload is not None
    return to_entry(header, payload)


@given(
    payload=_payloads,
    group=st.integers(0, 65535),
    index=st.integers(1, U64),
    term=st.integers(0, U64),
    position=st.integers(0, 200).map(lambda number: 4096 + 8 * number),
)
def test_record_round_trip_gives_the_entry_back(payload: bytes, group: int, index: int, term: int, position: int) -> None:
    entry = Entry(index, term, payload)
    data = _encode(record_of_entry(group, entry), position)
    header = parse_header(data, 0, KEY)
    assert header is not None
    assert (len(data) % 8, len(data), header.group, header.lsn, header.synced_lsn) == (0, header.size, group, 9, 8)
    stored = data[PAYLOAD_OFFSET : PAYLOAD_OFFSET + header.payload_size]
    assert not has_zero_sector(stored, position + PAYLOAD_OFFSET) or header.flags & FLAG_MASKED
    restored = restore_payload(header, stored, KEY)
    assert restored is not None
    assert to_entry(header, restored) == entry


def test_record_checksum_of_a_payload_is_taken_as_known_and_given_on() -> None:
    known, wrong = Entry(1, 2, b"payload", data_crc=crc32c(b"payload")), Entry(1, 2, b"payload", data_crc=1)
    data = _encode(record_of_entry(3, known))
    assert data == _encode(record_of_entry(3, Entry(1, 2, b"payload")))
    assert _decode(data, len(known.data)).data_crc == known.data_crc
    header = parse_header(_encode(record_of_entry(3, wrong)), 0, KEY)
    assert header is not None
    assert restore_payload(header, known.data, KEY) is None


def test_record_that_is_masked_has_a_checksum_of_its_own() -> None:
    entry = Entry(1, 2, bytes(700), data_crc=crc32c(bytes(700)))
    data = _encode(record_of_entry(3, entry))
    assert data == _encode(record_of_entry(3, Entry(1, 2, bytes(700))))
    assert _decode(data, 700) == entry
    assert _decode(data, 700).data_crc is None


@pytest.mark.parametrize("tail", range(256))
def test_record_whose_last_byte_the_mask_makes_zero_is_stored(tail: int) -> None:
    """Alone in its sector, it looks like a sector of zeros: what is masked is not looked at again."""
    payload = bytes(1536 - PAYLOAD_OFFSET) + bytes([tail])
    data = _encode(record_of_entry(3, Entry(1, 2, payload)))
    assert _decode(data, len(payload)).data == payload


def test_hard_state_round_trip_gives_it_back() -> None:
    state = HardState(U64, 7, 3)
    data = _encode(record_of_hard_state(5, state))
    header = parse_header(data, 0, KEY)
    assert header is not None
    assert (header.type, header.group, header.entry_index, header.term) == (RecordType.HARD_STATE, 5, 0, U64)
    payload = restore_payload(header, data[PAYLOAD_OFFSET : PAYLOAD_OFFSET + header.payload_size], KEY)
    assert payload is not None
    assert to_hard_state(payload) == state


@pytest.mark.parametrize("payload", [b"", b"payload", bytes(40)])
def test_record_every_flipped_bit_is_noticed(payload: bytes) -> None:
    data = _encode(record_of_entry(3, Entry(1, 2, payload)))
    for bit in range((PAYLOAD_OFFSET + len(payload)) * 8):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        header = parse_header(bytes(flipped), 0, KEY)
        stored = bytes(flipped[PAYLOAD_OFFSET : PAYLOAD_OFFSET + len(payload)])
        assert header is None or restore_payload(header, stored, KEY) is None, bit


def test_record_of_another_segment_is_not_taken() -> None:
    data = _encode(record_of_entry(3, Entry(1, 2, b"payload")))
    assert parse_header(data, 0, KEY) is not None
    assert parse_header(data, 0, OTHER_KEY) is None


def test_record_bytes_are_final() -> None:
    data = _encode(record_of_entry(0x0102, Entry(3, 4, b"abc")))
    assert data.hex() == GOLDEN
    assert data.startswith(MAGIC_BYTES)


GOLDEN = (
    "5a424352 03000000 01 00 0201 00000000 0300000000000000 0400000000000000 0900000000000000 0800000000000000"
    "b73f4b36 1c1e8b44 616263 0000000000"
).replace(" ", "")


def test_cursor_chains_records() -> None:
    cursor = RecordCursor(KEY, 4096, 1)
    first = b"".join(cursor.encode(record_of_entry(1, Entry(1, 1, b"abc")), 0))
    assert (cursor.position, cursor.next_lsn) == (4096 + 64, 2)
    second = b"".join(cursor.encode(record_of_entry(1, Entry(2, 1, b"")), 1))
    headers = [parse_header(data, 0, KEY) for data in (first, second)]
    assert headers[0] is not None
    assert headers[1] is not None
    assert (headers[0].previous_crc, headers[1].previous_crc) == (0, headers[0].header_crc)
    assert parse_header(first + second, len(first), KEY) == headers[1]


def test_parse_header_too_few_bytes_is_none() -> None:
    data = _encode(record_of_entry(1, Entry(1, 1, b"")))
    assert parse_header(data, 0, KEY) is not None
    assert parse_header(data, 8, KEY) is None


def test_restore_payload_too_few_bytes_is_none() -> None:
    data = _encode(record_of_entry(1, Entry(1, 1, b"abcdef")))
    header = parse_header(data, 0, KEY)
    assert header is not None
    assert restore_payload(header, data[PAYLOAD_OFFSET : PAYLOAD_OFFSET + 5], KEY) is None


def test_payload_with_a_zero_sector_is_masked_and_only_that() -> None:
    def flags(payload: bytes) -> int:
        header = parse_header(_encode(record_of_entry(1, Entry(1, 1, payload))), 0, KEY)
        assert header is not None
        return header.flags

    assert flags(b"x" * 456 + bytes(512) + b"x") == FLAG_MASKED
    assert flags(b"x" * 457 + bytes(512) + b"x") == 0
    assert flags(bytes(100)) == FLAG_MASKED


def load(name: str) -> ModuleType:
    """One twin."""
    return _record_py if name == "python" else pytest.importorskip("zmqbroker.storage._record")


@settings(max_examples=300)
@given(
    payload=_payloads,
    known=st.booleans(),
    position=st.integers(0, 200).map(lambda number: 4096 + 8 * number),
    numbers=st.tuples(*(st.integers(0, (1 << bits) - 1) for bits in (32, 8, 8, 16, 32, 64, 64, 64, 64))),
)
def test_twins_encode_alike(payload: bytes, known: bool, position: int, numbers: tuple[int, ...]) -> None:
    payload_crc = crc32c(payload) if known else None
    python, compiled = (load(name).encode_record(payload, payload_crc, position, *numbers) for name in TWINS)
    assert python == compiled
    for encoded in (python, compiled):
        if encoded is not None:
            assert sum(map(len, encoded[0])) % 8 == 0
            assert [buffer is payload for buffer in encoded[0][1:2]] == [True] * (payload != b""), "the payload is not copied"


def test_switch_takes_the_twin_when_the_compiled_one_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zmqbroker.storage._record", None)
    chosen = importlib.reload(record_codec)
    try:
        assert (chosen.compiled, chosen.encode_record) == (False, _record_py.encode_record)
    finally:
        monkeypatch.undo()
        importlib.reload(record_codec)


@pytest.mark.parametrize("twin", TWINS)
@settings(max_examples=300)
@given(
    runs=st.lists(st.tuples(st.booleans(), st.integers(1, 700)), max_size=4),
    position=st.integers(0, 2 * SECTOR_SIZE),
)
def test_has_zero_sector_agrees_with_looking_at_each(twin: str, runs: list[tuple[bool, int]], position: int) -> None:
    data = b"".join((b"\0" if zero else b"\x07") * size for zero, size in runs)
    sectors: dict[int, bytes] = {}
    for offset, byte in enumerate(data):
        number = (position + offset) // SECTOR_SIZE
        sectors[number] = sectors.get(number, b"") + bytes([byte])
    assert load(twin).has_zero_sector(data, position) == any(not sector.strip(b"\0") for sector in sectors.values())
