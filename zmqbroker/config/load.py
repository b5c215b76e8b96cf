"""Read settings: defaults, then the text of `zmqbroker.toml`, then the environment, then flags; later ones win.

Nothing here reads a file or a variable: the caller passes text and mappings in. Every fault of every source is reported at
once, with the place that it came from.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterator, Mapping

from zmqbroker.config.node import NodeConfig, build_sections
from zmqbroker.config.rules import section_faults
from zmqbroker.config.sections import TABLES, KeyDescription, Value, describe
from zmqbroker.errors import ConfigError

__all__ = ["RESERVED_VARIABLES", "load", "with_files"]

#: Variables with our prefix that are not settings of a node.
RESERVED_VARIABLES = frozenset({"ZMQBROKER_CONFIG", "ZMQBROKER_OWNER", "ZMQBROKER_PURE", "ZMQBROKER_URL"})

_PREFIX = "ZMQBROKER_"
# Kubernetes puts the addresses of a service called zmqbroker-… into every pod of its namespace; those are not settings.
_SERVICE_LINK = re.compile(
    r"ZMQBROKER_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)"
)
_KIND_NAMES: dict[type, str] = {str: "a text", int: "a whole number", bool: "true or false", tuple: "a list of texts"}
_FLAG_WORDS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}

# Where a value was found, its key, and the value as it was written there.
_Given = tuple[str, str, object]


def with_files(environment: Mapping[str, str], read: Callable[[str], str]) -> dict[str, str]:
    """Replace each `ZMQBROKER_<TABLE>_<KEY>_FILE` by the variable it stands for, with what `read` gives for the path.

    A variable that is set itself wins over its file. Raises ConfigError for every file that is no text, or that `read`
    fails on with OSError.
    """
    result, faults = dict(environment), []
    for description in describe():
        path = result.pop(f"{description.variable}_FILE", None)
        if path is None or description.variable in result:
            continue
        try:
            result[description.variable] = read(path).strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else None
            faults.append(f"{description.variable}_FILE: {path} cannot be read: {reason or error}")
    if faults:
        raise ConfigError(tuple(faults))
    return result


def load(toml_text: str | None, environment: Mapping[str, str], flags: Mapping[str, Value]) -> NodeConfig:
    """Merge all sources into one configuration. Raises ConfigError with every fault found.

    `flags` are keyed "table.key"; a text is read as in the environment: a number in decimal, true or false, a list with commas.
    Variables without our prefix are ignored, and so are those that Kubernetes makes for services.
    """
    known = {description.key: description for description in describe()}
    faults: list[str] = []
    values: dict[str, Value] = {}
    origins: dict[str, str] = {}
    given = [*_from_file(toml_text, faults), *_from_environment(environment, known, faults)]
    given += [(f"flag {key}", key, value) for key, value in flags.items()]
    for origin, key, raw in given:
        if key not in known:
            faults.append(f"{origin}: there is no such setting")
        elif (value := _typed(raw, type(known[key].default), parse=not origin.startswith("["))) is None:
            faults.append(f"{origin}: {raw!r} is not {_KIND_NAMES[type(known[key].default)]}")
        else:
            values[key], origins[key] = value, origin
    sections = build_sections(values)
    faults += [f"{origins.get(key, key)}: {text}" for key, text in section_faults(sections)]
    if faults:
        raise ConfigError(tuple(faults))
    return NodeConfig(**sections)


def _from_file(toml_text: str | None, faults: list[str]) -> Iterator[_Given]:
    """Yield the keys of the file; what is not TOML or not a known table is a fault."""
    try:
        document = tomllib.loads(toml_text or "")
    except (ValueError, RecursionError) as error:  # not only TOMLDecodeError: also for a number of thousands of digits
        faults.append(f"the file is not TOML: {error}")
        return
    for table, content in document.items():
        if table not in TABLES:
            faults.append(f"[{table}]: there is no such table; tables are {', '.join(TABLES)}")
        elif not isinstance(content, dict):
            faults.append(f"[{table}]: this is a table, not a value")
        else:
            yield from ((f"[{table}] {name}", f"{table}.{name}", value) for name, value in content.items())


def _from_environment(
    environment: Mapping[str, str], known: Mapping[str, KeyDescription], faults: list[str]
) -> Iterator[_Given]:
    """Yield the settings among the variables; another one with our prefix is a fault: most likely a typing error."""
    keys = {description.variable: key for key, description in known.items()}
    for name, value in sorted(environment.items()):
        if name in keys:
            yield name, keys[name], value
        elif name.startswith(_PREFIX) and name not in RESERVED_VARIABLES and not _SERVICE_LINK.fullmatch(name):
            faults.append(f"{name}: there is no such setting")


def _typed(raw: object, kind: type, *, parse: bool) -> Value | None:
    """Give `raw` the type of its key, None when it has another; with `parse` a text may stand for any type."""
    if kind is tuple:
        return _listed(raw, parse=parse)
    if parse and isinstance(raw, str) and kind is not str:
        raw = _FLAG_WORDS.get(raw.strip().lower()) if kind is bool else _decimal(raw)
    return raw if type(raw) is kind and isinstance(raw, (str, int)) else None


def _decimal(text: str) -> int | None:
    """Read a whole number; None when it is not one."""
    try:
        return int(text)
    except ValueError:
        return None


def _listed(raw: object, *, parse: bool) -> tuple[str, ...] | None:
    """Read a list of texts; one text alone is a list of one, or with `parse` a list with commas."""
    if isinstance(raw, str):
        parts = raw.split(",") if parse else [raw]
        return tuple(part.strip() for part in parts if part.strip())
    if isinstance(raw, (list, tuple)) and all(isinstance(part, str) for part in raw):
        return tuple(raw)
    return None
