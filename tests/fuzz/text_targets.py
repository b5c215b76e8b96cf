"""Text from users and operators: URLs, a node's configuration, the file that declares channels."""

from __future__ import annotations

from pathlib import Path

from tests.fuzz.target import Target
from zmqbroker.cli.channel_file import read_file
from zmqbroker.client.url import is_endpoint, parse_url, split_endpoint
from zmqbroker.config import load
from zmqbroker.config.sections import describe
from zmqbroker.errors import ConfigError

__all__ = ["TEXT_TARGETS"]

_CHANNELS = b"""[channels."orders"]
delivery_limit = 5
dead_letter = "orders.dead"
overflow = "reject"

[channels."orders.dead"]
max_messages = 10
"""


def _url_samples() -> list[bytes]:
    urls = ("tcp://127.0.0.1:5590", "ipc:///tmp/x", "zmqbroker://u@h1,h2:5593,[::1]:5590", "zmqbroker://h", "tcp://[fe80::1]:1")
    return [url.encode() for url in urls]


def _run_url(data: bytes) -> None:
    # As Python gives arguments and variables: bytes that are no text are in it, as surrogates.
    text = data.decode(errors="surrogateescape")
    is_endpoint(text)
    for endpoint in parse_url(text).endpoints:
        if endpoint.startswith("tcp://"):
            split_endpoint(endpoint)


def _toml_samples() -> list[bytes]:
    tables: dict[str, list[str]] = {}
    for description in describe():
        table, _, name = description.key.partition(".")
        value = description.default
        shown = str(value).lower() if isinstance(value, bool | int) else f'"{value}"' if isinstance(value, str) else "[]"
        tables.setdefault(table, []).append(f"{name} = {shown}\n")
    whole = "".join(f"[{table}]\n{''.join(lines)}" for table, lines in tables.items())
    folder = Path(__file__).parents[2] / "deploy"
    return [whole.encode(), *(path.read_bytes() for path in sorted(folder.rglob("*.toml"))), b"[node]\nname = 'a'\n"]


def _run_toml(data: bytes) -> None:
    load(data.decode(errors="replace"), {}, {})


def _run_environment(data: bytes) -> None:
    names = [description.variable for description in describe()]
    lines = data.decode(errors="surrogateescape").split("\n")
    load(None, {names[number % len(names)]: line for number, line in enumerate(lines)}, {})


def _environment_samples() -> list[bytes]:
    values = [description.default for description in describe()]
    return ["\n".join(",".join(value) if isinstance(value, tuple) else str(value) for value in values).encode()]


def _run_channels(data: bytes) -> None:
    read_file("fuzz", data)


_CONFIG = (ConfigError,)

TEXT_TARGETS = (
    Target("url", _run_url, _url_samples, _CONFIG),
    Target("configuration", _run_toml, _toml_samples, _CONFIG),
    Target("environment", _run_environment, _environment_samples, _CONFIG),
    Target("channel-file", _run_channels, lambda: [_CHANNELS], _CONFIG),
)
