"""The client that drives RabbitMQ in the comparison reads its protocol right, and counts nothing that is not confirmed."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from bench.compare.__main__ import Comparison
from bench.compare.plan import FULL, QUICK, RIVAL_LINES, ROWS
from bench.compare.servers import Servers
from bench.load import BenchError
from bench.peers import rabbitmq_server
from bench.peers.rabbitmq_wire import (
    CHANNEL_CLOSE,
    DELIVER,
    NACK,
    Confirms,
    Deliveries,
    RabbitmqConnection,
    acknowledgement,
    frame,
    frames_in,
    method,
    publication,
    short_text,
)
from tests.servers import scripted_server


def confirm(tag: int, *, multiple: bool = False) -> bytes:
    """A confirm of one message, or of all up to it."""
    return method((60, 80), struct.pack(">QB", tag, multiple))


def delivery(tag: int, body: bytes, *, redelivered: bool = False) -> bytes:
    """The frames of a delivered message."""
    head = short_text(b"c") + struct.pack(">QB", tag, redelivered) + short_text(b"") + short_text(b"q")
    return method(DELIVER, head) + frame(2, 1, struct.pack(">HHQHB", 60, 0, len(body), 0x1000, 2)) + frame(3, 1, body)


def test_publication_is_a_method_a_header_and_a_body() -> None:
    assert publication(b"q", b"abc") == (
        b"\x01\0\x01\0\0\0\x0a\0\x3c\0\x28\0\0\0\x01q\0\xce"  # basic.publish: no exchange, q, no flags
        b"\x02\0\x01\0\0\0\x0f\0\x3c\0\0\0\0\0\0\0\0\0\x03\x10\0\x02\xce"  # 3 bytes, delivery-mode 2
        b"\x03\0\x01\0\0\0\x03abc\xce"
    )
    assert acknowledgement(258) == b"\x01\0\x01\0\0\0\x0d\0\x3c\0\x50\0\0\0\0\0\0\x01\x02\x01\xce"


def test_frames_keep_what_has_not_come_whole() -> None:
    whole = confirm(1) + frame(8, 0, b"")
    assert [kind for kind, _ in frames_in(whole)[0]] == [1, 8]
    for cut in range(len(whole)):
        found, rest = frames_in(whole[:cut])
        assert len(found) == (cut >= len(confirm(1)))
        assert rest == whole[:cut][len(confirm(1)) * len(found) :]


def test_channel_that_is_closed_ends_the_measurement() -> None:
    reason = b"NOT_FOUND - no queue 'q'"
    with pytest.raises(BenchError, match=reason.decode()):
        frames_in(method(CHANNEL_CLOSE, struct.pack(">H", 404) + short_text(reason) + b"\0\x3c\0\x28"))


def test_confirms_count_each_message_once_in_any_order_and_however_split() -> None:
    steps = [(confirm(2), 1), (confirm(3, multiple=True), 2), (confirm(6), 1), (confirm(4), 1), (confirm(5), 1)]
    confirms = Confirms()
    assert [confirms.take(data) for data, _ in steps] == [count for _, count in steps]
    data = b"".join(data for data, _ in steps)
    for cut in range(len(data)):
        confirms = Confirms()
        assert confirms.take(data[:cut]) + confirms.take(data[cut:]) == 6


def test_confirm_that_was_counted_already_is_not_counted_again() -> None:
    confirms = Confirms()
    assert confirms.take(confirm(1) + confirm(2) + confirm(3, multiple=True)) == 3
    assert confirms.take(confirm(2, multiple=True)) == 0


@pytest.mark.parametrize(("said", "fault"), [(NACK, "refused a message"), (DELIVER, r"\(60, 60\) among confirms")])
def test_no_confirm_among_confirms_ends_the_measurement(said: tuple[int, int], fault: str) -> None:
    with pytest.raises(BenchError, match=fault):
        Confirms().take(method(said, struct.pack(">QB", 1, 0)))


def test_delivery_counts_when_its_body_is_here() -> None:
    data = delivery(1, b"abc") + delivery(2, b"\xce\x01d")
    for cut in range(len(data)):
        deliveries = Deliveries(3)
        first = deliveries.take(data[:cut])
        assert (first, deliveries.last_tag) == ((0, 0) if cut < len(data) // 2 else (1, 1))
        assert deliveries.take(data[cut:]) == 2 - first


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (delivery(1, b"abc", redelivered=True), "twice"),
        (delivery(2, b"abc"), "not at all"),
        (delivery(1, b"abcd"), "4 bytes of a message of 3"),
        (confirm(1), "among deliveries"),
    ],
    ids=["redelivered", "skipped", "longer", "confirm"],
)
def test_delivery_that_should_not_come_ends_the_measurement(data: bytes, fault: str) -> None:
    with pytest.raises(BenchError, match=fault):
        Deliveries(3).take(data)


def test_server_that_says_something_else_first_is_refused() -> None:
    with scripted_server(method((10, 30), channel=0)) as port, pytest.raises(BenchError, match=r"\(10, 30\) in place of"):
        RabbitmqConnection(port)


def test_servers_that_do_not_start_are_an_error_and_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rabbitmq_server, "START_TIMEOUT_S", 0)
    (tmp_path / "epmd").symlink_to("/bin/true")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(BenchError, match="did not start"), rabbitmq_server.rabbitmq_cluster("true", tmp_path):
        pass


def test_version_is_that_of_the_directory(tmp_path: Path) -> None:
    scripts = tmp_path / "rabbitmq_server-3.10.8" / "sbin"
    scripts.mkdir(parents=True)
    (scripts / "rabbitmq-server").touch()
    (tmp_path / "here").symlink_to(scripts / "rabbitmq-server")
    assert rabbitmq_server.server_version(str(tmp_path / "here")) == "3.10.8"
    assert rabbitmq_server.server_version("/usr/sbin/other") == "unknown"


def test_rows_of_rabbitmq_are_whole() -> None:
    for plan in (FULL, QUICK):
        publishing = [*plan.rabbitmq.publishing, plan.rabbitmq.single]
        assert {item.row for item in publishing} | {"consume-ack-128B"} == {line.row for line in RIVAL_LINES["rabbitmq"]}
        for item in publishing:
            assert not any(count % item.burst for count in (*item.counts, *item.windows))


@pytest.mark.parametrize(
    ("rows", "volume", "measured"),
    [
        (ROWS, "persistent", ["ours", "redis", "rabbitmq", "pure"]),
        (ROWS, "ephemeral", ["ours", "redis", "pure"]),
        (["unbatched-128B"], "persistent", ["ours", "pure"]),
        (["batched-16KiB"], "persistent", ["ours"]),
    ],
)
def test_sides_without_a_row_or_a_volume_are_not_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: list[str], volume: str, measured: list[str]
) -> None:
    started: list[str] = []
    comparison = Comparison(QUICK, rows, Servers([]), 0, tmp_path)
    monkeypatch.setattr(comparison, "_suite", lambda _number, _volume, side: started.append(side))
    comparison.run([volume], ["ours", "redis", "rabbitmq", "pure"])
    assert started == measured
