"""All targets, by name."""

from __future__ import annotations

from tests.fuzz.call_targets import CALL_TARGETS
from tests.fuzz.storage_targets import STORAGE_TARGETS
from tests.fuzz.target import Target
from tests.fuzz.text_targets import TEXT_TARGETS
from tests.fuzz.wire_targets import WIRE_TARGETS

__all__ = ["TARGETS"]

TARGETS: dict[str, Target] = {target.name: target for target in (*WIRE_TARGETS, *CALL_TARGETS, *STORAGE_TARGETS, *TEXT_TARGETS)}
