"""A whole cluster in one thread: nodes, network, clients and what watches them.

Made from options alone; two clusters of equal options do the same, event by event.
"""

from __future__ import annotations

from collections import Counter
from random import Random

from tests.fault.history import History
from tests.simulation.admin import Admin
from tests.simulation.client import Client
from tests.simulation.clock import START_UNIX_NS, SkewedClock
from tests.simulation.consumers import Consumer
from tests.simulation.desk import Answer, Request
from tests.simulation.disk import ProcessDied
from tests.simulation.invariants import RaftWatch
from tests.simulation.line import CONSUMERS, STORE, StoreReader, histories
from tests.simulation.machine_watch import MachineWatch
from tests.simulation.network import Network, Packet
from tests.simulation.node import SimNode
from tests.simulation.options import Options
from tests.simulation.producers import Producer
from tests.simulation.readers import Reader
from tests.simulation.routed import BOUND, ROUTED, Binder
from tests.simulation.rules import rules_of
from tests.simulation.sightings import Sightings
from tests.simulation.stores import Device, MemoryDevice, SegmentDevice
from tests.simulation.trace import Trace
from tests.simulation.world import MILLISECOND, SECOND, Chance, World
from zmqbroker.commands import Member
from zmqbroker.raft.messages import Membership
from zmqbroker.server.membership import founding

__all__ = ["Cluster"]

#: Crystals differ by 20 to 50 parts per million; these differ by up to 5 %, to be seen within seconds.
_RATE_PPM_MAX = 50_000


