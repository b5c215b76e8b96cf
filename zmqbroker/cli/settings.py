"""Settings of channels as users give them: `--set delay_ms=5000`, or a table of a file for `zmqbroker apply`.

Every fault is found here, before anything is asked, and reported together with all others; what settings there are and their
ranges are the wire's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, TypeVar

import click

from zmqbroker.cli.readable import duration_text, exact_size_text, plain_text
from zmqbroker.commands import CREATE_ON_USE, ChannelSettings
from zmqbroker.errors import ConfigError, InvalidChannel, InvalidRequest
from zmqbroker.wire.queue_requests import read_given_settings, read_settings
from zmqbroker.wire.rule_requests import pattern_fault

__all__ = [
    "DEFAULTS",
    "Settings",
    "channel_faults",
    "default_faults",
    "full_settings",
    "parse_defaults",
    "parse_settings",
    "set_option",
    "setting_text",
]

Settings = dict[str, Any]

#: Every setting, with what it is when nobody says anything: "no such rule".
DEFAULTS: Mapping[str, Any] = asdict(ChannelSettings())
_FLAGS = {"true": True, "false": False}
_THERE_ARE = f"the settings are {', '.join(DEFAULTS)}"

#: How a setting is said that holds or does not.
_FLAGS = {"true": True, "false": False, "1": True, "0": False, "": False}

_Function = TypeVar("_Function", bound=Callable[..., Any])


def set_option(function: _Function) -> _Function:
    """Add --set."""
    return click.option(
        "--set",
        "pairs",
        multiple=True,
        metavar="KEY=VALUE",
        help=f"A setting; may be repeated. There are {', '.join(DEFAULTS)}.",
    )(function)


def parse_settings(pairs: Iterable[str]) -> Settings:
    """The settings of KEY=VALUE pairs. Raises ConfigError with every fault."""
    found: Settings = {}
    faults: list[str] = []
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            faults.append(f"{pair!r} is not KEY=VALUE")
        elif name in found:
            faults.append(f"setting {name} is given twice")
        else:
            found[name] = _read_value(name, value)
    faults += _faults(found)
    if faults:
        raise ConfigError((*faults, _THERE_ARE))
    return found


def parse_defaults(pairs: Sequence[str]) -> Settings:
    """What KEY=VALUE pairs say as defaults: settings, and whether use creates. Raises ConfigError with every fault."""
    uses = [pair.partition("=")[2] for pair in pairs if pair.startswith(f"{CREATE_ON_USE}=")]
    found = parse_settings(pair for pair in pairs if not pair.startswith(f"{CREATE_ON_USE}="))
    if len(uses) > 1 or (uses and uses[0] not in _FLAGS):
        raise ConfigError((f"{CREATE_ON_USE} is {', '.join(map(repr, uses))}, it must be true or false, and said once",))
    return {**found, CREATE_ON_USE: _FLAGS[uses[0]]} if uses else found


def default_faults(pattern: str, said: Mapping[str, Any]) -> list[str]:
    """What is wrong with the defaults for a pattern; ends with what settings there are where one is wrong."""
    faults = _faults({name: value for name, value in said.items() if name != CREATE_ON_USE})
    if faults:
        faults.append(f"{_THERE_ARE}, and {CREATE_ON_USE}")
    if type(said.get(CREATE_ON_USE, True)) is not bool:
        faults.append(f"{CREATE_ON_USE} must be true or false: {said[CREATE_ON_USE]!r}")
    fault = pattern_fault(pattern)
    return [fault, *faults] if fault else faults


def _read_value(name: str, value: str) -> int | str | bool:
    """What the setting is, if the text can be read so; else the text, which is then found to be wrong."""
    if isinstance(DEFAULTS.get(name), bool):
        return _FLAGS.get(value.lower(), value)
    if isinstance(DEFAULTS.get(name), int):
        try:
            return int(value)
        except ValueError:
            return value
    return value


def _faults(settings: Mapping[str, Any]) -> list[str]:
    """What is wrong with each setting by itself."""
    faults = [f"setting {name!r} is not known" for name in settings if name not in DEFAULTS]
    for name, value in settings.items():
        if name in DEFAULTS and (fault := _fault({name: value})):
            faults.append(fault if name in fault else f"setting {name}: {fault}")
    return faults


def _fault(settings: Settings, channel: str | None = None) -> str | None:
    """What is wrong with settings each by itself, and as those of a channel where one is named."""
    try:
        if channel is not None:
            read_settings({"settings": settings}, channel)
        else:
            read_given_settings(settings)
    except (InvalidRequest, InvalidChannel) as error:
        return str(error)
    return None


def channel_faults(channel: str, settings: Mapping[str, Any]) -> list[str]:
    """What is wrong with all settings of a channel, each by itself and then together; ends with what settings there are."""
    faults = _faults(settings)
    if faults:
        return [*faults, _THERE_ARE]
    together = _fault(dict(settings), channel)
    return [together] if together else []


def full_settings(settings: Mapping[str, Any]) -> Settings:
    """All settings, those that are not given at their default."""
    return {**DEFAULTS, **settings}


def setting_text(name: str, value: object) -> str:
    """The value of a setting for people."""
    if not value:
        return "-"
    if isinstance(value, int) and name.endswith("_ms"):
        return duration_text(value)
    if isinstance(value, int) and name.endswith("_bytes"):
        return exact_size_text(value)
    return plain_text("true" if value is True else str(value))
