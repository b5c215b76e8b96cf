"""`zmqbroker queue`: what is sent, received, acked and printed."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest

from tests.unit.cli.fakes import FakeBroker
from zmqbroker.cli.app import run
from zmqbroker.cli.exits import Exit
from zmqbroker.client.message import Origin
from zmqbroker.errors import NoMajority, SequenceMismatch, StorageFull


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


@pytest.mark.parametrize(("options", "compression"), [([], None), (["--compression", "zlib"], "zlib")])
def test_send_compresses_when_it_is_asked_to(options: list[str], compression: str | None) -> None:
    broker = FakeBroker()
    assert run(["queue", "send", "orders", "a", *options], broker.context) == Exit.DONE
    assert broker.producer_settings == [{"compression": compression}]


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


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_receive_body_that_cannot_be_decompressed_is_shown_as_it_was_stored(
    options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    broker = FakeBroker()
    run(["queue", "send", "orders", "packed"], broker.context)
    broker.unreadable = True
    capsys.readouterr()
    assert run(["queue", "receive", "orders", *options], broker.context) == Exit.DONE
    said = capsys.readouterr()
    assert "packed" in said.out
    assert said.err == "zmqbroker: message 1 is no zlib stream; it is shown as it was stored\n"


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
    told = json.loads(capsys.readouterr().out)
    assert (told["channel"], told["ready"], told["last_sequence"], told["size_bytes"]) == ("orders", 2, 2, 2_560)
    assert told["settings"]["delivery_limit"] == 0, "settings at their default are told too"
    assert run(["queue", "stats", "orders"], broker.context) == Exit.DONE
    shown = dict(re.split(r"\s{2,}", line.strip()) for line in capsys.readouterr().out.splitlines())
    assert (shown["ready"], shown["size"], shown["oldest (UTC)"]) == ("2", "2.5 KiB", "2023-11-14 22:13:20")


def test_stats_tell_rates_only_where_the_node_has_an_earlier_answer(capsys: pytest.CaptureFixture[str]) -> None:
    broker = FakeBroker()
    broker.settings["orders"] = {}
    for window_ms, expected in ((0, "-"), (7_000, "3")):
        broker.rate_window_ms = window_ms
        assert run(["queue", "stats", "orders"], broker.context) == Exit.DONE
        shown = dict(re.split(r"\s{2,}", line.strip()) for line in capsys.readouterr().out.splitlines())
        assert (shown["sent_per_s"], shown["active"]) == (expected, "-")


@pytest.mark.parametrize(
    ("client_id", "text"), [("till-1", "till-1, consumer 4"), ("", "session 0a0b, consumer 4"), ("a\nb", r"'a\nb, consumer 4'")]
)
def test_stats_tell_who_is_active(client_id: str, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    broker = FakeBroker()
    broker.settings["orders"] = {}
    active = {"session": "0a0b", "consumer": 4, "client_id": client_id}
    told = broker.described("orders") | {"active": active}
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(broker, "described", lambda name: told)
        assert run(["queue", "stats", "orders"], broker.context) == Exit.DONE
    assert re.search(rf"active +{re.escape(text)}\n", capsys.readouterr().out)


def test_stats_watched_are_a_line_each_time(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    broker, slept = FakeBroker(), []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        broker.rate_window_ms = 1_000

    monkeypatch.setattr("zmqbroker.cli.queue_stats.asyncio.sleep", sleep)
    broker.settings["orders"] = {}
    command = ["queue", "stats", "orders", "--watch", "2", "--times", "3"]
    assert run(command, broker.context) == Exit.DONE
    header, first, *others = (line.split() for line in capsys.readouterr().out.splitlines())
    assert header == ["ready", "in", "flight", "delayed", "consumers", "in/s", "out/s", "dead-lettered"]
    assert (first, others) == (["0", "0", "0", "0", "-", "-", "0"], [["0", "0", "0", "0", "3", "0", "0"]] * 2)
    assert slept == [2, 2]
    assert run([*command, "--json"], broker.context) == Exit.DONE
    assert [json.loads(line)["sent_per_s"] for line in capsys.readouterr().out.splitlines()] == [3, 3, 3]
    assert run(["queue", "stats", "orders", "--times", "3"], broker.context) == Exit.USAGE
    assert "--times says how often to ask with --watch" in capsys.readouterr().err


def test_send_with_attributes_gives_them_to_every_message() -> None:
    broker = FakeBroker()
    options = [
        "--delay-ms",
        "500",
        "--expiry-ms",
        "9000",
        "--priority",
        "7",
        "--group",
        "g",
        "--metadata",
        "text",
        "--tag",
        "a=b=c",
        "--tag",
        "d=",
    ]
    assert run(["queue", "send", "orders", "x", "y", *options], broker.context) == Exit.DONE
    expected = {
        "delay_ms": 500,
        "expiry_ms": 9_000,
        "priority": 7,
        "group": "g",
        "metadata": "text",
        "tags": {"a": "b=c", "d": ""},
        "id": None,
    }
    assert broker.attributes == {("orders", 1): expected, ("orders", 2): expected}


def test_send_id_is_of_the_one_message() -> None:
    broker = FakeBroker()
    assert run(["queue", "send", "orders", "x", "--id", "order-17"], broker.context) == Exit.DONE
    assert broker.attributes["orders", 1]["id"] == "order-17"


def test_send_that_is_a_duplicate_says_of_what(capsys: pytest.CaptureFixture[str]) -> None:
    broker = FakeBroker()
    broker.known = {2: 1, 3: 1}
    command = ["queue", "send", "orders", "x", "--id", "i"]
    for options in ([], [], ["--json"]):
        assert run([*command, *options], broker.context) == Exit.DONE
    first, second, third = capsys.readouterr().out.splitlines()
    assert first == "orders: message 1 confirmed by quorum"
    assert second == "orders: message 2 confirmed by quorum, a duplicate of message 1"
    assert json.loads(third)["duplicate_of"] == 1


def test_send_behind_an_expected_sequence(capsys: pytest.CaptureFixture[str]) -> None:
    broker = FakeBroker()
    command = ["queue", "send", "orders", "x", "--expected-sequence", "0"]
    assert run(command, broker.context) == Exit.DONE
    assert broker.attributes["orders", 1]["expected_sequence"] == 0
    broker.failure = SequenceMismatch("the last sequence of channel 'orders' is 1 and not 0", expected=0, last_sequence=1)
    assert run(command, broker.context) == Exit.REFUSED
    assert "is 1 and not 0" in capsys.readouterr().err


def test_send_without_a_confirm_says_so_and_ends_when_all_was_read(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    feed_standard_input(monkeypatch, b"line\n" * 1_200)
    broker = FakeBroker()
    assert run(["queue", "send", "orders", "--stdin", "--confirm", "none"], broker.context) == Exit.DONE
    assert set(capsys.readouterr().out.splitlines()) == {"orders: message sent, without a confirm"}
    assert (len(bodies(broker, "orders")), broker.unread, broker.unread_most) == (1_200, 0, 500)
    assert run(["queue", "send", "orders", "x", "--confirm", "none", "--json"], broker.context) == Exit.DONE
    assert json.loads(capsys.readouterr().out) == {"channel": "orders", "confirm": "none"}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["x", "y", "--id", "i"], "--id is of one message"),
        (["--stdin", "--id", "i"], "--id is of one message"),
        (["x", "y", "--expected-sequence", "1"], "--expected-sequence is of one message"),
        (["--stdin", "--expected-sequence", "0"], "--expected-sequence is of one message"),
        (["x", "--expected-sequence", "-1"], "'--expected-sequence'"),
        (["x", "--confirm", "leader"], "'--confirm'"),
        (["x", "--tag", "novalue"], "--tag 'novalue' is not KEY=VALUE"),
        (["x", "--tag", "=value"], "--tag '=value' is not KEY=VALUE"),
        (["x", "--tag", "a=1", "--tag", "a=2"], "--tag a is given twice"),
        (["x", "--priority", "10"], "'--priority'"),
        (["x", "--delay-ms", "-1"], "'--delay-ms'"),
        (["x", "--expiry-ms", "1s"], "'--expiry-ms'"),
    ],
)
def test_send_attributes_that_cannot_be_are_wrong_usage(
    options: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    broker = FakeBroker()
    assert run(["queue", "send", "orders", *options], broker.context) == Exit.USAGE
    assert said in capsys.readouterr().err
    assert broker.urls == [], "nobody was asked"


def described_messages(broker: FakeBroker) -> None:
    """Three messages: bare, with everything, and one that came from elsewhere."""
    run(["queue", "send", "orders", "bare"], broker.context)
    run(
        ["queue", "send", "orders", "full", "--id", "i1", "--metadata", "some\ntext", "--tag", "a=b", "--tag", "c=d"],
        broker.context,
    )
    run(["queue", "send", "orders", "moved"], broker.context)
    broker.attributes["orders", 3]["origin"] = Origin("bills", 8, 5, "delivery_limit")


@pytest.mark.parametrize(("command", "deliveries"), [("receive", 1), ("peek", 0)])
def test_messages_as_json_have_all_that_there_is(command: str, deliveries: int, capsys: pytest.CaptureFixture[str]) -> None:
    broker = FakeBroker()
    described_messages(broker)
    capsys.readouterr()
    assert run(["queue", command, "orders", "--max", "9", "--json"], broker.context) == Exit.DONE
    bare, full, moved = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert bare == {
        "channel": "orders",
        "sequence": 1,
        "delivery_count": deliveries,
        "time_unix_ns": 1_700_000_000_000_000_000,
        "id": "",
        "group": "",
        "metadata": None,
        "tags": {},
        "origin": None,
        **({"state": "ready", "due_unix_ns": 0} if command == "peek" else {}),
        "body": "bare",
    }
    assert (full["id"], full["metadata"], full["tags"]) == ("i1", "some\ntext", {"a": "b", "c": "d"})
    assert moved["origin"] == {"channel": "bills", "sequence": 8, "delivery_count": 5, "reason": "delivery_limit"}


def test_messages_as_a_table_have_columns_for_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    broker = FakeBroker()
    described_messages(broker)
    capsys.readouterr()
    assert run(["queue", "peek", "orders", "--max", "9"], broker.context) == Exit.DONE
    header, bare, full, moved = capsys.readouterr().out.splitlines()
    assert header.split() == ["sequence", "deliveries", "stored", "(UTC)", "state", "id", "metadata", "tags", "origin", "body"]
    assert bare.split() == ["1", "0", "2023-11-14", "22:13:20", "ready", "bare"]
    assert full.split() == ["2", "0", "2023-11-14", "22:13:20", "ready", "i1", r"'some\ntext'", "a=b,", "c=d", "full"]
    assert moved.split() == ["3", "0", "2023-11-14", "22:13:20", "ready", "bills", "8:", "delivery_limit", "moved"]


def test_messages_at_a_terminal_fit_its_width(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    broker = FakeBroker()
    described_messages(broker)
    run(["queue", "send", "orders", "long " * 100], broker.context)
    capsys.readouterr()
    monkeypatch.setattr("zmqbroker.cli.output.on_terminal", lambda: True)
    monkeypatch.setenv("COLUMNS", "100")
    assert run(["queue", "peek", "orders", "--max", "9"], broker.context) == Exit.DONE
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 100
    assert "".join(lines).count("long") == 100, "nothing is cut"
    assert lines[1].split()[:4] == ["1", "0", "2023-11-14", "22:13:20"], "what is short stays in one line"


def test_peek_touches_nothing_and_asks_on_until_it_has_all(capsys: pytest.CaptureFixture[str]) -> None:
    broker = FakeBroker()
    run(["queue", "send", "orders", *"abcdef"], broker.context)
    capsys.readouterr()
    broker.page = 2
    assert run(["queue", "peek", "orders", "--first", "2", "--max", "4", "--json"], broker.context) == Exit.DONE
    assert [json.loads(line)["sequence"] for line in capsys.readouterr().out.splitlines()] == [2, 3, 4, 5]
    assert broker.managed == [("peek", "orders", 4, 2, 0), ("peek", "orders", 2, 4, 0)]
    assert len(bodies(broker, "orders")) == 6


@pytest.mark.parametrize(
    "since", ["2023-11-14T22:13:20Z", "2023-11-14 22:13:20", "2023-11-14T23:13:20+01:00", "1700000000000000000"]
)
def test_peek_since_understands_instants(since: str, capsys: pytest.CaptureFixture[str]) -> None:
    broker = FakeBroker()
    run(["queue", "send", "orders", "a"], broker.context)
    assert run(["queue", "peek", "orders", "--since", since], broker.context) == Exit.DONE
    assert broker.managed == [("peek", "orders", 1, 1, 1_700_000_000_000_000_000)]


@pytest.mark.parametrize("since", ["yesterday", "1969-12-31", "18446744073709551616", "", "-5"])
def test_peek_since_what_is_no_instant_is_wrong_usage(since: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["queue", "peek", "orders", "--since", since], FakeBroker().context) == Exit.USAGE
    assert "is no instant such as 2026-01-31T12:00:00Z" in capsys.readouterr().err


def test_peek_nothing_there_has_its_own_status(capsys: pytest.CaptureFixture[str]) -> None:
    broker = FakeBroker()
    assert run(["queue", "peek", "orders"], broker.context) == Exit.NOTHING_THERE
    assert capsys.readouterr().err == "zmqbroker: no channel is called 'orders'\n"
    run(["queue", "send", "orders", "a"], broker.context)
    capsys.readouterr()
    assert run(["queue", "peek", "orders", "--first", "2"], broker.context) == Exit.NOTHING_THERE
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "zmqbroker: nothing there in orders\n")


def test_purge_leaves_what_is_in_flight_and_ack_all_does_not(capsys: pytest.CaptureFixture[str]) -> None:
    broker = FakeBroker()
    run(["queue", "send", "orders", "a", "b", "c"], broker.context)
    run(["queue", "receive", "orders", "--no-ack"], broker.context)
    capsys.readouterr()
    assert run(["queue", "purge", "orders"], broker.context) == Exit.DONE
    assert capsys.readouterr().out == "orders: 2 messages purged\n"
    assert len(broker.in_flight["orders"]) == 1
    assert run(["queue", "ack-all", "orders"], broker.context) == Exit.DONE
    assert capsys.readouterr().out == "orders: 1 message finished, counting those in flight\n"
    assert broker.in_flight["orders"] == []
    assert run(["queue", "ack-all", "orders", "--json"], broker.context) == Exit.DONE
    assert json.loads(capsys.readouterr().out) == {"channel": "orders", "count": 0}


def test_delete_says_how_many_were_there(capsys: pytest.CaptureFixture[str]) -> None:
    broker = FakeBroker()
    run(["queue", "send", "orders", "a", "b", "c"], broker.context)
    capsys.readouterr()
    assert run(["queue", "delete", "orders", "3", "1", "9", "3"], broker.context) == Exit.DONE
    assert capsys.readouterr().out == "orders: 2 messages deleted of 3\n"
    assert bodies(broker, "orders") == [b"b"]
    assert run(["queue", "delete", "orders", "1", "--json"], broker.context) == Exit.NOTHING_THERE
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"channel": "orders", "count": 0}
    assert captured.err == "zmqbroker: none of them is there, or all are in flight\n"


@pytest.mark.parametrize("sequences", [[], ["0"], ["one"], ["18446744073709551616"]])
def test_delete_what_is_no_sequence_is_wrong_usage(sequences: list[str]) -> None:
    assert run(["queue", "delete", "orders", *sequences], FakeBroker().context) == Exit.USAGE


def test_redrive_passes_on_what_is_asked(capsys: pytest.CaptureFixture[str]) -> None:
    broker = FakeBroker()
    run(["queue", "send", "dead", "a"], broker.context)
    capsys.readouterr()
    assert run(["queue", "redrive", "dead"], broker.context) == Exit.DONE
    assert capsys.readouterr().out == "dead: 2 messages moved back\n"
    options = ["--to", "again", "--origin", "orders", "--max", "1"]
    assert run(["queue", "redrive", "dead", *options], broker.context) == Exit.DONE
    assert capsys.readouterr().out == "dead: 1 message moved to again\n"
    assert broker.managed == [("redrive", "dead", "", "", 0), ("redrive", "dead", "again", "orders", 1)]


@pytest.mark.parametrize("arguments", [["purge"], ["ack-all"], ["redrive"], ["stats"]])
def test_command_on_a_channel_that_is_not_there_has_its_own_status(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["queue", *arguments, "nobody"], FakeBroker().context) == Exit.NOTHING_THERE
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "zmqbroker: no channel is called 'nobody'\n")
