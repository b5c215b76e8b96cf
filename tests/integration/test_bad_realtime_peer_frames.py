"""INTEREST, EVENTS, CALL, ANSWER and CANCEL that no node of the cluster can have sent: dropped, counted; the cluster goes on.

Beside `test_bad_peer_frames`, which has what is true of every kind.
"""

from __future__ import annotations

import struct
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.integration.test_bad_peer_frames import STRANGER, Target, sealed, target
from tests.integration.wild import counters, serves
from tests.processes import wait_until
from zmqbroker.wire import codec
from zmqbroker.wire.call_frames import encode_target
from zmqbroker.wire.peer import NO_UID, PeerKind, encode_peer

__all__ = ["target"]  # the fixture

TABLES = (PeerKind.CALL, PeerKind.ANSWER, PeerKind.CANCEL)
KINDS = (PeerKind.INTEREST, PeerKind.EVENTS, *TABLES)
RUN = bytes(range(16))
BATCH = codec.encode_batch(b"a", [b"body"])
MALFORMED, INVALID = "peer_frames_dropped_malformed_frame", "peer_frames_dropped_invalid_request"


def frames_of(target: Target, kind: PeerKind, body: Any, *frames: bytes, **changed: Any) -> list[Any]:
    """A frame of the other member with these fields, or this table."""
    fields = {"table": body} if kind in TABLES else body
    return encode_peer(target.envelope(kind, **changed), fields, frames)


def table(*rows: bytes, count: int | None = None) -> bytes:
    """A table of these rows."""
    return struct.pack("<II", len(rows) if count is None else count, 0) + b"".join(rows)


def call(target: bytes, items: bytes = b"\x80", body: bytes = b"", number: int = 5) -> bytes:
    """A row of CALL."""
    return struct.pack("<QQIIII", number, 2**62, 1000, len(target), len(items), len(body)) + target + items + body


def answer(items: bytes = b"\x80", number: int = 5, part: int = 1, flags: int = 1) -> bytes:
    """A row of ANSWER."""
    return struct.pack("<QIIIB3x", number, part, len(items), 0, flags) + items


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_realtime_frame_for_or_from_somebody_else_is_dropped(target: Target, kind: PeerKind) -> None:
    body: Any = table() if kind in TABLES else {}
    for changed, reason in (
        ({"cluster_uid": STRANGER}, "other_cluster"),
        ({"receiver_uid": STRANGER}, "other_receiver"),
        ({"sender_uid": STRANGER}, "unknown_uid"),
        ({"sender_uid": NO_UID}, "unknown_uid"),
    ):
        target.drops(f"peer_frames_dropped_{reason}", [frames_of(target, kind, body, **changed)])


@pytest.mark.parametrize(
    ("fields", "counter"),
    [
        ({}, MALFORMED),
        ({"run": b"short", "version": 1}, INVALID),
        ({"run": 5, "version": 1}, INVALID),
        ({"run": RUN}, INVALID),
        ({"run": RUN, "version": -1}, INVALID),
        ({"run": RUN, "version": 1, "wants": 5}, MALFORMED),
        ({"run": RUN, "version": 1, "wants": [[9, "a", "", 1]]}, MALFORMED),
        ({"run": RUN, "version": 1, "wants": [[1, b"a", "", 1]]}, MALFORMED),
        ({"run": RUN, "version": 1, "wants": [[1, "a", "", -1]]}, MALFORMED),
        ({"run": RUN, "version": 1, "wants": [[1, "a"]]}, MALFORMED),
        ({"run": RUN, "version": 1, "piece": 2, "pieces": 2}, INVALID),
        ({"run": RUN, "version": 1, "ask": "yes"}, INVALID),
    ],
    ids=str,
)
def test_interest_that_is_none_is_dropped(target: Target, fields: dict[str, Any], counter: str) -> None:
    target.drops(counter, [frames_of(target, PeerKind.INTEREST, fields)])


@pytest.mark.parametrize(
    ("fields", "frames", "counter"),
    [
        ({"time_unix_ns": 1}, [], MALFORMED),
        ({"time_unix_ns": 1}, [BATCH, BATCH], MALFORMED),
        ({"time_unix_ns": 1}, [b"no batch"], MALFORMED),
        ({"time_unix_ns": 1}, [BATCH[:-1]], MALFORMED),
        ({}, [BATCH], INVALID),
        ({"time_unix_ns": "now"}, [BATCH], INVALID),
        ({"time_unix_ns": 1, "everyone": 1}, [BATCH], INVALID),
        ({"time_unix_ns": 1, "groups": 5}, [BATCH], MALFORMED),
        ({"time_unix_ns": 1, "groups": [["a"]]}, [BATCH], MALFORMED),
        ({"time_unix_ns": 1, "groups": [[5, "g"]]}, [BATCH], MALFORMED),
        ({"lost": 5}, [], MALFORMED),
        ({"lost": [["a", 0]]}, [], MALFORMED),
        ({"lost": [["a", -5]]}, [], MALFORMED),
        ({"lost": [[5, 5]]}, [], MALFORMED),
    ],
    ids=str,
)
def test_events_that_are_none_are_dropped(target: Target, fields: dict[str, Any], frames: list[bytes], counter: str) -> None:
    target.drops(counter, [frames_of(target, PeerKind.EVENTS, fields, *frames)])


