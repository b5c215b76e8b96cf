"""How this process was asked to run: the one look at the environment on behalf of packages that may not look themselves.

It decides nothing else; configuration is `config.py`. Read once at import, because twins are chosen at import.
"""

from __future__ import annotations

import os

__all__ = ["PURE"]

#: True when ZMQBROKER_PURE=1 asks for the Python twins of the compiled modules.
PURE: bool = os.environ.get("ZMQBROKER_PURE") == "1"
