"""The columns for delay, expiry, priority and group: made and read beside either codec (docs/PROTOCOL.md §5)."""

from __future__ import annotations

import struct
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.wire.samples import TWINS, batches, damaged, hand_made, load, resealed
from zmqbroker.commands import Publish, Run
from zmqbroker.errors import ChecksumMismatch, LocalProtocolError, MalformedFrame
from zmqbroker.wire.columns import NO_TREATMENT, IdColumn, Treatment, add_columns, read_groups, read_ids, read_runs
from zmqbroker.wire.entries import EntryBuilder, decode_entry

INSTANT = st.integers(0, 3) | st.integers(0, 2**64 - 1)
GROUP = st.sampled_from(["", "g"]) | st.text(max_size=60)
TREATMENT = st.just(NO_TREATMENT) | st.builds(Treatment, INSTANT, INSTANT, st.integers(0, 9), GROUP)


@st.composite
def treated(draw: st.DrawFn) -> tuple[dict[str, Any], list[Treatment]]:
    """Arguments of `encode_batch`, and a treatment for each message; as a rule neighbours have the same one."""
    arguments = draw(batches())
    count = len(arguments["bodies"])
    few = st.lists(TREATMENT, min_size=1, max_size=2).flatmap(st.sampled_from)
    return arguments, draw(st.lists(few | TREATMENT, min_size=count, max_size=count))


def frame_of(codec: Any, arguments: dict[str, Any], treatments: list[Treatment]) -> bytes:
    """A batch frame with all columns that are said."""
    return add_columns(codec.encode_batch(**arguments), sum(map(len, arguments["bodies"])), treatments)


def spelled_out(runs: tuple[Run, ...]) -> list[Treatment]:
    """The treatment of each message."""
    return [Treatment(run.delay_ms, run.expiry_ms, run.priority, run.group) for run in runs for _ in range(run.count)]


@pytest.mark.parametrize("twin", TWINS)
@given(sample=treated(), position=st.integers(0, 3))
def test_columns_added_and_read_are_the_same(twin: str, sample: tuple[dict[str, Any], list[Treatment]], position: int) -> None:
    codec, (arguments, treatments) = load(twin), sample
    frame = frame_of(codec, arguments, treatments)
    data = bytes(position) + frame + b"behind"
    header = codec.read_batch(data, position, len(frame))  # which checks size, checksum and every limit
    runs = read_runs(data, position, header)
    if any(treatment != NO_TREATMENT for treatment in treatments):
        assert spelled_out(runs) == treatments
        assert all(fields(one)[1:] != fields(other)[1:] for one, other in pairwise(runs))
    else:
        assert runs == ()
        assert frame == codec.encode_batch(**arguments)
    groups = [treatment.group for treatment in treatments]
    assert read_groups(memoryview(frame), header) == (groups if any(groups) else None)
    contents = codec.decode_batch(frame)
    assert (contents.bodies, contents.ids, contents.headers) == (arguments["bodies"], arguments["ids"], arguments["headers"])
    assert (header.producer, header.base_sequence) == (arguments["producer"], arguments["base_sequence"])


def fields(run: Run) -> tuple[int, int, int, int, str]:
    """A run as a tuple, its count first."""
    return run.count, run.delay_ms, run.expiry_ms, run.priority, run.group


@pytest.mark.parametrize("twin", TWINS)
@given(sample=treated(), data=st.data())
def test_columns_of_a_part_of_a_batch_are_those_of_its_messages(
    twin: str, sample: tuple[dict[str, Any], list[Treatment]], data: st.DataObject
) -> None:
    codec, (arguments, treatments) = load(twin), sample
    low = data.draw(st.integers(0, len(treatments) - 1))
    high = data.draw(st.integers(low + 1, len(treatments)))
    frame = frame_of(codec, arguments, treatments)
    part = codec.slice_batch(frame, 0, len(frame), low, high)
    runs = read_runs(part, 0, codec.read_batch(part))
    expected = treatments[low:high] if codec.read_batch(frame).columns >> 2 else []
    assert spelled_out(runs) == expected


def test_columns_have_the_bytes_of_the_protocol() -> None:
    bodies, sizes = b"abb", struct.pack("<2I", 1, 2)
    frame = hand_made(rest=sizes + bodies)
    delay = struct.pack("<2Q", 0, 5)
    expiry = struct.pack("<2Q", 7, 7)
    priority = bytes([9, 0])
    assert add_columns(frame, 3, [Treatment(0, 7, 9), Treatment(5, 7)]) == hand_made(
        columns=0b11100, rest=sizes + delay + expiry + priority + bodies
    )
    assert add_columns(frame, 3, [NO_TREATMENT, Treatment(5)]) == hand_made(columns=0b100, rest=sizes + delay + bodies)
    assert add_columns(frame, 3, [Treatment(priority=9), NO_TREATMENT]) == hand_made(
        columns=0b10000, rest=sizes + priority + bodies
    )
    group = struct.pack("<2I", 2, 0) + "é".encode()
    assert add_columns(frame, 3, [Treatment(priority=9, group="é"), NO_TREATMENT]) == hand_made(
        columns=0b110000, rest=sizes + priority + group + bodies
    )
    assert add_columns(frame, 3, [Treatment(group="é"), NO_TREATMENT]) == hand_made(
        columns=0b100000, rest=sizes + group + bodies
    )


