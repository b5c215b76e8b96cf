"""A machine's clocks in virtual time: they run too fast or too slow, and the wall clock jumps."""

from __future__ import annotations

from tests.simulation.world import World

__all__ = ["START_UNIX_NS", "SkewedClock"]

#: The wall clock at the beginning of every run.
START_UNIX_NS = 1_700_000_000_000_000_000


class SkewedClock:
    """Rates are parts per million of extra speed; a negative one is a slow clock."""

    def __init__(self, world: World, rate_ppm: int, wall_offset_ns: int) -> None:
        self._world = world
        self.rate_ppm = rate_ppm
        self._wall_offset_ns = self.highest_offset_ns = wall_offset_ns
        self._since_ns = world.now_ns
        self._steady_ns = 0  # what the clock showed at _since_ns

    def monotonic_ns(self) -> int:
        """See server.clock.Clock."""
        elapsed = self._world.now_ns - self._since_ns
        return self._steady_ns + elapsed + elapsed * self.rate_ppm // 1_000_000

    def wall_unix_ns(self) -> int:
        """See server.clock.Clock."""
        return max(START_UNIX_NS + self.monotonic_ns() + self._wall_offset_ns, 1)

    def jump(self, step_ns: int) -> None:
        """Somebody sets the wall clock."""
        self._wall_offset_ns += step_ns
        self.highest_offset_ns = max(self.highest_offset_ns, self._wall_offset_ns)

    def interval_ns(self, nominal_ns: int) -> int:
        """How long this machine takes for what it believes to be `nominal_ns`."""
        return nominal_ns - nominal_ns * self.rate_ppm // 1_000_000

    def change_rate(self, rate_ppm: int) -> None:
        """Run at another speed from now on."""
        self._steady_ns, self._since_ns = self.monotonic_ns(), self._world.now_ns
        self.rate_ppm = rate_ppm
