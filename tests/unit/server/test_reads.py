"""READs at one node: answered at once, kept until there is something, or served in turns, within their bounds."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from tests.unit.server.harness import GROUP, Site
from zmqbroker.broker import Machine
from zmqbroker.commands import CreateChannel, DeleteChannel, SetDefaults
from zmqbroker.commands.channels import ChannelSettings
from zmqbroker.errors import Busy, ChannelNotFound, InvalidRequest, PositionGone, RequestError
from zmqbroker.server import reads as module
from zmqbroker.server.reads import Reads
from zmqbroker.server.routes import Pending, PendingSends, Route
from zmqbroker.wire import codec
from zmqbroker.wire.columns import Treatment, add_columns
from zmqbroker.wire.frames import Reply, decode_header
from zmqbroker.wire.requests import ReadRequest

STORE = "events_store:s"
SESSION = b"s" * 16
MS = 1_000_000


class Hall:
    """A group of one node, its entries in memory or old as a test says, and whoever reads there."""

    def __init__(self) -> None:
        self.site = Site().lead()
        self.old: set[int] = set()  # indexes of entries that have left memory
        self.read_indexes: list[int] = []
        self.answers: list[tuple[bytes, int, dict[str, Any], list[bytes]]] = []  # whose, request id, fields, bodies
        self.refused: list[tuple[int, RequestError]] = []
        self.counters: Counter[str] = Counter()
        self.reads = Reads(self, self.counters, self.send, self.refuse, self.clock)  # type: ignore[arg-type]
        self.now_ns = 0
        self.turn_ms = 0  # how long a turn of old data takes

    def clock(self) -> int:
        self.now_ns += self.turn_ms * MS // 2
        return self.now_ns

    def read(self, group: int, index: int) -> bytes:
        self.read_indexes.append(index)
        return self.site.log.read(group, index)

    def is_young(self, group: int, index: int) -> bool:
        assert group == GROUP
        return index not in self.old

    def send(self, route: Route, frames: Sequence[bytes]) -> None:
        command, request_id, fields = decode_header(frames[0])
        assert command == Reply.EVENTS_READ
        self.answers.append((route.routing_id, request_id, fields, list(frames[1:])))

    def refuse(self, pending: Pending, error: RequestError) -> None:
        self.refused.append((pending.request_id, error))

    def publish(self, count: int = 1, *, key: str = "", channel: str = STORE) -> int:
        """Store a batch in an entry of its own; the index of that."""
        batch = codec.encode_batch(channel.encode(), [b"x"] * count)
        if key:
            batch = add_columns(batch, count, [Treatment(group=key)] * count)
        self.site.group.publish(batch, 0, PendingSends([]))
        self.site.run()
        return self.site.machine.applied_index

    def submit(self, *commands: Any) -> None:
        for command in commands:
            self.site.group.submit(command)
        self.site.run()

    def ask(self, request_id: int = 1, *, route: Route | None = None, **fields: Any) -> None:
        request = ReadRequest(STORE, **{"start": "first", "count_max": 100, **fields})
        pending = Pending(route or Route(b"alice", delimiter=False), request_id, SESSION)
        self.reads.ask(self.site.group, request, pending, self.now_ns)

    def serve(self, after_ms: int = 0) -> bool:
        """Whether more is to be done."""
        self.now_ns += after_ms * MS
        self.pause_ns = self.reads.serve(self.site.group, self.now_ns)
        return self.pause_ns is not None

    def told(self) -> list[tuple[int, list[tuple[int, int]], int]]:
        """Request id, spans of sequences and `next` of each answer since the last call."""
        answers, self.answers = self.answers, []
        return [(number, [(row[1], row[2]) for row in fields["pieces"]], fields["next"]) for _, number, fields, _ in answers]


def test_read_is_answered_at_once_with_what_is_there() -> None:
    hall = Hall()
    hall.publish(3)
    hall.publish(2)
    hall.ask()
    ((_, _, fields, bodies),) = hall.answers
    assert [row[:4] for row in fields["pieces"]] == [[0, 1, 3, 0], [0, 4, 5, 0]]
    assert (fields["next"], fields["first"], fields["last"]) == (6, 1, 5)
    assert fields["incarnation"] == hall.site.machine.channel(STORE).incarnation  # type: ignore[union-attr]
    assert [len(codec.decode_batch(body).bodies) for body in bodies] == [3, 2]
    assert hall.counters["events_read"] == 5


def test_read_of_the_plain_form_has_a_body_for_each_event() -> None:
    hall = Hall()
    hall.publish(2, key="k")
    hall.ask(plain=True)
    ((_, _, fields, bodies),) = hall.answers
    assert bodies == [b"x", b"x"]
    assert [(message["sequence"], message["group"]) for message in fields["messages"]] == [(1, "k"), (2, "k")]
    hall.ask(plain=True, start="new")
    assert hall.answers[-1][2]["messages"] == []


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        ({"start": "first"}, [(1, 3), (4, 5)]),
        ({"start": "last"}, [(5, 5)]),
        ({"start": "new"}, []),
        ({"start": "sequence", "value": 3}, [(3, 3), (4, 5)]),
        ({"start": "sequence", "value": 9}, []),
        ({"start": "time", "value": 0}, [(1, 3), (4, 5)]),
        ({"start": "time", "value": 2**63}, []),
        ({"start": "time_delta_ms", "value": 3_600_000}, [(1, 3), (4, 5)]),
        ({"start": "first", "count_max": 2}, [(1, 2)]),
        ({"start": "first", "count_max": 4}, [(1, 3), (4, 4)]),
        ({"start": "first", "size_max": 1}, [(1, 1)]),
    ],
)
def test_read_begins_where_it_says(request_: dict[str, Any], expected: list[tuple[int, int]]) -> None:
    hall = Hall()
    hall.publish(3)
    hall.publish(2)
    hall.ask(**request_)
    ((_, spans, following),) = hall.told()
    assert spans == expected
    assert following == (expected[-1][1] + 1 if expected else max(request_.get("value", 0) % 2**20, 6))


def test_read_of_a_key_is_its_newest_event() -> None:
    hall = Hall()
    hall.ask(start="last", key="a")  # of a store that is not there
    assert hall.told() == [(1, [], 1)]
    hall.submit(CreateChannel(STORE, ChannelSettings(keep_latest=True)))
    for key in ("a", "b", "a", "b"):
        hall.publish(key=key)
    hall.ask(1, start="last", key="a")
    hall.ask(2, start="last", key="c")
    hall.ask(3, start="sequence", value=1)  # its key has a newer one: that is no gap
    assert hall.told() == [(1, [(3, 3)], 4), (2, [], 5), (3, [(3, 3), (4, 4)], 5)]


def test_read_of_a_key_without_an_index_of_keys_is_refused() -> None:
    hall = Hall()
    hall.publish(key="a")
    with pytest.raises(InvalidRequest, match="keep_latest is false"):
        hall.ask(start="last", key="a")


def test_read_of_a_store_that_is_not_there_waits_for_its_first_event() -> None:
    hall = Hall()
    hall.ask(1, start="first")
    hall.ask(2, start="first", wait_ms=1000)
    hall.ask(3, start="sequence", value=2, wait_ms=1000)
    assert hall.told() == [(1, [], 1)]
    hall.publish()
    assert not hall.serve()
    assert hall.told() == [(2, [(1, 1)], 2)]
    hall.publish()
    hall.serve()
    assert hall.told() == [(3, [(2, 2)], 3)]


def test_read_of_a_store_that_use_does_not_make_is_refused() -> None:
    hall = Hall()
    hall.submit(SetDefaults(">", {"create_on_use": False}))
    with pytest.raises(ChannelNotFound):
        hall.ask(wait_ms=1000)


def test_read_that_waits_ends_with_nothing_when_its_time_is_over() -> None:
    hall = Hall()
    hall.publish()
    hall.ask(1, start="new", wait_ms=500)
    hall.ask(2, start="new", wait_ms=2000)
    hall.serve(400)
    assert hall.told() == []
    hall.serve(200)
    assert hall.told() == [(1, [], 2)]
    hall.serve(1500)
    assert hall.told() == [(2, [], 2)]
    assert hall.reads.sessions() == set()


def test_readers_at_one_place_are_answered_with_one_reading() -> None:
    hall = Hall()
    hall.publish()
    for number in range(10):
        hall.ask(number, start="new", wait_ms=1000)
    assert hall.reads.sessions() == {SESSION}
    index = hall.publish(5)
    hall.serve()
    assert hall.told() == [(number, [(2, 6)], 7) for number in range(10)]
    assert hall.read_indexes == [index]


def test_reader_that_comes_later_is_answered_with_the_same_reading_until_the_state_changes() -> None:
    hall = Hall()
    index = hall.publish(5)
    hall.ask(1)
    hall.ask(2)
    assert hall.read_indexes == [index]
    hall.publish(channel="other")
    hall.ask(3)
    assert hall.read_indexes == [index, index]
    assert hall.told() == [(number, [(1, 5)], 6) for number in (1, 2, 3)]


def test_answers_that_are_kept_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT_BYTES_MAX", 1)
    hall = Hall()
    indexes = [hall.publish(), hall.publish()]
    for sequence in (1, 1, 2, 2, 1):
        hall.ask(start="sequence", value=sequence, count_max=1)
    assert hall.read_indexes == [indexes[0], indexes[1], indexes[0]]


def test_repeat_of_a_read_takes_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAITS_PER_CONNECTION_MAX", 1)
    hall = Hall()
    hall.ask(1, wait_ms=1000)
    hall.ask(1, wait_ms=1000)
    hall.ask(1, wait_ms=1000, route=Route(b"bob", delimiter=False))
    hall.publish()
    hall.serve()
    assert [who for who, *_ in hall.answers] == [b"alice", b"bob"]


def test_position_that_retention_has_taken_is_told_with_the_first_that_is_there() -> None:
    hall = Hall()
    hall.submit(CreateChannel(STORE, ChannelSettings(max_messages=2, overflow="drop_oldest")))
    for _ in range(5):
        hall.publish()
    with pytest.raises(PositionGone) as gone:
        hall.ask(start="sequence", value=3)
    assert gone.value.first == 4


def test_store_that_was_made_anew_is_told_from_the_old_one() -> None:
    hall = Hall()
    hall.publish(3)
    hall.ask(1)
    before = hall.answers.pop()[2]["incarnation"]
    hall.ask(2, start="sequence", value=4, incarnation=before, wait_ms=1000)
    hall.submit(DeleteChannel(STORE))
    hall.ask(3, start="sequence", value=4, incarnation=before)
    assert hall.told() == [(3, [], 4)]  # deleted, or not known here yet
    hall.publish(2)
    hall.serve()
    with pytest.raises(PositionGone) as gone:
        hall.ask(4, start="sequence", value=4, incarnation=before)
    assert gone.value.first == 1
    hall.publish(2)
    hall.serve()
    ((number, error),) = hall.refused
    assert (number, type(error)) == (2, PositionGone)
    hall.ask(5, start="sequence", value=1, incarnation=hall.site.machine.applied_index + 1)  # this node is behind
    assert hall.told() == [(5, [], 1)]


def test_old_data_is_read_in_turns_a_bounded_piece_in_a_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TURN_ENTRIES_MAX", 2)
    hall = Hall()
    indexes = [hall.publish() for _ in range(6)]
    hall.old.update(indexes[:5])
    hall.ask(1)
    hall.ask(2, start="sequence", value=4)
    hall.ask(3)
    assert hall.told() == []
    assert hall.serve()  # more is to be done
    assert hall.told() == [(1, [(1, 1), (2, 2)], 3), (3, [(1, 1), (2, 2)], 3)]  # who wants the same gets it with them
    assert not hall.serve()
    assert hall.told() == [(2, [(4, 4), (5, 5)], 6)]
    assert hall.read_indexes == [*indexes[:2], *indexes[3:5]]
    hall.publish(channel="other")  # else the answer is kept
    hall.ask(4)
    hall.serve()
    assert hall.told() == [(4, [(1, 1), (2, 2)], 3)]
    assert hall.read_indexes == [*indexes[:2], *indexes[3:5]]  # entries are kept for those who read about there


def test_reading_old_data_rests_as_long_as_it_took() -> None:
    hall = Hall()
    hall.old.update([hall.publish(), hall.publish()])
    hall.turn_ms = 6
    hall.ask(1)
    hall.ask(2, start="last")
    assert hall.serve()
    assert hall.pause_ns == 3 * MS  # it began at 3 ms and ended at 6
    assert hall.told() == [(1, [(1, 1), (2, 2)], 3)]
    assert hall.serve(after_ms=2)
    assert (hall.told(), hall.pause_ns) == ([], MS)
    assert not hall.serve(after_ms=1)
    assert hall.told() == [(2, [(2, 2)], 3)]


def test_turn_ends_when_it_has_read_so_many_bytes_and_keeps_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TURN_BYTES_MAX", 1)
    monkeypatch.setattr(module, "OLD_BYTES_MAX", 1)
    hall = Hall()
    indexes = [hall.publish(2), hall.publish()]
    hall.old.update(indexes)
    for number in (1, 2):
        hall.ask(number)
        hall.serve()
        hall.publish(channel="other")  # else the answer is kept
    assert hall.told() == [(1, [(1, 2)], 3), (2, [(1, 2)], 3)]
    assert hall.read_indexes == [indexes[0]] * 2


def test_answer_from_memory_ends_where_old_data_follows() -> None:
    hall = Hall()
    indexes = [hall.publish() for _ in range(3)]
    hall.old.add(indexes[1])
    hall.ask()
    assert hall.told() == [(1, [(1, 1)], 2)]


def test_turn_of_a_place_that_is_gone_meanwhile_ends_with_that() -> None:
    hall = Hall()
    hall.submit(CreateChannel(STORE, ChannelSettings(max_messages=2, overflow="drop_oldest")))
    hall.old.update([hall.publish(), hall.publish()])
    hall.ask(1)
    hall.publish()
    hall.serve()
    ((number, error),) = hall.refused
    assert (number, type(error)) == (1, PositionGone)
    hall.old.update(range(hall.site.machine.applied_index + 1))
    hall.ask(2)
    hall.submit(DeleteChannel(STORE))
    hall.serve()
    assert hall.told() == [(2, [], 2)]


def test_place_with_nothing_but_gaps_goes_on_behind_them() -> None:
    hall = Hall()
    hall.submit(CreateChannel(STORE, ChannelSettings(keep_latest=True)))
    hall.publish(key="a")
    hall.publish(key="b")
    hall.publish(key="a")
    hall.publish(key="b")
    hall.submit(DeleteChannel(STORE), CreateChannel(STORE, ChannelSettings(keep_latest=True, expiry_ms=10)))
    hall.publish()
    while hall.site.machine.store(STORE).first_sequence == 1:  # type: ignore[union-attr]
        hall.site.group.tick()
        hall.site.run()
        time.sleep(0.001)
    hall.ask(start="sequence", value=1)
    assert hall.told() == [(1, [], 2)]


def test_reads_that_wait_are_bounded_for_a_connection_and_for_the_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAITS_PER_CONNECTION_MAX", 2)
    monkeypatch.setattr(module, "WAITS_MAX", 3)
    hall = Hall()
    hall.ask(1, wait_ms=1000)
    hall.ask(2, wait_ms=1000)
    with pytest.raises(Busy, match="2 READs of this connection"):
        hall.ask(3, wait_ms=1000)
    hall.ask(3, wait_ms=1000, route=Route(b"bob", delimiter=False))
    with pytest.raises(Busy, match="3 READs wait at this node"):
        hall.ask(4, wait_ms=1000, route=Route(b"carol", delimiter=False))
    hall.publish()
    hall.serve()
    assert len(hall.told()) == 3
    hall.old.add(hall.site.machine.applied_index)
    for number in (5, 6):
        hall.ask(number)
    with pytest.raises(Busy):
        hall.ask(7)


def test_channels_in_which_somebody_waits_take_turns_to_be_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOKED_AT", 2)
    hall = Hall()
    for number in range(5):
        request = ReadRequest(f"{STORE}{number}", wait_ms=1000)
        pending = Pending(Route(b"alice", delimiter=False), number, SESSION)
        hall.reads.ask(hall.site.group, request, pending, 0)
    hall.publish(channel=f"{STORE}4")
    assert hall.serve()
    assert hall.serve()
    assert hall.told() == []
    assert not hall.serve()
    assert hall.told() == [(4, [(1, 1)], 2)]
    hall.publish(channel=f"{STORE}3")
    assert hall.serve()
    hall.publish(channel=f"{STORE}0")  # those that were not looked at come first
    assert hall.serve()
    assert hall.told() == [(3, [(1, 1)], 2)]
    assert not hall.serve()
    assert hall.told() == [(0, [(1, 1)], 2)]


def test_snapshot_that_replaces_the_state_serves_those_who_wait() -> None:
    hall = Hall()
    hall.ask(1, wait_ms=1000)
    hall.serve()
    other = Hall()
    other.publish()
    hall.site.log = other.site.log
    hall.site.group.machine = Machine.restore(other.site.machine.applied_index, other.site.machine.items())
    hall.serve()
    assert hall.told() == [(1, [(1, 1)], 2)]
