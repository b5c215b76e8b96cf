"""Single events on their way into batches: what is joined, and what is left as it is."""

from __future__ import annotations

from typing import Any

import pytest

from zmqbroker.server import event_runs
from zmqbroker.server.event_runs import gather
from zmqbroker.wire import codec
from zmqbroker.wire.batch import BatchContents
from zmqbroker.wire.compression import mark_compressed
from zmqbroker.wire.frames import Request, encode_header
from zmqbroker.wire.requests import PublishRequest, encode_request

LIMIT = 1 << 20


def batch(name: str, *bodies: bytes, **columns: Any) -> bytes:
    return codec.encode_batch(name.encode(), list(bodies), **columns)


def message(frame: bytes, client: bytes = b"c", confirm: bool = False) -> list[bytes]:
    return [client, *map(bytes, encode_request(7, PublishRequest(frame, confirm)))]


def joined(*frames: bytes) -> list[BatchContents]:
    """What becomes of these when they come one after the other."""
    position, runs, _ = gather([message(frame) for frame in frames], 0, LIMIT)
    assert position == len(frames)
    return [codec.decode_batch(run.joined()) for run in runs]


def test_neighbours_of_one_name_become_one_batch_in_their_order() -> None:
    first, second = joined(batch("a", b"1"), batch("b", b"x"), batch("a", b"2", b"3"), batch("b", b"y"))
    assert (first.header.channel, first.bodies, first.ids, first.headers) == ("a", [b"1", b"2", b"3"], None, None)
    assert (second.header.channel, second.bodies) == ("b", [b"x", b"y"])


def test_ids_and_headers_stay_with_their_messages() -> None:
    (one,) = joined(batch("a", b"1"), batch("a", b"2", ids=[b"i"]), batch("a", b"3", headers=[b"\x80"]), batch("a", b"4"))
    assert one.ids == [b"", b"i", b"", b""]
    assert one.headers == [b"", b"", b"\x80", b""]


def test_frame_alone_stays_the_very_frame() -> None:
    frame = batch("a", b"1", ids=[b"i"])
    _, (run,), clients = gather([message(frame, b"client")], 0, LIMIT)
    assert run.joined() is not None
    assert (run.joined(), clients) == (frame, {b"client"})


def test_compressed_bodies_are_joined_with_such_only() -> None:
    frames = [mark_compressed(batch("a", b"1")), mark_compressed(batch("a", b"2")), batch("a", b"3")]
    compressed, other = joined(*frames)
    assert (compressed.bodies, compressed.header.flags) == ([b"1", b"2"], 1)
    assert (other.bodies, other.header.flags) == ([b"3"], 0)


def test_runs_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    frame = batch("a", b"1")
    monkeypatch.setattr(event_runs, "_RUN_BYTES_MAX", 2 * len(frame))
    assert [len(run.bodies) for run in joined(*[frame] * 5)] == [2, 2, 1]
    monkeypatch.undo()
    monkeypatch.setattr(event_runs, "COUNT_MAX", 3)
    assert [len(run.bodies) for run in joined(*[frame] * 5)] == [3, 2]


@pytest.mark.parametrize(
    "other",
    [
        message(batch("a", b"1"), confirm=True),
        [b"c", b"", *message(batch("a", b"1"))[1:]],
        message(batch("a", bytes(20_000))),
        message(batch("a", bytes(200))),
        message(batch("a.*", b"1")),
        message(b"no batch"),
        message(batch("a", b"1", producer=1, base_sequence=1)),
        [b"c", encode_header(Request.PING, 7, {}), batch("a", b"1")],
        [b"c", encode_header(Request.PING, 7, {})],
        [b"c"],
    ],
    ids=range(10),
)
def test_what_is_not_so_simple_is_left(other: list[bytes]) -> None:
    simple = message(batch("a", b"1"))
    messages = [simple, other, simple]
    position, runs, _ = gather(messages, 0, 100)
    assert (position, len(runs)) == (1, 1)
    assert gather(messages, 1, 100) == (1, [], set())
    assert gather(messages, 2, 100)[0] == 3
