"""`zmqbroker bench`: what is counted, and what it says when something is missing."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.unit.cli.fakes import FakeBroker, FakeQueue
from zmqbroker.cli import bench, bench_latency
from zmqbroker.cli.app import run
from zmqbroker.cli.exits import Exit
from zmqbroker.client import SendResult
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


def test_bench_rate_sends_every_message_when_it_is_due(capsys: pytest.CaptureFixture[str]) -> None:
    broker = FakeBroker()
    arguments = ["bench", "--rate", "2000", "--seconds", "0.1", "--producers", "3", "--batch", "1", "--json"]
    assert run(arguments, broker.context) == Exit.DONE
    figures: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert (figures["sent"], figures["received"], len(broker.acked)) == (200, 200, 200)
    assert figures["parameters"]["rate"] == 2000
    assert figures["confirmed_per_s"] <= 2100  # the last one is due after 199 of 200 intervals
    assert 0 < figures["start_ms"]["p50"] <= figures["end_to_end_ms"]["max"]


def test_bench_rate_counts_a_stall_from_when_messages_were_due(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now_ns = [10**9]
    monkeypatch.setattr("time.perf_counter_ns", lambda: now_ns[0])
    broker = FakeBroker()
    store = FakeQueue._store

    def stall_once(queue: FakeQueue, body: bytes, attributes: dict[str, Any]) -> SendResult:
        now_ns[0] += 100_000_000 if broker.last_sequence[queue.name] == 0 else 1_000
        return store(queue, body, attributes)

    monkeypatch.setattr(FakeQueue, "_store", stall_once)
    arguments = ["bench", "--rate", "1000", "--count", "50", "--producers", "1", "--size", "8", "--json"]
    assert run(arguments, broker.context) == Exit.DONE
    figures: dict[str, Any] = json.loads(capsys.readouterr().out)
    # The first took 100 ms; the others were due 1 to 49 ms after it and were sent when it was over.
    assert figures["start_ms"]["p50"] == pytest.approx(75, abs=3)
    assert figures["confirm_ms"]["max"] >= 99


def test_bench_rate_shows_how_late_the_client_was(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "--rate", "5000", "--count", "20"], FakeBroker().context) == Exit.DONE
    shown = capsys.readouterr().out
    assert "5,000 due per second" in shown
    assert "client late" in shown


def test_bench_hgrm_writes_both_distributions(tmp_path: Path) -> None:
    out = tmp_path / "run.hgrm"
    assert run(["bench", "--count", "300", "--hgrm", str(out)], FakeBroker().context) == Exit.DONE
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run.confirm.hgrm", "run.end-to-end.hgrm"]
    for path in tmp_path.iterdir():
        lines = path.read_text(encoding="ascii").splitlines()
        assert lines[0].split() == ["Value", "Percentile", "TotalCount", "1/(1-Percentile)"]
        assert lines[2].split()[1] == "0.000000000000"
        assert any("TotalCount" in line and line.rstrip("]").split()[-1] == "300" for line in lines[3:])


def test_hgrm_is_in_milliseconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    latencies = bench_latency.Latencies()
    monkeypatch.setattr("time.perf_counter_ns", lambda: 10**12)
    for elapsed_ms in (4, 5, 6):
        latencies.record(10**12 - elapsed_ms * 1_000_000)
    latencies.write_hgrm(tmp_path / "a")
    lines = (tmp_path / "a").read_text(encoding="ascii").splitlines()
    assert [line.split()[0] for line in lines if line.split()[1:2] in (["0.000000000000"], ["1.000000000000"])] == [
        "4.001",
        "6.003",
    ]
    assert any("Mean" in line and " 5.00" in line and " 0.81" in line for line in lines)


def test_bench_hgrm_without_a_suffix_gets_one() -> None:
    assert bench_latency.hgrm_path(Path("a/run"), "confirm") == Path("a/run.confirm.hgrm")


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
    assert "pip install hdrhistogram" in capsys.readouterr().err


def test_latencies_out_of_range_are_kept_at_the_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    latencies = bench_latency.Latencies()
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


def test_bench_explain_tells_what_each_step_took(capsys: pytest.CaptureFixture[str]) -> None:
    broker = FakeBroker()
    assert run(["bench", "--count", "50", "--explain", "--json"], broker.context) == Exit.DONE
    figures: dict[str, Any] = json.loads(capsys.readouterr().out)
    steps = {"proposed": 0.2, "logged": 0.3, "quorum": 0.2, "sent": 0.1, "elsewhere": 0.1, "whole": 0.9}
    assert figures["explain_ms"] == {step: {"p50": took, "p99": took} for step, took in steps.items()}
    assert figures["sent"] == 50
    assert figures["received"] == len(broker.acked) > 50
    assert run(["bench", "--count", "50", "--explain"], broker.context) == Exit.DONE
    assert "step of a confirm, in ms" in capsys.readouterr().out


def test_bench_explain_is_nothing_that_nats_can_answer(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "--explain", "--target", "nats"], FakeBroker().context) == Exit.USAGE
    assert "--explain" in capsys.readouterr().err
