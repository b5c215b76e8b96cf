"""A scripted cluster: nodes, the messages between them, and the commands that a script gives.

Everything a command says is its output, written as the reference writes it. In synchronous mode a Ready is carried out at once;
in asynchronous mode its work waits for the append and apply threads, and their answers travel like messages.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence, Sized
from dataclasses import dataclass

from tests.conformance.raft.describe import (
    CHANGE_LETTERS,
    ROLE_NAMES,
    describe_append,
    describe_applied,
    describe_apply,
    describe_entry,
    describe_hard_state,
    describe_message,
    describe_snapshot,
    indent,
)
from tests.conformance.raft.node import ELECTION_TICKS, ScriptedNode
from tests.conformance.raft.output import Output
from tests.conformance.raft.script import Command, ScriptError
from zmqbroker.errors import Compacted
from zmqbroker.raft.confchange import Change, ConfChange, Transition, encode
from zmqbroker.raft.messages import DropReason, Entry, EntryType, Message, MessageType, Ready, Role, StorageAppend
from zmqbroker.raft.trace import MESSAGE_NAMES

__all__ = ["Environment"]

#: `stabilize` that goes on for longer than this will not end.
_ROUNDS_MAX = 1000

_ERRORS = {
    DropReason.PROPOSAL_DROPPED: "raft proposal dropped",
    DropReason.UNKNOWN_SENDER: "raft: cannot step as peer not found",
}
_TRANSITIONS = {
    "auto": Transition.AUTO,
    "implicit": Transition.JOINT_IMPLICIT,
    "explicit": Transition.JOINT_EXPLICIT,
}


@dataclass(frozen=True)
class _Applied:
    """The apply thread's answer, on its way to its node."""

    to: int
    entries: tuple[Entry, ...]


_Letter = Message | _Applied


def _describe(letter: _Letter) -> str:
    return describe_message(letter) if isinstance(letter, Message) else describe_applied(letter.to, letter.entries)


def _is_local(letter: _Letter) -> bool:
    """What a node says to itself, by itself or through its threads, cannot be lost."""
    return isinstance(letter, _Applied) or letter.sender == letter.to