def test_columns_that_say_nothing_leave_the_frame_as_it_is() -> None:
    frame = hand_made()
    assert add_columns(frame, 3, [NO_TREATMENT] * 2) is frame


def test_columns_of_nothing_but_zeros_are_one_run() -> None:
    frame = hand_made(columns=0b10000, rest=struct.pack("<2I", 1, 2) + b"\0\0" + b"abb")
    assert read_runs(frame, 0, load("python").read_batch(frame)) == (Run(2),)


@pytest.mark.parametrize(
    ("treatment", "said"),
    [
        (Treatment(delay_ms=-1), "delay_ms is -1, allowed is 0 to 18446744073709551615"),
        (Treatment(delay_ms=2**64), "delay_ms is 18446744073709551616"),
        (Treatment(expiry_ms=-5), "expiry_ms is -5"),
        (Treatment(priority=10), "priority is 10, allowed is 0 to 9"),
        (Treatment(priority=-1), "priority is -1"),
        (Treatment(group="é" * 128), "size of a group is 256, allowed is 0 to 255"),
    ],
)
def test_columns_with_a_value_out_of_its_range_are_not_made(treatment: Treatment, said: str) -> None:
    with pytest.raises(LocalProtocolError) as caught:
        add_columns(hand_made(), 3, [Treatment(1, 1, 1), treatment])
    assert said in str(caught.value)


@pytest.mark.parametrize("twin", TWINS)
def test_columns_damaged_anywhere_give_named_errors_only(twin: str) -> None:
    codec = load(twin)
    arguments = {"channel": b"q", "bodies": [b"a", b"bb"], "ids": [b"i", b""], "headers": [b"", b"h"]}
    frame = frame_of(codec, arguments, [Treatment(1, 2, 3, "g"), Treatment(4, 5, 6, "h")])
    for changed in damaged(frame):
        with pytest.raises((MalformedFrame, ChecksumMismatch)):
            codec.read_batch(changed)
        if len(changed) < len(frame):
            continue
        # Whoever damages a frame and seals it again may get another batch, but runs that fit it.
        again = resealed(changed)
        try:
            header = codec.read_batch(again)
        except MalformedFrame:
            continue
        runs = read_runs(again, 0, header)
        assert sum(run.count for run in runs) == (header.count if header.columns & 0b111100 else 0)
        assert all(0 <= run.priority <= 9 for run in runs)


@given(sample=treated())
def test_columns_of_a_batch_in_an_entry_are_the_runs_of_its_publish(sample: tuple[dict[str, Any], list[Treatment]]) -> None:
    arguments, treatments = sample
    builder = EntryBuilder()
    builder.add_publish(frame_of(load("python"), arguments, treatments))
    (command,) = decode_entry(builder.build(5)).commands
    assert isinstance(command, Publish)
    said = any(treatment != NO_TREATMENT for treatment in treatments)
    assert spelled_out(command.runs) == (treatments if said else [])


@pytest.mark.parametrize("twin", TWINS)
@given(sample=treated(), position=st.integers(0, 3))
def test_ids_are_read_where_they_lie(twin: str, sample: tuple[dict[str, Any], list[Treatment]], position: int) -> None:
    codec, (arguments, treatments) = load(twin), sample
    frame = frame_of(codec, arguments, treatments)
    data = bytes(position) + frame + b"behind"
    ids = read_ids(data, position, codec.read_batch(data, position, len(frame)))
    assert (list(ids), len(ids)) == (arguments["ids"] or [], len(arguments["ids"] or []))


def test_ids_are_a_sequence_and_equal_to_what_they_hold() -> None:
    codec = load("_codec_py")
    frame = codec.encode_batch(b"q", [b"1", b"2", b"3"], 0, 0, [b"a", b"", b"ccc"])
    ids = read_ids(memoryview(frame), 0, codec.read_batch(frame))
    assert isinstance(ids, IdColumn)
    assert (ids[0], ids[-1], ids[1:]) == (b"a", b"ccc", [b"", b"ccc"])
    assert ids == (b"a", b"", b"ccc")
    assert ids != (b"a", b"")
    assert ids != 5
    assert repr(ids) == "IdColumn([b'a', b'', b'ccc'])"
    with pytest.raises(TypeError):
        hash(ids)
