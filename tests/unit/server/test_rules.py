"""Schedules and defaults at a node's desk, and what a leader says when it begins to lead."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.unit.broker.builders import Node, publish, scheduled
from tests.unit.server.harness import member
from tests.unit.server.test_desk import Office, follower, leader
from tests.unit.server.test_salvage import GROUP, body, state
from tests.unit.storage.support import open_log
from zmqbroker.broker import Machine
from zmqbroker.commands import CreateSchedule, DeleteSchedule, Plan, SetDefaults
from zmqbroker.config import NodeConfig
from zmqbroker.errors import ChannelNotFound, RequestError, ScheduleExists, ScheduleNotFound, StorageFull
from zmqbroker.server.body_moves import plan_move, trimmable
from zmqbroker.server.membership import founding
from zmqbroker.server.opening import check_bodies
from zmqbroker.server.salvage import lose_what_the_log_lost
from zmqbroker.storage.interfaces import StateStore
from zmqbroker.wire.codec import decode_batch
from zmqbroker.wire.frames import Reply
from zmqbroker.wire.peer import PeerKind
from zmqbroker.wire.requests import (
    AnyRequest,
    CreateScheduleRequest,
    ListDefaults,
    ListSchedules,
    ManageRequest,
    Send,
)

__all__ = ["follower", "leader", "state"]  # the fixtures

NIGHTLY = CreateScheduleRequest("nightly", Plan(cron="0 3 * * *"), Send("q", b"go", id="i", metadata="m", priority=4))


def served(office: Office, request: AnyRequest) -> tuple[Reply, dict[str, Any]] | RequestError:
    """What the leader's group answers."""
    host = office.site.host
    host.replies.clear()
    host.refused.clear()
    office.ask(request)
    return host.refused[0][1] if host.refused else host.replies[0][1:]


def test_desk_schedule_is_made_of_a_batch_frame_and_told(leader: Office) -> None:
    made = {"schedule": "nightly", "changed": True, "confirm": "quorum"}
    assert served(leader, NIGHTLY) == (Reply.CHANGED, made)
    (command,) = leader.commands()
    assert isinstance(command, CreateSchedule)
    entry = leader.site.log.read(1, leader.site.machine.applied_index)
    contents = decode_batch(entry[command.message.position : command.message.position + command.message.size])
    assert (contents.bodies, contents.ids, command.message.runs[0].priority) == ([b"go"], [b"i"], 4)
    assert served(leader, NIGHTLY) == (Reply.CHANGED, {**made, "changed": False})
    code, fields, _ = leader.answer(ListSchedules())
    (row,) = fields["schedules"]
    instant = row.pop("next_unix_ns")
    assert (code, fields["more"], instant % 60_000_000_000) == (Reply.SCHEDULES, False, 0)
    told = {"name": "nightly", "channel": "q", "plan": {"cron": "0 3 * * *"}, "times_left": None, "stored": 0, "skipped": 0}
    assert row == told
    refusal = served(leader, CreateScheduleRequest("nightly", Plan(cron="0 4 * * *"), NIGHTLY.message))
    assert isinstance(refusal, ScheduleExists)
    assert refusal.differing == ["cron"]
    assert served(leader, ManageRequest(DeleteSchedule("nightly"))) == (Reply.CHANGED, made)
    assert isinstance(served(leader, ManageRequest(DeleteSchedule("nightly"))), ScheduleNotFound)


def test_desk_schedule_takes_room_as_a_send_does(leader: Office) -> None:
    full = StorageFull("full", used_bytes=1, budget_bytes=1)
    node: Any = leader.desk._node
    node.disks = SimpleNamespace(refusal=lambda group: full)
    assert leader.answer(NIGHTLY)[1]["code"] == "STORAGE_FULL"
    assert list(leader.site.machine.schedules()) == []


