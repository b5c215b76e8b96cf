"""The benchmark runs from end to end, and notices when a measurement is worth nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import zmq

from bench.load import BenchError, Connection, Figures, build_requests, check_parts, consume, publish
from bench.meter import Meter, Spent, cpu_s
from bench.plan import FULL, QUICK, ConsumeCase, PublishCase
from bench.relay import Journal, written_at_majority
from bench.report import Suite, file_system_of, summarize, table
from zmqbroker.errors import Busy
from zmqbroker.wire.codec import decode_batch
from zmqbroker.wire.frames import Reply, decode_header, encode_error, encode_header, request_id_of

ROOT = Path(__file__).resolve().parents[2]
CASE = PublishCase(name="case", body_bytes=10, batch_bytes=40, request_count=3, warmup_count=2, window=2, sequenced=True)
METER = Meter([os.getpid()])
RECEIVE = ConsumeCase(name="receive", source="case", window=1, receive_bytes=1000)

Answer = Callable[[list[bytes]], list[bytes]]
Serve = Callable[[Answer], Connection]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """A node that answers each request with what a function makes of its frames; nothing when that is nothing."""
    context = zmq.Context[zmq.Socket[bytes]]()
    router = context.socket(zmq.ROUTER)
    port = router.bind_to_random_port("tcp://127.0.0.1")
    threads: list[threading.Thread] = []
    clients: list[Connection] = []

    def run(answer: Answer) -> None:
        while (frames := router.recv_multipart())[1:] != [b"end"]:
            if reply := answer(frames[1:]):
                router.send_multipart([frames[0], *reply])

    def start(answer: Answer) -> Connection:
        threads.append(threading.Thread(target=run, args=(answer,)))
        threads[-1].start()
        clients.append(Connection(context, f"tcp://127.0.0.1:{port}", timeout_ms=200))
        return clients[-1]

    yield start
    for client in clients:
        client.socket.send(b"end")
    for thread in threads:
        thread.join()
    context.destroy(linger=0)


def sent(frames: list[bytes]) -> list[bytes]:
    """SENT to any request."""
    return [encode_header(Reply.SENT, request_id_of(frames[0]), {"sequence": 1})]


def run_case(connection: Connection, case: PublishCase = CASE) -> Figures:
    """Publish a case."""
    first_id = connection.take_ids(case.warmup_count + case.request_count)
    return publish(connection, METER, case, build_requests(case, first_id), first_id)


# --- the whole -------------------------------------------------------------------------------------------------------


def test_bench_quick_run_measures_every_case_in_both_modes(tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    command = [sys.executable, "-m", "bench", "--quick", "--directory", str(tmp_path), "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text(encoding="utf-8"))
    assert [(suite["volume"], suite["side"]) for suite in found["rounds"]] == [
        (volume, side) for volume in ("ephemeral", "persistent") for side in ("ceiling", "broker")
    ]
    assert found["parameters"]["rounds"] == 1
    assert found["python"]["version"] == sys.version.split()[0]
    publish_cases = {case.name for case in QUICK.publish}
    others = {case.name for case in QUICK.consume} | {case.name for case in QUICK.end_to_end}
    for suite in found["rounds"]:
        assert set(suite["figures"]) == publish_cases | (others if suite["side"] == "broker" else set())
        assert all(figures["messages_per_s"] > 0 for figures in suite["figures"].values())
    for volume in QUICK.volumes:
        assert all("rate_ratio" in found["summary"][volume][case] for case in publish_cases)
    assert done.stdout.count("publish-one-1KiB-window-1 ") == 2
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"], "data was left behind"


def test_plan_names_are_unique_and_sources_exist() -> None:
    for plan in (FULL, QUICK):
        names = [case.name for case in plan.publish]
        names += [case.name for case in plan.consume] + [case.name for case in plan.end_to_end]
        assert len(names) == len(set(names))
        assert {case.source for case in plan.consume} <= {case.name for case in plan.publish}


def test_plan_sequenced_window_stays_within_the_results_a_channel_keeps() -> None:
    assert all(case.window <= 128 for plan in (FULL, QUICK) for case in plan.publish if case.sequenced)


# --- the client ------------------------------------------------------------------------------------------------------


def test_requests_are_the_same_every_time_and_numbered_without_gaps() -> None:
    requests = build_requests(CASE, 7)
    assert requests == build_requests(CASE, 7)
    assert [request_id_of(header) for header, _ in requests] == [7, 8, 9, 10, 11]
    batches = [decode_batch(body) for _, body in requests]
    assert [batch.header.base_sequence for batch in batches] == [1, 5, 9, 13, 17]
    assert {len(body) for batch in batches for body in batch.bodies} == {10}


def test_publish_counts_what_was_sent_after_the_warmup(serve: Serve) -> None:
    figures = run_case(serve(sent))
    assert (figures.message_count, figures.body_bytes, len(figures.latencies_ns)) == (12, 120, 3)
    assert min(figures.latencies_ns) > 0


def test_publish_refused_ends_with_the_reason(serve: Serve) -> None:
    connection = serve(lambda frames: [encode_error(request_id_of(frames[0]), Busy("too much", retry_ms=1))])
    with pytest.raises(BenchError, match="BUSY: too much"):
        run_case(connection)


def test_publish_answered_twice_is_an_error(serve: Serve) -> None:
    connection = serve(lambda frames: [encode_header(Reply.SENT, 1, {})])
    with pytest.raises(BenchError, match="nobody waits for"):
        run_case(connection, replace(CASE, warmup_count=0))


def test_publish_without_answers_ends_with_what_was_confirmed(serve: Serve) -> None:
    connection = serve(lambda frames: sent(frames) if request_id_of(frames[0]) < 5 else [])
    with pytest.raises(BenchError, match="after 2 of 3 requests"):
        run_case(connection)


def deliveries(parts: list[tuple[int, int]]) -> Answer:
    """Answers RECEIVEs with these ranges in turn, ACKs with their counts."""
    left = list(parts)

    def answer(frames: list[bytes]) -> list[bytes]:
        code, request_id, fields = decode_header(frames[0])
        if code | 0x80 == Reply.MESSAGES:
            first, last = left.pop(0)
            return [encode_header(Reply.MESSAGES, request_id, {"pieces": [[1, first, last, 1, 1]]}), b"batch"]
        if code | 0x80 == Reply.ACKED:
            ((_, first, last),) = fields["receipts"]
            return [encode_header(Reply.ACKED, request_id, {"count": last - first + 1})]
        return [encode_header(code | 0x80, request_id, {})]

    return answer


def test_consume_acks_everything_and_stops(serve: Serve) -> None:
    figures = consume(serve(deliveries([(1, 15), (16, 20)])), METER, RECEIVE, CASE)
    assert (figures.message_count, figures.latencies_ns) == (20, [])


def test_consume_of_a_message_twice_is_an_error(serve: Serve) -> None:
    with pytest.raises(BenchError, match="sequence 15 was delivered twice"):
        consume(serve(deliveries([(1, 15), (15, 19)])), METER, RECEIVE, CASE)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([(1, 2), (4, 5)], "sequence 3 was delivered never"),
        ([(2, 5)], "sequence 1 was delivered never"),
        ([(1, 3), (2, 5)], "sequence 2 was delivered twice"),
        ([(1, 4)], "4 messages were delivered, 5 were sent"),
    ],
)
def test_parts_that_are_not_each_message_once_are_an_error(parts: list[tuple[int, int]], message: str) -> None:
    with pytest.raises(BenchError, match=message):
        check_parts(parts, 5)


def test_parts_in_any_order_are_whole() -> None:
    check_parts([(4, 5), (1, 3)], 5)


def test_figures_give_rates_and_percentiles() -> None:
    latencies_ns = [number * 1_000_000 for number in range(1, 101)]
    found = Figures(1000, 2_000_000, Spent(0.5, 0.8, 0.1), latencies_ns).summary()
    assert (found["messages_per_s"], found["mb_per_s"]) == (2000, 4)
    assert (found["server_cores"], found["client_cores"], found["server_cpu_us_per_message"]) == (1.6, 0.2, 800)
    assert found["p50_ms"] == pytest.approx(50, rel=0.001)
    assert found["p99_ms"] == pytest.approx(99, rel=0.001)
    assert found["max_ms"] == pytest.approx(100, rel=0.001)


def test_meter_reads_user_and_system_time_behind_any_name(tmp_path: Path) -> None:
    stat = tmp_path / "stat"
    stat.write_text("12 (a) b) S " + " ".join(str(number) for number in range(4, 53)))
    assert cpu_s(stat) == (14 + 15) / os.sysconf("SC_CLK_TCK")


def test_meter_stops_no_earlier_than_it_started() -> None:
    METER.start()
    spent = METER.stop()
    assert spent.seconds > 0
    assert min(spent.server_cpu_s, spent.client_cpu_s) >= 0
    assert Meter([]).stop().server_cpu_s == 0


@pytest.mark.parametrize(("durable", "expected"), [((5, 3, 0), 3), ((0, 4, 4), 4), ((9, -1, -1), -1), ((2, 2, 7, 1, 9), 2)])
def test_relay_confirms_what_most_have_written(durable: tuple[int, ...], expected: int) -> None:
    assert written_at_majority(durable) == expected


def test_journal_goes_round_in_its_file(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "file", 4096, sync=False)
    for number in range(1, 5):
        journal.submit(number, [bytes([number]) * 1500])
    assert journal.durable == 4
    journal.close()
    data = (tmp_path / "file").read_bytes()
    assert len(data) == 4096
    assert (data.count(3), data.count(4), data.count(1), data.count(2)) == (1500, 1500, 0, 0)


# --- the report ------------------------------------------------------------------------------------------------------


def suite(number: int, side: str, rate: float, p50_ms: float, failure: str = "") -> Suite:
    """One case, and one that only the broker has."""
    figures: dict[str, Any] = {"publish": {"messages_per_s": rate, "mb_per_s": 1.0, "p50_ms": p50_ms, "server_cores": 1.5}}
    if side == "broker":
        figures["consume"] = {"messages_per_s": 5.0, "mb_per_s": 1.0}
    return Suite(
        round=number, volume="ephemeral", side=side, load_before=0, figures={} if failure else figures, failure=failure
    )


def test_summary_takes_medians_of_rounds_and_ratios_within_them() -> None:
    rounds = [(100, 50, 1, 4), (1000, 100, 2, 4), (10, 8, 3, 6)]
    suites = [
        made
        for number, (ceiling, broker, ceiling_ms, broker_ms) in enumerate(rounds)
        for made in (suite(number, "ceiling", ceiling, ceiling_ms), suite(number, "broker", broker, broker_ms))
    ]
    found = summarize(suites)["ephemeral"]
    assert found["publish"]["broker"]["messages_per_s"] == 50
    assert found["publish"]["ceiling"]["messages_per_s"] == 100
    assert (found["publish"]["rate_ratio"], found["publish"]["p50_ratio"]) == (0.5, 2)
    assert "rate_ratio" not in found["consume"]


def test_summary_leaves_failed_suites_out() -> None:
    suites = [
        suite(1, "ceiling", 100, 1),
        suite(1, "broker", 1, 1, failure="no leader"),
        suite(2, "ceiling", 100, 1, failure="gone"),
        suite(2, "broker", 70, 1),
        suite(3, "ceiling", 100, 1),
        suite(3, "broker", 90, 1),
    ]
    found = summarize(suites)["ephemeral"]["publish"]
    assert found["broker"]["messages_per_s"] == 80
    assert found["rate_ratio"] == 0.9


def test_table_has_a_row_per_case_and_blanks_for_what_was_not_measured() -> None:
    rows = list(table(summarize([suite(1, "ceiling", 4000, 1), suite(1, "broker", 2000, 2)])))
    assert rows[2].split() == ["ephemeral", "publish", "2,000", "1.0", "2.00", "1.50", "4,000", "1.00", "1.50", "0.50"]
    assert rows[3].split() == ["ephemeral", "consume", "5", "1.0"]
    assert len(rows) == 4


def test_file_system_is_that_of_the_longest_mount_point() -> None:
    assert file_system_of(Path("/proc/self")) == "proc"
