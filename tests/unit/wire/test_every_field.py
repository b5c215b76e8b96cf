"""Every field of every request with every kind of value: at most one kind is taken, and all else is refused by name and value.

The requests are those of the golden frames, and the fields of each those that its reader looks at, so that neither a new
request nor a new field is forgotten. `tests/integration/test_every_field.py` asks a real node the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from tests.conformance.test_golden_frames import GOLDEN, plain
from zmqbroker.errors import InvalidChannel, InvalidRequest, MalformedFrame, RequestError
from zmqbroker.wire.frames import Request
from zmqbroker.wire.requests import decode_request

#: Values by their kind; nothing takes the first two kinds.
KINDS: dict[str, tuple[Any, ...]] = {
    "nil": (None,),
    "float": (1.5,),
    "flag": (True,),
    "integer": (0, 1, 7, 100, -1, 2**63, 2**64 - 1),
    "text": ("", "text", "a b", "x" * 70_000),
    "binary": (b"", b"binary", bytes(16)),
    "list": ([], [1], [[1, 1, -1]]),
    "map": ({},),
}
#: Of the channel a batch tells itself; the field belongs to sends of one message, and is not looked at.
NOT_LOOKED_AT = {(Request.SEND_BATCH, "channel")}


class Case(NamedTuple):
    """A request with one field that is as it should not be, or is not there."""

    command: Request
    fields: dict[str, Any]
    bodies: list[bytes]
    field: str
    kind: str  # a key of KINDS, or "missing"

    @property
    def value(self) -> Any:
        return self.fields.get(self.field)

    def fault(self) -> RequestError | None:
        """Why it is refused; None when it is not."""
        try:
            decode_request(self.command, self.fields, self.bodies)
        except (InvalidRequest, InvalidChannel) as error:
            return error
        return None


class Watched(dict[str, Any]):
    """Fields that note which of them somebody asks for."""

    def __init__(self, fields: dict[str, Any]) -> None:
        super().__init__(fields)
        self.asked = set(fields)

    def get(self, name: str, default: Any = None) -> Any:
        self.asked.add(name)
        return super().get(name, default)

    def __contains__(self, name: object) -> bool:
        self.asked.add(str(name))
        return super().__contains__(name)


def samples(command: Request) -> list[tuple[dict[str, Any], list[bytes]]]:
    """The requests with that command among the golden frames: fields and bodies."""
    items = [item for item in GOLDEN["client"] if item["command"] == command]
    return [(plain(item["fields"]), [bytes.fromhex(body) for body in item["bodies"]]) for item in items]


def cases(command: Request) -> Iterator[Case]:
    """All of a command."""
    for fields, bodies in samples(command):
        watched = Watched(fields)
        decode_request(command, watched, bodies)
        for field in sorted(watched.asked - {name for of, name in NOT_LOOKED_AT if of == command}):
            if field in fields:
                yield Case(command, {name: value for name, value in fields.items() if name != field}, bodies, field, "missing")
            for kind, values in KINDS.items():
                for value in values:
                    yield Case(command, {**fields, field: value}, bodies, field, kind)


def miscounted(command: Request) -> Iterator[list[bytes]]:
    """Body frames that are too few or too many for a command."""
    _, bodies = samples(command)[0]
    if bodies:
        yield []
    yield [*bodies, *bodies, *[b"x"] * 64]


@pytest.mark.parametrize("command", Request, ids=lambda command: command.name)
def test_field_takes_one_kind_of_value_and_what_is_refused_is_named(command: Request) -> None:
    assert samples(command), "a request without a golden frame"
    taken: dict[str, set[str]] = {}
    for case in cases(command):
        error = case.fault()
        if error is None:
            if case.kind != "missing":
                taken.setdefault(case.field, set()).add(case.kind)
            continue
        value = repr(case.value)[:20]
        if case.kind in ("nil", "float"):
            assert case.field in error.message, case
            assert value in error.message, case
        elif case.kind != "missing" or "is missing" not in error.message:  # of two that do for each other one is named
            assert case.field in error.message or value in error.message, (case.field, value, error.message)
    for field, kinds in taken.items():
        assert len(kinds) == 1, f"{field} may be any of {kinds}"
        assert not kinds & {"nil", "float"}, f"{field} may be {kinds}"


@pytest.mark.parametrize("command", Request, ids=lambda command: command.name)
def test_wrong_number_of_body_frames_is_malformed(command: Request) -> None:
    fields, _ = samples(command)[0]
    for bodies in miscounted(command):
        with pytest.raises(MalformedFrame, match=rf"^{command.name} has {len(bodies)} body frames, it must have"):
            decode_request(command, fields, bodies)