class Cluster:
    """Everything of one run but its plan."""

    def __init__(self, options: Options, trace: Trace, command: str) -> None:
        self.options = options
        self.world = World(options.seed, trace)
        self.counters: Counter[str] = Counter()
        self.uid = options.seed.to_bytes(16, "big")
        self.chance: Chance = self.world.chance(4)
        self.disk_chance: Chance = self.world.chance(5)
        self.raft = RaftWatch(self.world, command)
        self.machines = MachineWatch(self.raft, self.latest_unix_ns)
        self.network = Network(self.world, options, self._arrive)
        self.nodes: dict[int, SimNode] = {}
        self.clients: dict[int, Client] = {}
        self.confirmed: Counter[str] = Counter()  # channel -> highest sequence that any client knows to be stored
        self._reachable = list(range(1, options.nodes + 1))
        self.initial = Membership(voters=tuple(range(1, options.nodes + 1)))
        self.founding = founding(
            Member(id, f"n{id}", id.to_bytes(16, "big"), f"n{id}:5591") for id in range(1, options.nodes + 1)
        )
        self.raft.configurations.append((0, self.initial))
        self.last_confirmed_ns = 0  # when the newest send that was confirmed had begun
        self.channels = [f"c{number}" for number in range(1, options.channels + 1)]
        self.rules = rules_of(options, self.channels)
        self.histories = {channel: History() for channel in self.channels if channel not in self.rules}
        self.sightings = Sightings()
        self.store_histories = histories() if options.store else {}
        if options.routed:
            self.histories[ROUTED] = History()
            self.store_histories[BOUND] = History()  # it gets what the store gets, under the same sequences

    def boot(self) -> None:
        """Start every node, and the clients."""
        for _ in range(self.options.nodes):
            self.add_node()
        for node in self.nodes.values():
            node.was_member = True
            node.start()
        self._add_clients()

    def note(self, text: str) -> None:
        """A line of the text trace."""
        self.world.note(text)

    def _add_clients(self) -> None:
        """Producers, consumers and readers, each on one channel; every channel has a consumer."""
        options, channels = self.options, self.channels
        self.producers = [Producer(self, 1 + n, channels[n % len(channels)]) for n in range(options.producers)]
        consumers = max(options.consumers, len(channels))
        self.consumers = [Consumer(self, 21 + n, channels[n % len(channels)]) for n in range(consumers)]
        dead = [rules.settings.dead_letter for rules in self.rules.values() if rules.dead_is_read]
        self.consumers += [Consumer(self, 61 + n, channel) for n, channel in enumerate(dead)]
        if options.store:
            self.producers.append(Producer(self, 11, STORE))
            if options.routed:
                self._add_routing()
            names = [name for name, count in CONSUMERS.items() for _ in range(count)]
            self.consumers += [StoreReader(self, 91 + n, name) for n, name in enumerate(names)]
        if self.rules:
            self.admin = Admin(self, 81)
        self.readers = [Reader(self, 41 + n, channels[n % len(channels)]) for n in range(options.readers)]

    def _add_routing(self) -> None:
        """Who sends to the store and a queue at once, and who reads from that, and from the queue that the store feeds."""
        self.producers.append(Producer(self, 12, STORE, ROUTED))
        self.consumers += [Consumer(self, 71, ROUTED), Consumer(self, 72, BOUND)]
        Binder(self, 82, self.producers[-2:])

    def history_of(self, channel: str) -> History | None:
        """What clients saw of a channel; None of one with rules."""
        return self.histories.get(channel) or self.store_histories.get(channel)

    def reachable(self) -> list[int]:
        """The nodes that clients know."""
        return self._reachable

    def known_to_clients(self, nodes: list[int]) -> None:
        """Clients talk to these from now on; not empty."""
        self._reachable = nodes

    def add_node(self) -> SimNode:
        """A machine with an empty disk, under a Raft id that was never used."""
        id = len(self.nodes) + 1
        skewed = self.options.faults and "clock_rate" in self.options.faults
        rate = self.chance.between(-_RATE_PPM_MAX, _RATE_PPM_MAX) if skewed else 0
        offset = self.chance.between(-200, 200) * MILLISECOND
        clock = SkewedClock(self.world, rate, offset)
        node = self.nodes[id] = SimNode(self, id, self._device(id), self.initial, clock)
        return node

    def _device(self, id: int) -> Device:
        options = self.options
        if options.segments:
            seed = options.seed * 1_000_003 + id * 2
            return SegmentDevice(seed, sync=options.sync, segment_bytes=options.segment_bytes)
        return MemoryDevice(self.world.chance(100 + id), sync=self.options.sync)

    def election_random(self, node: SimNode) -> Random:
        """The chance of one process of one node."""
        return Random(self.options.seed * 1_000_003 + node.id * 1009 + node.boots)

    # --- between the parts -----------------------------------------------------------------------------------------------

    def _arrive(self, packet: Packet) -> None:
        self.nodes[packet.receiver].arrive(packet)

    def network_gone(self, node: int) -> None:
        """A process ended, and its connections with it."""
        for other in self.nodes:
            if other != node:
                self.network.reset(node, other)
                self.network.reset(other, node)

    def disk_failed(self, node: SimNode, error: BaseException) -> None:
        """A node's disk refused something, or it died in a call of it: its process ends, and starts again later."""
        self.counters["disk_failures"] += 1
        node.crash(power=isinstance(error, ProcessDied) and self.options.sync and self.chance.happens(0.5))
        self.start_later(node)

    def start_failed(self, node: SimNode, error: BaseException) -> None:
        """A node could not start on its disk: it tries again later."""
        self.counters["starts_failed"] += 1
        self.start_later(node)

    def start_later(self, node: SimNode) -> None:
        """Start a node again, some time later, unless somebody else does before."""
        self.world.after(self.chance.around(500 * MILLISECOND), self.start, node)

    def start(self, node: SimNode) -> None:
        """Start a node that is down and can be started."""
        if not node.up and not node.gone and not node.damaged:
            node.start()

    def request(self, node: int, request: Request) -> None:
        """A client sends a request."""
        receiver = self.nodes.get(node)
        if receiver is not None:
            self.network.client_frame(receiver.request, request)

    def answer(self, client: int, answer: Answer) -> None:
        """A node sends a reply."""
        receiver = self.clients[client]
        receiver.promised(answer)
        self.network.client_frame(receiver.answered, answer)

    def latest_unix_ns(self) -> int:
        """The latest that replicated time may be now: what all clocks but the one that is most ahead have ever shown.

        A leader begins with the lower median of its quorum's clocks (DESIGN §6), which in a quorum of two or more is never the
        highest. A cluster that ever had a single voter is not asked.
        """
        if any(len(membership.voters) < 2 for _, membership in self.raft.configurations):
            return 1 << 63
        offsets = sorted(node.clock.highest_offset_ns for node in self.nodes.values())
        drift_ns = self.world.now_ns * _RATE_PPM_MAX // 1_000_000
        return START_UNIX_NS + self.world.now_ns + offsets[-2] + 2 * drift_ns + SECOND

    def change_under_way(self) -> bool:
        """True while any log holds a membership change that nobody has applied, or a member does not know the newest for good.

        Until then a node that starts again may believe in an older membership, and need the majority of that.
        """
        newest, membership = self.machines.last_applied, self.raft.membership
        if any(watch.change_indexes and watch.change_indexes[-1] > newest for watch in self.raft.nodes.values()):
            return True
        members = [self.nodes[member] for member in membership.all_nodes]
        return any(not node.lost and node.keeper.membership != membership for node in members)

    def live(self) -> list[SimNode]:
        """Nodes that run and do not stand still."""
        return [node for node in self.nodes.values() if node.up and not node.paused]
