"""The network between nodes, and between clients and nodes: delay, loss, repetition, order, partitions and broken connections.

A link is one direction between two nodes. While it is blocked, what is sent is lost; what was under way waits and may arrive
late, when the link is open again. Within a link frames keep their order unless the seed says otherwise; a reset breaks the
order too. Clients have links of their own, which lose and delay but never repeat: a client that is refused may trust that.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable

from tests.simulation.messages import Bundle, damaged
from tests.simulation.options import Options
from tests.simulation.world import MILLISECOND, World

__all__ = ["Link", "Network", "Packet"]

#: Frames of the past that a nemesis can send once more.
_REMEMBERED = 256


class Packet:
    """One bundle from one node to another, with what cannot be a Raft message beside it (a snapshot's state)."""

    __slots__ = ("attachment", "bundle", "receiver", "sender")

    def __init__(self, sender: int, receiver: int, bundle: Bundle, attachment: object = None) -> None:
        self.sender = sender
        self.receiver = receiver
        self.bundle = bundle
        self.attachment = attachment


class Link:
    """One direction between two nodes."""

    __slots__ = ("blocked", "delay_factor", "epoch", "held", "last_ns", "loss", "repeat")

    def __init__(self, loss: float, repeat: float) -> None:
        self.blocked = False
        self.loss = loss
        self.repeat = repeat
        self.delay_factor = 1
        self.last_ns = 0  # when the newest frame under way arrives
        self.epoch = 0  # of the connection
        self.held: list[Packet] = []  # arrived while blocked


class Network:
    """All links. `arrive` is called with what reaches its receiver."""

    def __init__(self, world: World, options: Options, arrive: Callable[[Packet], object]) -> None:
        self._world = world
        self._options = options
        self._arrive = arrive
        self._chance = world.chance(2)
        self._client_chance = world.chance(3)
        self._links: dict[tuple[int, int], Link] = {}
        self._past: deque[Packet] = deque(maxlen=_REMEMBERED)
        self.garble = 0.0  # share of frames that arrive damaged
        self.client_loss = options.loss / 3
        self.counters: Counter[str] = Counter()

    def link(self, sender: int, receiver: int) -> Link:
        """One direction between two nodes, made when it is first asked for."""
        link = self._links.get((sender, receiver))
        if link is None:
            link = self._links[sender, receiver] = Link(self._options.loss, self._options.repeat)
        return link

    # --- between nodes -----------------------------------------------------------------------------------------------

    def send(self, packet: Packet) -> None:
        """A node sends; whether it arrives it never learns."""
        link, chance = self.link(packet.sender, packet.receiver), self._chance
        if link.blocked:
            self.counters["blocked"] += 1
            return
        if link.loss and chance.happens(link.loss):
            self.counters["lost"] += 1
            return
        if self.garble and chance.happens(self.garble):
            self.counters["garbled"] += 1
            flipped = damaged(packet.bundle, chance.below(64), chance.below(1 << 16), chance.below(8))
            packet = Packet(packet.sender, packet.receiver, flipped, packet.attachment)
        self._past.append(packet)
        self._transmit(link, packet)
        if link.repeat and chance.happens(link.repeat):
            self.counters["repeated"] += 1
            self._transmit(link, packet)

    def _transmit(self, link: Link, packet: Packet) -> None:
        arrives_ns = self._world.now_ns + self._delay_ns() * link.delay_factor
        if self._options.fifo:
            arrives_ns = max(arrives_ns, link.last_ns + 1)
        link.last_ns = max(arrives_ns, link.last_ns)
        self._world.after(arrives_ns - self._world.now_ns, self._deliver, link, link.epoch, packet)

    def _delay_ns(self) -> int:
        mean = self._options.delay_ns
        return mean // 10 + self._chance.around(mean)

    def _deliver(self, link: Link, epoch: int, packet: Packet) -> None:
        if link.blocked:
            link.held.append(packet)
        elif epoch != link.epoch and self._chance.happens(0.5):
            self.counters["lost"] += 1
        else:
            self._arrive(packet)

    # --- what a nemesis does -----------------------------------------------------------------------------------------

    def block(self, sender: int, receiver: int) -> None:
        """Nothing passes until `open`."""
        self.link(sender, receiver).blocked = True

    def open(self, sender: int, receiver: int) -> None:
        """Let frames pass again; some of those that were under way arrive now, late."""
        link = self.link(sender, receiver)
        if not link.blocked:
            return
        link.blocked = False
        held, link.held = link.held, []
        for packet in held:
            if self._chance.happens(0.5):
                self.counters["late"] += 1
                self._transmit(link, packet)

    def reset(self, sender: int, receiver: int) -> None:
        """The connection ends and another begins: half of what is under way is lost, the other half loses its order."""
        link = self.link(sender, receiver)
        link.epoch += 1
        link.last_ns = 0

    def replay(self, count: int) -> None:
        """Frames of the past arrive once more."""
        for _ in range(min(count, len(self._past))):
            packet = self._past[self._chance.below(len(self._past))]
            self.counters["replayed"] += 1
            self._world.after(self._delay_ns(), self._arrive, packet)

    def heal(self, nodes: list[int]) -> None:
        """Every link between these nodes is as good as new; the others stay as they are."""
        self.garble = 0.0
        for sender in nodes:
            for receiver in nodes:
                if sender != receiver:
                    link = self.link(sender, receiver)
                    link.loss = link.repeat = 0.0
                    link.delay_factor = 1
                    self.open(sender, receiver)

    # --- between clients and nodes -----------------------------------------------------------------------------------

    def client_frame(self, call: Callable[..., object], *arguments: object) -> None:
        """A request or a reply; lost, or `call`ed after a while."""
        if self.client_loss and self._client_chance.happens(self.client_loss):
            self.counters["client_lost"] += 1
            return
        delay = MILLISECOND // 10 + self._client_chance.around(self._options.delay_ns)
        self._world.after(delay, call, *arguments)
