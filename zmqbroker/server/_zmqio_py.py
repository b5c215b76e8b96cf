"""Receiving and sending on a socket through pyzmq: the reference, and the twin of the compiled ext/_zmqio.pyx."""

from __future__ import annotations

from collections.abc import Sequence

import zmq

from zmqbroker.wire.batch import Buffer

__all__ = ["ZmqIo"]


class ZmqIo:
    """Calls on one socket, none of which waits. The socket belongs to the caller and to one thread."""

    def __init__(self, socket: zmq.Socket[bytes]) -> None:
        self.socket = socket
        self.dry = False  # whether the last `drain` ended because nothing waited: then a new message is announced

    def drain(self, count_max: int, bytes_max: int) -> list[list[bytes]]:
        """Whole messages until the socket is empty or a bound is reached; ask `readable` afterwards.

        At most `count_max`, and none after the one that brings their frames to `bytes_max` bytes. Raises zmq.ZMQError.
        """
        messages: list[list[bytes]] = []
        size, self.dry = 0, False
        receive = self.socket.recv_multipart
        try:
            while len(messages) < count_max and size < bytes_max:
                frames = receive(zmq.NOBLOCK)
                size += sum(map(len, frames))
                messages.append(frames)
        except zmq.Again:
            self.dry = True
        return messages

    def readable(self) -> bool:
        """Whether a message waits; a send can swallow the wake-up that says so. Raises zmq.ZMQError."""
        events = self.socket.getsockopt(zmq.EVENTS)
        assert isinstance(events, int)
        return bool(events & zmq.POLLIN)

    def send(self, frames: Sequence[Buffer]) -> int:
        """Send one message whole, or nothing of it.

        Returns 0, or the error's number when it is refused: EAGAIN for a full pipe, EHOSTUNREACH for a peer that is not
        there. Raises zmq.ZMQError for a socket that is closed.
        """
        try:
            self.socket.send_multipart(frames, zmq.NOBLOCK)
        except zmq.ZMQError as error:
            if self.socket.closed or error.errno is None:
                raise
            return error.errno
        return 0

    def send_all(self, messages: Sequence[Sequence[Buffer]]) -> int:
        """Send messages until one is refused; how many were sent. Raises as `send`."""
        for sent, frames in enumerate(messages):
            if self.send(frames):
                return sent
        return len(messages)
