# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Receiving and sending on pyzmq's sockets, straight on the libzmq that pyzmq has loaded: the twin of zmqbroker/server/_zmqio_py.py.

pyzmq spends ten microseconds on a message of three frames, most of it on Python objects around options and flags; libzmq itself
spends a fraction of one. The functions are looked up in pyzmq's own extension module, whose dependencies include its libzmq, so
there is never a second libzmq in the process. All of them are stable since libzmq 4.0; `zmq_msg_t` is 64 opaque bytes.

Every call is DONTWAIT, so the interpreter's lock is kept. A message is taken whole: the frames after the first are there when
the first one is.

A large frame of bytes is sent where it lies, so that the same entry goes to all followers without a copy for each: libzmq points
at it, and this module holds a reference until libzmq has let go. It does so on a thread of its own, which must not wait for
the interpreter, and therefore only notes it; the next call on any socket gives the references up. Source: DESIGN §3.
"""

import zmq
from zmq.backend.cython import _zmq

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.ref cimport Py_DECREF, Py_INCREF, PyObject
from libc.stdint cimport uintptr_t
from libc.stdlib cimport free, malloc

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

cdef extern from *:
    """
    /* An object that libzmq reads from, and later, on the list of those that it has let go. */
    typedef struct zb_lent { PyObject *object; struct zb_lent *next; } zb_lent;
    static zb_lent *zb_returned = NULL;

    /* For any thread; needs neither the interpreter nor a lock. */
    static void zb_give_back(void *data, void *hint) {
        zb_lent *lent = (zb_lent *)hint;
        (void)data;
        lent->next = __atomic_load_n(&zb_returned, __ATOMIC_RELAXED);
        while (!__atomic_compare_exchange_n(&zb_returned, &lent->next, lent, 1, __ATOMIC_RELEASE, __ATOMIC_RELAXED)) {}
    }

    static zb_lent *zb_take_returned(void) {
        if (__atomic_load_n(&zb_returned, __ATOMIC_RELAXED) == NULL) return NULL;
        return __atomic_exchange_n(&zb_returned, NULL, __ATOMIC_ACQUIRE);
    }
    """
    ctypedef struct zb_lent:
        PyObject *object
        zb_lent *next
    void zb_give_back(void *data, void *hint) noexcept nogil
    zb_lent *zb_take_returned() noexcept nogil

cdef enum:
    # Below, a copy into libzmq's own buffer costs less than what it takes to do without (DESIGN §3).
    LENT_SIZE_MIN = 8192

ctypedef int (*msg_init_t)(zb_msg_t *message) noexcept nogil
ctypedef void (*give_back_t)(void *data, void *hint) noexcept nogil
ctypedef int (*msg_init_data_t)(zb_msg_t *message, void *data, size_t size, give_back_t give_back, void *hint) noexcept nogil
ctypedef int (*msg_send_t)(zb_msg_t *message, void *socket, int flags) noexcept nogil
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
cdef msg_init_data_t zmq_msg_init_data = <msg_init_data_t>find(b"zmq_msg_init_data")
cdef msg_send_t zmq_msg_send = <msg_send_t>find(b"zmq_msg_send")
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
    cdef readonly bint dry
    """Whether the last `drain` ended because nothing waited."""

    def __init__(self, socket):
        self.socket = socket
        self._handle = <void *><uintptr_t>socket.underlying

    cdef int _check(self) except -1:
        """Before every call: a closed socket's handle leads nowhere, and what was lent may be back."""
        if self.socket.closed:
            raise zmq.ZMQError(zmq.ENOTSOCK)
        give_up_returned()
        return 0

    def drain(self, Py_ssize_t count_max, size_t bytes_max):
        """Whole messages until the socket is empty or a bound is reached."""
        cdef size_t size = 0
        cdef list messages = []
        self._check()
        self.dry = False
        while len(messages) < count_max and size < bytes_max:
            frames = self._receive(&size)
            if frames is None:
                self.dry = True
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
        cdef int flags, refused
        self._check()
        for frame in frames:  # before anything has left
            if not isinstance(frame, bytes):
                memoryview(frame).cast("B")
        for position in range(last + 1):
            frame = frames[position]
            flags = DONTWAIT | (SNDMORE if position < last else 0)
            if PyBytes_CheckExact(frame) and PyBytes_GET_SIZE(frame) >= LENT_SIZE_MIN:
                refused = send_lent(self._handle, frame, flags)
            else:
                refused = send_copy(self._handle, frame, flags)
            if refused:
                if position == 0:
                    return refused
                raise zmq.ZMQError(refused)
        return 0


cdef int send_copy(void *handle, frame, int flags) except -1:
    """Send a frame that libzmq copies. Returns 0 or the error's number."""
    cdef Py_buffer view
    cdef int refused = 0
    PyObject_GetBuffer(frame, &view, PyBUF_SIMPLE)
    if zmq_send(handle, view.buf, <size_t>view.len, flags) < 0:
        refused = zmq_errno()
    PyBuffer_Release(&view)
    return refused


cdef int send_lent(void *handle, bytes frame, int flags) except -1:
    """Send a frame that libzmq reads where it lies. Returns 0 or the error's number."""
    cdef zb_msg_t message
    cdef int refused = 0
    cdef zb_lent *lent = <zb_lent *>malloc(sizeof(zb_lent))
    if lent == NULL:
        raise MemoryError
    if zmq_msg_init_data(&message, PyBytes_AS_STRING(frame), <size_t>PyBytes_GET_SIZE(frame), zb_give_back, lent) < 0:
        free(lent)
        raise MemoryError
    lent.object = <PyObject *>frame
    Py_INCREF(frame)
    if zmq_msg_send(&message, handle, flags) < 0:
        refused = zmq_errno()
        zmq_msg_close(&message)  # gives the frame back at once
    return refused


cdef int give_up_returned() except -1:
    """Drop the references to what libzmq has let go."""
    cdef zb_lent *lent = zb_take_returned()
    cdef zb_lent *following
    while lent != NULL:
        following = lent.next
        Py_DECREF(<object>lent.object)
        free(lent)
        lent = following
    return 0
