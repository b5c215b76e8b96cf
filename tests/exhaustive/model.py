"""The states of the group as numbers, and what can happen in each.

A node's state and a message are numbers into tables; the core runs once per distinct (node's state, input). A state of the
group is one integer, the same for all states that differ in the names of nodes only: exact, so nothing rests on a hash. A
message is `content * 6 + to * 2 + d` with the receiver's place `to` from 0, and `d` telling which of the other two sent it: 0
the receiver's next, 1 the one after.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

from tests.exhaustive.invariants import Ghosts, check_group, check_step, remember
from tests.exhaustive.replica import NEW, Crash, Mail, Outcome, Replica, Runner, Violation, mirror
from tests.exhaustive.scope import Scope
from zmqbroker.raft.messages import MessageType, Role

__all__ = ["Action", "Failure", "Group", "Model"]

_NODE_BITS, _BOOK_BITS, _MESSAGE_BITS = 24, 20, 18
_NODE_MASK, _BOOK_MASK, _MESSAGE_MASK = (1 << _NODE_BITS) - 1, (1 << _BOOK_BITS) - 1, (1 << _MESSAGE_BITS) - 1
_LEADER = int(Role.LEADER)

#: The six ways to rename three nodes: place -> new place, and whether that turns their order around.
_RENAMINGS = (((0, 1, 2), 0), ((1, 2, 0), 0), ((2, 0, 1), 0), ((0, 2, 1), 1), ((1, 0, 2), 1), ((2, 1, 0), 1))
#: Per renaming, what becomes of the ends of a message.
_ENDS = tuple(tuple(places[ends >> 1] << 1 | (ends & 1) ^ turned for ends in range(6)) for places, turned in _RENAMINGS)


class Action(NamedTuple):
    """What happens: its name, and the node's input or, for messages, nothing."""

    name: str
    crash: Crash | None = None


class Failure(Violation):
    """An invariant is broken by an action at the node in this place, with this message or -1."""

    def __init__(self, what: str, action: Action) -> None:
        super().__init__(what)
        self.action, self.place, self.message = action, 0, -1


class Step(NamedTuple):
    """What an input makes of a node, in numbers: what it sends depends on the place of the node."""

    action: Action
    node: int
    sent: tuple[tuple[int, ...], ...]
    grows: int  # how many more messages are under way, those that wait for a disk included
    buries: bool  # messages under way to this node may have become dead
    remembered: bool  # the ghosts may change
    cost: int  # index of the budget, 0 for none


class Book(NamedTuple):
    """What is neither in a node nor under way: what is left of each budget, and the ghosts."""

    left: tuple[int, ...]  # of nothing, proposals, heartbeats, drops, duplicates, crashes
    ghosts: Ghosts


#: A state of the group, taken apart: nodes by place, messages in ascending order, book.
Group = tuple[tuple[int, int, int], tuple[int, ...], int]

_FREE, _PROPOSAL, _HEARTBEAT, _DROP, _DUPLICATE, _CRASH = range(6)
CAMPAIGN, HEARTBEAT, PROPOSE, COMPLETE = Action("campaign"), Action("heartbeat"), Action("propose"), Action("complete")
DELIVER, DROP, DUPLICATE = Action("deliver"), Action("drop"), Action("duplicate")


def is_dead(replica: Replica, sender: int, mail: Mail, *, pre_vote: bool) -> bool:
    """True for a message that changes nothing at this node whenever it arrives, whatever happens until then.

    Its durable term never goes back, in that term it will neither campaign nor lead again once it does not any more, and what a
    leader knows to be matched never shrinks.
    """
    kind, term = mail.type, mail.term
    if term > replica.stored[0]:
        return False
    if kind in (MessageType.REQUEST_VOTE, MessageType.APPEND_ENTRIES, MessageType.HEARTBEAT):
        # With PreVote a deposed leader is told so.
        return term < replica.stored[0] and (kind == MessageType.REQUEST_VOTE or not pre_vote)
    if kind == MessageType.REQUEST_VOTE_RESPONSE:
        return replica.role != Role.CANDIDATE or replica.term != term
    if kind not in (MessageType.APPEND_ENTRIES_RESPONSE, MessageType.HEARTBEAT_RESPONSE):
        return False
    if replica.role != Role.LEADER or replica.term != term:
        return True
    return kind == MessageType.APPEND_ENTRIES_RESPONSE and mail.index < replica.progress[sender - 1].match_index


def held(replica: Replica) -> int:
    """How many messages wait for the disk. Of those to itself only pre-votes count: nothing else bounds them."""
    answers = [answer for work in replica.works for answer in work.answers]
    return sum(to != 1 or mail.type == MessageType.PRE_VOTE_RESPONSE for to, mail in answers)


