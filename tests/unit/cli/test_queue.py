"""`zmqbroker queue`: what is sent, received, acked and printed."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from tests.unit.cli.fakes import FakeBroker
from zmqbroker.cli.app import run
from zmqbroker.cli.exits import Exit
from zmqbroker.errors import NoMajority, StorageFull


def feed_standard_input(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    """Let the command read `data`."""
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))


def bodies(broker: FakeBroker, channel: str) -> list[bytes]:
    """What waits in a queue."""
    return [body for _, body in broker.ready[channel]]


def test_send_bodies_stores_them_in_order_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    broker = FakeBroker()
    assert (
        run(["queue", "send", "orders", "first", "zwölf", "--url", "tcp://h:1", "--timeout-ms", "900"], broker.context)
        == Exit.DONE
    )
    assert bodies(broker, "orders") == [b"first", "zwölf".encode()]
    assert capsys.readouterr().out == "orders: message 1 confirmed by quorum\norders: message 2 confirmed by quorum\n"
    assert broker.urls == [("tcp://h:1", 900)]
    assert broker.open_clients == 0


def test_send_standard_input_sends_each_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    feed_standard_input(monkeypatch, b"one\r\n\ntwo \xff\nlast")
    broker = FakeBroker()
    assert run(["queue", "send", "orders", "--stdin", "--json"], broker.context) == Exit.DONE
    assert bodies(broker, "orders") == [b"one", b"", b"two \xff", b"last"]
    results = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [result["sequence"] for result in results] == [1, 2, 3, 4]
    assert results[0] == {"channel": "orders", "sequence": 1, "time_unix_ns": 5, "duplicate": False, "confirm": "quorum"}


def test_send_file_is_one_message(tmp_path: Path) -> None:
    (tmp_path / "body").write_bytes(b"a\nb\x00")
    broker = FakeBroker()
    assert run(["queue", "send", "orders", "--file", str(tmp_path / "body")], broker.context) == Exit.DONE
    assert bodies(broker, "orders") == [b"a\nb\x00"]


@pytest.mark.parametrize("arguments", [[], ["x", "--stdin"], ["--stdin", "--file", "/dev/null"]])
def test_send_without_exactly_one_source_is_wrong_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["queue", "send", "orders", *arguments], FakeBroker().context) == Exit.USAGE
    assert "give either bodies, --stdin or --file" in capsys.readouterr().err


def test_send_refused_ends_with_the_error_and_closes(capsys: pytest.CaptureFixture[str]) -> None:
    broker = FakeBroker()
    broker.failure = StorageFull("no room")
    assert run(["queue", "send", "orders", "a"], broker.context) == Exit.REFUSED
    assert capsys.readouterr().err == "zmqbroker: no room\n"
    assert broker.open_clients == 0


def test_send_many_lines_refused_half_way_stops_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    feed_standard_input(monkeypatch, b"line\n" * 5_000)
    broker = FakeBroker()
    broker.failure = NoMajority("too few nodes")
    assert run(["queue", "send", "orders", "--stdin"], broker.context) == Exit.UNREACHABLE


def test_receive_prints_then_acks(capsys: pytest.CaptureFixture[str]) -> None:
    broker = FakeBroker()
    run(["queue", "send", "orders", "a", "b", "c"], broker.context)
    capsys.readouterr()
    assert run(["queue", "receive", "orders", "--max", "2"], broker.context) == Exit.DONE
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["sequence", "delivery", "body"],
        ["1", "1", "a"],
        ["2", "1", "b"],
    ]
    assert broker.acked == [("orders", 1), ("orders", 2)]
    assert bodies(broker, "orders") == [b"c"]


def test_receive_json_tells_text_from_bytes(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    broker = FakeBroker()
    feed_standard_input(monkeypatch, b"[bold]\n\xff")
    run(["queue", "send", "orders", "--stdin"], broker.context)
    capsys.readouterr()
    assert run(["queue", "receive", "orders", "--max", "9", "--json"], broker.context) == Exit.DONE
    first, second = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert (first["body"], first["sequence"], first["channel"]) == ("[bold]", 1, "orders")
    assert second["body_base64"] == "/w=="
    assert "body" not in second


def test_receive_table_shows_markup_and_bytes_as_they_are(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broker = FakeBroker()
    feed_standard_input(monkeypatch, b"[bold]x[/bold]\n\xff\x00\na\tb")
    run(["queue", "send", "orders", "--stdin"], broker.context)
    capsys.readouterr()
    run(["queue", "receive", "orders", "--max", "9"], broker.context)
    assert [line.split()[2] for line in capsys.readouterr().out.splitlines()[1:]] == [
        "[bold]x[/bold]",
        r"b'\xff\x00'",
        r"'a\tb'",
    ]


def test_receive_without_ack_leaves_them_unfinished() -> None:
    broker = FakeBroker()
    run(["queue", "send", "orders", "a"], broker.context)
    assert run(["queue", "receive", "orders", "--no-ack"], broker.context) == Exit.DONE
    assert broker.acked == []
    assert len(broker.in_flight["orders"]) == 1


def test_receive_nothing_there_has_its_own_status(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["queue", "receive", "orders", "--wait-ms", "10"], FakeBroker().context) == Exit.NOTHING_THERE
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "zmqbroker: nothing there in orders\n")


def test_stats_shows_counters_or_that_nothing_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    broker = FakeBroker()
    assert run(["queue", "stats", "orders"], broker.context) == Exit.NOTHING_THERE
    run(["queue", "send", "orders", "a", "b"], broker.context)
    capsys.readouterr()
    assert run(["queue", "stats", "orders", "--json"], broker.context) == Exit.DONE
    assert json.loads(capsys.readouterr().out) == {"channel": "orders", "ready": 2, "last_sequence": 2}
    assert run(["queue", "stats", "orders"], broker.context) == Exit.DONE
    assert capsys.readouterr().out.split() == ["channel", "ready", "last_sequence", "orders", "2", "2"]
