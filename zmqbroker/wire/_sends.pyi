"""Types of the compiled twin of `_sends_py`, which is ext/_sends.pyx; what its functions do is said there."""

from collections.abc import Sequence

from zmqbroker.wire._sends_py import SendRun

__all__ = ["gather", "put_confirms"]

def gather(messages: Sequence[list[bytes]], start: int, body_size_max: int, bytes_max: int) -> tuple[int, list[SendRun]]: ...
def put_confirms(waiters: Sequence[list[bytes]], first_sequence: int, time_unix_ns: int, confirm: str) -> None: ...
