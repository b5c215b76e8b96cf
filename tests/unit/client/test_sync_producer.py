"""Producers for threads against a fake node behind a real socket."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.unit.client.servers import FakeServer
from zmqbroker.client import SyncClient, SyncConfirm, sync_producer
from zmqbroker.client.parcel import OVERHEAD_BYTES
from zmqbroker.errors import DeadlineExceeded, LocalProtocolError, MessageTooLarge
from zmqbroker.wire.codec import decode_batch
from zmqbroker.wire.requests import SendBatch


def counts(server: FakeServer) -> list[int]:
    """Messages of each batch that the node has seen."""
    return [decode_batch(one.batch).header.count for one in server.node.seen if isinstance(one, SendBatch)]


def hold(server: FakeServer, until: threading.Event) -> None:
    """Let the node answer nothing until then."""

    def wait(one: FakeServer, frames: object) -> None:
        until.wait(10)

    server.before = wait


def test_sync_producer_sends_in_order_in_full_batches() -> None:
    with FakeServer() as server, SyncClient(server.endpoint) as client:
        with client.queue("q").producer(batch_messages=100, linger_ms=1_000) as producer:
            confirms = [producer.send(b"%d" % number, id="x" if number % 2 else None) for number in range(250)]
        assert [confirm.result().sequence for confirm in confirms] == list(range(1, 251))
        assert all(confirm.done() for confirm in confirms)
    assert [int(body) for body in server.broker.channel("q").bodies] == list(range(250))
    assert [message.id for message in server.broker.channel("q").messages[:4]] == [b"", b"x", b"", b"x"]
    assert counts(server)[0] == 100


def test_sync_producer_used_by_many_threads_keeps_each_ones_order() -> None:
    def send_all(thread: int) -> list[int]:
        confirms = [producer.send(b"%d/%d" % (thread, number)) for number in range(500)]
        return [confirm.result().sequence for confirm in confirms]

    with (
        FakeServer() as server,
        SyncClient(server.endpoint) as client,
        client.queue("q").producer(pending_bytes_max=5_000, batch_messages=64) as producer,
        ThreadPoolExecutor(6) as pool,
    ):
        found = list(pool.map(send_all, range(6)))
    assert sorted(sequence for sequences in found for sequence in sequences) == list(range(1, 3_001))
    bodies = [tuple(map(int, body.split(b"/"))) for body in server.broker.channel("q").bodies]
    for thread, sequences in enumerate(found):
        assert [bodies[sequence - 1] for sequence in sequences] == [(thread, number) for number in range(500)]


def test_sync_producer_without_room_waits_until_something_ends() -> None:
    with FakeServer() as server, SyncClient(server.endpoint) as client, ThreadPoolExecutor(1) as pool:
        client.queue("q").send(b"first")
        answering = threading.Event()
        hold(server, answering)
        producer = client.queue("q").producer(pending_bytes_max=1_000, linger_ms=0)
        confirms = [producer.send(bytes(100 - OVERHEAD_BYTES)) for _ in range(10)]
        waiting = pool.submit(producer.send, b"after")
        while not producer._line:
            assert not waiting.done()
        assert not confirms[0].done()
        answering.set()
        assert waiting.result(10).result(10).sequence == 12


def test_sync_producer_small_message_does_not_overtake_one_that_waits_for_room() -> None:
    with FakeServer() as server, SyncClient(server.endpoint) as client, ThreadPoolExecutor(2) as pool:
        client.info()
        producer, gate = client.queue("q").producer(pending_bytes_max=1_000, linger_ms=0), threading.Event()
        client.post(lambda: gate.wait(10))  # the loop takes nothing, and the first parcel stays open
        producer.send(bytes(100))
        sends = []
        for waiting, body in enumerate([bytes(950), b"x"], 1):
            sends.append(pool.submit(producer.send, body))
            while len(producer._line) < waiting:
                assert not sends[-1].done(), "it has overtaken"
        gate.set()
        assert [send.result(10).result(10).sequence for send in sends] == [2, 3]


def test_sync_producer_large_bursts_let_the_loop_work() -> None:
    with FakeServer() as server, SyncClient(server.endpoint) as client:
        client.info()
        with client.queue("q").producer() as producer:
            for _ in range(2_000):
                producer.send(bytes(1_000))
                assert producer._burst_bytes <= 512 << 10
        assert len(counts(server)) >= 7


def test_sync_confirm_waits_and_says_when_it_is_too_long() -> None:
    with FakeServer() as server, SyncClient(server.endpoint) as client:
        server.silent = True
        producer = client.queue("q").producer()
        with pytest.raises(TimeoutError):
            producer.send(b"x").result(0.001)
        confirm = producer.send(b"x", timeout_ms=100)
        with pytest.raises(DeadlineExceeded):
            confirm.result()
        assert isinstance(confirm.exception(), DeadlineExceeded)


def test_sync_confirm_exception_waits_for_the_end() -> None:
    with FakeServer() as server, SyncClient(server.endpoint) as client:
        assert client.queue("q").producer().send(b"x").exception(10) is None
        assert client.queue("q").producer().send_batch([b"x", b"y"]).result(10)[1].sequence == 3
        server.silent = True
        confirm = client.queue("q").producer().send_batch([b"x"])
        with pytest.raises(TimeoutError):
            confirm.result(0.001)


def test_sync_confirm_callbacks_are_called_before_and_after_the_end() -> None:
    with FakeServer() as server, SyncClient(server.endpoint) as client:
        answering, called = threading.Event(), threading.Semaphore(0)
        hold(server, answering)
        seen: list[tuple[SyncConfirm, str]] = []

        def note(confirm: SyncConfirm) -> None:
            seen.append((confirm, threading.current_thread().name))
            called.release()

        confirm = client.queue("q").producer().send(b"x")
        confirm.add_done_callback(note)
        confirm.add_done_callback(note)
        answering.set()
        assert called.acquire(timeout=10)
        assert called.acquire(timeout=10)
        confirm.add_done_callback(note)
        here = threading.current_thread().name
        assert seen == [(confirm, "zmqbroker-client")] * 2 + [(confirm, here)]


def test_sync_producer_send_batch_has_a_confirm_for_each() -> None:
    with FakeServer() as server, SyncClient(server.endpoint) as client:
        with client.queue("q").producer(batch_messages=30, pending_bytes_max=1_500) as producer:
            producer.send(b"0")
            confirm = producer.send_batch([b"%d" % number for number in range(1, 100)])
            producer.send(b"100")
        assert (len(confirm), confirm.done()) == (99, True)
        assert [result.sequence for result in confirm.result()] == list(range(2, 101))
        assert [one.result().sequence for one in confirm] == list(range(2, 101))
        assert confirm[-1].result().sequence == 100
        assert len(producer.send_batch([])) == 0
    assert [int(body) for body in server.broker.channel("q").bodies] == list(range(101))


def test_sync_producer_of_a_closed_client_ends_its_confirms_and_refuses_more() -> None:
    with FakeServer() as server:
        client = SyncClient(server.endpoint)
        client.info()
        producer = client.queue("q").producer(linger_ms=60_000, pending_bytes_max=200)
        called = threading.Event()
        confirm = producer.send(b"x")
        confirm.add_done_callback(lambda _: called.set())
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(producer.send, bytes(190))
            while not producer._line:
                assert not waiting.done()
            client.close()
            with pytest.raises(LocalProtocolError, match="closed"):
                waiting.result(10)
        assert isinstance(confirm.exception(), DeadlineExceeded)
        assert called.wait(10)
        for send in (lambda: producer.send(b"y"), lambda: producer.send_batch([b"y"]), producer.flush):
            with pytest.raises(LocalProtocolError, match="closed"):
                send()


def test_sync_producer_parcel_that_comes_behind_the_close_fails() -> None:
    with FakeServer() as server, SyncClient(server.endpoint) as client:
        client.info()
        producer, driver = client.queue("q").producer(), client._client._driver
        assert driver is not None

        async def close_and_send() -> SyncConfirm:
            await driver.close()
            return producer.send(b"x")  # the loop takes it in its next pass

        with pytest.raises(LocalProtocolError, match="closed"):
            client.run(close_and_send()).result(10)


def test_sync_producer_refused_message_says_why() -> None:
    with FakeServer() as server, SyncClient(server.endpoint) as client:
        producer = client.queue("q").producer()
        server.node.refusals.append(MessageTooLarge("too large", size=2, limit=1))
        confirm = producer.send(b"x")
        with pytest.raises(MessageTooLarge):
            confirm.result()
        with pytest.raises(MessageTooLarge):
            producer.flush()
        with pytest.raises(LocalProtocolError):
            producer.send("text")  # type: ignore[arg-type]


def test_sync_producer_copied_into_another_process_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeServer() as server, SyncClient(server.endpoint) as client:
        producer = client.queue("q").producer()
        producer.send(b"x").result()
        server.silent = True
        confirm = producer.send_batch([b"y"])[0]
        with monkeypatch.context() as patch:
            parent = os.getpid()
            patch.setattr(os, "getpid", lambda: parent + 1)
            sync_producer._forget_parent()
            for action in (lambda: producer.send(b"z"), producer.flush, confirm.result):
                with pytest.raises(LocalProtocolError, match="process"):
                    action()


def test_sync_producer_in_a_forked_child_refuses() -> None:
    with FakeServer() as server, SyncClient(server.endpoint) as client:
        producer = client.queue("q").producer(linger_ms=60_000)
        confirm = producer.send(b"x")
        child = os.fork()
        if child == 0:  # pragma: no cover - another process
            status = 0
            for action in (lambda: producer.send(b"y"), producer.flush, confirm.result):
                try:
                    action()
                except LocalProtocolError:
                    continue
                status = 1
            os._exit(status)
        assert os.waitpid(child, 0)[1] == 0
        producer.flush()
        assert confirm.result().sequence == 1
    assert server.broker.channel("q").bodies == [b"x"]
