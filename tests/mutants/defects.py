"""All mutants, in the order of the shared reference on Raft, §6.6, and then this broker's own."""

from __future__ import annotations

from tests.mutants import (
    changing,
    ordering,
    reading,
    recycling,
    replicating,
    routing,
    scripts,
    serving,
    settling,
    stores,
    storing,
    voting,
)
from tests.mutants.mutant import FAULTS, Mutant, check
from tests.simulation import test_crash_images
from tests.simulation.world import MILLISECOND
from tests.unit.raft import test_async_storage, test_raft_thesis_membership, test_shared_commit
from tests.unit.server import test_formation
from tests.unit.storage import test_state_contract, test_writer

__all__ = ["MUTANTS"]


def _any(*invariants: str) -> frozenset[str]:
    return frozenset(invariants)


_ELECTIONS = (
    Mutant(id="M1", breaks="a vote leaves before it is durable", apply=voting.vote_before_disk, caught_by=_any("I2", "I19")),
    Mutant(
        id="M2a",
        breaks="a vote is kept when the term rises",
        apply=voting.keep_vote_of_earlier_term,
        caught_by=_any("I22"),
        seeds=20,
    ),
    Mutant(id="M2b", breaks="a vote is not stored with its term", apply=voting.forget_stored_vote, caught_by=_any("I9")),
)
_REPLICATION = (
    Mutant(
        id="M3",
        breaks="a follower acknowledges before its disk",
        apply=replicating.acknowledge_before_disk,
        caught_by=_any("I19"),
    ),
    Mutant(
        id="M4",
        breaks="a leader acknowledges its own entries before its disk",
        apply=replicating.acknowledge_itself_before_disk,
        caught_by=_any("I6", "I7"),
    ),
    Mutant(
        id="M5",
        breaks="entries of earlier terms are committed by counting",
        apply=replicating.commit_earlier_terms,
        caught_by=_any("I10"),
    ),
    Mutant(
        id="M6",
        breaks="logs are compared by length before term",
        apply=voting.length_before_term,
        caught_by=_any("I4"),
        script=scripts.longer_log_of_earlier_term,
    ),
    Mutant(
        id="M7",
        breaks="every AppendEntries cuts the log",
        apply=replicating.cut_always,
        caught_by=_any("I7", "I4", "I6", "I19"),
        options={"fifo": False},
    ),
    Mutant(
        id="M8",
        breaks="a heartbeat commits what the follower may not hold",
        apply=replicating.commit_by_heartbeat,
        caught_by=_any("I5"),
        script=scripts.heartbeats_at_outdated_entries,
    ),
    Mutant(
        id="M9",
        breaks="acknowledgements of an earlier term are believed",
        apply=replicating.believe_late_acknowledgements,
        caught_by=_any("I7"),
        script=scripts.late_acknowledgement,
    ),
    Mutant(
        id="M10",
        breaks="a majority is half, rounded down",
        apply=voting.count_too_few,
        caught_by=_any("I1", "I6", "I12"),
    ),
)
_CHANGES = {"faults": (*FAULTS, "membership", "membership", "membership", "slow_disk", "forget_leader")}
_MEMBERSHIP = (
    Mutant(
        id="M11a",
        breaks="a change is proposed while another is under way",
        apply=changing.change_while_changing,
        caught_by=_any("I11"),
        options=_CHANGES,
    ),
    Mutant(
        id="M11b",
        breaks="a joint membership counts its newer voters only",
        apply=changing.count_newer_voters,
        caught_by=_any("I6", "I12"),
        seeds=40,
        options=_CHANGES,
    ),
    Mutant(
        id="M12", breaks="learners are counted", apply=changing.count_learners, caught_by=_any("I6", "I12"), options=_CHANGES
    ),
)
_STALE_READS = {"readers": 8, "faults": ("pause", "partition")}
_READS = (
    Mutant(
        id="M13",
        breaks="a read is answered before the term's first commit",
        apply=reading.read_before_commit,
        caught_by=_any("I18"),
        options={"readers": 8, "faults": ("transfer", "kill", "partition")},
        seeds=30,
    ),
    Mutant(
        id="M14",
        breaks="rounds of heartbeats share one number",
        apply=reading.confirm_by_old_round,
        caught_by=_any("I18"),
        options={"readers": 8, "nodes": 5, "faults": ("partition", "pause", "storm"), "fifo": True, "loss": 0.0},
        seeds=30,
    ),
)
#: Large segments: damage in any but the newest one is plain.
_DAMAGE = {"faults": ("bit_flip", "kill"), "segment_bytes": 1 << 16}
_STORAGE = (
    Mutant(
        id="M15a",
        breaks="applied_index moves in a transaction of its own",
        apply=storing.store_index_first,
        caught_by=_any("I14"),
    ),
    Mutant(
        id="M15b",
        breaks="the same, in LMDB",
        apply=storing.two_transactions,
        # The simulator's store is not LMDB; tests/fault/test_lmdb_crash_images.py finds it in LMDB's files, too.
        check=check(test_state_contract.test_commit_that_fails_changes_nothing, test_state_contract._open),
    ),
    Mutant(
        id="M16",
        breaks="the producers are not part of the stored state",
        apply=serving.drop_producers,
        caught_by=_any("I13", "I14", "I15", "I16"),
    ),
    Mutant(
        id="M17",
        breaks="replicas expire by their own clocks",
        apply=serving.own_clock_at_apply,
        caught_by=_any("I13"),
    ),
    Mutant(
        id="M18",
        breaks="damage is cut like a torn tail",
        apply=storing.cut_damage,
        caught_by=_any("I9"),
        options=_DAMAGE,
    ),
    Mutant(
        id="M19",
        breaks="a sync that failed is tried again",
        apply=storing.sync_again,
        caught_by=_any("I2", "I19", "I9", "I6"),
        options={"faults": ("sync_error", "kill", "pause", "transfer"), "segments": True},
        seeds=40,
    ),
    Mutant(
        id="M20",
        breaks="the name of a new segment is not synced",
        apply=storing.forget_names,
        caught_by=_any("I2", "I19", "I9", "I6"),
    ),
    Mutant(
        id="M21a",
        breaks="the disk's answer of an earlier term is believed (ABA)",
        apply=replicating.believe_late_writes,
        # No run shows it: this log's writer shows all that waited at once, the second replacement together with the first.
        check=check(test_async_storage.test_write_completed_under_a_newer_term_is_made_stable_by_the_next_work),
    ),
    Mutant(
        id="M21b",
        breaks="the disk's answer counts for whatever is at its index",
        apply=replicating.trust_stored_index,
        caught_by=_any("I5"),
        script=scripts.write_of_replaced_entries,
    ),
)
_REST = (
    Mutant(
        id="M22",
        breaks="a full window sends nothing, not even a question",
        apply=replicating.say_nothing_when_full,
        caught_by=_any("I22"),
        options={"inflight_messages_max": 1, "loss": 0.3, "faults": ()},  # a new leader would have a new window
    ),
    Mutant(
        id="M23",
        breaks="a leader reads by its lease after it stood still",
        apply=reading.read_by_lease,
        caught_by=_any("I18"),
        options=_STALE_READS,
        seeds=30,
    ),
    Mutant(
        id="M24a",
        breaks="a wiped node starts again as who it was",
        apply=storing.return_wiped,
        caught_by=_any("I9"),
        options={"faults": (*FAULTS, "wipe")},
    ),
    Mutant(
        id="M24b",
        breaks="a wiped node takes itself for the member of its name",
        apply=storing.adopt_by_name,
        # The simulator's nodes do not form their cluster.
        check=check(test_formation.test_forming_beside_a_member_of_a_cluster_does_not_happen),
    ),
    Mutant(
        id="M25a",
        breaks="installing a snapshot keeps the unstable entries behind it",
        apply=replicating.keep_suffix,
        caught_by=_any("I3"),
        script=scripts.snapshot_over_unstable_entries,
    ),
    Mutant(
        id="M25b",
        breaks="installing a snapshot keeps the log's entries behind it",
        apply=storing.keep_stored_suffix,
        caught_by=_any("I9"),
        script=scripts.snapshot_over_durable_entries,
    ),
    Mutant(
        id="M26",
        breaks="effects are executed by a follower",
        apply=serving.deliver_as_follower,
        caught_by=_any("I19"),
        seeds=40,
        options={"consumers": 6, "faults": ("transfer", "transfer", "partition", "pause")},
    ),
)
#: The log is soon over its budget, and nothing else lets go of it.
_BACKLOG: dict[str, object] = {"keep_entries": 0, "log_budget_bytes": 1 << 13, "trim_bytes": 500}
_OWN = (
    Mutant(
        id="N1",
        breaks="a candidate asks for votes before its own and its log are durable",
        apply=voting.campaign_before_durable,
        caught_by=_any("I2"),
    ),
    Mutant(
        id="N2",
        breaks="a stored hard state commits entries that are written after it",
        apply=storing.commit_in_front,
        caught_by=_any("I5"),
        seeds=40,
        script=scripts.work_torn_behind_its_hard_state,
    ),
    Mutant(
        id="N3",
        breaks="a committed change that cannot be made is an error",
        apply=changing.fall_over_bad_change,
        caught_by=_any("I0"),
        seeds=30,
        options={"faults": ("bad_change", "bad_change", "kill", "transfer")},
        stumbles=ValueError,
    ),
    Mutant(
        id="N4",
        breaks="a new leader takes the time from its own clock",
        apply=serving.own_clock_at_election,
        caught_by=_any("I24"),
        options={"faults": ("clock_jump", "kill", "transfer", "partition")},
        seeds=30,
    ),
    Mutant(
        id="N5",
        breaks="a node campaigns with a known change not applied",
        apply=changing.campaign_unaware,
        # No run shows it: a candidate's vote is durable behind the change, which is then applied before it leads (see N1).
        check=check(test_raft_thesis_membership.test_node_with_an_unapplied_change_does_not_campaign),
    ),
    Mutant(
        id="N6", breaks="the log says that it has synced, and has not", apply=storing.skip_sync, caught_by=_any("I2", "I19")
    ),
    Mutant(id="N7", breaks="a vote goes to whoever asks", apply=voting.vote_for_any_log, caught_by=_any("I4", "I0")),
    Mutant(id="N8", breaks="a batch that comes again is stored again", apply=serving.store_again, caught_by=_any("I15", "I23")),
    Mutant(
        id="N9",
        breaks="a new leader ignores stamps that it has not applied yet",
        apply=serving.forget_stamps_in_log,
        caught_by=_any("I22"),  # time stands still: nothing falls due
        seeds=40,
        options={
            "nodes": 3,
            "sync_delay_ns": 30 * MILLISECOND,
            "fault_interval_ns": 10 * MILLISECOND,
            "faults": ("clock_jump", "clock_jump", "clock_jump", "transfer", "partition", "forget_leader", "slow_disk"),
        },
    ),
    Mutant(
        id="N10",
        breaks="a follower that was held back is never sent to again",
        apply=replicating.hold_back_for_ever,
        caught_by=_any("I22"),
        options={"loss": 0.3, "faults": ()},
    ),
    Mutant(
        id="N11",
        breaks="a read is answered without asking a majority",
        apply=reading.read_at_once,
        caught_by=_any("I18"),
        options=_STALE_READS,
        seeds=30,
    ),
    Mutant(
        id="N12",
        breaks="who may not campaign does not tell what is committed",
        apply=voting.keep_commit_to_oneself,
        # A run needs the only voter left to forget in a power cut that it is one (pinned seed 2000795).
        check=check(
            test_shared_commit.test_last_voter_that_does_not_know_that_it_is_one_learns_it_from_the_leader_that_was_removed
        ),
    ),
    Mutant(
        id="N13",
        breaks="the log is trimmed below messages that wait",
        apply=storing.trim_what_waits,
        caught_by=_any("I14"),
        options=_BACKLOG,
    ),
    Mutant(
        id="N14",
        breaks="a body stays behind when bodies move",
        apply=storing.leave_a_body,
        caught_by=_any("I14"),
        options=_BACKLOG,
    ),
)