PRICES = encode_target(3, "prices", ("",))


@pytest.mark.parametrize("kind", TABLES, ids=lambda kind: kind.name)
def test_table_that_does_not_add_up_is_malformed(target: Target, kind: PeerKind) -> None:
    row = {PeerKind.CALL: call(PRICES), PeerKind.ANSWER: answer(), PeerKind.CANCEL: struct.pack("<Q", 5)}[kind]
    whole = table(row)
    bodies = [b"", whole[:7], whole[:-1], whole + b"x", table(row, count=2), table(count=1), table(row, count=2**32 - 1)]
    target.drops(MALFORMED, [frames_of(target, kind, body) for body in bodies])


@pytest.mark.parametrize(
    "what",
    [b"", b"\xc1", b"\x80", *map(msgpack.packb, ([], [9, "a", [""]], [1, "a", 5], [3, 5, [""]], [3, "a", [5]], [3, "a"]))],
    ids=str,
)
def test_call_with_a_target_that_is_none_does_no_harm(target: Target, what: bytes) -> None:
    before = counters(target.node).get(MALFORMED, 0)  # the call itself may count, too
    target.socket.send_multipart(frames_of(target, PeerKind.CALL, table(call(what))))
    target.socket.send_multipart([b"behind it"])
    wait_until(lambda: counters(target.node).get(MALFORMED, 0) > before, 15, MALFORMED)
    assert serves(target.node)


def test_answer_and_cancel_of_calls_that_are_not_there_do_no_harm(target: Target) -> None:
    for number in (0, 1, 2**64 - 1):
        for flags in (0, 1, 2, 255):
            target.socket.send_multipart(frames_of(target, PeerKind.ANSWER, table(answer(number=number, flags=flags))))
        target.socket.send_multipart(frames_of(target, PeerKind.CANCEL, table(struct.pack("<Q", number))))
    target.drops(MALFORMED, [[b"behind them"]])


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_random_realtime_frames_do_no_harm(target: Target, data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(KINDS))
    target_bytes = st.just(PRICES) | st.binary(max_size=9)
    items = st.just(b"\x80") | st.binary(max_size=9)
    numbers = st.integers(0, 3) | st.integers(0, 2**64 - 1)
    rows = {
        PeerKind.CALL: st.builds(call, target_bytes, items, st.binary(max_size=9), numbers),
        PeerKind.ANSWER: st.builds(answer, items, numbers, st.integers(0, 2**32 - 1), st.integers(0, 255)),
        PeerKind.CANCEL: st.builds(lambda number: struct.pack("<Q", number), numbers),
    }
    values = (
        st.none() | st.integers(-1, 9) | st.text(max_size=4) | st.binary(max_size=16) | st.just([["a", "g"], [1, "a", "g", 1]])
    )
    names = ["run", "version", "wants", "piece", "pieces", "ask", "time_unix_ns", "everyone", "groups", "lost"]
    if kind in TABLES:
        body: Any = table(*data.draw(st.lists(rows[kind], max_size=3)))
    else:
        good = {"run": RUN, "version": 1} if kind == PeerKind.INTEREST else {"time_unix_ns": 1}
        body = good | data.draw(st.dictionaries(st.sampled_from(names), values))
    frames = frames_of(target, kind, body, *data.draw(st.lists(st.just(BATCH) | st.binary(max_size=30), max_size=2)))
    damaged = bytearray(frames[0])
    if data.draw(st.booleans()):
        damaged[data.draw(st.integers(64, len(damaged) - 1)) if len(damaged) > 64 else 8] ^= data.draw(st.integers(1, 255))
    target.socket.send_multipart([sealed(bytes(damaged)), *frames[1:]])


def test_cluster_after_all_that_has_a_leader_and_every_node_serves(target: Target) -> None:
    target.drops(MALFORMED, [[b"the last one"]])
    assert all(node.running and serves(node) for node in target.cluster.nodes.values())
    assert target.cluster.leader().running
