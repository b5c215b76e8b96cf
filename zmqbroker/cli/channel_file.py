"""The file that declares channels, as `zmqbroker apply` reads and `zmqbroker export` writes it.

    [channels."orders"]
    delivery_limit = 5
    dead_letter = "orders.dead"

A channel has the settings that its table names and the defaults of all others.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from zmqbroker.cli.settings import Settings, channel_faults
from zmqbroker.errors import ConfigError
from zmqbroker.wire.frames import channel_fault

__all__ = ["read_channels", "written_channels"]


def read_channels(name: str, data: bytes) -> dict[str, Settings]:
    """The channels of the file `name`, in its order, each with the settings that are named.

    Raises ConfigError with every fault.
    """
    try:
        document = tomllib.loads(data.decode())
    except (ValueError, RecursionError) as error:  # not only TOMLDecodeError: also for a number of thousands of digits
        raise ConfigError((f"{name} is not TOML: {error}",)) from error
    faults = list(_faults(document))
    if faults:
        raise ConfigError(tuple(f"{name}: {fault}" for fault in faults))
    return dict(document.get("channels", {}))


def _faults(document: Mapping[str, Any]) -> Iterator[str]:
    yield from (f'{name!r} is not known; there are only tables [channels."NAME"]' for name in document if name != "channels")
    channels = document.get("channels", {})
    if not isinstance(channels, dict):
        yield 'channels must be tables [channels."NAME"]'
        return
    for name, settings in channels.items():
        if fault := channel_fault(name):
            yield fault
        if isinstance(settings, dict):
            yield from (f"channel {name!r}: {fault}" for fault in channel_faults(name, settings))
        else:
            yield f'channel {name!r} must be a table [channels."NAME"]: {settings!r}'


def written_channels(channels: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """The file of these channels, line by line, without line ends; they are as CHANNEL tells of them."""
    yield "# Channels and their settings; what is not named has its default. `zmqbroker apply FILE` makes them so."
    for row in channels:
        yield ""
        # A string of JSON that holds no control characters, as no channel's name does, is one of TOML.
        yield f"[channels.{json.dumps(row['channel'], ensure_ascii=False)}]"
        for name, value in row["settings"].items():
            yield f"{name} = {json.dumps(value, ensure_ascii=False)}"
