# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Envelopes and Raft messages between nodes, compiled: the twin of zmqbroker/wire/_peer_py.py, function for function.

Only what is right and common is done here: frames and payloads that are bytes, values of exactly the types that Raft makes. With
everything else (a fault, a snapshot, a memoryview, a number too large) a function here asks the Python twin, which knows all
rules: so there is one place that names faults. Every read of a frame is behind a check against its end, and a count is believed
no further than the bytes and payloads go that it counts.

Messages and entries are made and read without running Python: their slots are reached at the offsets which the types' own
descriptors tell, since between two wake-ups bytecode gets cold, and costs many times what it does in a loop.
Source: docs/PROTOCOL.md §8.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.object cimport PyObject, PyTypeObject
from cpython.ref cimport Py_INCREF
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from checksum cimport zb_crc, zb_crc_choose, zb_load16, zb_load32, zb_load64, zb_store16, zb_store32, zb_store64

from dataclasses import fields

from zmqbroker.raft.messages import Entry, EntryType, Message, MessageType
from zmqbroker.wire import _peer_py as twin

__all__ = ["decode_envelope", "decode_raft", "encode_raft", "seal"]

cdef extern from *:
    """
    #include <structmember.h>

    /* Where an object keeps a slot; -1 when the descriptor is not that of a slot for any object. */
    static Py_ssize_t zb_slot_offset(PyObject *descriptor) {
        PyMemberDef *member;
        if (Py_TYPE(descriptor) != &PyMemberDescr_Type) return -1;
        member = ((PyMemberDescrObject *)descriptor)->d_member;
        return member->type == T_OBJECT_EX ? member->offset : -1;
    }
    """
    Py_ssize_t zb_slot_offset(object descriptor)

cdef extern from "Python.h":
    # Borrowed as they are: what a container holds is not counted again for every look.
    PyObject *PyTuple_GET_ITEM(object values, Py_ssize_t position)
    Py_ssize_t PyTuple_GET_SIZE(object values)
    object PyTuple_New(Py_ssize_t size)
    void PyTuple_SET_ITEM(object values, Py_ssize_t position, PyObject *value)
    object PyType_GenericAlloc(PyTypeObject *type, Py_ssize_t count)
    object PyLong_FromUnsignedLongLong(unsigned long long value)
    bint PyLong_Check(PyObject *value)
    unsigned long long PyLong_AsUnsignedLongLong(PyObject *value) noexcept
    PyObject *PyErr_Occurred() noexcept
    void PyErr_Clear() noexcept

zb_crc_choose()

cdef enum:
    # Envelope: magic, crc32c, kind, version, reserved, three uids.
    SEALED_AT = 8  # the checksum covers all from here on
    KIND_AT = 8
    VERSION_AT = 10
    RESERVED_AT = 12
    UIDS_AT = 16
    UID = 16
    ENVELOPE = 64
    # RAFT body: counts, then messages, each with its entries behind it.
    COUNTS = 8
    MESSAGE = 72  # type, flags, group, number of entries, eight numbers
    NUMBERS = 8
    ENTRY = 32  # index, term, size, crc32c, type, seven zeros
    ENTRY_TYPE_AT = 24
    REJECT = 1
    # One more than the highest member.
    KINDS = 13
    TYPES = 16
    ENTRY_TYPES = 3

# Sizes and numbers are those of the twin; the compiler knows these.
assert (twin.ENVELOPE_SIZE, twin.UID_SIZE) == (ENVELOPE, UID)
assert (max(twin.PeerKind) + 1, max(MessageType) + 1, max(EntryType) + 1) == (KINDS, TYPES, ENTRY_TYPES)

cdef const unsigned char *MAGIC = b"ZBP1"
cdef uint16_t VERSION = twin.PROTOCOL_VERSION
cdef object PROTOCOL_VERSION = twin.PROTOCOL_VERSION
cdef object Envelope = twin.Envelope
# The members by number; None where there is none, or none that is read here.
cdef tuple kinds = tuple([{int(kind): kind for kind in twin.PeerKind}.get(number) for number in range(KINDS)])
cdef tuple types = tuple([MessageType(n) if n >= MessageType.APPEND_ENTRIES else None for n in range(TYPES)])
cdef tuple entry_types = tuple([EntryType(number) for number in range(ENTRY_TYPES)])
cdef uint8_t APPEND_ENTRIES = MessageType.APPEND_ENTRIES
cdef uint8_t PROPOSE = MessageType.PROPOSE

