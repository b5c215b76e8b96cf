"""A server that says one thing to whoever connects: for clients of protocols that are not ours."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

__all__ = ["scripted_server"]


@contextmanager
def scripted_server(greeting: bytes) -> Iterator[int]:
    """A port where each connection is greeted so, and kept until the end."""
    listener = socket.create_server(("127.0.0.1", 0))
    accepted: list[socket.socket] = []

    def serve() -> None:
        with suppress(OSError):
            while True:
                accepted.append(listener.accept()[0])
                accepted[-1].sendall(greeting)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
        for part in (listener, *accepted):
            part.close()