class Environment:
    """Runs one script's commands in order."""

    def __init__(self) -> None:
        self._nodes: dict[int, ScriptedNode] = {}
        self._letters: list[_Letter] = []  # on their way, in the order of sending
        self._output = Output()
        self._commands: dict[str, Callable[[Command], None]] = {
            "log-level": lambda command: self._output.set_level(command.arguments[0]),
            "add-nodes": self._add_nodes,
            "campaign": lambda command: self._node(command).core.campaign(),
            "propose": self._propose,
            "propose-conf-change": self._propose_change,
            "process-ready": self._process_ready,
            "process-append-thread": lambda command: self._each(command, "processing append thread", self._append_thread),
            "process-apply-thread": lambda command: self._each(command, "processing apply thread", self._apply_thread),
            "deliver-msgs": self._deliver,
            "stabilize": self._stabilize,
            "tick-heartbeat": lambda command: self._tick(command, 1),
            "tick-election": lambda command: self._tick(command, ELECTION_TICKS),
            "set-randomized-election-timeout": self._set_timeout,
            "transfer-leadership": self._transfer,
            "forget-leader": lambda command: self._node(command).core.forget_leader(),
            "report-unreachable": lambda command: self._node(command).core.report_unreachable(command.id(1)),
            "send-snapshot": self._send_snapshot,
            "compact": self._compact,
            "status": self._status,
            "raft-state": self._raft_state,
            "raft-log": lambda command: self._log(self._node(command)),
        }

    def run(self, command: Command) -> str:
        """Carry out one command; what it says, `ok` when that is nothing. Raises `ScriptError`."""
        handler = self._commands.get(command.name)
        if handler is None:
            raise ScriptError(f"line {command.line}: {command.name} is not a command")
        handler(command)
        text = self._output.take()
        return text if text else "ok\n"

    def _node(self, command: Command) -> ScriptedNode:
        node = self._nodes.get(command.id())
        if node is None:
            raise ScriptError(f"line {command.line}: there is no node {command.id()}")
        return node

    def _chosen(self, command: Command) -> list[ScriptedNode]:
        return [self._nodes[id] for id in command.ids()] or list(self._nodes.values())

    def _each(self, command: Command, title: str, work: Callable[[ScriptedNode], None]) -> None:
        chosen = self._chosen(command)
        for node in chosen:
            if len(chosen) == 1:
                work(node)
            else:
                self._titled(node, title, work)

    def _titled(self, node: ScriptedNode, title: str, work: Callable[[ScriptedNode], None]) -> None:
        self._output.say(f"> {node.id} {title}\n")
        with self._output.indented():
            work(node)

    # --- what happens to nodes ---------------------------------------------------------------------------------------

    def _add_nodes(self, command: Command) -> None:
        for _ in range(command.id()):
            id = len(self._nodes) + 1
            self._nodes[id] = ScriptedNode(id, command, self._output.log)

    def _propose(self, command: Command) -> None:
        data = command.arguments[1].encode() if len(command.arguments) > 1 else b""
        self._submit(self._node(command), EntryType.NORMAL, data)

    def _propose_change(self, command: Command) -> None:
        words = " ".join(command.input).split()
        changes = tuple(Change(CHANGE_LETTERS[word[0]], int(word[1:])) for word in words)
        change = ConfChange(changes, _TRANSITIONS[command.option("transition", "auto")])
        kind = EntryType.SIMPLE_CHANGE if command.flag("v1") else EntryType.CHANGE
        self._submit(self._node(command), kind, encode(change))

    def _submit(self, node: ScriptedNode, kind: EntryType, data: bytes) -> None:
        message = Message(MessageType.PROPOSE, to=node.id, sender=node.id, entries=(Entry(0, 0, data, kind),))
        if dropped := node.core.step_local(message):
            self._output.fail(_ERRORS[dropped])

    def _tick(self, command: Command, count: int) -> None:
        for _ in range(count):
            self._node(command).core.tick()

    def _set_timeout(self, command: Command) -> None:
        self._node(command).core._state.election_timeout = int(command.option("timeout"))

    def _transfer(self, command: Command) -> None:
        (leader,), (transferee,) = command.option_ids("from"), command.option_ids("to")
        self._nodes[leader].core.step_local(Message(MessageType.TRANSFER_LEADER, to=leader, sender=transferee))

    def _send_snapshot(self, command: Command) -> None:
        sender, to = command.id(), command.id(1)
        node = self._nodes[sender]
        message = Message(MessageType.INSTALL_SNAPSHOT, to=to, sender=sender, term=node.core.term)
        message.snapshot = node.log.snapshot()
        self._output.say(f"{describe_message(message)}\n")
        self._letters.append(message)

    def _compact(self, command: Command) -> None:
        node = self._node(command)
        try:
            node.log.compact(command.id(1))
        except Compacted:
            self._output.fail("requested index is unavailable due to compaction")
        else:
            self._log(node)

    # --- Ready -------------------------------------------------------------------------------------------------------

    def _process_ready(self, command: Command) -> None:
        self._each(command, "handling Ready", self._handle_ready)

    def _handle_ready(self, node: ScriptedNode) -> None:
        if not node.core.has_ready():
            self._output.say("<empty Ready>\n")
            return
        ready = node.core.ready()
        self._output.say(self._describe_ready(node, ready))
        self._letters += ready.messages
        if node.asynchronous:
            if ready.append is not None:
                node.appends.append(ready.append)
            if ready.committed:
                node.applies.append(ready.committed)
        else:
            self._carry_out(node, ready)

    def _carry_out(self, node: ScriptedNode, ready: Ready) -> None:
        if ready.append is not None:
            node.log.write(ready.append)
            self._letters += [message for message in ready.append.responses if message.to != node.id]
        node.apply(ready.committed)
        if ready.append is not None:
            node.core.advance(ready.append)
        if ready.committed:
            node.core.applied_to(ready.committed[-1].index)

    def _describe_ready(self, node: ScriptedNode, ready: Ready) -> str:
        work = ready.append or StorageAppend(0)
        text = f"Ready MustSync={str(work.must_sync).lower()}:\n"
        if ready.soft_state is not None:
            text += f"Lead:{ready.soft_state.leader} State:{ROLE_NAMES[ready.soft_state.role]}\n"
        if work.hard_state is not None:
            text += f"HardState {describe_hard_state(work.hard_state)}\n"
        if work.entries:
            text += "Entries:\n" + "".join(f"{describe_entry(entry)}\n" for entry in work.entries)
        if work.snapshot is not None:
            text += f"Snapshot {describe_snapshot(work.snapshot)}\n"
        if ready.committed:
            text += "CommittedEntries:\n" + "".join(f"{describe_entry(entry)}\n" for entry in ready.committed)
        messages = [describe_message(message) for message in ready.messages]
        if node.asynchronous:
            messages += self._describe_threads(node, ready)
        else:
            messages += [describe_message(message) for message in work.responses if message.to != node.id]
        if messages:
            text += "Messages:\n" + "".join(f"{message}\n" for message in messages)
        return text

    def _describe_threads(self, node: ScriptedNode, ready: Ready) -> list[str]:
        found = []
        if ready.append is not None:
            text = describe_append(node.id, ready.append)
            if ready.append.responses:
                text += f" Responses:[\n{indent(self._lines(ready.append.responses))}]"
            found.append(text)
        if ready.committed:
            answer = describe_applied(node.id, ready.committed)
            found.append(f"{describe_apply(node.id, ready.committed)} Responses:[\n{indent(answer)}]")
        return found

    def _lines(self, messages: Sequence[Message]) -> str:
        return "".join(f"{describe_message(message)}\n" for message in messages)

    # --- threads -----------------------------------------------------------------------------------------------------

    def _append_thread(self, node: ScriptedNode) -> None:
        if not node.appends:
            self._output.say("no append work to perform")
            return
        work = node.appends.popleft()
        self._output.say(f"Processing:\n{describe_append(node.id, work)}\nResponses:\n{self._lines(work.responses)}")
        node.log.write(work)
        self._letters += work.responses

    def _apply_thread(self, node: ScriptedNode) -> None:
        if not node.applies:
            self._output.say("no apply work to perform")
            return
        entries = node.applies.popleft()
        self._output.say(f"Processing:\n{describe_apply(node.id, entries)}\n")
        node.apply(entries)
        self._output.say(f"Responses:\n{describe_applied(node.id, entries)}\n")
        self._letters.append(_Applied(node.id, entries))

    # --- the network -------------------------------------------------------------------------------------------------

    def _deliver(self, command: Command) -> None:
        kind = command.option("type")
        count = sum(self._deliver_to(id, kind=kind) for id in command.ids())
        count += sum(self._deliver_to(id, kind=kind, drop=True) for id in command.option_ids("drop"))
        if not count:
            self._output.say("no messages\n")

    def _deliver_to(self, id: int, *, kind: str = "", drop: bool = False) -> int:
        """Deliver, or drop, what is on its way to a node; how much that was."""

        def chosen(letter: _Letter) -> bool:
            if letter.to != id or (drop and _is_local(letter)):
                return False
            return not kind or (isinstance(letter, Message) and MESSAGE_NAMES[letter.type] == kind)

        found = [letter for letter in self._letters if chosen(letter)]
        self._letters = [letter for letter in self._letters if not chosen(letter)]
        for letter in found:
            self._output.say(f"{'dropped: ' if drop else ''}{_describe(letter)}\n")
            if not drop:
                self._hand_over(self._nodes[id], letter)
        return len(found)

    def _hand_over(self, node: ScriptedNode, letter: _Letter) -> None:
        if isinstance(letter, _Applied):
            node.core.applied_to(letter.entries[-1].index)
            return
        # A transfer is sent on in the name of the node that is to lead, which may be this one.
        local = letter.sender == node.id and letter.type is not MessageType.TRANSFER_LEADER
        if dropped := node.core.step_local(letter) if local else node.core.step(letter):
            self._output.say(f"{_ERRORS.get(dropped, dropped)}\n")

    def _stabilize(self, command: Command) -> None:
        with self._output.level(command.option("log-level")):
            for _ in range(_ROUNDS_MAX):
                if not self._one_round(self._chosen(command)):
                    return
        raise ScriptError(f"line {command.line}: the cluster does not come to rest")

    def _one_round(self, nodes: Sequence[ScriptedNode]) -> bool:
        """Let every node do once what it can; False when nobody could do anything."""
        worked = False
        for node in nodes:
            if node.core.has_ready():
                worked = True
                self._titled(node, "handling Ready", self._handle_ready)
        for node in nodes:
            if any(letter.to == node.id for letter in self._letters):
                worked = True
                self._titled(node, "receiving messages", self._receive)
        for node in nodes:
            if node.appends:
                worked = True
                self._output.say(f"> {node.id} processing append thread\n")
                self._drain(node, node.appends, self._append_thread)
        for node in nodes:
            if node.applies:
                worked = True
                self._output.say(f"> {node.id} processing apply thread\n")
                self._drain(node, node.applies, self._apply_thread)
        return worked

    def _receive(self, node: ScriptedNode) -> None:
        self._deliver_to(node.id)

    def _drain(self, node: ScriptedNode, works: Sized, work: Callable[[ScriptedNode], None]) -> None:
        while works:
            with self._output.indented():
                work(node)

    # --- what can be seen --------------------------------------------------------------------------------------------

    def _status(self, command: Command) -> None:
        core = self._node(command).core
        if core.role is Role.LEADER:
            for id, progress in core._state.progress.items():
                self._output.say(f"{id:x}: {progress}\n")

    def _raft_state(self, command: Command) -> None:
        for node in self._nodes.values():
            core = node.core
            part = "Voter" if core.membership.is_voter(node.id) else "Non-Voter"
            self._output.say(f"{node.id}: {ROLE_NAMES[core.role]} ({part}) Term:{core.term} Lead:{core.leader}\n")

    def _log(self, node: ScriptedNode) -> None:
        log = node.log
        if not log.held:
            self._output.say(f"log is empty: first index={log.first_index()}, last index={log.last_index()}")
        for entry in log.held:
            self._output.say(f"{describe_entry(entry)}\n")