# --- where values keep their parts -----------------------------------------------------------------------------------


cdef Py_ssize_t slot(type, str name) except -1:
    """Offset of a slot."""
    cdef Py_ssize_t offset = zb_slot_offset(getattr(type, name))
    assert offset > 0, f"{type.__name__}.{name} is no slot"
    return offset


cdef tuple number_names = ("to", "sender", "term", "log_term", "index", "commit", "reject_hint", "context")  # in wire order
assert {field.name for field in fields(Message)} == {*number_names, "type", "group", "reject", "entries", "snapshot"}
assert {field.name for field in fields(Entry)} == {"index", "term", "data", "type", "data_crc"}
cdef PyTypeObject *message_type = <PyTypeObject *>Message
cdef PyTypeObject *entry_type = <PyTypeObject *>Entry
cdef Py_ssize_t number_at[NUMBERS]
for _position, _name in enumerate(number_names):
    number_at[_position] = slot(Message, _name)
cdef Py_ssize_t type_at = slot(Message, "type")
cdef Py_ssize_t group_at = slot(Message, "group")
cdef Py_ssize_t reject_at = slot(Message, "reject")
cdef Py_ssize_t entries_at = slot(Message, "entries")
cdef Py_ssize_t snapshot_at = slot(Message, "snapshot")
cdef Py_ssize_t entry_index_at = slot(Entry, "index")
cdef Py_ssize_t entry_term_at = slot(Entry, "term")
cdef Py_ssize_t entry_data_at = slot(Entry, "data")
cdef Py_ssize_t entry_type_at = slot(Entry, "type")
cdef Py_ssize_t entry_crc_at = slot(Entry, "data_crc")


cdef inline PyObject *part(PyObject *value, Py_ssize_t offset) noexcept:
    """What a slot holds, borrowed; NULL when it is empty."""
    return (<PyObject **>(<char *>value + offset))[0]


cdef inline int fill(value, Py_ssize_t offset, content) except -1:
    """Fill a slot of a value that was just made."""
    Py_INCREF(content)
    (<PyObject **>(<char *><PyObject *>value + offset))[0] = <PyObject *>content
    return 0


# --- envelope --------------------------------------------------------------------------------------------------------


def seal(envelope, body):
    """Frame 0: the envelope and a body behind it; see the Python twin."""
    if not PyBytes_CheckExact(body):
        return twin.seal(envelope, body)
    frame = PyBytes_FromStringAndSize(NULL, ENVELOPE + PyBytes_GET_SIZE(body))
    cdef unsigned char *at = <unsigned char *>PyBytes_AS_STRING(frame)
    memcpy(at + ENVELOPE, PyBytes_AS_STRING(body), PyBytes_GET_SIZE(body))
    return frame if write_envelope(at, PyBytes_GET_SIZE(frame), envelope) else twin.seal(envelope, body)


cdef bint write_envelope(unsigned char *at, Py_ssize_t size, envelope) noexcept:
    """The first bytes of a frame of `size` bytes whose body is there; False when this envelope is the twin's."""
    cdef PyObject *uid
    cdef uint64_t kind, version
    cdef int position
    if <PyObject *>(<PyObject *>envelope).ob_type != <PyObject *>Envelope:
        return False
    if not number(PyTuple_GET_ITEM(envelope, 0), 0xFFFF, &kind) or not number(PyTuple_GET_ITEM(envelope, 4), 0xFFFF, &version):
        return False
    for position in range(3):
        uid = PyTuple_GET_ITEM(envelope, 1 + position)
        if not PyBytes_CheckExact(<object>uid) or PyBytes_GET_SIZE(<object>uid) != UID:
            return False
        memcpy(at + UIDS_AT + UID * position, PyBytes_AS_STRING(<object>uid), UID)
    memcpy(at, MAGIC, 4)
    zb_store16(at + KIND_AT, <uint16_t>kind)
    zb_store16(at + VERSION_AT, <uint16_t>version)
    zb_store32(at + RESERVED_AT, 0)
    zb_store32(at + 4, zb_crc(0xFFFFFFFFU, at + SEALED_AT, size - SEALED_AT) ^ 0xFFFFFFFFU)
    return True


