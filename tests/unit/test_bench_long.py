"""The long benchmarks run from end to end with tiny counts; what is refused is counted and sent again."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections import deque
from pathlib import Path
from typing import Any, cast

import pytest
import zmq

from bench.flow import Consumer, Publisher, batch_frame, run
from bench.growth import table
from bench.load import BenchError, Connection
from bench.saturation import grown
from zmqbroker.errors import Busy, NoMajority
from zmqbroker.wire.codec import decode_batch
from zmqbroker.wire.frames import Reply, encode_error, encode_header
from zmqbroker.wire.requests import AckRequest, AnyRequest, ReceiveRequest, SendBatch

ROOT = Path(__file__).resolve().parents[2]


def run_bench(module: str, directory: Path, *arguments: str) -> dict[str, Any]:
    """The figures of a run below a directory, where nothing else may stay behind."""
    out = directory / "result.json"
    command = [
        sys.executable,
        "-m",
        module,
        "--volume",
        "ephemeral",
        "--directory",
        str(directory),
        "--out",
        str(out),
        *arguments,
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in directory.iterdir()] == ["result.json"], "data was left behind"
    found: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))["figures"]
    return found


def test_saturation_short_run_acks_all_and_has_its_rows(tmp_path: Path) -> None:
    found = run_bench("bench.saturation", tmp_path, "--minutes", "0.04", "--sample-s", "1", "--backlog", "2000")
    assert found["published"] == found["received_and_acked"] > 0
    assert found["leader_changes"] == 0
    assert len(found["rows"]) >= 2
    for row in found["rows"]:
        assert row["leader"] in row["nodes"]
        assert all(node["anonymous_bytes"] > 0 for node in row["nodes"].values())
    assert len(found["anonymous_last_to_first"]) == 3


def test_saturation_ended_by_a_signal_leaves_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bench.saturation", "--minutes", "3", "--sample-s", "0.2", "--directory", str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert "anonymous_bytes" in process.stderr.readline()  # its nodes run
        process.terminate()
        assert process.wait(60) == 128 + signal.SIGTERM
    assert list(tmp_path.iterdir()) == [], "data was left behind"
    assert not [path for path in Path("/proc").glob("[0-9]*/environ") if str(tmp_path).encode() in environment_of(path)]


def environment_of(path: Path) -> bytes:
    """A process's environment; nothing of one that has ended or is another user's."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_growth_short_run_has_its_points(tmp_path: Path) -> None:
    arguments = ("--axes", "channels", "clients", "--most", "10", "--messages", "5000", "--rounds", "1", "--no-settle")
    points = run_bench("bench.growth", tmp_path, *arguments)["points"]
    assert [(point["axis"], point["point"]) for point in points] == [
        ("channels", 1),
        ("channels", 10),
        ("clients", 1),
        ("clients", 10),
    ]
    assert all(point["messages_per_s"] > 0 and point["refused"] == 0 for point in points)


def test_channels_short_run_has_rates_memory_and_idle_shares(tmp_path: Path) -> None:
    arguments = ("--busy", "5", "--idle", "20", "--messages", "5000", "--rounds", "1", "--idle-s", "0.1")
    found = run_bench("bench.channels", tmp_path, *arguments)
    assert found["one_and_busy_beside_idle"][0]["busy"]["messages_per_s"] > 0
    assert [len(found["with_idle"][name]) for name in ("memory_mb", "idle_cores")] == [3, 3]


def test_consumers_short_run_serves_all_of_them(tmp_path: Path) -> None:
    figures = run_bench(
        "bench.consumers", tmp_path, "--consumers", "20", "--messages", "2000", "--idle-s", "0.4", "--settle-s", "0"
    )
    assert figures["messages"]["count"] == figures["counters"]["acked"] >= 2000
    assert figures["counters"]["consumers"] == 20
    assert 0 < figures["per_consumer"]["min"] <= figures["per_consumer"]["median"] <= figures["per_consumer"]["max"]
    assert len(figures["idle"]["node_percent"]) == 3


def test_readers_short_run_has_a_figure_for_each_kind(tmp_path: Path) -> None:
    arguments = ("--readers", "2", "--events", "400", "--rate", "4000", "--rounds", "1")
    figures = run_bench("bench.readers", tmp_path, *arguments)
    assert {"nobody-0", "reader-1", "reader-2", "durable-1", "durable-2"} <= figures.keys()
    assert figures["reader-2"]["reads_per_batch"] > 0


