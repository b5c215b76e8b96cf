"""`python -m bench.events`: one publisher to subscribers on all three nodes, beside NATS core in the same run, in turn.

Subscribers are processes of their own, spread over the nodes; the publisher is this one, at the first node. Both sides use raw
sockets and frames that were built before: NATS's publisher writes 500 messages at a time, ours publishes the same in one batch
frame. NATS's subscribers count bytes; ours read each header and batch header, add up what they say, and grant credit as a
client does. A run counts only if every subscriber has got every message, so it is the rate without loss. Seconds are from the
publisher's first write to the last subscriber's last message.
"""

from __future__ import annotations

import argparse
import multiprocessing as mp
import os
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import zmq

from bench.compare.servers import Servers
from bench.load import BenchError, Connection, check
from bench.macro import Context
from bench.peers.processes import processes
from bench.single import run_single
from tests.processes import Cluster, free_ports, wait_until
from zmqbroker.server.zmqio import ZmqIo
from zmqbroker.wire.codec import encode_batch
from zmqbroker.wire.requests import GrantRequest, PublishRequest, SubscribeRequest, UnsubscribeRequest, encode_request

__all__ = ["measure", "nats_round", "our_round"]

NODES = 3
#: What is published, and what everybody subscribes to behind it, so that the publisher's node can be asked whom it knows.
NAME, KNOWN = "ev", "known"
#: Messages of one write, or one batch frame, of the publisher: what the peer's own script writes at a time.
BURST = 500
CREDIT, CREDIT_BYTES = 1_000_000, 64 << 20
#: A subscriber that gets nothing for so long has lost something.
SILENCE_MS = 20_000
#: NATS's servers tell neither when they have found each other nor when they know who has subscribed.
NATS_START_S, NATS_SETTLE_S = 3.0, 0.5
#: Messages and bytes that a subscriber takes from its socket in one go.
DRAIN_COUNT, DRAIN_BYTES = 256, 16 << 20
#: Of a batch frame: its message count, and the size of its channel name.
_COUNT, _COUNT_AT, _NAME_SIZE_AT = struct.Struct("<I"), 12, 36

Row = dict[str, Any]
Told = Any  # a queue between processes, whose type has no name at run time


# --- ours ------------------------------------------------------------------------------------------------------------


def _our_subscriber(endpoint: str, count: int, size: int, told: Told) -> None:
    """Take `count` messages, then say when the last one came."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    connection = Connection(context, endpoint)
    connection.ask(SubscribeRequest(1, NAME, credit=CREDIT, credit_bytes=CREDIT_BYTES))
    connection.ask(SubscribeRequest(2, KNOWN, credit=1))
    told.put("ready")
    io, taken, taken_bytes, granted = ZmqIo(connection.socket), 0, 0, 0
    while taken < count:
        messages = io.drain(DRAIN_COUNT, DRAIN_BYTES)
        if not messages and not connection.socket.poll(SILENCE_MS):
            break
        for header, *frames in messages:
            check(header)
            for frame in frames:
                if frame[_NAME_SIZE_AT] == len(NAME):
                    taken += _COUNT.unpack_from(frame, _COUNT_AT)[0]
                    taken_bytes += len(frame)
        if taken_bytes - granted >= CREDIT_BYTES // 2:
            granted = taken_bytes
            connection.post(GrantRequest(1, taken + CREDIT, taken_bytes + CREDIT_BYTES))
    told.put((time.perf_counter(), taken))
    for number in (1, 2):  # else the node notices by its silence that it is gone
        connection.ask(UnsubscribeRequest(number))
    context.destroy(linger=0)


def our_round(cluster: Cluster, count: int, size: int, subscribers: int, batch: int) -> Row:
    """Deliveries per second, and what the nodes spent. Raises BenchError when anything was lost."""
    endpoints = [node.endpoint for node in cluster.nodes.values()]
    context = Context()
    publisher = Connection(context, endpoints[0])

    def known(wanted: int) -> bool:
        """Whether the publisher's node knows so many; all have subscribed to this name last."""
        ask = PublishRequest(encode_batch(KNOWN.encode(), [b""]), confirm=True)
        return publisher.ask(ask)["subscribers"] == wanted

    try:
        wait_until(lambda: known(0), 30, "nobody is left of the last round")
        with _subscribers(_our_subscriber, [endpoints[n % NODES] for n in range(subscribers)], count, size) as told:
            wait_until(lambda: known(subscribers), 30, "all subscribers are known")
            frames = encode_request(1, PublishRequest(encode_batch(NAME.encode(), [b"x" * size] * batch)))
            io, began = ZmqIo(publisher.socket), time.perf_counter()
            for _ in range(count // batch):
                while io.send(frames):
                    publisher.socket.poll(SILENCE_MS, zmq.POLLOUT)
            return _row(told, subscribers, count, began)
    finally:
        context.destroy(linger=0)


# --- NATS ------------------------------------------------------------------------------------------------------------


def _nats_connection(port: int, subject: bytes = b"") -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=SILENCE_MS / 1000)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.recv(65536)
    subscribe = b"SUB %s 1\r\n" % subject if subject else b""
    connection.sendall(b'CONNECT {"verbose":false,"pedantic":false}\r\n' + subscribe + b"PING\r\n")
    said = b""
    while b"PONG\r\n" not in said:
        said += connection.recv(65536)
    return connection


