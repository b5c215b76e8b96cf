"""What a leader does about disks that are full or slow: its own and those of the other voters (DESIGN §5, "Disk full").

While fewer than a majority of the voters have room, publishes are refused; everything else goes on, since consuming is what
frees space. A leader without room, or whose log falls behind what the others have committed, hands leadership to a voter that
has the room and the speed. Where all are slow nothing is committed before the leader has it, and nothing is handed over, since
that would not help. No file and no clock here: `space` looks at the disk, and time is counted in ticks.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from zmqbroker.config import NodeConfig
from zmqbroker.errors import StorageFull
from zmqbroker.raft import Membership, ProgressStatus
from zmqbroker.raft.messages import Message, MessageType
from zmqbroker.raft.quorum import VoteResult, majority, vote_result
from zmqbroker.server.group import Group
from zmqbroker.server.membership import best_successor
from zmqbroker.server.space import DiskReport, OwnSpace, put_report, report_of

__all__ = ["Disks", "Lateness", "fit_successor", "lacking_room"]

#: One tick behind weighs as much as so many that were not: a disk that is slow at every third write is found slow as well.
FORGIVING_TICKS = 10
#: Ticks between two tries to hand leadership over, and from the beginning of a leadership to the first: 2 s by default.
RETRY_TICKS = 100
#: A node that was found slow says so for so many ticks, a minute by default: leadership does not come back to it meanwhile.
SLOW_LATELY_TICKS = 3000

log = logging.getLogger("zmqbroker")


def lacking_room(short: Collection[int], present: Collection[int], membership: Membership) -> tuple[int, ...]:
    """The voters that are short of room, if those that are `present` and are not are no majority; else nobody."""
    lacking = tuple(voter for voter in membership.all_voters if voter in short)
    if not lacking:
        return ()
    with_room = {voter: voter in present and voter not in short for voter in membership.all_voters}
    return () if vote_result(with_room, membership) is VoteResult.WON else lacking


def fit_successor(
    own: int,
    commit_index: int,
    membership: Membership,
    progress: Mapping[int, ProgressStatus],
    reports: Mapping[int, DiskReport],
) -> int | None:
    """Whom a leader with a full or slow disk hands over to: the furthest voter that is current and whose disk is neither."""
    fit = {
        id: status
        for id, status in progress.items()
        if id in reports and not reports[id].short and not reports[id].slow and status.match_index >= commit_index
    }
    return best_successor(membership, own, fit)


class Lateness:
    """Whether a leader's own log is behind what the others have committed, and for too long.

    Only a leader that is no part of the fastest majority can be: then the cluster is faster with another one.
    """

    def __init__(self, limit_ticks: int) -> None:
        self._limit = limit_ticks * FORGIVING_TICKS  # 0: never too long
        self._score = 0  # at most _limit
        self._mark = 0  # commit index at the last tick

    def tick(self, durable_index: int, commit_index: int) -> bool:
        """A tick has passed; True while it is too late."""
        behind = durable_index < self._mark  # a whole tick after it was committed
        self._mark = commit_index
        self._score = min(self._score + FORGIVING_TICKS, self._limit) if behind else max(self._score - 1, 0)
        return 0 < self._limit <= self._score


@dataclass(slots=True)
class _Leadership:
    """What this node watches of one group while it leads it."""

    lateness: Lateness
    tried_tick: int = -RETRY_TICKS  # when it last tried to hand over
    lacking: dict[str, DiskReport] = field(default_factory=dict)  # by name, those of `lacking_room`


class Disks:
    """The disks that one node knows of."""

    def __init__(self, config: NodeConfig, space: OwnSpace) -> None:
        raft = config.raft
        self._space = space
        self._limit_ticks = -(-raft.slow_disk_ms // raft.tick_ms)
        self._silent_ticks = 2 * raft.election_ticks
        self._ticks = 0
        self._slow_tick: int | None = None  # when this node was found slow last
        self._heard: dict[int, tuple[int, DiskReport]] = {}  # member -> tick and report of this leadership
        self._led: dict[int, _Leadership] = {}  # by group

    @property
    def own(self) -> DiskReport:
        """What this node says of its own disk."""
        slow = self._slow_tick is not None and self._ticks - self._slow_tick < SLOW_LATELY_TICKS
        return DiskReport(self._space.free_bytes, self._space.low_water_bytes, self._space.short, slow)

    def stamp(self, messages: Iterable[Message]) -> None:
        """Let the heartbeats' responses among `messages` tell of this node's disk."""
        for message in messages:
            if message.type is MessageType.HEARTBEAT_RESPONSE:
                put_report(message, self.own)

    def heard(self, message: Message) -> None:
        """A follower has answered a heartbeat."""
        report = report_of(message)
        if report is not None:
            self._heard[message.sender] = self._ticks, report

    def begin(self, group: int) -> None:
        """This node leads `group` from now on; what it heard of the others in an earlier term is too old."""
        self._heard.clear()
        self._led[group] = _Leadership(Lateness(self._limit_ticks))

    def reports(self, own_id: int) -> dict[int, DiskReport]:
        """What is known of the members of a group that this node leads, silent ones left out."""
        since = self._ticks - self._silent_ticks
        return {own_id: self.own, **{id: report for id, (tick, report) in self._heard.items() if tick >= since}}

    def tick(self, groups: Iterable[Group], now_ns: int, *, out_of_room: bool) -> None:
        """A tick has passed: look at the disk, and at the leadership of every group that this node leads.

        `out_of_room`: the log waits for room.
        """
        self._ticks += 1
        self._space.look(now_ns, out_of_room=out_of_room)
        for group in groups:
            led = self._led.get(group.number)
            if group.leading and led is not None:
                self._watch(group, led)

    def _watch(self, group: Group, led: _Leadership) -> None:
        reports = self.reports(group.core.id)
        self._admit(group, led, reports)
        core, progress = group.core, group.core.progress()
        late = led.lateness.tick(progress[core.id].match_index, core.commit_index)
        if late:
            self._slow_tick = self._ticks
        resting = min(group.led_ticks, self._ticks - led.tried_tick) < RETRY_TICKS
        if not (late or self.own.short) or core.transferee or resting:
            return
        to = fit_successor(core.id, core.commit_index, core.membership, progress, reports)
        if to is not None:
            led.tried_tick = self._ticks
            why = "has been behind what the others had committed" if late else "has no room for more messages"
            log.warning("this node's disk %s: leadership goes to %s", why, _name_of(group, to))
            core.transfer_leader(to)

    def _admit(self, group: Group, led: _Leadership, reports: Mapping[int, DiskReport]) -> None:
        """See whether publishes can be taken, and say when that changes."""
        membership = group.core.membership
        short = [id for id, report in reports.items() if report.short]
        # Who has not had the time to answer this leader yet is expected to have room.
        present = reports if group.led_ticks >= self._silent_ticks else {*membership.all_voters}
        lacking = {_name_of(group, id): reports[id] for id in lacking_room(short, present, membership)}
        if lacking and not led.lacking:
            log.warning("sends are refused: %s", _in_words(group, lacking))
        elif led.lacking and not lacking:
            log.info("sends are taken again")
        led.lacking = lacking

    @property
    def short_members(self) -> set[int]:
        """The followers whose last report in this leadership says that their disk is short."""
        return {id for id, (_, report) in self._heard.items() if report.short}

    def has_room(self, member_id: int) -> bool:
        """Whether a follower may have room for more: its last report in this leadership does not say otherwise."""
        heard = self._heard.get(member_id)
        return heard is None or not heard[1].short

    def refusal(self, group: Group) -> StorageFull | None:
        """Why a group that this node leads takes no publishes; None while it does."""
        led = self._led.get(group.number)
        if led is None or not led.lacking:
            return None
        nodes = [
            {"node": name, "free_bytes": report.free_bytes, "low_water_bytes": report.low_water_bytes}
            for name, report in led.lacking.items()
        ]
        return StorageFull(_in_words(group, led.lacking), nodes=nodes)

    def refused_by(self, group: Group) -> list[str]:
        """The nodes for whose lack of room this leader refuses publishes; none while it takes them, or does not lead."""
        led = self._led.get(group.number)
        return sorted(led.lacking) if led is not None and group.leading else []


def _name_of(group: Group, member_id: int) -> str:
    return next((member.name for member in group.machine.roster.members if member.id == member_id), f"member {member_id}")


def _in_words(group: Group, lacking: Mapping[str, DiskReport]) -> str:
    count = len(group.core.membership.voters)
    short = ", ".join(
        f"{name} has {report.free_bytes} bytes free and needs {report.low_water_bytes}" for name, report in lacking.items()
    )
    return f"fewer than {majority(count)} of {count} nodes have room for more messages: {short}"
