"""How much room a disk has, and what a heartbeat's response tells of it."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from zmqbroker.raft.messages import Message, MessageType
from zmqbroker.server.space import (
    LOOK_NS,
    LOW_WATER_BYTES,
    DiskReport,
    OwnSpace,
    is_short,
    low_water_of,
    put_report,
    report_of,
    volume_of,
)
from zmqbroker.wire.peer import Envelope, PeerKind, decode_raft, encode_raft

GIB = 1 << 30


class Volume:
    """A disk whose free space the test sets."""

    def __init__(self, free_bytes: int, size_bytes: int) -> None:
        self.free_bytes, self.size_bytes = free_bytes, size_bytes
        self.error: OSError | None = None
        self.asked = 0

    def __call__(self, path: str) -> tuple[int, int]:
        self.asked += 1
        if self.error is not None:
            raise self.error
        return self.free_bytes, self.size_bytes


@pytest.mark.parametrize(
    ("configured", "volume", "expected"),
    [
        (0, 1000 * GIB, LOW_WATER_BYTES),
        (0, 10 * GIB, 10 * GIB // 20),
        (0, 3, 1),  # never nothing, since that would mean "not known"
        (7, 1000 * GIB, 7),
        (50 * GIB, 10 * GIB, 50 * GIB),  # whoever says so shall have it
    ],
)
def test_low_water_is_what_is_configured_or_fits_the_volume(configured: int, volume: int, expected: int) -> None:
    assert low_water_of(configured, volume) == expected


def test_short_disk_has_room_again_only_with_a_quarter_more_than_its_low_water_mark() -> None:
    assert not is_short(1000, 1000, was_short=False)
    assert is_short(999, 1000, was_short=False)
    assert is_short(1249, 1000, was_short=True)
    assert not is_short(1250, 1000, was_short=True)


def test_own_space_is_looked_at_a_few_times_a_second_only() -> None:
    volume = Volume(100, 1000)
    space = OwnSpace("d", 10, lambda: 0, volume)
    for now_ns in range(0, 5 * LOOK_NS, LOOK_NS // 10):
        space.look(now_ns, out_of_room=False)
    assert volume.asked == 5
    assert (space.free_bytes, space.low_water_bytes, space.short) == (100, 10, False)


def test_own_space_near_its_low_water_mark_is_looked_at_every_time() -> None:
    volume = Volume(100, 1000)
    space = OwnSpace("d", 50, lambda: 0, volume)
    for now_ns in range(10):
        space.look(now_ns, out_of_room=False)
    assert volume.asked == 1
    volume.free_bytes = 99
    for now_ns in range(LOOK_NS, LOOK_NS + 10):
        space.look(now_ns, out_of_room=False)
    assert volume.asked == 11


def test_own_space_that_goes_and_comes_back_is_said_once_each(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "zmqbroker")
    volume = Volume(100, 1000)
    space = OwnSpace("/data", 40, lambda: 0, volume)
    seen = []
    for turn, free_bytes in enumerate((100, 39, 10, 49, 50, 45, 40)):
        volume.free_bytes = free_bytes
        space.look(turn * LOOK_NS, out_of_room=False)
        seen.append(space.short)
    assert seen == [False, True, True, True, False, False, False]
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        (
            "WARNING",
            "/data: 39 bytes are free and the low-water mark is 40: no room for more messages here, until some were acked",
        ),
        ("INFO", "/data: 50 bytes are free and the low-water mark is 40: there is room again"),
    ]


def test_own_space_counts_what_the_store_has_free_in_its_files() -> None:
    space = OwnSpace("d", 40, lambda: 25, Volume(20, 1000))
    space.look(0, out_of_room=False)
    assert (space.free_bytes, space.short) == (45, False)


def test_own_space_is_short_while_something_waits_to_be_written() -> None:
    space = OwnSpace("d", 40, lambda: 0, Volume(500, 1000))
    space.look(0, out_of_room=True)
    assert space.short
    space.look(LOOK_NS, out_of_room=False)
    assert not space.short


def test_own_space_of_a_file_system_that_does_not_answer_is_as_it_was() -> None:
    volume = Volume(10, 1000)
    space = OwnSpace("d", 40, lambda: 0, volume)
    space.look(0, out_of_room=False)
    volume.error = OSError(5, "Input/output error")
    space.look(LOOK_NS, out_of_room=False)
    assert (space.free_bytes, space.short) == (10, True)


def test_volume_of_a_directory_has_a_size_and_no_more_free_than_that(tmp_path: Path) -> None:
    free_bytes, size_bytes = volume_of(str(tmp_path))
    assert 0 <= free_bytes <= size_bytes
    assert size_bytes > 0


@pytest.mark.parametrize("short", [False, True])
@pytest.mark.parametrize("slow", [False, True])
def test_report_travels_with_a_heartbeats_response(short: bool, slow: bool) -> None:
    report = DiskReport((1 << 44) + 1, 1 << 30, short, slow)
    message = Message(MessageType.HEARTBEAT_RESPONSE, to=1, sender=2, group=1, term=3, context=9)
    put_report(message, report)
    uid = bytes(16)
    (carried,) = decode_raft([bytes(frame) for frame in encode_raft(Envelope(PeerKind.RAFT, uid, uid, uid), [message])])
    assert report_of(carried) == report
    assert (carried.term, carried.context, carried.reject) == (3, 9, False)


def test_response_without_a_report_says_nothing() -> None:
    assert report_of(Message(MessageType.HEARTBEAT_RESPONSE, to=1, sender=2, term=3)) is None