class Model:
    """The tables, and the successors of a state."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.steps = 0  # runs of the core
        self.cut = 0  # actions that the bag's bound refused
        self._runner = Runner(pre_vote=scope.pre_vote)
        self.replicas: list[Replica] = []
        self._replica_ids: dict[Replica, int] = {}
        self._mirrors: list[int] = []  # -1 while unknown
        self._held: list[int] = []  # answers to other nodes that wait for the disk
        self._inputs: list[list[Step] | None] = []
        self._deliveries: dict[int, Step] = {}
        self._dead: dict[int, bool] = {}
        self._checked: set[int] = set()  # nodes with what was chosen of which the invariants hold
        self.mails: list[Mail] = []
        self._mail_ids: dict[Mail, int] = {}
        self.books: list[Book] = []
        self._book_ids: dict[Book, int] = {}
        self._chosen: list[int] = []  # per book, the number of what it says was chosen
        self._chosen_ids: dict[object, int] = {}
        self._renamed_books: tuple[dict[int, int], ...] = tuple({} for _ in _RENAMINGS)
        self._spent: tuple[dict[int, int], ...] = tuple({} for _ in range(6))
        left = (0, scope.proposals, scope.heartbeats, scope.drops, scope.duplicates, scope.crashes)
        new = self._replica_id(NEW)
        self.initial: Group = ((new, new, new), (), self._book_id(Book(left, Ghosts((-1,) * (scope.terms + 1)))))

    # --- tables ----------------------------------------------------------------------------------------------------

    def _replica_id(self, replica: Replica) -> int:
        known = self._replica_ids.get(replica)
        if known is None:
            known = self._replica_ids[replica] = len(self.replicas)
            assert known <= _NODE_MASK
            self.replicas.append(replica)
            self._mirrors.append(-1)
            self._held.append(held(replica))
            self._inputs.append(None)
        return known

    def _mirror(self, node: int) -> int:
        known = self._mirrors[node]
        if known < 0:
            known = self._mirrors[node] = self._replica_id(mirror(self.replicas[node]))
            self._mirrors[known] = node
        return known

    def _mail_id(self, mail: Mail) -> int:
        known = self._mail_ids.get(mail)
        if known is None:
            known = self._mail_ids[mail] = len(self.mails)
            assert known * 6 + 6 < _MESSAGE_MASK
            self.mails.append(mail)
        return known

    def _book_id(self, book: Book) -> int:
        known = self._book_ids.get(book)
        if known is None:
            known = self._book_ids[book] = len(self.books)
            assert known <= _BOOK_MASK
            self.books.append(book)
            self._chosen.append(self._chosen_ids.setdefault(book.ghosts.chosen, len(self._chosen_ids)))
        return known

    def _spend(self, book: int, cost: int) -> int:
        known = self._spent[cost].get(book)
        if known is None:
            left = list(self.books[book].left)
            left[cost] -= 1
            known = self._spent[cost][book] = self._book_id(self.books[book]._replace(left=tuple(left)))
        return known

    def _renamed_book(self, book: int, renaming: int) -> int:
        known = self._renamed_books[renaming].get(book)
        if known is None:
            places, _ = _RENAMINGS[renaming]
            old = self.books[book]
            leaders = tuple(place if place < 0 else places[place] for place in old.ghosts.leaders)
            renamed = old._replace(ghosts=old.ghosts._replace(leaders=leaders))
            known = self._renamed_books[renaming][book] = self._book_id(renamed)
        return known

    def call(self, action: Action, place: int, message: int) -> str:
        """What happens as a call of `Walk`."""
        crash = action.crash
        if crash is not None:
            return f"crash({place + 1}, records={crash.records}, commit={crash.commit})"
        if message < 0:
            return f"{action.name}({place + 1})"
        return f"{action.name}{self.message(message)}"

    def message(self, message: int) -> tuple[int, int, Mail]:
        """Receiver and sender, from 1, and what is said."""
        content, ends = divmod(message, 6)
        place = ends >> 1
        return place + 1, (place + 1 + (ends & 1)) % 3 + 1, self.mails[content]

    # --- steps of one node -----------------------------------------------------------------------------------------

    def _step(self, node: int, action: Action, cost: int = _FREE, sender: int = 0, content: int = 0) -> Step:
        before = self.replicas[node]
        self.steps += 1
        try:
            outcome = self._run(self._runner, before, action, sender, content)
            check_step(before, outcome, crashed=cost == _CRASH)
        except AssertionError as error:
            raise Failure(str(error), action) from error
        after = outcome.replica
        at_first = [self._mail_id(mail) * 6 + (to == 2) for to, mail in outcome.sent]
        offsets = [2 if to == 2 else 4 for to, _ in outcome.sent]
        sent = tuple(
            tuple(message + (offset + 2 * place) % 6 for message, offset in zip(at_first, offsets, strict=True))
            for place in range(3)
        )
        remembered = any(getattr(before, name) != getattr(after, name) for name in ("role", "commit", "stored"))
        after_id = self._replica_id(after)
        grows = len(outcome.sent) + self._held[after_id] - self._held[node]
        buries = any(getattr(before, name) != getattr(after, name) for name in ("stored", "role", "term", "progress"))
        return Step(action, after_id, sent, grows, buries, remembered, cost)

    def _run(self, runner: Runner, replica: Replica, action: Action, sender: int = 0, content: int = 0) -> Outcome:
        if action is DELIVER:
            return runner.deliver(replica, sender, self.mails[content])
        if action.crash is not None:
            return runner.crash(replica, action.crash)
        by_itself: Callable[[Replica], Outcome] = getattr(runner, action.name)
        return by_itself(replica)

    def every_step(self) -> Iterator[tuple[Replica, Callable[[Runner], Outcome]]]:
        """Each state of a node with each input that it was given, to be given once more."""
        for replica, steps in zip(self.replicas, self._inputs, strict=True):
            for step in steps or ():
                yield replica, partial(self._run, replica=replica, action=step.action)
        for key in self._deliveries:
            node, content = divmod(key >> 1, 1 << _MESSAGE_BITS)
            replica = self.replicas[node]
            yield replica, partial(self._run, replica=replica, action=DELIVER, sender=2 + (key & 1), content=content)

    def inputs(self, node: int) -> list[Step]:
        """What a node may do by itself."""
        known = self._inputs[node]
        if known is None:
            known = self._inputs[node] = [self._step(node, action, cost) for action, cost in self._possible(node)]
        return known

    def _possible(self, node: int) -> Iterator[tuple[Action, int]]:
        replica, scope = self.replicas[node], self.scope
        if replica.role == _LEADER:
            yield HEARTBEAT, _HEARTBEAT
            yield PROPOSE, _PROPOSAL
        elif replica.term < scope.terms:
            yield CAMPAIGN, _FREE
        if replica.works:
            yield COMPLETE, _FREE
        if scope.crashes:
            for records in range(sum(work.records for work in replica.works) + 1):
                for commit in (False, True)[: 1 + (replica.commit > 0)]:
                    yield Action("crash", Crash(records, commit)), _CRASH

    def delivery(self, node: int, message: int) -> Step:
        """What a message makes of the node it is for."""
        content, ends = divmod(message, 6)
        key = (node << _MESSAGE_BITS | content) << 1 | (ends & 1)
        known = self._deliveries.get(key)
        if known is None:
            known = self._deliveries[key] = self._step(node, DELIVER, _FREE, 2 + (ends & 1), content)
        return known

    def _is_dead(self, node: int, message: int) -> bool:
        content, ends = divmod(message, 6)
        known = is_dead(self.replicas[node], 2 + (ends & 1), self.mails[content], pre_vote=self.scope.pre_vote)
        self._dead[node << _MESSAGE_BITS | message] = known
        return known

    # --- states of the group ---------------------------------------------------------------------------------------

    def pack(self, group: Group) -> int:
        """The one number of this state and of all that differ in names only."""
        nodes, bag, book = group
        first, second, third = nodes
        mirrors = self._mirrors
        one, two, three = mirrors[first], mirrors[second], mirrors[third]
        if one < 0 or two < 0 or three < 0:
            one, two, three = self._mirror(first), self._mirror(second), self._mirror(third)
        least = min(first, second, third, one, two, three)
        # In the order of _RENAMINGS; the node that comes to the first place has the least number.
        candidates = []
        if first == least:
            candidates.append((first, second, third, 0))
        if third == least:
            candidates.append((third, first, second, 1))
        if second == least:
            candidates.append((second, third, first, 2))
        if one == least:
            candidates.append((one, three, two, 3))
        if two == least:
            candidates.append((two, one, three, 4))
        if three == least:
            candidates.append((three, two, one, 5))
        if len(candidates) == 1:
            return self._renamed(candidates[0], bag, book)
        return min(self._renamed(candidate, bag, book) for candidate in candidates)

    def _renamed(self, candidate: tuple[int, int, int, int], bag: tuple[int, ...], book: int) -> int:
        first, second, third, renaming = candidate
        if renaming:
            ends = _ENDS[renaming]
            bag = tuple(sorted([message - message % 6 + ends[message % 6] for message in bag]))
            known = self._renamed_books[renaming].get(book)
            book = self._renamed_book(book, renaming) if known is None else known
        return self._number(first, second, third, bag, book)

    @staticmethod
    def _number(first: int, second: int, third: int, bag: tuple[int, ...], book: int) -> int:
        number = 1
        for message in bag:
            number = number << _MESSAGE_BITS | message
        return ((number << _BOOK_BITS | book) << _NODE_BITS | first) << 2 * _NODE_BITS | second << _NODE_BITS | third

    @staticmethod
    def unpack(number: int) -> Group:
        """The state whose number this is."""
        third, second = number & _NODE_MASK, number >> _NODE_BITS & _NODE_MASK
        number >>= 2 * _NODE_BITS
        first, book = number & _NODE_MASK, number >> _NODE_BITS & _BOOK_MASK
        number >>= _NODE_BITS + _BOOK_BITS
        bag = []
        while number > 1:
            bag.append(number & _MESSAGE_MASK)
            number >>= _MESSAGE_BITS
        return (first, second, third), tuple(bag[::-1]), book

    def expand(self, group: Group) -> Iterator[tuple[Action, int, int, Group]]:
        """Each enabled action, the place of its node, its message or -1, and the state it leads to. Raises `Failure`."""
        nodes, bag, book = group
        left = self.books[book].left
        waiting, place, message, last = self._held, 0, -1, -1
        room = self.scope.bag - len(bag) - waiting[nodes[0]] - waiting[nodes[1]] - waiting[nodes[2]]
        try:
            for place in range(3):
                for step in self._inputs[nodes[place]] or self.inputs(nodes[place]):
                    if step.cost and not left[step.cost]:
                        continue
                    if step.grows > room:
                        self.cut += 1
                    else:
                        yield step.action, place, -1, self._after(nodes, place, step, bag, book, step.cost)
            for position, message in enumerate(bag):
                if message == last:
                    continue
                last = message
                rest = bag[:position] + bag[position + 1 :]
                place = message % 6 >> 1
                step = self.delivery(nodes[place], message)
                if step.grows > room + 1:
                    self.cut += 1
                else:
                    yield DELIVER, place, message, self._after(nodes, place, step, rest, book, _FREE)
                if left[_DROP]:
                    yield DROP, place, message, (nodes, rest, self._spend(book, _DROP))
                if left[_DUPLICATE]:
                    if step.grows > room:
                        self.cut += 1
                    else:
                        yield DUPLICATE, place, message, self._after(nodes, place, step, bag, book, _DUPLICATE)
        except Failure as failure:
            failure.place, failure.message = place, message
            raise

    def _after(self, nodes: tuple[int, int, int], place: int, step: Step, bag: tuple[int, ...], book: int, cost: int) -> Group:
        first, second, third = nodes
        node = step.node
        after = (node, second, third) if place == 0 else (first, node, third) if place == 1 else (first, second, node)
        if cost:
            book = self._spend(book, cost)
        if node != nodes[place]:
            if step.remembered:
                book = self._remember(step.action, nodes[place], after, place, book)
            key = ((self._chosen[book] << _NODE_BITS | after[0]) << _NODE_BITS | after[1]) << _NODE_BITS | after[2]
            if key not in self._checked:
                self._check(step.action, after, book)
                self._checked.add(key)
        sent = step.sent[place]
        if sent or (bag and step.buries):
            dead, alive = self._dead, []
            for message in bag + sent:
                to = after[message % 6 >> 1]
                known = dead.get(to << _MESSAGE_BITS | message)
                if not (self._is_dead(to, message) if known is None else known):
                    alive.append(message)
            alive.sort()
            bag = tuple(alive)
        return after, bag, book

    def _remember(self, action: Action, before: int, nodes: tuple[int, int, int], place: int, book: int) -> int:
        old = self.books[book]
        try:
            ghosts = remember([self.replicas[node] for node in nodes], place, self.replicas[before], old.ghosts)
        except Violation as violation:
            raise Failure(str(violation), action) from violation
        return book if ghosts == old.ghosts else self._book_id(old._replace(ghosts=ghosts))

    def _check(self, action: Action, nodes: tuple[int, int, int], book: int) -> None:
        try:
            check_group([self.replicas[node] for node in nodes], self.books[book].ghosts.chosen)
        except Violation as violation:
            raise Failure(str(violation), action) from violation