def test_growth_table_has_rates_by_the_first_of_their_axis() -> None:
    points = [{"axis": axis, "point": n, "messages_per_s": rate} for axis, n, rate in (("a", 1, 50), ("a", 9, 25), ("b", 1, 7))]
    assert [point["to_first"] for point in table(points)] == [1, 0.5, 1]


def test_memory_that_grew_is_told_by_node() -> None:
    rows = [{"nodes": {"n": {"anonymous_bytes": size}}} for size in (100, 900, 150)]
    assert grown(rows) == {"n": 1.5}


class FakeConnection:
    """A connection whose replies are queued by the test."""

    def __init__(self) -> None:
        self.posted: list[AnyRequest] = []
        self.replies: deque[bytes] = deque()
        self.socket = self

    def post(self, request: AnyRequest) -> int:
        self.posted.append(request)
        return len(self.posted)

    def recv_multipart(self, _flags: int) -> list[bytes]:
        if not self.replies:
            raise zmq.Again
        return [self.replies.popleft()]


def connect() -> tuple[FakeConnection, Connection]:
    """The same thing twice, for the test and for what is tested."""
    connection = FakeConnection()
    return connection, cast(Connection, connection)


def sent(request_id: int) -> bytes:
    """A confirm."""
    return encode_header(Reply.SENT, request_id, {"sequence": 1, "count": 1})


def test_batch_frame_has_its_bodies() -> None:
    frame, count = batch_frame("c", 100, 1000)
    assert (count, [len(body) for body in decode_batch(frame).bodies]) == (10, [100] * 10)


def test_publisher_keeps_its_window_and_goes_round_its_batches() -> None:
    fake, connection = connect()
    publisher = Publisher(connection, [(b"a", 5), (b"b", 7)], 3)
    assert publisher.step() is False
    assert fake.posted == [SendBatch(b"a"), SendBatch(b"b"), SendBatch(b"a")]
    fake.replies += [sent(2), sent(1)]
    assert publisher.step() is True
    assert (publisher.confirmed, len(fake.posted), publisher.eager) == (12, 5, False)


def test_publisher_sends_again_what_was_refused_after_the_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    fake, connection = connect()
    publisher = Publisher(connection, [(b"a", 5), (b"b", 7)], 2)
    publisher.step()
    publisher.held = True
    fake.replies.append(encode_error(1, Busy("full", retry_ms=500)))
    publisher.step()
    assert (publisher.refused, publisher.confirmed, publisher.eager, publisher.idle) == ({"BUSY": 1}, 0, False, False)
    assert len(fake.posted) == 2
    now[0] += 0.5
    publisher.step()
    assert fake.posted[2:] == [SendBatch(b"a")]
    fake.replies += [sent(2), sent(3)]
    publisher.step()
    assert (publisher.confirmed, publisher.idle) == (12, True)


def test_publisher_with_any_other_error_ends_the_measurement() -> None:
    fake, connection = connect()
    publisher = Publisher(connection, [(b"a", 1)], 1)
    publisher.step()
    fake.replies.append(encode_error(1, NoMajority("alone")))
    with pytest.raises(BenchError, match="alone"):
        publisher.step()


def test_consumer_acks_what_came_and_asks_again() -> None:
    fake, connection = connect()
    consumer = Consumer(connection, "c", window=1, receive_bytes=1000)
    fake.replies.append(encode_header(Reply.MESSAGES, 1, {"pieces": [[9, 4, 6, 1, 1]]}))
    fake.replies.append(encode_header(Reply.MESSAGES, 2, {"pieces": []}))
    consumer.step()
    assert [type(request) for request in fake.posted] == [ReceiveRequest, AckRequest, ReceiveRequest, ReceiveRequest]
    fake.replies.append(encode_header(Reply.ACKED, 2, {"count": 3}))
    consumer.step()
    assert (consumer.received, consumer.acked) == (3, 3)


def test_run_ends_when_nothing_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.flow.TIMEOUT_MS", 1)
    context = zmq.Context[zmq.Socket[bytes]]()
    connection = Connection(context, "inproc://nobody")
    try:
        with pytest.raises(BenchError, match="nothing came"):
            run([Consumer(connection, "c", window=1, receive_bytes=1)], lambda: False)
    finally:
        context.destroy(linger=0)
