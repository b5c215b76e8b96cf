"""Frames between nodes, compiled against Python in one process: same bytes, same values, same errors with the same words."""

from __future__ import annotations

import struct
import sys
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.wire.samples import damaged, load_compiled, outcome, resealed
from tests.unit.wire.test_peer import ENVELOPE, ENVELOPES, MEMBERSHIPS, U64
from zmqbroker.errors import ChecksumMismatch
from zmqbroker.raft.messages import Entry, EntryType, Membership, Message, MessageType, Snapshot
from zmqbroker.wire import _peer_py as python

CRC = st.none() | st.integers(0, 2**32 - 1)
ENTRIES = st.builds(Entry, U64, U64, st.binary(max_size=9), st.sampled_from(EntryType), st.none())
TYPES = st.sampled_from([kind for kind in MessageType if kind >= MessageType.APPEND_ENTRIES])
WITH_ENTRIES = st.sampled_from([MessageType.APPEND_ENTRIES, MessageType.PROPOSE])
GROUPS = st.integers(0, 65_535)
NUMBERS = (U64,) * 5
MESSAGES = st.one_of(
    st.builds(Message, TYPES, U64, U64, GROUPS, *NUMBERS, st.booleans(), U64),
    st.builds(Message, WITH_ENTRIES, U64, U64, GROUPS, *NUMBERS, st.booleans(), U64, st.lists(ENTRIES, max_size=3).map(tuple)),
)
SNAPSHOTS = st.builds(
    lambda snapshot: Message(MessageType.INSTALL_SNAPSHOT, 2, 1, 1, 9, snapshot=snapshot),
    st.builds(Snapshot, U64, U64, MEMBERSHIPS),
)

SAMPLE = [
    Message(MessageType.APPEND_ENTRIES_RESPONSE, 1, 2, 3, 4, 5, 6, 7, 8, True, 9),
    Message(
        MessageType.APPEND_ENTRIES, 1, 2, 3, 4, 5, 6, 7, 8, False, 9, (Entry(7, 4, b"one"), Entry(8, 4, b"", EntryType.CHANGE))
    ),
]


@pytest.fixture(scope="module")
def compiled() -> Any:
    return load_compiled("_peer")


class Id(int):
    """A number of another class."""


class Likeness:
    """What has an entry's attributes in other slots."""

    __slots__ = ("data", "data_crc", "index", "term", "type")

    def __init__(self, entry: Entry) -> None:
        for name in self.__slots__:
            setattr(self, name, getattr(entry, name))

    def __repr__(self) -> str:
        return "Likeness"


def shape_of(value: object) -> object:
    """A value with the types of its parts and the checksums, which are no part of an entry's equality."""
    if isinstance(value, list | tuple):
        return type(value), [shape_of(item) for item in value]
    if isinstance(value, Entry):
        return type(value), [shape_of(getattr(value, name)) for name in ("index", "term", "data", "type", "data_crc")]
    if isinstance(value, Message):
        return type(value), [shape_of(getattr(value, name)) for name in Message.__slots__]
    return type(value), value


def check_alike(compiled: Any, name: str, *arguments: object) -> object:
    """Both twins have the same outcome, which is returned."""
    expected = outcome(getattr(python, name), *arguments)
    assert shape_of(outcome(getattr(compiled, name), *arguments)) == shape_of(expected)
    return expected


# --- what is right ---------------------------------------------------------------------------------------------------


@given(st.lists(MESSAGES | SNAPSHOTS, max_size=4), ENVELOPES)
def test_twins_write_and_read_the_same(compiled: Any, sent: list[Message], envelope: python.Envelope) -> None:
    frames: Any = check_alike(compiled, "encode_raft", envelope, sent)
    assert check_alike(compiled, "decode_envelope", frames[0]) == envelope
    assert check_alike(compiled, "decode_raft", frames) == sent
    check_alike(compiled, "encode_raft", envelope, tuple(compiled.decode_raft(tuple(frames))))  # with checksums that are known
    check_alike(compiled, "decode_raft", [memoryview(frame) for frame in frames])
    check_alike(compiled, "seal", envelope, frames[0])


