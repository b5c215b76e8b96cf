"""Plain SENDs into batches: both twins find the same, and nothing that `requests` would read differently."""

from __future__ import annotations

import importlib
import struct
import sys
from types import ModuleType

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.unit.wire.test_codec_switch import fresh
from zmqbroker import _build
from zmqbroker.wire import _sends_py, sends
from zmqbroker.wire.batch import COUNT_MAX, SEQUENCE_MAX
from zmqbroker.wire.frames import U64_MAX, Reply, Request, decode_header, encode_header
from zmqbroker.wire.requests import Send, decode_request

COMPILED = "zmqbroker.wire._sends"
PLENTY = 1 << 30
BODY_SIZE_MAX = 100


def compiled() -> ModuleType:
    """The compiled twin; a test that needs it is skipped where it was not built."""
    try:
        return importlib.import_module(COMPILED)
    except ImportError as error:
        pytest.skip(f"the compiled twin is not built here: {error}")


@pytest.fixture(params=["python", "compiled"])
def twin(request: pytest.FixtureRequest) -> ModuleType:
    return _sends_py if request.param == "python" else compiled()


def send(channel: str, body: bytes = b"body", request: int = 1, client: bytes = b"c", *, req: bool = False) -> list[bytes]:
    """A plain SEND as a ROUTER receives it."""
    return [client, *([b""] if req else []), encode_header(Request.SEND, request, {"channel": channel}), body]


# --- what is found ---------------------------------------------------------------------------------------------------


def test_neighbours_for_one_channel_become_one_run_in_their_order(twin: ModuleType) -> None:
    messages = [send("a", b"1", 7), send("b", b"2", 8), send("a", b"3", 9, b"other", req=True), send("a", b"", 10)]
    headers = [frames[-2] for frames in messages]
    position, runs = twin.gather(messages, 0, BODY_SIZE_MAX, PLENTY)
    assert position == 4
    assert runs == [
        ("a", [b"1", b"3", b""], [[b"c", headers[0]], [b"other", b"", headers[2]], [b"c", headers[3]]]),
        ("b", [b"2"], [[b"c", headers[1]]]),
    ]


def test_run_begins_where_it_is_told_and_ends_before_another_request(twin: ModuleType) -> None:
    ping = [b"c", encode_header(Request.PING, 3, {})]
    messages = [ping, send("a", b"1"), send("a", b"2"), ping, send("a", b"3")]
    position, runs = twin.gather(messages, 1, BODY_SIZE_MAX, PLENTY)
    assert (position, [bodies for _, bodies, _ in runs]) == (3, [[b"1", b"2"]])
    assert twin.gather(messages, 3, BODY_SIZE_MAX, PLENTY) == (3, [])
    assert twin.gather(messages, 5, BODY_SIZE_MAX, PLENTY) == (5, [])


def test_run_ends_when_its_bodies_are_enough(twin: ModuleType) -> None:
    messages = [send("a", b"x" * 10) for _ in range(5)]
    position, ((_, bodies, _),) = twin.gather(messages, 0, BODY_SIZE_MAX, 25)
    assert (position, len(bodies)) == (3, 3)


def test_run_ends_when_a_batch_is_full(twin: ModuleType) -> None:
    messages = [send("a", b"") for _ in range(COUNT_MAX + 1)]
    assert twin.gather(messages, 0, BODY_SIZE_MAX, PLENTY)[0] == COUNT_MAX


def test_body_over_the_limit_is_left_to_who_refuses_it(twin: ModuleType) -> None:
    assert twin.gather([send("a", bytes(BODY_SIZE_MAX))], 0, BODY_SIZE_MAX, PLENTY)[0] == 1
    assert twin.gather([send("a", bytes(BODY_SIZE_MAX + 1))], 0, BODY_SIZE_MAX, PLENTY) == (0, [])


@pytest.mark.parametrize("name", ["a", "a" * 31, "a" * 32, "a" * 255, "_sys", "~!.x", "forward", "_sysx."[:-1], "x._sys."[:-1]])
@pytest.mark.parametrize("forward", [None, True, False])
def test_plain_names_are_taken(twin: ModuleType, name: str, forward: bool | None) -> None:
    fields = {"channel": name} if forward is None else {"channel": name, "forward": forward}
    for ordered in (fields, dict(reversed(fields.items()))):
        header = encode_header(Request.SEND, 5, ordered)
        assert twin.gather([[b"c", header, b""]], 0, BODY_SIZE_MAX, PLENTY) == (1, [(name, [b""], [[b"c", header]])])


@pytest.mark.parametrize(
    "name", ["", "a" * 256, "_sys.a", "_sys.", "a.", ".", "a b", "a\x7f", "a\n", "a*", "a>b", "a;", "ü", "世界"], ids=repr
)
def test_names_that_need_a_second_look_are_left(twin: ModuleType, name: str) -> None:
    assert twin.gather([send(name)], 0, BODY_SIZE_MAX, PLENTY) == (0, [])