def test_desk_lists_schedules_in_pages(leader: Office) -> None:
    for name in ("b", "a", "c"):
        leader.ask(CreateScheduleRequest(name, Plan(1000), Send("q", b"")))

    def listed(request: ListSchedules) -> tuple[list[str], bool]:
        fields = leader.answer(request)[1]
        return [row["name"] for row in fields["schedules"]], fields["more"]

    assert listed(ListSchedules(count_max=2)) == (["a", "b"], True)
    assert listed(ListSchedules("", "b")) == (["c"], False)
    assert listed(ListSchedules("a")) == (["a"], False)


def test_desk_defaults_are_set_and_told(leader: Office) -> None:
    said = {"max_messages": 5, "create_on_use": False}
    changed = {"pattern": "a.>", "changed": True, "confirm": "quorum"}
    assert served(leader, ManageRequest(SetDefaults("a.>", said))) == (Reply.CHANGED, changed)
    assert leader.answer(ListDefaults()) == (Reply.DEFAULTS, {"defaults": [{"pattern": "a.>", "settings": said}]}, [])
    assert isinstance(served(leader, Send("a.b", b"x")), ChannelNotFound)


@pytest.mark.parametrize("request_", [NIGHTLY, ManageRequest(SetDefaults("a")), ManageRequest(DeleteSchedule("a"))])
def test_desk_follower_names_the_leader(follower: Office, request_: AnyRequest) -> None:
    code, fields, _ = follower.answer(request_)
    assert (code, fields["code"], fields["leader"]) == (Reply.ERROR, "NOT_LEADER", "tcp://leader:5590")


@pytest.mark.parametrize("request_", [ListSchedules(), ListDefaults()])
def test_desk_follower_answers_what_is_asked_of_it(follower: Office, request_: Any) -> None:
    assert follower.answer(request_)[0] in (Reply.SCHEDULES, Reply.DEFAULTS)
    follower.ask(type(request_)(forward=True))
    assert [kind for kind, _, _ in follower.forwarded] == [PeerKind.FORWARD]


@pytest.mark.parametrize("request_", [ListSchedules(), ListDefaults()])
def test_desk_before_the_cluster_is_formed_has_none(leader: Office, request_: Any) -> None:
    node: Any = leader.desk._node
    node.groups = {}
    assert [value for value in leader.answer(request_)[1].values() if value] == []


def test_leader_says_that_use_creates_nothing_where_its_configuration_does(leader: Office) -> None:
    leader.desk.leading.begin(leader.site.group)
    leader.site.run()
    assert list(leader.site.machine.defaults()) == []
    node: Any = leader.desk._node
    node.config = NodeConfig.for_test({"channels.create_on_use": False})
    leader.desk.leading.begin(leader.site.group)
    leader.site.run()
    assert leader.commands() == (SetDefaults(">", {"create_on_use": False}, keep=True),)
    assert list(leader.site.machine.defaults()) == [(">", {"create_on_use": False})]


# --- the body of a schedule ------------------------------------------------------------------------------------------------


def node_with_schedules() -> Node:
    node = Node()
    node.machine.found(founding([member(1)]))
    node.entry(scheduled("one"))
    for _ in range(8):
        node.entry(publish(2))
    node.entry(scheduled("two"))
    return node


def test_body_of_a_schedule_moves_to_the_store_before_the_log_is_trimmed() -> None:
    node = node_with_schedules()
    node.machine._trimmed_index = 10
    assert trimmable(node.machine, 0) == 0
    move = plan_move(node.machine, 0, 5)
    assert move is not None
    assert move.indexes[0] == 1
    assert trimmable(node.machine, 10) == 10


def test_salvage_forgets_a_schedule_whose_body_is_lost(tmp_path: Path, state: StateStore) -> None:
    node = node_with_schedules()
    state.install(GROUP, 3, 1, [], [(index, body(index)) for index in (1, 2, 3)])
    state.commit(GROUP, 10, node.machine.items())
    log = open_log(tmp_path / "log")
    lose_what_the_log_lost(GROUP, log, state)
    machine = Machine.restore(state.applied_index(GROUP), state.load(GROUP))
    assert [schedule.name for schedule in machine.schedules()] == ["one"]
    assert state.body_indexes(GROUP) == [1, 2, 3]
    check_bodies(GROUP, machine, log, state)
    log.close()
