"""`zmqbroker bench`: what is counted, and what it says when something is missing."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

from tests.unit.cli.fakes import FakeBroker
from zmqbroker.cli import bench
from zmqbroker.cli.app import run
from zmqbroker.cli.exits import Exit
from zmqbroker.errors import NoMajority


def test_bench_count_sends_receives_and_acks_all(capsys: pytest.CaptureFixture[str]) -> None:
    broker = FakeBroker()
    arguments = ["bench", "--count", "101", "--producers", "3", "--size", "16", "--batch", "7", "--json"]
    assert run(arguments, broker.context) == Exit.DONE
    figures: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert (figures["sent"], figures["received"], len(broker.acked)) == (101, 101, 101)
    assert figures["confirm"] == "quorum"
    assert {name: figures["parameters"][name] for name in ("size", "batch", "producers", "count")} == {
        "size": 16,
        "batch": 7,
        "producers": 3,
        "count": 101,
    }
    for latencies in (figures["confirm_ms"], figures["end_to_end_ms"]):
        assert list(latencies) == ["p50", "p90", "p99", "p99.9", "max"]
        assert 0 < latencies["p50"] <= latencies["max"]
    assert figures["confirmed_per_s"] > 0
    assert broker.producer_settings == [{"batch_messages": 7, "linger_ms": 1}] * 3
    assert broker.open_clients == 0


def test_bench_seconds_sends_until_the_time_is_over(capsys: pytest.CaptureFixture[str]) -> None:
    broker = FakeBroker()
    assert run(["bench", "--seconds", "0.1", "--batch", "1", "--size", "8"], broker.context) == Exit.DONE
    words = capsys.readouterr().out.split()
    assert int(words[0]) == len(broker.acked) > 0
    assert {"confirm", "end", "p99.9"} <= set(words)
    assert broker.producer_settings == [{"batch_messages": 1, "linger_ms": 0}] * 2


def test_bench_send_refused_ends_with_that_error(capsys: pytest.CaptureFixture[str]) -> None:
    broker = FakeBroker()
    broker.failure = NoMajority("too few nodes")
    assert run(["bench", "--count", "10", "--batch", "1"], broker.context) == Exit.UNREACHABLE
    assert capsys.readouterr().err == "zmqbroker: too few nodes\n"
    assert broker.open_clients == 0


def test_bench_message_that_never_arrives_is_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench, "_SILENCE_S", 0)
    broker = FakeBroker()
    broker.swallowed = {5}
    assert run(["bench", "--count", "10"], broker.context) == Exit.UNREACHABLE
    assert "9 of 10 messages arrived" in capsys.readouterr().err


def test_bench_without_histograms_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "hdrh.histogram", None)
    assert run(["bench"], FakeBroker().context) == Exit.USAGE
    assert "pip install 'zmqbroker[bench]'" in capsys.readouterr().err


def test_latencies_out_of_range_are_kept_at_the_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    latencies = bench.Latencies()
    monkeypatch.setattr("time.perf_counter_ns", lambda: 10**12)
    for elapsed_ns in (0, 1_000_000, 10**11):
        latencies.record(10**12 - elapsed_ns)
    found = latencies.in_ms()
    assert found["p50"] == pytest.approx(1.0, rel=0.001)
    assert found["max"] == pytest.approx(60_000, rel=0.001)


def test_bench_on_a_terminal_shows_progress(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(bench, "_REPORT_INTERVAL_S", 0)
    assert run(["bench", "--count", "50", "--json"], FakeBroker().context) == Exit.DONE
    captured = capsys.readouterr()
    assert json.loads(captured.out)["received"] == 50
    assert "received" in captured.err