#: Power cuts at every call of one log find these at once; whole clusters would need one at the right moment.
_IMAGES = check(test_crash_images.test_log_recovers_from_every_image_of_a_short_workload)
_FILES = (
    Mutant(
        id="L1",
        breaks="a dropped segment is zeroed before its name has durably gone",
        apply=recycling.zero_what_is_named,
        check=_IMAGES,
    ),
    Mutant(id="L2", breaks="a recycled segment keeps its content", apply=recycling.recycle_uncleaned, check=_IMAGES),
    Mutant(id="L3", breaks="spares that a crash left are taken as they are", apply=recycling.adopt_uncleaned, check=_IMAGES),
    Mutant(id="L4", breaks="the names of dropped segments go all at once", apply=recycling.drop_names_together, check=_IMAGES),
    Mutant(
        id="L5", breaks="a newer segment begins before the older is synced", apply=recycling.keep_older_unsynced, check=_IMAGES
    ),
    Mutant(id="L6", breaks="an idle group's vote goes with its segment", apply=recycling.forget_idle_groups, check=_IMAGES),
    Mutant(id="L7", breaks="a torn tail is not cut", apply=recycling.keep_torn_tail, check=_IMAGES),
    Mutant(
        id="L8",
        breaks="what found no room counts as durable",
        apply=recycling.pretend_room,
        check=check(test_writer.test_inline_writer_without_room_queues_and_is_tried_again_when_told),
    ),
)

_DISKS = (
    Mutant(
        id="N15",
        breaks="a start takes a torn record for whole",
        apply=storing.trust_records,
        caught_by=_any("I9", "I14", "I21"),
        options={"faults": ("power_cut", "power_cut_all", "torn_call"), "segment_bytes": 1 << 16, "body_bytes_max": 2000},
    ),
    Mutant(
        id="N16",
        breaks="a payload is read without a look at its checksum",
        apply=storing.trust_payloads,
        caught_by=_any("I14", "I21"),
        options={"faults": ("flip_read", "flip_read", "partition", "kill"), "segment_bytes": 1 << 16},
    ),
    Mutant(
        id="N17",
        breaks="a sync does nothing, and shows it only when the power fails",
        apply=storing.lie_until_power_cut,
        caught_by=_any("I9", "I21"),
    ),
)

MUTANTS: tuple[Mutant, ...] = (
    *(*_ELECTIONS, *_REPLICATION, *_MEMBERSHIP, *_READS, *_STORAGE),
    *(*_REST, *_OWN, *_FILES, *ordering.MUTANTS, *_DISKS, *settling.MUTANTS, *stores.MUTANTS, *routing.MUTANTS),
)
