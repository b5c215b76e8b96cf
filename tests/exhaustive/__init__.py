"""Exhaustive exploration of the real Raft core in a small scope: every interleaving, to the fixpoint.

Three nodes run `RaftCore`. From the state in which all are new, every enabled action of every state is tried, breadth first,
until no new state is found: campaign, propose, heartbeat, deliver any message under way, deliver it and keep it (a
duplicate), drop it, complete the oldest work at a disk, crash and restart. `Scope` bounds terms, proposals, rounds of
heartbeats, messages under way at once, drops, duplicates and crashes. `python -m tests.exhaustive --help` lists the options.

What a state is, and why nothing is lost by it:
* Time is abstracted away. An election timeout is an action that may come at any moment; so tick counters, timeouts and the
  random generator are no part of the state.
* Payloads are abstracted away: the core looks at nothing but their size, and that only against limits which this scope does
  not reach. An entry is its (index, term). It has no other identity as long as nobody leads a term that was led before, by
  whomever; which is checked. For the same reason the inflight window and the uncommitted bytes are no part of the state.
  `recent_active` matters to CheckQuorum and snapshots only, which are off here.
* `ready` is taken, and what is committed and durable is applied, after each action. A shell that waits longer makes longer
  works and sends later: the first is a sequence of works between which nothing happens, the second a message that stays under
  way.
* A work that stores nothing but a commit index and answers nobody is done at once. Only a crash could tell, and a crash
  chooses the commit index to restart with: none (state machine and commit index were not flushed), or the highest durable
  one.
* A crash keeps any prefix of the records of the works under way: a work is its term and vote, then its entries, one by one.
* The bag of messages is unordered. An answer that waits for a disk is in the bag already. An action that would bring the bag
  over its bound is not enabled, and counted: what is explored are exactly the histories in which never more than so many
  messages are under way, and the count of refused actions says that there are others.
* A message that is never delivered is as good as lost, but keeps its place in the bag; only a drop makes room. A message that
  will be ignored whenever it arrives (`is_dead`) is taken out, so that it does not: that adds histories.
* A duplicate is made when a message is delivered, not before: until one of the two arrives nobody can tell.
* Symmetry: no node is special, so states that differ in the names of nodes only are one. A test gives the core the same
  inputs under all six namings and wants the same outcome.
* A node's step depends on that node and its input alone, so the core runs once per distinct (node's state, input), and a
  state of the group is three numbers, the bag and a book. That changes the speed, not what is explored.

What the invariants remember (ghosts, in the book): who led each term, as long as some node's durable term would still let it
vote there, and every entry that was ever committed, with the term in which it was.

What has reached its fixpoint (one thread, Python 3.11, two shared cores):

    bag 2, 3 terms, 2 proposals, 1 heartbeat, 1 drop, 1 duplicate, 1 crash      301,204 states, depth 65       9 s
    bag 3, 2 terms, 1 proposal, no heartbeat, 1 drop, 1 duplicate, 1 crash   18,727,633 states, depth 62     692 s
    bag 3, 3 terms, 2 proposals, 1 heartbeat, no faults                      14,602,880 states, depth 85     387 s
    bag 4, 2 terms, 1 proposal, 1 heartbeat, no faults                        5,323,750 states, depth 64     119 s

Source: Raft figures 2 and 3; the specifications of Raft and of etcd/raft in TLA+ for the invariants.
"""
