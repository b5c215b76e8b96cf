"""RabbitMQ quorum queues at their best: confirms with a window, one at a time, and deliveries that are acked together.

A quorum queue fsyncs before it confirms. As with ours, nothing is retried: an error or a silence ends the measurement with
`BenchError`.
"""

from __future__ import annotations

import struct

from bench.load import BODIES, Figures
from bench.meter import Meter
from bench.peers.rabbitmq_server import CONFIRM_SELECT, QUEUE
from bench.peers.rabbitmq_wire import Confirms, Deliveries, RabbitmqConnection, acknowledgement, method, publication, short_text
from bench.peers.sending import bodies_of, send_one_by_one

__all__ = ["consume", "publish", "publish_one_by_one"]

#: Deliveries that may be without an ack.
PREFETCH = 2000
_QOS, _CONSUME = (60, 10), (60, 20)
_NO_WAIT = b"\x08"


def _publisher(port: int) -> RabbitmqConnection:
    connection = RabbitmqConnection(port)
    connection.ask(CONFIRM_SELECT, b"\0")
    return connection


def publish(port: int, meter: Meter, body_bytes: int, counts: tuple[int, int], burst: int, window: int) -> Figures:
    """Publish the messages of the warm-up and then the measured ones; `burst`, of one write, divides counts and window."""
    connection, confirms, bodies = _publisher(port), Confirms(), bodies_of(body_bytes)
    block = b"".join(publication(QUEUE, bodies[number % BODIES]) for number in range(burst))

    def run(count: int) -> None:
        sent = confirmed = 0
        while confirmed < count:
            while not connection.writing and sent < count and window - (sent - confirmed) >= burst:
                connection.write(block)
                connection.flush()
                sent += burst
            confirmed += confirms.take(connection.exchange())

    run(counts[0])
    meter.start()
    run(counts[1])
    spent = meter.stop()
    connection.close()
    return Figures(counts[1], counts[1] * body_bytes, spent)


def publish_one_by_one(port: int, meter: Meter, body_bytes: int, counts: tuple[int, int]) -> Figures:
    """Publish each message after the confirm of the one before."""
    frames = [publication(QUEUE, body) for body in bodies_of(body_bytes)]
    return send_one_by_one(_publisher(port), frames, Confirms().take, meter, body_bytes, counts)


def consume(port: int, meter: Meter, body_bytes: int, count: int) -> Figures:
    """Be delivered and ack `count` messages that the queue holds; an ack is sent and not confirmed, as is usual there."""
    connection, deliveries, received = RabbitmqConnection(port), Deliveries(body_bytes), 0
    connection.ask(_QOS, struct.pack(">IHB", 0, PREFETCH, 0))
    meter.start()
    connection.write(method(_CONSUME, b"\0\0" + short_text(QUEUE) + short_text(b"c") + _NO_WAIT + struct.pack(">I", 0)))
    while received < count:
        if came := deliveries.take(connection.exchange()):
            received += came
            connection.write(acknowledgement(deliveries.last_tag))
    while connection.writing:
        connection.exchange()
    spent = meter.stop()
    connection.close()
    return Figures(count, count * body_bytes, spent)
