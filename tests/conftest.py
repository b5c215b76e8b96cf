"""What holds for every test."""

from __future__ import annotations

from hypothesis import settings

# An example's time depends on what else the machine does: no test asserts on it.
settings.register_profile("zmqbroker", deadline=None)
settings.load_profile("zmqbroker")