def _nats_subscriber(port: str, count: int, size: int, told: Told) -> None:
    """Take `count` messages, then say when the last one came."""
    with _nats_connection(int(port), NAME.encode()) as connection:
        told.put("ready")
        each, taken = len(b"MSG %s 1 %d\r\n" % (NAME.encode(), size)) + size + 2, 0
        try:
            while taken < each * count and (data := connection.recv(1 << 20)):
                taken += len(data)
        except TimeoutError:
            pass
        told.put((time.perf_counter(), taken // each))


def nats_round(ports: Sequence[int], count: int, size: int, subscribers: int) -> Row:
    """The same with NATS core."""
    with _subscribers(_nats_subscriber, [str(ports[n % NODES]) for n in range(subscribers)], count, size) as told:
        time.sleep(NATS_SETTLE_S)  # its servers do not tell when they know each other's subscribers
        with _nats_connection(ports[0]) as publisher:
            data = (b"PUB %s %d\r\n" % (NAME.encode(), size) + b"x" * size + b"\r\n") * BURST
            began = time.perf_counter()
            for _ in range(count // BURST):
                publisher.sendall(data)
            return _row(told, subscribers, count, began)


@contextmanager
def _nats_core(binary: str, directory: Path) -> Iterator[list[int]]:
    """Client ports of three servers that have found each other."""
    ports = free_ports(2 * NODES)
    clients, routes = ports[:NODES], ports[NODES:]
    told = ", ".join(f'"nats://127.0.0.1:{port}"' for port in routes)
    with processes() as started:
        for number, (client, route) in enumerate(zip(clients, routes, strict=True), 1):
            path = directory / f"nats-{number}.conf"
            path.write_text(
                f"server_name: n{number}\nlisten: 127.0.0.1:{client}\n"
                f"cluster {{ name: C, listen: 127.0.0.1:{route}, routes: [{told}] }}\n",
                encoding="utf-8",
            )
            started.start([binary, "-c", str(path)], directory / f"nats-{number}.log")
        time.sleep(NATS_START_S)
        yield clients


# --- both ------------------------------------------------------------------------------------------------------------


@contextmanager
def _subscribers(work: Callable[..., None], places: Sequence[str], count: int, size: int) -> Iterator[Told]:
    """Processes that subscribe, each at its place; all are ready when the block begins."""
    start = mp.get_context("fork")
    told = start.Queue()
    started = [start.Process(target=work, args=(place, count, size, told), daemon=True) for place in places]
    for process in started:
        process.start()
    try:
        for _ in started:
            told.get(timeout=SILENCE_MS / 1000)
        yield told
    finally:
        for process in started:
            process.join(5)
            process.kill()


def _row(told: Told, subscribers: int, count: int, began: float) -> Row:
    ended = [told.get(timeout=2 * SILENCE_MS / 1000) for _ in range(subscribers)]
    if lost := [taken for _, taken in ended if taken != count]:
        raise BenchError(f"{len(lost)} of {subscribers} subscribers did not get {count} messages but {lost}")
    seconds = max(end for end, _ in ended) - began
    return {"seconds": round(seconds, 4), "deliveries_per_s": round(subscribers * count / seconds)}


def measure(directory: Path, chosen: argparse.Namespace) -> Row:
    """Both in turn, `--rounds` times, and the ratio of each round. Raises `BenchError`."""
    servers = Servers(["nats"])
    shape = (chosen.messages, chosen.size, chosen.subscribers)
    rounds: list[Row] = []
    cluster = Cluster(directory, NODES, volume=chosen.volume)
    try:
        for node in cluster.nodes.values():
            node.start()
        with _nats_core(servers.binaries["nats"], directory) as ports:
            for number in range(chosen.rounds):
                ours, theirs = our_round(cluster, *shape, chosen.batch), nats_round(ports, *shape)
                ratio = round(ours["deliveries_per_s"] / theirs["deliveries_per_s"], 3)
                rounds.append({"round": number + 1, "load": os.getloadavg()[0], "ours": ours, "nats": theirs, "ratio": ratio})
    finally:
        cluster.close()
    rates = {side: round(median(row[side]["deliveries_per_s"] for row in rounds)) for side in ("ours", "nats")}
    return {
        "medians": {**rates, "ratio": median(row["ratio"] for row in rounds)},
        "versions": servers.versions,
        "rounds": rounds,
    }


def main() -> int:
    """Run it, print the result and write it to bench/results."""
    parser = argparse.ArgumentParser(prog="python -m bench.events", description="Events beside NATS core.")
    parser.add_argument("--messages", type=int, default=100_000, help=f"in all; a multiple of {BURST}")
    parser.add_argument("--size", type=int, default=128, help="of a body, in bytes")
    parser.add_argument("--subscribers", type=int, default=10)
    parser.add_argument("--batch", type=int, default=BURST, help="messages of one batch frame of ours; 1: a PUBLISH each")
    parser.add_argument("--rounds", type=int, default=5)
    parser.set_defaults(volume="ephemeral")
    return run_single("events", "one publisher to many subscribers, beside NATS core", parser, measure)


if __name__ == "__main__":
    sys.exit(main())