cdef inline bint number(PyObject *value, uint64_t limit, uint64_t *result) noexcept:
    """Whether a value is an integer from 0 to `limit`, and which."""
    if value == NULL or not PyLong_Check(value):
        return False
    result[0] = PyLong_AsUnsignedLongLong(value)
    if result[0] == <uint64_t>-1 and PyErr_Occurred() != NULL:
        PyErr_Clear()
        return False
    return result[0] <= limit


def decode_envelope(frame):
    """The envelope in frame 0; see the Python twin."""
    cdef const unsigned char *at
    if not PyBytes_CheckExact(frame) or not is_sealed(frame):
        return twin.decode_envelope(frame)
    at = <const unsigned char *>PyBytes_AS_STRING(frame)
    kind = <object>PyTuple_GET_ITEM(kinds, zb_load16(at + KIND_AT))
    uids = <const char *>at + UIDS_AT
    values = (
        kind,
        PyBytes_FromStringAndSize(uids, UID),
        PyBytes_FromStringAndSize(uids + UID, UID),
        PyBytes_FromStringAndSize(uids + 2 * UID, UID),
        PROTOCOL_VERSION,
    )
    return tuple.__new__(Envelope, values)


cdef bint is_sealed(bytes frame) noexcept:
    """Whether everything about an envelope and its checksum is right."""
    cdef const unsigned char *at = <const unsigned char *>PyBytes_AS_STRING(frame)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(frame)
    if size < ENVELOPE or memcmp(at, MAGIC, 4) != 0 or zb_load16(at + VERSION_AT) != VERSION or zb_load32(at + RESERVED_AT):
        return False
    if zb_load16(at + KIND_AT) >= KINDS or PyTuple_GET_ITEM(kinds, zb_load16(at + KIND_AT)) == <PyObject *>None:
        return False
    return zb_load32(at + 4) == zb_crc(0xFFFFFFFFU, at + SEALED_AT, size - SEALED_AT) ^ 0xFFFFFFFFU


# --- reading ---------------------------------------------------------------------------------------------------------


def decode_raft(frames):
    """The messages of a RAFT frame whose frame 0 `decode_envelope` accepted; see the Python twin."""
    cdef list messages = read_messages(tuple(frames))  # a tuple of ours: nobody takes a frame out of it
    return twin.decode_raft(frames) if messages is None else messages


cdef list read_messages(tuple frames):
    """The messages, or None when the twin has to look at them."""
    cdef const unsigned char *table
    cdef Py_ssize_t size, position = ENVELOPE + COUNTS, payload = 1
    cdef uint32_t turn, entry_count
    cdef list messages = []
    if not PyTuple_GET_SIZE(frames) or not PyBytes_CheckExact(<object>PyTuple_GET_ITEM(frames, 0)):
        return None
    table = <const unsigned char *>PyBytes_AS_STRING(<object>PyTuple_GET_ITEM(frames, 0))
    size = PyBytes_GET_SIZE(<object>PyTuple_GET_ITEM(frames, 0))
    if size < ENVELOPE + COUNTS or zb_load32(table + ENVELOPE + 4):
        return None
    # Each turn takes at least the bytes of one message, so that a count which is not true ends with the table.
    for turn in range(zb_load32(table + ENVELOPE)):
        if size - position < MESSAGE or not is_message(table + position):
            return None
        entry_count = zb_load32(table + position + 4)
        entries = ()
        if entry_count:
            if <uint64_t>(size - position - MESSAGE) < <uint64_t>entry_count * ENTRY:
                return None
            if <uint64_t>(PyTuple_GET_SIZE(frames) - payload) < entry_count:
                return None
            entries = read_entries(table + position + MESSAGE, entry_count, frames, payload)
            if entries is None:
                return None
        messages.append(read_message(table + position, entries))
        position += MESSAGE + <Py_ssize_t>entry_count * ENTRY
        payload += entry_count
    return messages if position == size and payload == PyTuple_GET_SIZE(frames) else None


