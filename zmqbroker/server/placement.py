"""Which group holds a channel: a function of its name and the number of groups, for good. Source: docs/PROTOCOL.md §3."""

from __future__ import annotations

import re

from zmqbroker.wire.codec import crc32c

__all__ = ["group_of", "tag_of"]

#: From the first `{` to the first `}` behind it, with something in between.
_TAG = re.compile(r"[^{]*\{([^}]+)\}")


def tag_of(channel: str) -> str:
    """What decides where a channel is: the text between its first braces, or the whole name when there is none."""
    found = _TAG.match(channel)
    return found.group(1) if found else channel


def group_of(channel: str, groups: int) -> int:
    """The group that holds a channel, 1 to `groups`. Group 0 holds no channels."""
    return 1 + crc32c(tag_of(channel).encode()) % groups if groups > 1 else 1
