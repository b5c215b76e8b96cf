"""A snapshot on its way over links that lose, repeat and reorder: the receiver gets the exact bytes, or the sender gives up."""

from __future__ import annotations

import io
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zmqbroker.errors import MalformedFrame
from zmqbroker.raft.messages import Message, MessageType
from zmqbroker.server import snapshot_transfer
from zmqbroker.server.snapshot_transfer import (
    GIVE_UP_NS,
    REPEAT_NS,
    STUCK_NS,
    WINDOW,
    Chunk,
    Incoming,
    Outgoing,
    read_chunk,
)

ID = b"i" * 16
CHUNK = 10  # bytes, in these tests
TICK_NS = 20_000_000


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot_transfer, "CHUNK_BYTES", CHUNK)


def outgoing(content: bytes, now_ns: int = 0) -> Outgoing:
    message = Message(MessageType.INSTALL_SNAPSHOT, to=2, sender=1, group=1, term=5)
    return Outgoing(message, ID, io.BytesIO(content), len(content), now_ns)


def ack(offset: int, done: bool | None = None) -> dict[str, Any]:
    """A receiver's answer."""
    fields = {"id": ID, "group": 1, "offset": offset}
    return fields if done is None else {**fields, "done": done}


class Receiver:
    """What a node does with chunks; it looks at the whole for some ticks before it knows what came of it."""

    def __init__(self, check_ticks: int = 0) -> None:
        self.incoming: Incoming | None = None
        self.file = io.BytesIO()
        self.check_ticks = check_ticks
        self.answer: dict[str, Any] | None = None
        self.restarts = 0

    def take(self, fields: dict[str, Any], data: bytes, now_ns: int) -> dict[str, Any]:
        chunk = read_chunk(fields, [data])
        if self.answer is not None:
            return self.answer
        if self.incoming is None:
            self.file = io.BytesIO()
            self.incoming = Incoming(chunk, 1, self.file, now_ns)
        self.incoming.take(chunk, now_ns)
        if self.incoming.complete:
            self.answer = self.incoming.ack()
        return self.incoming.ack()

    def tick(self) -> dict[str, Any] | None:
        """The verdict, when it has just become known."""
        if self.answer is None or "done" in self.answer:
            return None
        self.check_ticks -= 1
        if self.check_ticks >= 0:
            return None
        assert self.incoming is not None
        self.answer = self.incoming.verdict(done=True)
        return self.answer

    def restart(self) -> None:
        """The process was killed: nothing of what came is known any more."""
        self.incoming, self.answer = None, None
        self.restarts += 1


class Link:
    """Carries frames, badly: some are lost, some come twice, some late."""

    def __init__(self, chance: random.Random, loss: float, repeat: float, late: float) -> None:
        self._chance, self._loss, self._repeat, self._late = chance, loss, repeat, late
        self._under_way: list[tuple[int, int, Any]] = []  # tick of arrival, order, frame
        self._count = 0

    def send(self, frame: Any, tick: int) -> None:
        if self._chance.random() < self._loss:
            return
        for _ in range(1 + (self._chance.random() < self._repeat)):
            delay = self._chance.randrange(1, 60) if self._chance.random() < self._late else 1
            self._count += 1
            self._under_way.append((tick + delay, self._count, frame))

    def arrived(self, tick: int) -> list[Any]:
        due = sorted(item for item in self._under_way if item[0] <= tick)
        self._under_way = [item for item in self._under_way if item[0] > tick]
        return [frame for _, _, frame in due]


class Transfer:
    """Sender, receiver and the links between them, one tick at a time."""

    def __init__(self, content: bytes, link: tuple[Link, Link], receiver: Receiver) -> None:
        self.sender = outgoing(content)
        self.there, self.back = link
        self.receiver = receiver
        self.tick_count = 0
        self.sent = 0

    def tick(self) -> None:
        self.tick_count += 1
        tick, now_ns = self.tick_count, self.tick_count * TICK_NS
        for fields in self.back.arrived(tick):
            self.sender.heard(fields, now_ns)
        for fields, data in self.there.arrived(tick):
            self.back.send(self.receiver.take(fields, data, now_ns), tick)
        if (verdict := self.receiver.tick()) is not None:
            self.back.send(verdict, tick)
        for chunk in self.sender.chunks(now_ns):
            assert chunk.offset < self.sender._wanted + WINDOW * CHUNK
            self.there.send((chunk.fields(), chunk.data), tick)
            self.sent += 1

    def run(self, ticks: int) -> bool | None:
        """The outcome; None when the sender gave up. AssertionError when neither comes in time."""
        for _ in range(ticks):
            self.tick()
            if self.sender.outcome is not None:
                return self.sender.outcome
            if self.sender.failed(self.tick_count * TICK_NS):
                return None
        raise AssertionError("neither an end nor a failure")