ODD_FIELDS = [
    {},
    {"channel": "a", "producer": 1, "sequence": 1},
    {"channel": "a", "id": "x"},
    {"channel": "a", "forward": 1},
    {"channel": b"a"},
    {"channel": 1},
    {"forward": True},
    {"channel": "a", "forward": True, "tags": {}},
]


@pytest.mark.parametrize("fields", ODD_FIELDS, ids=repr)
def test_requests_with_anything_else_are_left(twin: ModuleType, fields: dict[str, object]) -> None:
    assert twin.gather([[b"c", encode_header(Request.SEND, 5, fields), b""]], 0, BODY_SIZE_MAX, PLENTY) == (0, [])


@pytest.mark.parametrize(
    "frames", [[b"c"], [b"c", b""], [b"c", b"", b""], [b"c", b"x", b"y", b"z"], [b"c", b"", b"", b"", b""]]
)
def test_messages_of_another_shape_are_left(twin: ModuleType, frames: list[bytes]) -> None:
    assert twin.gather([frames], 0, BODY_SIZE_MAX, PLENTY) == (0, [])


# --- against the twin and against the reader that knows all rules ------------------------------------------------------

HEADERS = st.one_of(
    st.builds(
        lambda fields: encode_header(Request.SEND, 9, fields),
        st.fixed_dictionaries({"channel": st.text(max_size=40)}, optional={"forward": st.booleans()}),
    ),
    st.builds(lambda name: struct.pack("<2sBBQ", b"ZB", 1, 4, 9) + b"\x81\xa7channel" + name, st.binary(max_size=40)),
)


def damage(header: bytes, place: int, value: int) -> bytes:
    """The header with one byte changed, or cut at that place."""
    place %= len(header) + 1
    return header[:place] if value == 256 else header[:place] + bytes((value,)) + header[place + 1 :]


@given(HEADERS, st.integers(0, 100), st.integers(0, 256))
@example(encode_header(Request.SEND, 9, {"channel": "\xa7forward"}), 0, ord("Z"))
@example(struct.pack("<2sBBQ", b"ZB", 1, 4, 9) + b"\x81\xa7channel\xd9\x03abc", 0, ord("Z"))
@example(struct.pack("<2sBBQ", b"ZB", 1, 4, 9) + b"\x81\xa7channel\xd9\x02abc", 0, ord("Z"))
@example(struct.pack("<2sBBQ", b"ZB", 1, 4, 9) + b"\x82\xa7forward\xc3\xa7forward\xc3", 0, ord("Z"))
@example(struct.pack("<2sBBQ", b"ZB", 1, 4, 9) + b"\x82\xa7forward\xc3", 0, ord("Z"))
@example(struct.pack("<2sBBQ", b"ZB", 1, 4, 9) + b"\x81\xa7channel", 0, ord("Z"))
def test_twins_agree_and_find_only_what_is_a_plain_send(header: bytes, place: int, value: int) -> None:
    header = damage(header, place, value)
    outcomes = [module.gather([[b"c", header, b"x"]], 0, BODY_SIZE_MAX, PLENTY) for module in (_sends_py, compiled())]
    assert outcomes[0] == outcomes[1]
    if outcomes[0][0]:
        command, _, fields = decode_header(header, from_client=True)
        request = decode_request(command, fields, [b"x"])
        assert isinstance(request, Send)
        assert request == Send(outcomes[0][1][0][0], b"x", forward=request.forward)


# --- confirms --------------------------------------------------------------------------------------------------------

NUMBERS = st.one_of(st.integers(1, SEQUENCE_MAX - 3), *(st.integers(2**bits - 3, 2**bits + 3) for bits in (7, 8, 16, 32)))


@given(
    NUMBERS, st.integers(0, U64_MAX), st.sampled_from(["quorum", "quorum+fsync"]), st.lists(st.integers(0, U64_MAX), max_size=4)
)
def test_confirms_are_the_headers_of_single_answers(first: int, time_unix_ns: int, confirm: str, requests: list[int]) -> None:
    for module in (_sends_py, compiled()):
        waiters = [[b"c", *([b""] if request % 2 else []), encode_header(Request.SEND, request, {})] for request in requests]
        module.put_confirms(waiters, first, time_unix_ns, confirm)
        for number, (request, frames) in enumerate(zip(requests, waiters, strict=True)):
            fields = {
                "sequence": first + number,
                "count": 1,
                "time_unix_ns": time_unix_ns,
                "duplicate": False,
                "confirm": confirm,
            }
            assert frames == [b"c", *([b""] if request % 2 else []), encode_header(Reply.SENT, request, fields)]


# --- the switch ------------------------------------------------------------------------------------------------------


def test_switch_takes_python_when_asked_or_when_nothing_else_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_build, "PURE", True)
    assert fresh(sends).gather is _sends_py.gather
    monkeypatch.setattr(_build, "PURE", False)
    assert fresh(sends).gather is compiled().gather
    monkeypatch.setitem(sys.modules, COMPILED, None)
    chosen = fresh(sends)
    assert (chosen.put_confirms, chosen.compiled) == (_sends_py.put_confirms, False)
