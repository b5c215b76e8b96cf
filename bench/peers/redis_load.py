"""Redis Streams at their best: XADDs in pipelines that WAIT for a replica, one at a time, and XREADGROUP with XACK.

With one replica of two a majority of three has a message when WAIT answers: what its memory holds. Whether a replica has it
on its disk, WAIT does not say. As with ours, nothing is retried: an error or a silence ends the measurement with `BenchError`.
"""

from __future__ import annotations

from bench.load import BODIES, BenchError, Figures
from bench.meter import Meter
from bench.peers.raw import exchange_all
from bench.peers.redis_server import KEY
from bench.peers.redis_wire import Confirms, Deliveries, RedisConnection, command
from bench.peers.sending import bodies_of, send_one_by_one

__all__ = ["Pipeline", "consume", "publish", "publish_one_by_one"]

#: Milliseconds that a replica may take, far more than it does: WAIT's answer is 0 then, which is an error here.
WAIT = command(b"WAIT", b"1", b"20000")
#: Messages that one XREADGROUP asks for, and how many of them are under way.
READ_COUNT, READS = 500, 2
_GROUP, _CONSUMER = b"g", b"c"


def addition(body: bytes) -> bytes:
    """The bytes that append one message."""
    return command(b"XADD", KEY, b"*", b"b", body)


class Pipeline:
    """A connection with at most one burst of XADDs and the WAIT behind it under way: while it waits it is not served."""

    def __init__(self, port: int, body_bytes: int, burst: int) -> None:
        bodies = bodies_of(body_bytes)
        self.connection, self.burst, self.busy = RedisConnection(port), burst, False
        self._block = b"".join(addition(bodies[number % BODIES]) for number in range(burst)) + WAIT
        self._confirms = Confirms(burst)

    def send(self) -> None:
        """Queue a burst."""
        self.connection.write(self._block)
        self.busy = True

    def take(self, data: bytes) -> int:
        """How many messages are confirmed by what has come."""
        if not data or not self._confirms.take(data):
            return 0
        self.busy = False
        return self.burst


def publish(port: int, meter: Meter, body_bytes: int, counts: tuple[int, int], burst: int, pipelines: int) -> Figures:
    """Publish the messages of the warm-up and then the measured ones; `burst`, of one pipeline, divides the counts."""
    lanes = [Pipeline(port, body_bytes, burst) for _ in range(pipelines)]
    _run(lanes, counts[0])
    meter.start()
    _run(lanes, counts[1])
    spent = meter.stop()
    for lane in lanes:
        lane.connection.close()
    return Figures(counts[1], counts[1] * body_bytes, spent)


def _run(lanes: list[Pipeline], count: int) -> None:
    connections, sent, confirmed = [lane.connection for lane in lanes], 0, 0
    while confirmed < count:
        for lane in lanes:
            if not lane.busy and sent < count:
                lane.send()
                sent += lane.burst
        confirmed += sum(lane.take(data) for lane, data in zip(lanes, exchange_all(connections), strict=True))


def publish_one_by_one(port: int, meter: Meter, body_bytes: int, counts: tuple[int, int]) -> Figures:
    """Publish each message after the WAIT of the one before has answered."""
    frames = [addition(body) + WAIT for body in bodies_of(body_bytes)]
    return send_one_by_one(RedisConnection(port), frames, Confirms(1).take, meter, body_bytes, counts)


def consume(port: int, meter: Meter, body_bytes: int, count: int) -> Figures:
    """Read and ack `count` messages that the stream holds; the clock stops when a replica has all acks too."""
    connection = RedisConnection(port)
    connection.ask(b"XGROUP", b"CREATE", KEY, _GROUP, b"0")
    read = command(b"XREADGROUP", b"GROUP", _GROUP, _CONSUMER, b"COUNT", b"%d" % READ_COUNT, b"STREAMS", KEY, b">")
    deliveries, ids = Deliveries(KEY, body_bytes), list[bytes]()
    meter.start()
    for _ in range(READS):
        connection.write(read)
    while deliveries.acked < count:
        came, empty = deliveries.take(connection.exchange())
        if empty and len(ids) + len(came) < count:
            raise BenchError(f"Redis delivered {len(ids) + len(came)} of {count} messages")
        if came:
            connection.write(command(b"XACK", KEY, _GROUP, *came) + (read if len(ids) + len(came) < count else b""))
            ids += came
    if int(connection.ask(b"WAIT", b"1", b"20000")) < 1:
        raise BenchError("no replica of Redis has the acks in time")
    spent = meter.stop()
    connection.close()
    if len(set(ids)) != count or len(ids) != count:
        raise BenchError("Redis delivered a message twice, or not at all")
    return Figures(count, count * body_bytes, spent)