cdef bint is_message(const unsigned char *at) noexcept:
    """Whether the type has entries only if it may; a snapshot's, which stands for its state, is not read here."""
    cdef uint8_t kind = at[0]
    if kind >= TYPES or PyTuple_GET_ITEM(types, kind) == <PyObject *>None or at[1] & ~REJECT:
        return False
    return kind == APPEND_ENTRIES or kind == PROPOSE or not zb_load32(at + 4)


cdef object read_message(const unsigned char *at, entries):
    cdef int position
    message = PyType_GenericAlloc(message_type, 0)
    fill(message, type_at, <object>PyTuple_GET_ITEM(types, at[0]))
    fill(message, reject_at, True if at[1] else False)
    fill(message, group_at, PyLong_FromUnsignedLongLong(zb_load16(at + 2)))
    for position in range(NUMBERS):
        fill(message, number_at[position], PyLong_FromUnsignedLongLong(zb_load64(at + 8 + 8 * position)))
    fill(message, entries_at, entries)
    fill(message, snapshot_at, None)
    return message


cdef object read_entries(const unsigned char *at, uint32_t count, tuple frames, Py_ssize_t payload):
    """So many entries, whose bytes and payloads are there, as a tuple; None when the twin has to look at them."""
    cdef uint32_t turn
    entries = PyTuple_New(count)
    for turn in range(count):
        data = <object>PyTuple_GET_ITEM(frames, payload + turn)
        if not is_entry(at + <Py_ssize_t>turn * ENTRY, data):
            return None
        entry = read_entry(at + <Py_ssize_t>turn * ENTRY, data)
        Py_INCREF(entry)
        PyTuple_SET_ITEM(entries, turn, <PyObject *>entry)
    return entries


cdef bint is_entry(const unsigned char *at, data) noexcept:
    """Whether an entry is right and `data` is its payload."""
    # The type and the seven zeros are one number.
    if zb_load64(at + ENTRY_TYPE_AT) >= ENTRY_TYPES or not PyBytes_CheckExact(data) or PyBytes_GET_SIZE(data) != zb_load32(at + 16):
        return False
    return zb_load32(at + 20) == checksum_of(data)


cdef inline uint32_t checksum_of(data) noexcept:
    return zb_crc(0xFFFFFFFFU, <const unsigned char *>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data)) ^ 0xFFFFFFFFU


cdef object read_entry(const unsigned char *at, data):
    entry = PyType_GenericAlloc(entry_type, 0)
    fill(entry, entry_index_at, PyLong_FromUnsignedLongLong(zb_load64(at)))
    fill(entry, entry_term_at, PyLong_FromUnsignedLongLong(zb_load64(at + 8)))
    fill(entry, entry_data_at, data)
    fill(entry, entry_crc_at, PyLong_FromUnsignedLongLong(zb_load32(at + 20)))
    fill(entry, entry_type_at, <object>PyTuple_GET_ITEM(entry_types, at[ENTRY_TYPE_AT]))
    return entry


# --- writing ---------------------------------------------------------------------------------------------------------


def encode_raft(envelope, messages):
    """The frames of a RAFT message; see the Python twin."""
    cdef tuple ours = tuple(messages)
    cdef Py_ssize_t entry_count = count_entries(ours)
    cdef list frames
    if entry_count < 0:
        return twin.encode_raft(envelope, ours)
    # Nothing between the count and the last byte runs anybody else's code, so that the table has the size that was counted.
    table = PyBytes_FromStringAndSize(NULL, ENVELOPE + COUNTS + MESSAGE * PyTuple_GET_SIZE(ours) + ENTRY * entry_count)
    cdef unsigned char *at = <unsigned char *>PyBytes_AS_STRING(table)
    if not write_messages(at + ENVELOPE, ours) or not write_envelope(at, PyBytes_GET_SIZE(table), envelope):
        return twin.encode_raft(envelope, ours)
    frames = [table]
    for message in ours:
        for entry in <tuple>part(<PyObject *>message, entries_at):
            frames.append(<object>part(<PyObject *>entry, entry_data_at))
    return frames


