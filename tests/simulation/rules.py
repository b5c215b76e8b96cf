"""What some channels are asked for beside sends, receives and acks: their settings, and what their clients do with messages.

Drawn from the seed with a generator of its own, so that a seed without rules is the run that it was before there were any.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tests.simulation.options import Options
from tests.simulation.world import Chance
from zmqbroker.commands import ChannelSettings

__all__ = ["Rules", "rules_of"]

#: Room for one largest batch, and a little more.
_MESSAGES_MIN = 8


@dataclass(frozen=True, slots=True)
class Rules:
    """One channel."""

    settings: ChannelSettings
    dead_is_read: bool  # whether the dead-letter channel has a consumer
    requeue_to: str  # another channel with rules; empty: there is none


def rules_of(options: Options, channels: Sequence[str]) -> dict[str, Rules]:
    """The channels that have rules."""
    chance = Chance(options.seed, 12)
    ruled = [channel for channel in channels if chance.happens(options.ruled)]
    found: dict[str, Rules] = {}
    for channel in ruled:
        settings = _settings(chance, channel, options.body_bytes_max)
        others = [other for other in ruled if other != channel]
        found[channel] = Rules(settings, bool(settings.dead_letter) and chance.happens(0.5), others[0] if others else "")
    return found


def _settings(chance: Chance, channel: str, body_bytes_max: int) -> ChannelSettings:
    limit = chance.choice((0, 1, 2, 3, 5))
    bounded = chance.happens(0.5)
    overflow = chance.choice(("reject", "drop_oldest", "dead_letter")) if bounded else "reject"
    dead = bool(limit) or overflow == "dead_letter" or chance.happens(0.3)
    return ChannelSettings(
        delivery_limit=limit,
        dead_letter=f"{channel}.dead" if dead else "",
        max_messages=chance.between(_MESSAGES_MIN, 60) if bounded else 0,
        max_bytes=20 * (body_bytes_max + 100) if bounded and chance.happens(0.3) else 0,
        overflow=overflow,
        max_in_flight=chance.choice((0, 0, 3, 20)),
    )
