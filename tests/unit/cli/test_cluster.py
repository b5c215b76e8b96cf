"""`zmqbroker cluster`: when a change counts as done, how long a newcomer is waited for, and how each failure ends."""

from __future__ import annotations

import json
from types import TracebackType
from typing import Any, cast

import pytest

from zmqbroker.cli import cluster as cluster_module
from zmqbroker.cli.app import run
from zmqbroker.cli.exits import Exit
from zmqbroker.cli.options import CommandContext, Connect
from zmqbroker.errors import BrokerError, InvalidRequest, NodeNotFound, NoMajority

Row = dict[str, Any]


def row(number: int, name: str = "", *, voter: bool = True, joining: bool = False, replaces: str | None = None) -> Row:
    """A member as MEMBERS tells of it; NODE does not say whom it replaces."""
    told = {"id": number, "name": name or f"n{number}", "peer": f"h{number}:1", "voter": voter, "joining": joining}
    return {**told, "replaces": replaces}


TRIO = [row(1), row(2), row(3)]
JOINING = [*TRIO, row(4, voter=False, joining=True)]
GROWN = [*TRIO, row(4)]


class Time:
    """Time that passes only while somebody sleeps."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 1_000.0
        self.slept = 0
        monkeypatch.setattr(cluster_module.time, "monotonic", lambda: self.now_s)  # type: ignore[attr-defined]
        monkeypatch.setattr(cluster_module.asyncio, "sleep", self._sleep)  # type: ignore[attr-defined]

    async def _sleep(self, seconds: float) -> None:
        self.now_s += seconds
        self.slept += 1


@pytest.fixture(name="clock")
def _clock(monkeypatch: pytest.MonkeyPatch) -> Time:
    return Time(monkeypatch)


class FakeCluster:
    """A cluster that answers as it was told to: one answer after the other, the last one again and again."""

    def __init__(self, *, answers: list[list[Row] | BrokerError | str], states: list[Any]) -> None:
        self.answers, self.states = answers, states  # to changes and transfers; to INFO
        self.asked: list[tuple[Any, ...]] = []
        self.open_clients = 0

    @staticmethod
    def _next(answers: list[Any]) -> Any:
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, BrokerError):
            raise answer
        return answer

    @property
    def context(self) -> CommandContext:
        """What to give to `app.run`."""
        return CommandContext(connect=cast(Connect, lambda url, timeout_ms: self))

    @property
    def cluster(self) -> FakeCluster:
        return self

    async def info(self) -> dict[str, Any]:
        told = self._next(self.states)
        return told if isinstance(told, dict) else {"cluster": {"formed": True}, "members": told}

    async def add(self, name: str, *, learner: bool = False) -> list[Row]:
        self.asked.append(("add", name, learner))
        return cast(list[Row], self._next(self.answers))

    async def replace(self, name: str, by: str = "") -> list[Row]:
        self.asked.append(("replace", name, by))
        return cast(list[Row], self._next(self.answers))

    async def remove(self, name: str) -> list[Row]:
        self.asked.append(("remove", name))
        return cast(list[Row], self._next(self.answers))

    async def transfer(self, to: str = "") -> str:
        self.asked.append(("transfer", to))
        return cast(str, self._next(self.answers))

    async def __aenter__(self) -> FakeCluster:
        self.open_clients += 1
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.open_clients -= 1


def led_by(*names: str | None) -> dict[str, Any]:
    """NODE of a node with groups that these lead."""
    return {"cluster": {"formed": True}, "groups": [{"leader": name} for name in names]}


# --- add -------------------------------------------------------------------------------------------------------------


def test_add_waits_until_the_newcomer_votes(clock: Time, capsys: pytest.CaptureFixture[str]) -> None:
    fake = FakeCluster(answers=[JOINING], states=[TRIO, JOINING, JOINING, GROWN])
    assert run(["cluster", "add", "n4"], fake.context) == Exit.DONE
    assert fake.asked == [("add", "n4", False)]
    assert clock.slept == 3
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["id", "node", "peer", "votes"],
        *[[str(number), f"n{number}", f"h{number}:1", "yes"] for number in (1, 2, 3, 4)],
    ]
    assert fake.open_clients == 0


def test_add_of_a_learner_is_done_when_it_is_one(clock: Time, capsys: pytest.CaptureFixture[str]) -> None:
    learner = [*TRIO, row(4, voter=False)]
    fake = FakeCluster(answers=[learner], states=[learner])
    assert run(["cluster", "add", "n4", "--learner", "--json"], fake.context) == Exit.DONE
    assert fake.asked == [("add", "n4", True)]
    assert json.loads(capsys.readouterr().out) == {"members": learner}


def test_add_does_not_believe_a_node_that_is_not_in_the_cluster(clock: Time) -> None:
    outside = {"cluster": {"formed": False}, "members": GROWN}  # ids of a node that only knows its configuration
    fake = FakeCluster(answers=[JOINING], states=[outside, outside, GROWN])
    assert run(["cluster", "add", "n4"], fake.context) == Exit.DONE
    assert clock.slept == 2


def test_add_tries_for_a_while_until_the_newcomer_is_heard_of(clock: Time) -> None:
    fake = FakeCluster(answers=[NodeNotFound("not yet"), NodeNotFound("not yet"), JOINING], states=[GROWN])
    assert run(["cluster", "add", "n4"], fake.context) == Exit.DONE
    assert len(fake.asked) == 3


def test_add_of_a_newcomer_that_never_comes_ends_with_nothing_there(clock: Time, capsys: pytest.CaptureFixture[str]) -> None:
    fake = FakeCluster(answers=[NodeNotFound("start it with --peers")], states=[TRIO])
    assert run(["cluster", "add", "n4"], fake.context) == Exit.NOTHING_THERE
    assert capsys.readouterr().err == "zmqbroker: start it with --peers\n"
    assert 1_005 <= clock.now_s < 1_006
    assert fake.open_clients == 0


def test_add_waits_for_a_newcomer_no_longer_than_it_was_told(clock: Time) -> None:
    fake = FakeCluster(answers=[NodeNotFound("x")], states=[TRIO])
    assert run(["cluster", "add", "n4", "--timeout-ms", "1000"], fake.context) == Exit.NOTHING_THERE
    assert clock.now_s < 1_002


def test_add_that_is_not_complete_in_time_ends_with_unreachable_and_says_that_it_goes_on(
    clock: Time, capsys: pytest.CaptureFixture[str]
) -> None:
    fake = FakeCluster(answers=[JOINING], states=[JOINING])
    assert run(["cluster", "add", "n4", "--timeout-ms", "3000"], fake.context) == Exit.UNREACHABLE
    assert capsys.readouterr().err == "zmqbroker: the change is not complete after 3000 ms; it goes on\n"


@pytest.mark.parametrize(("error", "status"), [(InvalidRequest("no"), Exit.REFUSED), (NoMajority("too few"), Exit.UNREACHABLE)])
def test_add_that_is_refused_ends_at_once(error: BrokerError, status: Exit, clock: Time) -> None:
    fake = FakeCluster(answers=[error], states=[TRIO])
    assert run(["cluster", "add", "n4"], fake.context) == status
    assert (len(fake.asked), clock.slept) == (1, 0)


# --- replace ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("arguments", "name", "by"), [(["n2"], "n2", ""), (["n2", "--by", "n9"], "n9", "n9")])
def test_replace_waits_until_one_votes_and_the_other_is_gone(
    arguments: list[str], name: str, by: str, clock: Time, capsys: pytest.CaptureFixture[str]
) -> None:
    joining = [*TRIO, row(4, name, voter=False, joining=True)]
    both, alone = [*TRIO, row(4, name)], [row(1), row(3), row(4, name)]
    fake = FakeCluster(answers=[joining], states=[TRIO, TRIO, joining, both, alone])
    assert run(["cluster", "replace", *arguments], fake.context) == Exit.DONE
    assert fake.asked == [("replace", "n2", by)]
    assert clock.slept == 3, "two of a name, or one beside the other, is not yet done"
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines()[1:]] == ["n1", "n3", name]


def test_replace_of_one_that_came_by_an_earlier_command_waits_for_another(clock: Time) -> None:
    earlier, joining = [row(1), row(3), row(4, "n2")], [row(1), row(3), row(4, "n2"), row(5, "n2", voter=False, joining=True)]
    fake = FakeCluster(answers=[earlier, earlier, joining], states=[earlier, earlier, earlier, [row(1), row(3), row(5, "n2")]])
    assert run(["cluster", "replace", "n2"], fake.context) == Exit.DONE
    assert len(fake.asked) == 3


def test_replace_repeated_without_another_node_ends_with_nothing_there(clock: Time, capsys: pytest.CaptureFixture[str]) -> None:
    earlier = [row(1), row(3), row(4, "n2")]
    assert run(["cluster", "replace", "n2"], FakeCluster(answers=[earlier], states=[earlier]).context) == Exit.NOTHING_THERE
    assert "n2 is a member already" in capsys.readouterr().err


def test_replace_does_not_take_the_numbers_of_a_newcomer_for_ids(clock: Time) -> None:
    outside = {"cluster": {"formed": False}, "members": [*TRIO, row(4, "n4")]}
    joining = [*TRIO, row(4, "n4", voter=False, joining=True)]
    fake = FakeCluster(answers=[joining], states=[outside, [row(1), row(3), row(4)]])
    assert run(["cluster", "replace", "n2", "--by", "n4"], fake.context) == Exit.DONE
    assert len(fake.asked) == 1


@pytest.mark.parametrize("joining_as", [{"joining": True}, {"replaces": "n2"}])
def test_replace_begun_by_an_earlier_command_is_waited_for(joining_as: dict[str, Any], clock: Time) -> None:
    joining = [*TRIO, row(4, "n2", voter=False, **joining_as)]  # as a voter, or in place of a learner
    fake = FakeCluster(answers=[joining], states=[joining, joining, [row(1), row(3), row(4, "n2")]])
    assert run(["cluster", "replace", "n2"], fake.context) == Exit.DONE
    assert len(fake.asked) == 1


# --- remove ----------------------------------------------------------------------------------------------------------


def test_remove_waits_until_the_member_is_gone(clock: Time) -> None:
    fake = FakeCluster(answers=[TRIO], states=[TRIO, TRIO, TRIO[:2]])
    assert run(["cluster", "remove", "n3"], fake.context) == Exit.DONE
    assert fake.asked == [("remove", "n3")]
    assert clock.slept == 1


def test_remove_of_a_replacement_that_never_came_leaves_the_member_that_it_was_for(clock: Time) -> None:
    joining = [*TRIO, row(4, "n2", voter=False, joining=True)]
    fake = FakeCluster(answers=[joining], states=[joining, joining, TRIO])
    assert run(["cluster", "remove", "n2"], fake.context) == Exit.DONE


def test_remove_of_nobody_ends_at_once(clock: Time, capsys: pytest.CaptureFixture[str]) -> None:
    fake = FakeCluster(answers=[NodeNotFound("there are n1, n2, n3")], states=[TRIO])
    assert run(["cluster", "remove", "x"], fake.context) == Exit.NOTHING_THERE
    assert (len(fake.asked), clock.slept) == (1, 0)
    assert "there are n1, n2, n3" in capsys.readouterr().err


def test_remove_whose_first_answer_was_lost_is_done_all_the_same(clock: Time) -> None:
    fake = FakeCluster(answers=[NodeNotFound("there are n1, n2")], states=[TRIO, TRIO[:2]])
    assert run(["cluster", "remove", "n3"], fake.context) == Exit.DONE


# --- transfer --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [["n2"], []])
def test_transfer_waits_until_the_other_leads(arguments: list[str], clock: Time, capsys: pytest.CaptureFixture[str]) -> None:
    fake = FakeCluster(answers=["n2"], states=[led_by("n1"), led_by(None), led_by(), led_by("n2")])
    assert run(["cluster", "transfer", *arguments], fake.context) == Exit.DONE
    assert fake.asked == [("transfer", "".join(arguments))]
    assert capsys.readouterr().out == "n2 leads (30 ms)\n"


def test_transfer_json_tells_who_leads_and_how_long_it_took(clock: Time, capsys: pytest.CaptureFixture[str]) -> None:
    fake = FakeCluster(answers=["n2"], states=[led_by("n2")])
    assert run(["cluster", "transfer", "--json"], fake.context) == Exit.DONE
    assert json.loads(capsys.readouterr().out) == {"leader": "n2", "took_ms": 0}


def test_transfer_that_nobody_takes_over_ends_with_unreachable(clock: Time, capsys: pytest.CaptureFixture[str]) -> None:
    fake = FakeCluster(answers=["n2"], states=[led_by("n1")])
    assert run(["cluster", "transfer", "n2", "--timeout-ms", "500"], fake.context) == Exit.UNREACHABLE
    assert capsys.readouterr().err == "zmqbroker: n2 does not lead after 500 ms\n"


@pytest.mark.parametrize(
    ("error", "status"),
    [(NodeNotFound("x"), Exit.NOTHING_THERE), (InvalidRequest("x"), Exit.REFUSED), (NoMajority("x"), Exit.UNREACHABLE)],
)
def test_transfer_that_is_refused_ends_with_the_status_of_its_error(error: BrokerError, status: Exit, clock: Time) -> None:
    fake = FakeCluster(answers=[error], states=[TRIO])
    assert run(["cluster", "transfer", "x"], fake.context) == status
    assert fake.open_clients == 0