cdef Py_ssize_t count_entries(tuple messages) noexcept:
    """Entries of all messages; -1 when there is anything but messages that are written here."""
    cdef Py_ssize_t position, count = 0
    cdef PyObject *message
    cdef PyObject *entries
    for position in range(PyTuple_GET_SIZE(messages)):
        message = PyTuple_GET_ITEM(messages, position)
        if message.ob_type != message_type or part(message, snapshot_at) != <PyObject *>None:
            return -1
        entries = part(message, entries_at)
        if entries == NULL or entries.ob_type != <PyTypeObject *>tuple:
            return -1
        count += PyTuple_GET_SIZE(<object>entries)
    return count


cdef bint write_messages(unsigned char *at, tuple messages) noexcept:
    """The table; False when there is a value in a message that the twin has to look at."""
    cdef Py_ssize_t position, place
    cdef PyObject *message
    cdef PyObject *entries
    zb_store32(at, <uint32_t>PyTuple_GET_SIZE(messages))
    zb_store32(at + 4, 0)
    at += COUNTS
    for position in range(PyTuple_GET_SIZE(messages)):
        message = PyTuple_GET_ITEM(messages, position)
        entries = part(message, entries_at)
        if not write_message(at, message, PyTuple_GET_SIZE(<object>entries)):
            return False
        at += MESSAGE
        for place in range(PyTuple_GET_SIZE(<object>entries)):
            if not write_entry(at, PyTuple_GET_ITEM(<object>entries, place)):
                return False
            at += ENTRY
    return True


cdef bint write_message(unsigned char *at, PyObject *message, Py_ssize_t entry_count) noexcept:
    cdef uint64_t kind, group, value
    cdef PyObject *reject = part(message, reject_at)
    cdef int position
    if reject == NULL or not number(part(message, group_at), 0xFFFF, &group):
        return False
    if not number(part(message, type_at), TYPES - 1, &kind) or PyTuple_GET_ITEM(types, kind) != part(message, type_at):
        return False
    if <object>reject is not True and <object>reject is not False:
        return False
    at[0] = <uint8_t>kind
    at[1] = REJECT if <object>reject is True else 0
    zb_store16(at + 2, <uint16_t>group)
    zb_store32(at + 4, <uint32_t>entry_count)
    for position in range(NUMBERS):
        if not number(part(message, number_at[position]), <uint64_t>-1, &value):
            return False
        zb_store64(at + 8 + 8 * position, value)
    return True


cdef bint write_entry(unsigned char *at, PyObject *entry) noexcept:
    cdef uint64_t index, term, kind, checksum
    cdef PyObject *data
    if entry.ob_type != entry_type:
        return False
    data = part(entry, entry_data_at)
    if data == NULL or not PyBytes_CheckExact(<object>data) or PyBytes_GET_SIZE(<object>data) > 0xFFFFFFFF:
        return False
    if not number(part(entry, entry_index_at), <uint64_t>-1, &index) or not number(part(entry, entry_term_at), <uint64_t>-1, &term):
        return False
    if not number(part(entry, entry_type_at), ENTRY_TYPES - 1, &kind):
        return False
    if part(entry, entry_crc_at) == <PyObject *>None:
        checksum = checksum_of(<object>data)
    elif not number(part(entry, entry_crc_at), 0xFFFFFFFF, &checksum):
        return False
    zb_store64(at, index)
    zb_store64(at + 8, term)
    zb_store32(at + 16, <uint32_t>PyBytes_GET_SIZE(<object>data))
    zb_store32(at + 20, <uint32_t>checksum)
    memset(at + ENTRY_TYPE_AT, 0, 8)
    at[ENTRY_TYPE_AT] = <uint8_t>kind
    return True