CONTENTS = st.binary(min_size=1, max_size=12 * CHUNK)
PERCENT = st.integers(0, 40).map(lambda percent: percent / 100)


@settings(deadline=None)
@given(CONTENTS, st.randoms(use_true_random=False), PERCENT, PERCENT, PERCENT, st.integers(0, 200))
def test_transfer_over_a_bad_link_delivers_the_exact_bytes_or_gives_up(
    content: bytes, chance: random.Random, loss: float, repeat: float, late: float, check_ticks: int
) -> None:
    links = Link(chance, loss, repeat, late), Link(chance, loss, repeat, late)
    transfer = Transfer(content, links, Receiver(check_ticks))
    outcome = transfer.run(40_000)
    assert outcome is not False
    if outcome:
        assert transfer.receiver.file.getvalue() == content
    if not loss:
        assert outcome, "without losses nothing is given up"


@settings(deadline=None)
@given(CONTENTS.filter(lambda content: len(content) > CHUNK), st.randoms(use_true_random=False), st.integers(1, 60))
def test_transfer_to_a_receiver_that_restarts_begins_anew(content: bytes, chance: random.Random, after_ticks: int) -> None:
    links = Link(chance, 0, 0.2, 0.2), Link(chance, 0, 0.2, 0.2)
    transfer = Transfer(content, links, Receiver(check_ticks=1000))
    for _ in range(after_ticks):
        transfer.tick()
    transfer.receiver.restart()
    transfer.receiver.check_ticks = 0
    assert transfer.run(40_000)
    assert transfer.receiver.file.getvalue() == content


def test_transfer_without_faults_sends_every_chunk_once() -> None:
    content = bytes(range(100)) * 2
    perfect = random.Random(1)
    transfer = Transfer(content, (Link(perfect, 0, 0, 0), Link(perfect, 0, 0, 0)), Receiver())
    assert transfer.run(1000)
    assert (transfer.sent, transfer.receiver.file.getvalue()) == (20, content)


def test_transfer_goes_on_where_an_earlier_one_of_the_same_snapshot_was_cut() -> None:
    content = bytes(range(100))
    receiver = Receiver()
    for chunk in outgoing(content).chunks(0):
        answer = receiver.take(chunk.fields(), chunk.data, 0)
    again = outgoing(content)
    first = next(iter(again.chunks(0)))
    assert (first.offset, receiver.take(first.fields(), first.data, 0)) == (0, answer)
    again.heard(answer, 1)
    assert [chunk.offset for chunk in again.chunks(1)] == [40, 50, 60, 70]


def offsets(sender: Outgoing, now_ns: int) -> list[int]:
    return [chunk.offset for chunk in sender.chunks(now_ns)]


def test_outgoing_never_has_more_than_the_window_under_way() -> None:
    sender = outgoing(bytes(100))
    assert offsets(sender, 0) == [0, 10, 20, 30]
    assert offsets(sender, 1) == []
    sender.heard(ack(10), 2)
    assert offsets(sender, 2) == [40]
    sender.heard(ack(40), 3)
    assert offsets(sender, 3) == [50, 60, 70]


def test_outgoing_repeats_from_what_is_wanted_after_a_silence_and_not_before() -> None:
    sender = outgoing(bytes(100))
    offsets(sender, 0)
    sender.heard(ack(20), 5)
    assert offsets(sender, 5) == [40, 50]
    assert offsets(sender, 5 + REPEAT_NS) == []
    assert offsets(sender, 6 + REPEAT_NS) == [20, 30, 40, 50]
    assert offsets(sender, 6 + 2 * REPEAT_NS) == []
    assert offsets(sender, 7 + 2 * REPEAT_NS) == [20, 30, 40, 50]


def test_outgoing_chunk_that_the_link_refused_is_the_next_one() -> None:
    sender = outgoing(bytes(100))
    for chunk in sender.chunks(0):
        if chunk.offset == 20:
            sender.unsent(chunk)
            break
    assert offsets(sender, 1) == [20, 30]


@pytest.mark.parametrize("left", [0, 15])
def test_outgoing_of_a_file_that_was_cut_is_an_error_of_the_system(left: int) -> None:
    message = Message(MessageType.INSTALL_SNAPSHOT, to=2, sender=1, group=1, term=5)
    sender = Outgoing(message, ID, io.BytesIO(bytes(left)), 100, 0)
    with pytest.raises(OSError, match=f"of 100 bytes ends after {left}"):
        offsets(sender, 0)


