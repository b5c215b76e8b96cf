"""Error classes and wire codes, one to one, and all of them in docs/PROTOCOL.md §6."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from zmqbroker import errors
from zmqbroker.errors import CODES, DeadlineExceeded, RequestError, error_from_wire
from zmqbroker.wire.frames import decode_header, encode_error, error_fields

PROTOCOL = Path(__file__).parents[3] / "docs" / "PROTOCOL.md"


def descendants(kind: type[RequestError]) -> Iterator[type[RequestError]]:
    for child in kind.__subclasses__():
        yield child
        yield from descendants(child)


def test_codes_are_one_to_one_with_the_classes() -> None:
    classes = [kind for kind in descendants(RequestError) if kind.__module__.startswith(errors.__name__)]
    assert {kind.code: kind for kind in classes} == CODES
    assert len(CODES) == len(classes)
    assert {kind.__name__ for kind in classes} <= set(errors.__all__)


@pytest.mark.parametrize("code", CODES)
def test_code_is_the_class_name_in_capitals(code: str) -> None:
    assert "".join(word.capitalize() for word in code.split("_")) == CODES[code].__name__


def error_table() -> dict[str, bool]:
    """Code -> retryable, from the table of section 6."""
    section = PROTOCOL.read_text(encoding="utf-8").split("## 6. Errors")[1].split("## 7.")[0]
    rows = re.findall(r"^\| ([A-Z_, ]+) \| (yes|no) \|", section, re.MULTILINE)
    return {code: retryable == "yes" for codes, retryable in rows for code in codes.split(", ")}


def test_protocol_names_every_code_and_whether_it_is_retryable() -> None:
    assert error_table() == {code: kind.retryable for code, kind in CODES.items()}


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("outcome_unknown", [False, True])
def test_error_over_the_wire_is_the_same_error(code: str, outcome_unknown: bool) -> None:
    error = CODES[code]("a sentence", outcome_unknown=outcome_unknown, expected=7, leader=None)
    back = error_from_wire(decode_header(encode_error(1, error))[2])
    assert type(back) is type(error)
    assert error_fields(back) == error_fields(error)
    assert (str(back), back.outcome_unknown) == ("a sentence", outcome_unknown)


def test_deadline_is_always_of_unknown_outcome_unless_said_otherwise() -> None:
    assert DeadlineExceeded("late").outcome_unknown
    assert error_from_wire({"code": "DEADLINE_EXCEEDED", "message": "late"}).outcome_unknown is False


@pytest.mark.parametrize("fields", [{"code": "LATER", "message": "new"}, {"code": 7}, {}])
def test_error_with_an_unknown_code_is_a_plain_request_error(fields: dict[str, object]) -> None:
    assert type(error_from_wire(fields)) is RequestError
