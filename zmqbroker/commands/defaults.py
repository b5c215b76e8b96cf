"""Settings that channels have when nobody says others, by patterns of their names.

A pattern is tokens with dots between them, as names are read here: `*` stands for any one token, `>` at the end for one or
more, every other token for itself. Patterns that fit one name are ordered: at the first token in which two differ, a token
that stands for itself is more specific than `*`, and `*` more than `>`. Each setting is that of the most specific pattern
which says it. Two patterns that fit a name always differ so, since what stands for itself is the name's own token.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields

from zmqbroker.commands.channels import ChannelSettings, dead_letter_fault, has_setting
from zmqbroker.commands.names import is_store

__all__ = ["CREATE_ON_USE", "Said", "SetDefaults", "completed", "fits_pattern", "rank_of_pattern", "settings_said"]

#: What is said of settings, by their names.
Said = Mapping[str, "int | str | bool"]

#: The one that is no setting of a channel: whether using a channel that is not there makes it.
CREATE_ON_USE = "create_on_use"

_ONE, _REST = "*", ">"


@dataclass(slots=True, frozen=True)
class SetDefaults:
    """What channels have that will be made, where their names fit a pattern; with nothing said the pattern is forgotten."""

    pattern: str
    settings: Said = field(default_factory=dict)  # instead of all that was said of this pattern
    keep: bool = False  # True: only what was not said; so a leader brings its configuration in


def fits_pattern(pattern: str, channel: str) -> bool:
    """Whether a channel's name is one of those that the pattern stands for."""
    tokens, names = pattern.split("."), channel.split(".")
    if tokens[-1] == _REST:
        tokens = tokens[:-1]
        names = names[: len(tokens)] if len(names) > len(tokens) else []
    return len(tokens) == len(names) and all(token in (_ONE, name) for token, name in zip(tokens, names, strict=True))


def rank_of_pattern(pattern: str) -> tuple[int, ...]:
    """Of patterns that fit one name, the most specific one has the least."""
    return tuple({_ONE: 1, _REST: 2}.get(token, 0) for token in pattern.split("."))


def settings_said(settings: ChannelSettings, explicit: Iterable[str] = ()) -> dict[str, int | str]:
    """The settings that are not at their default, and those that are and were said all the same."""
    given = {item.name: (getattr(settings, item.name), item.default) for item in fields(settings)}
    named = set(explicit)
    return {name: value for name, (value, default) in given.items() if value != default or name in named}


def completed(channel: str, said: Said, defaults: Iterable[Said]) -> ChannelSettings:
    """All settings of a channel of which these are said; `defaults` are those of patterns, the most specific one first.

    A default that contradicts the channel or what is said of it is left out: a dead-letter channel that is the channel itself,
    an overflow into none, and what a channel of its kind does not have. An events store drops the oldest unless it is told
    to reject.
    """
    values: dict[str, int | str | bool] = dict(said)
    for more in defaults:
        values = {**more, **values}
    values.pop(CREATE_ON_USE, None)
    values = {name: value for name, value in values.items() if name in said or has_setting(channel, name)}
    if is_store(channel) and values.get("overflow") in (None, "dead_letter"):
        values["overflow"] = "drop_oldest"
    dead_letter = str(values.get("dead_letter", ""))
    if "dead_letter" not in said and (dead_letter == channel or dead_letter_fault(channel, dead_letter)):
        values.pop("dead_letter", None)
    if "overflow" not in said and values.get("overflow") == "dead_letter" and not values.get("dead_letter"):
        del values["overflow"]
    return ChannelSettings(**values)  # type: ignore[arg-type]  # who takes them in has checked each