def test_outgoing_gives_up_after_a_silence_however_often_it_repeats() -> None:
    sender = outgoing(bytes(100), now_ns=7)
    for now_ns in range(7, 7 + GIVE_UP_NS, REPEAT_NS):
        offsets(sender, now_ns)
    assert not sender.failed(7 + GIVE_UP_NS)
    assert sender.failed(8 + GIVE_UP_NS)


def test_outgoing_whose_receiver_is_at_work_is_not_given_up_but_one_that_is_stuck_is() -> None:
    sender = outgoing(bytes(100))
    sender.heard(ack(100), 0)
    last = 0
    for now_ns in range(REPEAT_NS + 1, STUCK_NS, REPEAT_NS + 1):
        assert offsets(sender, now_ns) == [90], "the last chunk asks what came of the whole"
        assert not sender.failed(now_ns)
        sender.heard(ack(100), now_ns)
        last = now_ns
    assert last > GIVE_UP_NS
    assert sender.failed(STUCK_NS + 1)


@pytest.mark.parametrize("done", [True, False])
def test_outgoing_outcome_is_what_the_receiver_says(done: bool) -> None:
    sender = outgoing(bytes(100))
    sender.heard(ack(100), 1)
    assert sender.outcome is None
    sender.heard(ack(100, done), 2)
    assert sender.outcome is done


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"id": ID},
        ack(-1),
        ack(101),
        {**ack(20), "offset": True},
        {**ack(20), "offset": "20"},
        {**ack(20), "id": b"o" * 16},
        {**ack(100, True), "id": b"o" * 16},
    ],
)
def test_outgoing_nonsense_of_a_receiver_changes_nothing(fields: dict[str, Any]) -> None:
    sender = outgoing(bytes(100))
    offsets(sender, 0)
    sender.heard(fields, GIVE_UP_NS)
    assert (sender.outcome, sender.failed(GIVE_UP_NS + 1)) == (None, True)
    assert offsets(sender, 1) == []


def test_outgoing_outcome_that_is_no_truth_value_is_none() -> None:
    sender = outgoing(bytes(100))
    sender.heard({**ack(100), "done": "yes"}, 1)
    assert sender.outcome is None


def chunk(offset: int = 0, size: int = 100, data: bytes = b"0123456789") -> Chunk:
    return Chunk(ID, 1, 5, size, offset, data)


def test_incoming_takes_only_what_comes_next() -> None:
    file = io.BytesIO()
    incoming = Incoming(chunk(), 1, file, 0)
    for offset, expected in ((10, 0), (0, 10), (0, 10), (20, 10), (10, 20)):
        incoming.take(chunk(offset), offset)
        assert incoming.offset == expected
    incoming.take(chunk(20, size=99), 0)
    assert (incoming.ack(), file.getvalue()) == (ack(20), b"0123456789" * 2)
    assert incoming.verdict(done=False) == ack(20, done=False)


def test_incoming_knows_when_it_was_heard_and_the_latest_term() -> None:
    incoming = Incoming(chunk(), 1, io.BytesIO(), 3)
    assert incoming.heard_ns == 3
    incoming.take(Chunk(ID, 1, 7, 100, 50, b"x"), 9)
    incoming.take(Chunk(ID, 1, 6, 100, 50, b"x"), 11)
    assert (incoming.heard_ns, incoming.term) == (11, 7)


def test_chunk_read_is_the_chunk_that_was_sent() -> None:
    sent = chunk(90)
    assert read_chunk(sent.fields(), [sent.data]) == sent


@pytest.mark.parametrize(
    ("changes", "frames", "match"),
    [
        ({"id": b"short"}, [b"0123456789"], "id b'short' and 1 frames"),
        ({"id": "i" * 16}, [b"0123456789"], "id 'i"),
        ({}, [], "and 0 frames"),
        ({}, [b"0123456789", b""], "and 2 frames"),
        ({"group": None}, [b"0123456789"], r"\[None, 5, 100, 90\]"),
        ({"term": -1}, [b"0123456789"], r"\[1, -1, 100, 90\]"),
        ({"size": True}, [b"0123456789"], r"\[1, 5, True, 90\]"),
        ({"offset": 90.0}, [b"0123456789"], r"\[1, 5, 100, 90.0\]"),
        ({}, [b"0123456780"], "10 bytes at 90 of 100 is damaged"),
        ({"crc32c": None}, [b"0123456789"], "is damaged"),
        ({}, [b""], "0 bytes at 90 of 100"),
        ({"offset": 91}, [b"0123456789"], "10 bytes at 91 of 100"),
        ({}, [bytes(CHUNK + 1)], "11 bytes at 90"),
    ],
)
def test_chunk_that_cannot_be_one_is_refused(changes: dict[str, Any], frames: list[bytes], match: str) -> None:
    with pytest.raises(MalformedFrame, match=match):
        read_chunk({**chunk(90).fields(), **changes}, frames)