def test_compiled_twin_needs_the_python_one_for_nothing_common(compiled: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = python.encode_raft(ENVELOPE, SAMPLE), python.seal(ENVELOPE, b"body")
    for name in ("decode_envelope", "decode_raft", "encode_raft", "seal"):
        monkeypatch.delattr(python, name)
    frames = compiled.encode_raft(ENVELOPE, SAMPLE)
    assert (frames, compiled.seal(ENVELOPE, b"body")) == expected
    assert compiled.decode_envelope(frames[0]) == ENVELOPE
    read = compiled.decode_raft(frames)
    assert read == SAMPLE
    assert compiled.encode_raft(ENVELOPE, read) == frames
    assert compiled.decode_raft(compiled.encode_raft(ENVELOPE, [])) == []


def test_compiled_values_are_like_those_of_python(compiled: Any) -> None:
    answer, append = compiled.decode_raft(python.encode_raft(ENVELOPE, SAMPLE))
    answer.context = 10  # a message takes new values, an entry none
    assert answer.context == 10
    assert repr(append) == repr(SAMPLE[1])
    assert hash(append.entries[0]) == hash(SAMPLE[1].entries[0])
    with pytest.raises(AttributeError):
        append.entries[0].index = 9


def test_compiled_references_are_given_back(compiled: Any) -> None:
    payload, cut = (
        b"payload of some size",
        [Message(MessageType.PROPOSE, entries=(Entry(0, 0, b"a" * 20), Entry(0, 0, b"b" * 20)))],
    )
    sent = [Message(MessageType.APPEND_ENTRIES, 2**40, 2**41, entries=(Entry(2**42, 2**43, payload),))]
    frames, broken = python.encode_raft(ENVELOPE, sent), python.encode_raft(ENVELOPE, cut)
    broken[2] = b"c" * 20
    watched = [payload, frames[0], broken[0], broken[1], sent[0].entries, sent[0].entries[0], ENVELOPE, MessageType.PROPOSE]
    before = [sys.getrefcount(value) for value in watched]
    for _ in range(100):
        compiled.decode_envelope(frames[0])
        compiled.decode_raft(frames)
        compiled.encode_raft(ENVELOPE, sent)
        compiled.seal(ENVELOPE, b"")
        with pytest.raises(ChecksumMismatch):
            compiled.decode_raft(broken)
    assert [sys.getrefcount(value) for value in watched] == before


# --- what is not -----------------------------------------------------------------------------------------------------

ODD = st.sampled_from([-1, 2**64, 2**64 - 1, 2**32, 65_536, True, None, 1.0, "1", b"1", Id(7), MessageType.PROPOSE])


@st.composite
def odd_messages(draw: st.DrawFn) -> Message:
    """A message of which one value may be none that it can have."""
    message = draw(MESSAGES)
    setattr(message, draw(st.sampled_from([name for name in Message.__slots__ if name != "snapshot"])), draw(ODD))
    return message


@pytest.mark.parametrize("sent", [[None], [SAMPLE[1].entries[0]], [SAMPLE[0], "message"]], ids=repr)
def test_twins_refuse_what_are_no_messages(compiled: Any, sent: Any) -> None:
    check_alike(compiled, "encode_raft", ENVELOPE, sent)


@given(st.lists(MESSAGES, max_size=2), odd_messages())
def test_twins_refuse_the_same_values_of_messages(compiled: Any, sent: list[Message], odd: Message) -> None:
    check_alike(compiled, "encode_raft", ENVELOPE, [*sent, odd])


@pytest.mark.parametrize(
    "entries", [[], [Entry(1, 1)], (1,), (Entry(1, 1), None), (Likeness(Entry(5, 6, b"x")),), (SAMPLE[0],)], ids=repr
)
def test_twins_write_the_same_of_what_are_no_entries(compiled: Any, entries: Any) -> None:
    check_alike(compiled, "encode_raft", ENVELOPE, [Message(MessageType.APPEND_ENTRIES, entries=entries)])


@given(st.tuples(ODD | U64, ODD | U64, ODD | st.builds(bytearray), ODD | st.sampled_from(EntryType), ODD | CRC))
def test_twins_refuse_the_same_values_of_entries(compiled: Any, values: Sequence[Any]) -> None:
    check_alike(compiled, "encode_raft", ENVELOPE, [Message(MessageType.APPEND_ENTRIES, entries=(Entry(*values),))])


@given(st.integers(0, 4), ODD | st.binary(max_size=17))
def test_twins_refuse_the_same_envelopes(compiled: Any, place: int, value: Any) -> None:
    envelope = ENVELOPE._replace(**{ENVELOPE._fields[place]: value})
    check_alike(compiled, "seal", envelope, b"body")
    check_alike(compiled, "encode_raft", envelope, SAMPLE)


@pytest.mark.parametrize("envelope", [None, (), tuple(ENVELOPE)], ids=repr)
def test_twins_refuse_what_is_no_envelope(compiled: Any, envelope: object) -> None:
    check_alike(compiled, "seal", envelope, b"body")
    check_alike(compiled, "encode_raft", envelope, SAMPLE)


def test_twins_seal_what_is_like_bytes(compiled: Any) -> None:
    assert check_alike(compiled, "seal", ENVELOPE, bytearray(b"body")) == python.seal(ENVELOPE, b"body")
    check_alike(compiled, "seal", ENVELOPE, "body")


def test_twins_damaged_sample_gives_equal_errors(compiled: Any) -> None:
    frames: Any = python.encode_raft(ENVELOPE, SAMPLE)
    for frame in damaged(frames[0]):
        check_alike(compiled, "decode_envelope", frame)
        check_alike(compiled, "decode_raft", [frame, *frames[1:]])
        if len(frame) >= 8:
            check_alike(compiled, "decode_envelope", resealed(frame))


NUMBERS_THAT_LIE = st.sampled_from([0, 1, 2, 3, 4, 2**16, 2**26, 2**27 + 1, 2**31 - 1, 2**31, 2**32 - 1])


@given(st.lists(MESSAGES | SNAPSHOTS, max_size=3), st.data())
def test_twins_read_changed_tables_alike(compiled: Any, sent: list[Message], data: st.DataObject) -> None:
    frames: list[Any] = list(python.encode_raft(ENVELOPE, sent))
    table = bytearray(frames[0])
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(64, len(table) - 4))
        change = data.draw(
            st.one_of(st.integers(0, 255).map(lambda value: bytes((value,))), NUMBERS_THAT_LIE.map(struct.Struct("<I").pack))
        )
        table[place : place + len(change)] = change
    frames[0] = bytes(table[: data.draw(st.sampled_from([len(table), len(table) - 1, len(table) - 32, 72]))])
    check_alike(compiled, "decode_raft", frames)
    check_alike(compiled, "decode_raft", frames[: data.draw(st.integers(0, len(frames)))])
    check_alike(compiled, "decode_raft", [*frames, b"more"])


@given(st.lists(st.binary(max_size=80) | st.none(), max_size=3))
def test_twins_read_arbitrary_frames_alike(compiled: Any, frames: list[Any]) -> None:
    check_alike(compiled, "decode_raft", frames)
    for frame in frames:
        check_alike(compiled, "decode_envelope", frame)


def test_twins_believe_no_snapshot_that_is_none(compiled: Any) -> None:
    snapshot = Message(MessageType.INSTALL_SNAPSHOT, snapshot=Snapshot(1, 1, Membership((1,))))
    frames: Any = python.encode_raft(ENVELOPE, [snapshot])
    for payload in damaged(frames[1]):
        check_alike(compiled, "decode_raft", [frames[0], payload])
