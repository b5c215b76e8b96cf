# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Plain SENDs on their way into batches, compiled: the twin of zmqbroker/wire/_sends_py.py, function for function.

Every read of a header is behind a check against its end. Source: docs/PROTOCOL.md §2, §3.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_GetItem
from cpython.list cimport PyList_Append, PyList_GET_ITEM, PyList_GET_SIZE
from cpython.ref cimport PyObject
from libc.stdint cimport uint64_t
from libc.string cimport memcmp, memcpy

import msgpack

from zmqbroker.wire import batch as shape
from zmqbroker.wire import frames as wire

__all__ = ["gather", "put_confirms"]

cdef enum:
    HEADER = 12
    NUMBER_SIZE_MAX = 9  # of an integer in msgpack

cdef Py_ssize_t COUNT_MAX = shape.COUNT_MAX
cdef Py_ssize_t CHANNEL_SIZE_MAX = shape.CHANNEL_SIZE_MAX
cdef bytes START = wire.MAGIC + bytes((wire.PROTOCOL_VERSION, wire.Request.SEND))
cdef bytes REPLY_START = wire.MAGIC + bytes((wire.PROTOCOL_VERSION, wire.Reply.SENT))
cdef bytes REPLY_FIELDS = b"\x85\xa8sequence"  # of five, the first
cdef const unsigned char *CHANNEL_KEY = b"\xa7channel"
cdef const unsigned char *FORWARD_KEY = b"\xa7forward"
cdef enum:
    KEY_SIZE = 8  # of both


def gather(list messages, Py_ssize_t start, Py_ssize_t body_size_max, Py_ssize_t bytes_max):
    """Plain SENDs from messages[start] on, and where the first message is that is none; see the Python twin."""
    cdef dict runs = {}
    cdef list frames
    cdef tuple run
    cdef bytes body, channel
    cdef Py_ssize_t size = 0, position = start, count = PyList_GET_SIZE(messages), parts
    cdef PyObject *found
    while position < count and position - start < COUNT_MAX and size < bytes_max:
        frames = <list>PyList_GET_ITEM(messages, position)
        parts = PyList_GET_SIZE(frames)
        if parts != 3 and (parts != 4 or PyBytes_GET_SIZE(<bytes>PyList_GET_ITEM(frames, 1))):
            break
        channel = plain_channel(<bytes>PyList_GET_ITEM(frames, parts - 2))
        if channel is None or PyBytes_GET_SIZE(<bytes>PyList_GET_ITEM(frames, parts - 1)) > body_size_max:
            break
        found = PyDict_GetItem(runs, channel)
        if found == NULL:
            run = (channel.decode("ascii"), [], [])
            runs[channel] = run
        else:
            run = <tuple>found
        body = frames.pop()
        size += PyBytes_GET_SIZE(body)
        PyList_Append(<list>run[1], body)
        PyList_Append(<list>run[2], frames)
        position += 1
    return position, list(runs.values())


cdef bytes plain_channel(bytes header):
    """The channel that a SEND without anything else names, or None."""
    cdef const unsigned char *at = <const unsigned char *>PyBytes_AS_STRING(header)
    cdef const unsigned char *end = at + PyBytes_GET_SIZE(header)
    cdef const unsigned char *name = NULL
    cdef Py_ssize_t size = 0
    cdef int fields
    if end - at <= HEADER or memcmp(at, PyBytes_AS_STRING(START), 4) != 0:
        return None
    at += HEADER
    if at[0] != 0x81 and at[0] != 0x82:
        return None
    fields = at[0] & 0x0F
    at += 1
    if fields == 2 and is_forward(at, end):
        at += KEY_SIZE + 1
        fields = 1
    if end - at <= KEY_SIZE + 1 or memcmp(at, CHANNEL_KEY, KEY_SIZE) != 0:
        return None
    at += KEY_SIZE
    if at[0] == 0xD9:
        at += 1
        size = at[0]
    elif at[0] & 0xE0 == 0xA0:
        size = at[0] & 0x1F
    at += 1
    name = at
    if not 1 <= size <= CHANNEL_SIZE_MAX or size > end - at or not is_plain_name(name, size):
        return None
    at += size
    if fields == 2:
        if not is_forward(at, end):
            return None
        at += KEY_SIZE + 1
    return PyBytes_FromStringAndSize(<const char *>name, size) if at == end else None


cdef bint is_forward(const unsigned char *at, const unsigned char *end) noexcept:
    return end - at > KEY_SIZE and memcmp(at, FORWARD_KEY, KEY_SIZE) == 0 and (at[KEY_SIZE] == 0xC2 or at[KEY_SIZE] == 0xC3)


cdef bint is_plain_name(const unsigned char *name, Py_ssize_t size) noexcept:
    """Whether a name is a queue's and keeps every rule for channels beyond doubt; a colon may end the prefix of another kind."""
    cdef Py_ssize_t position
    cdef unsigned char character
    for position in range(size):
        character = name[position]
        if character < 0x21 or character > 0x7E or character in (b"*", b">", b";", b":"):
            return False
    return name[size - 1] != b"." and not (size >= 5 and memcmp(name, <const char *>b"_sys.", 5) == 0)


def put_confirms(list waiters, uint64_t first_sequence, time_unix_ns, confirm):
    """Put SENT headers in the place of the requests' headers; see the Python twin."""
    cdef bytes rest = msgpack.packb({"count": 1, "time_unix_ns": time_unix_ns, "duplicate": False, "confirm": confirm})[1:]
    cdef Py_ssize_t rest_size = PyBytes_GET_SIZE(rest), fields_size = PyBytes_GET_SIZE(REPLY_FIELDS)
    cdef unsigned char number[NUMBER_SIZE_MAX]
    cdef Py_ssize_t number_size, last
    cdef uint64_t sequence = first_sequence
    cdef list frames
    cdef bytes request, reply
    cdef char *at
    for frames in waiters:
        last = PyList_GET_SIZE(frames) - 1
        request = <bytes>PyList_GET_ITEM(frames, last)
        number_size = put_number(number, sequence)
        reply = PyBytes_FromStringAndSize(NULL, HEADER + fields_size + number_size + rest_size)
        at = PyBytes_AS_STRING(reply)
        memcpy(at, PyBytes_AS_STRING(REPLY_START), 4)
        memcpy(at + 4, PyBytes_AS_STRING(request) + 4, HEADER - 4)
        memcpy(at + HEADER, PyBytes_AS_STRING(REPLY_FIELDS), fields_size)
        memcpy(at + HEADER + fields_size, number, number_size)
        memcpy(at + HEADER + fields_size + number_size, PyBytes_AS_STRING(rest), rest_size)
        frames[last] = reply
        sequence += 1


cdef Py_ssize_t put_number(unsigned char *at, uint64_t value) noexcept:
    """An integer as msgpack writes it, in as few bytes as hold it; how many."""
    cdef int size, position
    if value < 0x80:
        at[0] = <unsigned char>value
        return 1
    if value < 1 << 8:
        at[0], size = 0xCC, 1
    elif value < 1 << 16:
        at[0], size = 0xCD, 2
    elif value < <uint64_t>1 << 32:
        at[0], size = 0xCE, 4
    else:
        at[0], size = 0xCF, 8
    for position in range(size):
        at[1 + position] = <unsigned char>(value >> (8 * (size - 1 - position)))
    return 1 + size
