# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Receiving and sending on pyzmq's sockets, straight on the libzmq that pyzmq has loaded: the twin of zmqbroker/server/_zmqio_py.py.

pyzmq spends ten microseconds on a message of three frames, most of it on Python objects around options and flags; libzmq itself
spends a fraction of one. The functions are looked up in pyzmq's own extension module, whose dependencies include its libzmq, so
there is never a second libzmq in the process. All of them are stable since libzmq 4.0; `zmq_msg_t` is 64 opaque bytes.

Every call is DONTWAIT, so the interpreter's lock is kept. A message is taken whole: the frames after the first are there when
the first one is. Source: DESIGN §3.
"""

import zmq
from zmq.backend.cython import _zmq

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uintptr_t

__all__ = ["ZmqIo"]

cdef extern from "<dlfcn.h>" nogil:
    int RTLD_NOW
    void *dlopen(const char *path, int flags)
    void *dlsym(void *library, const char *name)

cdef extern from *:
    """
    /* As libzmq declares it: opaque, and aligned as a pointer is. */
    typedef struct { union { unsigned char bytes[64]; void *alignment; } opaque; } zb_msg_t;
    """
    ctypedef struct zb_msg_t:
        pass

ctypedef int (*msg_init_t)(zb_msg_t *message) noexcept nogil
ctypedef int (*msg_recv_t)(zb_msg_t *message, void *socket, int flags) noexcept nogil
ctypedef int (*msg_close_t)(zb_msg_t *message) noexcept nogil
ctypedef void *(*msg_data_t)(zb_msg_t *message) noexcept nogil
ctypedef size_t (*msg_size_t)(const zb_msg_t *message) noexcept nogil
ctypedef int (*msg_more_t)(const zb_msg_t *message) noexcept nogil
ctypedef int (*send_t)(void *socket, const void *data, size_t size, int flags) noexcept nogil
ctypedef int (*getsockopt_t)(void *socket, int option, void *value, size_t *size) noexcept nogil
ctypedef int (*errno_t)() noexcept nogil


cdef void *find(bytes name) except NULL:
    """A function of libzmq. Raises ImportError, so that the twin serves instead."""
    cdef bytes path = _zmq.__file__.encode()
    cdef void *library = dlopen(path, RTLD_NOW)
    cdef void *found = dlsym(library, name) if library != NULL else NULL
    if found == NULL:
        raise ImportError(f"{name.decode()} is not found in {_zmq.__file__}")
    return found


cdef msg_init_t zmq_msg_init = <msg_init_t>find(b"zmq_msg_init")
cdef msg_recv_t zmq_msg_recv = <msg_recv_t>find(b"zmq_msg_recv")
cdef msg_close_t zmq_msg_close = <msg_close_t>find(b"zmq_msg_close")
cdef msg_data_t zmq_msg_data = <msg_data_t>find(b"zmq_msg_data")
cdef msg_size_t zmq_msg_size = <msg_size_t>find(b"zmq_msg_size")
cdef msg_more_t zmq_msg_more = <msg_more_t>find(b"zmq_msg_more")
cdef send_t zmq_send = <send_t>find(b"zmq_send")
cdef getsockopt_t zmq_getsockopt = <getsockopt_t>find(b"zmq_getsockopt")
cdef errno_t zmq_errno = <errno_t>find(b"zmq_errno")

cdef int DONTWAIT = zmq.DONTWAIT
cdef int SNDMORE = zmq.SNDMORE
cdef int EVENTS = zmq.EVENTS
cdef int POLLIN = zmq.POLLIN
cdef int EAGAIN = zmq.EAGAIN


cdef class ZmqIo:
    """See the twin for what it promises."""

    cdef void *_handle
    cdef readonly object socket

    def __init__(self, socket):
        self.socket = socket
        self._handle = <void *><uintptr_t>socket.underlying

    cdef int _check(self) except -1:
        """A closed socket's handle leads nowhere."""
        if self.socket.closed:
            raise zmq.ZMQError(zmq.ENOTSOCK)
        return 0

    def drain(self, Py_ssize_t count_max, size_t bytes_max):
        """Whole messages until the socket is empty or a bound is reached."""
        cdef size_t size = 0
        cdef list messages = []
        self._check()
        while len(messages) < count_max and size < bytes_max:
            frames = self._receive(&size)
            if frames is None:
                break
            messages.append(frames)
        return messages

    cdef list _receive(self, size_t *size):
        """One message, whose bytes are added to `size`; None when there is none."""
        cdef zb_msg_t message
        cdef list frames = []
        cdef bint more = True
        cdef int code
        failure = None
        while more:
            zmq_msg_init(&message)
            if zmq_msg_recv(&message, self._handle, DONTWAIT) < 0:
                code = zmq_errno()
                zmq_msg_close(&message)
                if code == EAGAIN and not frames and failure is None:
                    return None
                raise zmq.ZMQError(code)
            more = zmq_msg_more(&message)
            try:
                frames.append(PyBytes_FromStringAndSize(<const char *>zmq_msg_data(&message), <Py_ssize_t>zmq_msg_size(&message)))
            except MemoryError as error:
                failure = error  # the rest of the message is taken all the same, or the next one would begin in its middle
            size[0] += zmq_msg_size(&message)
            zmq_msg_close(&message)
        if failure is not None:
            raise failure
        return frames

    def readable(self):
        """Whether a message waits."""
        cdef int events = 0
        cdef size_t size = sizeof(events)
        self._check()
        if zmq_getsockopt(self._handle, EVENTS, &events, &size) < 0:
            raise zmq.ZMQError(zmq_errno())
        return (events & POLLIN) != 0

    def send(self, frames):
        """Send one message whole, or nothing of it; returns 0, or the error's number when the first frame is refused."""
        return self._send(frames)

    def send_all(self, messages):
        """Send messages until one is refused; how many were sent."""
        cdef Py_ssize_t sent = 0
        for frames in messages:
            if self._send(frames):
                break
            sent += 1
        return sent

    cdef int _send(self, frames) except -1:
        cdef Py_ssize_t position, last = len(frames) - 1
        cdef Py_buffer view
        cdef int sent
        self._check()
        for frame in frames:  # before anything has left
            if not isinstance(frame, bytes):
                memoryview(frame).cast("B")
        for position in range(last + 1):
            PyObject_GetBuffer(frames[position], &view, PyBUF_SIMPLE)
            sent = zmq_send(self._handle, view.buf, <size_t>view.len, DONTWAIT | (SNDMORE if position < last else 0))
            PyBuffer_Release(&view)
            if sent < 0:
                if position == 0:
                    return zmq_errno()
                raise zmq.ZMQError(zmq_errno())
        return 0
