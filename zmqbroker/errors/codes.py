"""The codes on the wire, and the way back from them."""

from __future__ import annotations

from typing import Any

from zmqbroker.errors import requests as _requests  # noqa: F401  # defines the classes that have codes
from zmqbroker.errors.base import RequestError

__all__ = ["CODES", "error_from_wire"]


def _codes() -> dict[str, type[RequestError]]:
    return {kind.code: kind for kind in RequestError.__subclasses__()}


#: wire code -> class, one to one.
CODES: dict[str, type[RequestError]] = _codes()


def error_from_wire(fields: dict[str, Any]) -> RequestError:
    """Build the error that an ERROR reply's fields describe; an unknown code becomes a plain `RequestError`."""
    rest = dict(fields)
    code, message = rest.pop("code", None), rest.pop("message", None)
    unknown = bool(rest.pop("outcome_unknown", False))
    rest.pop("retryable", None)
    kind = CODES.get(code, RequestError) if isinstance(code, str) else RequestError
    text = message if isinstance(message, str) else f"{code!r}"
    return kind(text, outcome_unknown=unknown, **{str(key): value for key, value in rest.items()})
