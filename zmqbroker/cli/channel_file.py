"""The file that declares channels, as `zmqbroker apply` reads and `zmqbroker export` writes it.

    [defaults."orders.>"]
    max_messages = 100000

    [channels."orders"]
    delivery_limit = 5
    dead_letter = "orders.dead"

A channel has the settings that its table names, and of all others its defaults: those of patterns, or "no such rule".
Routes and bindings are in the same file (`routing_file`).
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from typing import Any, NamedTuple

from zmqbroker.cli.routing_file import routing_faults
from zmqbroker.cli.settings import Settings, channel_faults, default_faults, full_settings
from zmqbroker.commands import completed, fits_pattern, rank_of_pattern
from zmqbroker.errors import ConfigError
from zmqbroker.wire.frames import channel_fault

__all__ = ["Declared", "Defaults", "read_file", "usual_settings", "written_file"]

Defaults = Mapping[str, Mapping[str, Any]]


class Declared(NamedTuple):
    """What a file says."""

    defaults: dict[str, Settings]  # by pattern
    channels: dict[str, Settings]  # by name, each with the settings that are named
    routes: dict[str, str]  # destinations by name
    bindings: dict[str, str]  # queues by source


def usual_settings(channel: str, said: Mapping[str, Any], defaults: Defaults) -> Settings:
    """All settings of a channel of which these are said, as the broker would make it with these defaults."""
    fitting = sorted((pattern for pattern in defaults if fits_pattern(pattern, channel)), key=rank_of_pattern)
    return asdict(completed(channel, said, (defaults[pattern] for pattern in fitting)))


def read_file(name: str, data: bytes) -> Declared:
    """What the file `name` declares, in its order.

    Raises ConfigError with every fault.
    """
    try:
        document = tomllib.loads(data.decode())
    except (ValueError, RecursionError) as error:  # not only TOMLDecodeError: also for a number of thousands of digits
        raise ConfigError((f"{name} is not TOML: {error}",)) from error
    faults = list(_faults(document))
    if faults:
        raise ConfigError(tuple(f"{name}: {fault}" for fault in faults))
    return Declared(*(dict(document.get(table, {})) for table in Declared._fields))


def _faults(document: Mapping[str, Any]) -> Iterator[str]:
    there_are = 'there are only tables [defaults."PATTERN"], [channels."NAME"], [routes] and [bindings]'
    yield from (f"{name!r} is not known; {there_are}" for name in document if name not in Declared._fields)
    for name, said in _tables(document, "defaults").items():
        if isinstance(said, dict):
            yield from (f"defaults {name!r}: {fault}" for fault in default_faults(name, said))
        else:
            yield f'defaults {name!r} must be a table [defaults."PATTERN"]: {said!r}'
    for kind in Declared._fields:
        if not isinstance(document.get(kind, {}), dict):
            yield f"{kind} must be tables; {there_are}"
    for name, settings in _tables(document, "channels").items():
        if fault := channel_fault(name):
            yield fault
        if isinstance(settings, dict):
            yield from (f"channel {name!r}: {fault}" for fault in channel_faults(name, settings))
        else:
            yield f'channel {name!r} must be a table [channels."NAME"]: {settings!r}'
    yield from routing_faults(document)


def _tables(document: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    tables = document.get(kind, {})
    return tables if isinstance(tables, dict) else {}


def written_file(defaults: Defaults, channels: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """The file of these, line by line, without line ends; channels are as CHANNEL tells of them."""
    yield "# Channels and their settings; what is not named has its default. `zmqbroker apply FILE` makes them so."
    for pattern, said in defaults.items():
        yield from _written("defaults", pattern, said)
    for row in channels:
        usual, there = usual_settings(row["channel"], {}, defaults), full_settings(row["settings"])
        yield from _written("channels", row["channel"], {name: value for name, value in there.items() if value != usual[name]})


def _written(kind: str, name: str, settings: Mapping[str, Any]) -> Iterator[str]:
    yield ""
    # A string of JSON that holds no control characters, as no channel's name does, is one of TOML.
    yield f"[{kind}.{json.dumps(name, ensure_ascii=False)}]"
    for key, value in settings.items():
        yield f"{key} = {json.dumps(value, ensure_ascii=False)}"
