"""The command line: one file per noun, exit statuses in `exits`, tables and JSON in `output`.

It talks to nodes through the client alone, as any program would; only `serve` and `dev` know the server.
"""

from __future__ import annotations

__all__ = ["main"]


def main() -> int:
    """Run the command that the process was started with; returns its exit status."""
    from zmqbroker.cli.__main__ import main as run  # not at import: `python -m zmqbroker.cli` would load it twice

    return run()
