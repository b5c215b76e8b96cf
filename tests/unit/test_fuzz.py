"""The short version of `make fuzz`: every decoder of bytes from outside, a few thousand inputs each, the same in every run.

What a search found has a test of its own beside the other tests of that decoder.
"""

from __future__ import annotations

from random import Random

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.mutation import mutate
from tests.fuzz.search import search
from tests.fuzz.target import Find, Target, join_frames, look, split_frames
from tests.fuzz.targets import TARGETS
from zmqbroker.commands import ChannelSettings
from zmqbroker.errors import ConfigError, MalformedFrame

#: A few hundred milliseconds for most; those that open a log or feed a session cost ten times as much an input.
RUNS = {
    "reply": 3000,
    "segment": 3000,
    "salvage": 2000,
    "configuration": 2000,
    "environment": 1500,
    "document": 4000,
    "url": 3000,
}
RUNS_DEFAULT = 8000

_NAMES = st.sampled_from(
    (
        *(
            "channel",
            "receipts",
            "settings",
            "pieces",
            "code",
            "members",
            "founders",
            "producer",
            "sequence",
            "min",
            "max",
            "id",
        ),
        *("tags", "sequences", "to", "reason", "leader", "retry_ms", "session", "consumer", "count"),
        *ChannelSettings.__dataclass_fields__,
    )
)
_NUMBERS = st.integers(-(2**63), 2**64 - 1)
_VALUES = st.recursive(
    st.none() | st.booleans() | _NUMBERS | st.floats() | st.text(max_size=9) | st.binary(max_size=17) | st.just("q"),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(_NAMES | st.text(max_size=3), inner, max_size=4),
    max_leaves=12,
)
_FIELDS = st.dictionaries(_NAMES, _VALUES, max_size=8)


@pytest.mark.parametrize("name", TARGETS)
def test_decoder_of_damaged_samples_gives_a_value_or_an_error_that_is_named(name: str) -> None:
    runs = RUNS.get(name, RUNS_DEFAULT)
    outcome = search(TARGETS[name], seed=1, goes_on=lambda seen: seen.runs < runs)
    assert [find.text for find in outcome.finds.values()] == []


@pytest.mark.parametrize("name", TARGETS)
@settings(max_examples=50)
@given(data=st.binary(max_size=200))
def test_decoder_of_any_bytes_gives_a_value_or_an_error_that_is_named(name: str, data: bytes) -> None:
    check(TARGETS[name], data)


@given(st.integers(1, 0x1F), _FIELDS, st.lists(st.binary(max_size=60), max_size=2))
def test_request_of_any_fields_is_read_or_refused_by_name(command: int, fields: object, bodies: list[bytes]) -> None:
    check(TARGETS["request"], join_frames([b"ZB\x01" + bytes([command]) + bytes(8) + msgpack.packb(fields), *bodies]))


@given(st.integers(0x80, 0xFF), _FIELDS, st.lists(st.binary(max_size=60), max_size=2))
def test_reply_of_any_fields_is_taken_or_refused_by_name(command: int, fields: object, bodies: list[bytes]) -> None:
    check(TARGETS["reply"], join_frames([b"ZB\x01" + bytes([command]) + bytes(8) + msgpack.packb(fields), *bodies]))


@given(st.integers(2, 24), st.lists(_VALUES, max_size=10))
def test_entry_with_a_command_of_any_values_gives_a_value_or_an_error_that_is_named(kind: int, values: list[object]) -> None:
    packed = msgpack.packb(values)
    head = bytes.fromhex("0100 0200 01000000") + bytes(8)
    check(TARGETS["entry"], head + len(packed).to_bytes(4, "little") + bytes([kind, 0, 0, 0]) + packed)


@given(st.integers(0, 9), st.lists(_VALUES, max_size=12), st.integers(0, 9))
def test_state_with_any_values_gives_a_machine_or_corruption(kind: int, values: list[object], place: int) -> None:
    frames = split_frames(TARGETS["state"].samples()[0])
    chosen = [at for at in range(0, len(frames), 2) if frames[at][:1] == bytes([kind])]
    if chosen:
        frames[chosen[place % len(chosen)] + 1] = msgpack.packb(values)
    check(TARGETS["state"], join_frames(frames))


def check(target: Target, data: bytes) -> None:
    """Nothing is found."""
    found = look(target, data)[1]
    assert found is None, found.text


# --- the search itself ------------------------------------------------------------------------------------------------


def _breaks(data: bytes) -> None:
    if data[:1] == b"\xff":
        raise KeyError("a fault")
    if not data:
        raise MalformedFrame("empty")


WEAK = Target("weak", _breaks, lambda: [b"\x00abc"], (MalformedFrame,))


def test_search_finds_what_is_not_named_and_is_a_function_of_its_seed() -> None:
    first, second = (search(WEAK, seed=3, goes_on=lambda seen: seen.runs < 500) for _ in range(2))
    assert [kind.partition(",")[0] for kind in first.finds] == ["KeyError in _breaks"]
    assert (first.runs, first.kinds, first.finds) == (second.runs, second.kinds, second.finds)


def test_look_an_error_that_callers_do_not_handle_is_a_find() -> None:
    assert look(WEAK, b"")[1] is None
    assert isinstance(look(Target("weak", _breaks, list, (ConfigError,)), b"")[1], Find)


def test_look_of_a_call_that_takes_too_much_memory_is_a_find(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.fuzz.target.GROWTH_BYTES_MAX", -1)
    found = look(WEAK, b"x")[1]
    assert found is not None
    assert found.kind == "memory"


def test_mutations_are_many_and_the_same_for_a_seed() -> None:
    first, second = ([mutate(random, [b"sample" * 9, b""]) for _ in range(300)] for random in (Random(5), Random(5)))
    assert first == second
    assert len(set(first)) > 150


def test_frames_of_an_input_come_apart_as_they_were_joined() -> None:
    frames = [b"", b"a" * 300, b"b"]
    assert split_frames(join_frames(frames)) == frames
    assert split_frames(b"\xff\xff\xff\xffrest") == [b"rest"]
