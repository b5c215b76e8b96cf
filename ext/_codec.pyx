# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, freethreading_compatible=True
"""The batch codec, compiled: the twin of zmqbroker/wire/_codec_py.py, function for function.

Both raise the errors that zmqbroker/wire/batch.py makes, in the same order of checks; tests/unit/wire compares them. Every
read of a frame is behind a check against its end. Source: docs/PROTOCOL.md §5.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_Check, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.ref cimport PyObject
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

from checksum cimport (
    zb_crc, zb_crc_choose, zb_crc_combine, zb_crc_table, zb_load16, zb_load32, zb_load64, zb_store16, zb_store32, zb_store64,
)
cdef extern from "Python.h":
    # As they are: what the tuple holds is not counted again for every look.
    PyObject *PyTuple_GET_ITEM(tuple values, Py_ssize_t position)
    Py_ssize_t PyTuple_GET_SIZE(tuple values)

from zmqbroker.commands import BatchHeader
from zmqbroker.wire import batch as shape
from zmqbroker.wire.batch import BatchContents

__all__ = ["crc32c", "crc32c_table", "decode_batch", "encode_batch", "join_parts", "read_batch", "slice_batch"]

zb_crc_choose()

cdef enum:
    COLUMNS_DEFINED = 7
    HEADER = 40
    COMBINED_SIZE_MIN = 4096  # to read less costs no more than to combine checksums

# Limits and columns are those of the shared shape; copied into C variables once, so that there is one place to change them.
cdef uint64_t COUNT_MAX = shape.COUNT_MAX
cdef uint64_t CHANNEL_SIZE_MAX = shape.CHANNEL_SIZE_MAX
cdef uint64_t BODY_SIZE_MAX = shape.BODY_SIZE_MAX
cdef uint64_t BATCH_MARGIN = shape.BATCH_MARGIN
cdef uint64_t SEQUENCE_MAX = shape.SEQUENCE_MAX
cdef uint16_t FLAGS_KNOWN = shape.FLAGS_KNOWN
cdef bytes MAGIC = shape.BATCH_MAGIC
cdef int column_width[COLUMNS_DEFINED]
cdef uint64_t column_limit[COLUMNS_DEFINED]
cdef bint column_text[COLUMNS_DEFINED]
assert len(shape.COLUMNS) == COLUMNS_DEFINED
assert shape.HEADER_SIZE == HEADER
for _bit, _column in enumerate(shape.COLUMNS):
    column_width[_bit] = _column.width
    column_limit[_bit] = _column.limit
    column_text[_bit] = _column.text


def crc32c(data, unsigned int seed=0):
    """crc32c (Castagnoli) of `data`; `seed` is the result for the bytes before it."""
    cdef Py_buffer view
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    cdef uint32_t crc = zb_crc(seed ^ 0xFFFFFFFFU, <const unsigned char *>view.buf, view.len)
    PyBuffer_Release(&view)
    return crc ^ 0xFFFFFFFFU


def crc32c_table(data, unsigned int seed=0):
    """The same as `crc32c` by tables, as on machines without the instruction; public so that it can be tested anywhere."""
    cdef Py_buffer view
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    cdef uint32_t crc = zb_crc_table(seed ^ 0xFFFFFFFFU, <const unsigned char *>view.buf, view.len)
    PyBuffer_Release(&view)
    return crc ^ 0xFFFFFFFFU


# --- reading ---------------------------------------------------------------------------------------------------------

cdef struct Layout:
    # A batch frame that passed every check. Offsets count from `data`.
    const unsigned char *data
    uint64_t size
    uint64_t count
    uint64_t producer
    uint64_t base_sequence
    uint16_t columns
    uint16_t flags
    uint64_t channel_size
    uint64_t sizes_at                    # body sizes
    uint64_t column_at[COLUMNS_DEFINED]  # of a column that is there: its first byte
    uint64_t value_at[COLUMNS_DEFINED]   # of a variable column that is there: its first value
    uint64_t bodies_at
    uint64_t body_bytes
    uint64_t body_size_max


cdef uint64_t sum_of_sizes(const unsigned char *sizes, uint64_t low, uint64_t high) noexcept:
    cdef uint64_t total = 0, message
    for message in range(low, high):
        total += zb_load32(sizes + 4 * message)
    return total


cdef int check_number(str name, uint64_t value, uint64_t low, uint64_t high) except -1:
    if value < low or value > high:
        raise shape.wrong_field(name, value, low, high)
    return 0


cdef int check_part(str part, uint64_t end, uint64_t size) except -1:
    if end > size:
        raise shape.cut(part, end, size)
    return 0


cdef int read_frame(const unsigned char *data, uint64_t size, bint verify, uint64_t body_size_max, Layout *layout) except -1:
    """Check everything about the `size` bytes at `data` and say in `layout` where its parts are."""
    layout.data = data
    layout.size = size
    read_start(layout, verify, body_size_max)
    read_fields(layout)
    read_body_sizes(layout)
    cdef uint64_t end = layout.sizes_at + 4 * layout.count
    cdef int bit
    for bit in range(COLUMNS_DEFINED):
        if layout.columns >> bit & 1:
            end = read_column(layout, bit, end)
    layout.bodies_at = end
    end += layout.body_bytes
    if end != size:
        raise shape.wrong_end(end, size)
    if layout.body_size_max > body_size_max:
        raise shape.body_too_large(layout.body_size_max, body_size_max)
    channel_of(layout)
    return 0


cdef int read_start(Layout *layout, bint verify, uint64_t body_size_max) except -1:
    cdef const unsigned char *data = layout.data
    cdef uint32_t stated, computed
    if layout.size < HEADER:
        raise shape.too_short(layout.size)
    if memcmp(data, PyBytes_AS_STRING(MAGIC), 4) != 0:
        raise shape.wrong_magic(PyBytes_FromStringAndSize(<const char *>data, 4))
    if zb_load32(data + 8) != layout.size:
        raise shape.wrong_size(zb_load32(data + 8), layout.size)
    if layout.size > body_size_max + BATCH_MARGIN:
        raise shape.batch_too_large(layout.size, body_size_max + BATCH_MARGIN)
    if verify:
        stated = zb_load32(data + 4)
        computed = zb_crc(0xFFFFFFFFU, data + 8, layout.size - 8) ^ 0xFFFFFFFFU
        if stated != computed:
            raise shape.wrong_checksum(stated, computed)
    return 0


cdef int read_fields(Layout *layout) except -1:
    cdef const unsigned char *data = layout.data
    cdef uint64_t reserved = zb_load16(data + 38)
    layout.count = zb_load32(data + 12)
    layout.producer = zb_load64(data + 16)
    layout.base_sequence = zb_load64(data + 24)
    layout.columns = zb_load16(data + 32)
    layout.flags = zb_load16(data + 34)
    layout.channel_size = zb_load16(data + 36)
    check_number("count", layout.count, 1, COUNT_MAX)
    if layout.producer == 0:
        check_number("base sequence", layout.base_sequence, 0, 0)
    else:
        check_number("base sequence", layout.base_sequence, 1, SEQUENCE_MAX - layout.count + 1)
    if layout.columns >> COLUMNS_DEFINED:
        raise shape.wrong_bits("columns", layout.columns, (1 << COLUMNS_DEFINED) - 1)
    if layout.flags & ~FLAGS_KNOWN:
        raise shape.wrong_bits("flags", layout.flags, FLAGS_KNOWN)
    check_number("channel name size", layout.channel_size, 1, CHANNEL_SIZE_MAX)
    check_number("reserved field", reserved, 0, 0)
    return 0


cdef int read_body_sizes(Layout *layout) except -1:
    cdef uint64_t message, size, largest = 0, total = 0
    cdef const unsigned char *sizes
    layout.sizes_at = HEADER + layout.channel_size
    check_part("body sizes", layout.sizes_at + 4 * layout.count, layout.size)
    sizes = layout.data + layout.sizes_at
    for message in range(layout.count):
        size = zb_load32(sizes + 4 * message)
        total += size
        if size > largest:
            largest = size
    layout.body_bytes = total
    layout.body_size_max = largest
    return 0


cdef uint64_t read_column(Layout *layout, int bit, uint64_t start) except 0:
    """Check the column that begins at `start`; its end."""
    cdef uint64_t width = column_width[bit] if column_width[bit] else 4
    cdef uint64_t limit = column_limit[bit], message, value, end = start + width * layout.count
    cdef str name = shape.COLUMNS[bit].name
    layout.column_at[bit] = start
    layout.value_at[bit] = end
    check_part(name, end, layout.size)
    if width == 8:
        return end
    for message in range(layout.count):
        value = layout.data[start + message] if width == 1 else zb_load32(layout.data + start + 4 * message)
        if value > limit:
            raise shape.value_too_large(name, message, value, limit)
    if width == 1:
        return end
    end += sum_of_sizes(layout.data + start, 0, layout.count)
    check_part(name, end, layout.size)
    if column_text[bit]:
        check_text(layout, bit, end)
    return end


cdef int check_text(Layout *layout, int bit, uint64_t end) except -1:
    # The values are valid UTF-8 one by one when they are in one piece and none begins within a character.
    cdef const unsigned char *sizes = layout.data + layout.column_at[bit]
    cdef uint64_t message, at = layout.value_at[bit]
    cdef bint valid = True
    try:
        PyUnicode_DecodeUTF8(<char *>layout.data + at, end - at, NULL)
    except UnicodeDecodeError:
        valid = False
    for message in range(layout.count):
        if at < end and layout.data[at] & 0xC0 == 0x80:
            valid = False
        at += zb_load32(sizes + 4 * message)
    if not valid:
        values = PyBytes_FromStringAndSize(<const char *>layout.data + layout.value_at[bit], end - layout.value_at[bit])
        raise shape.column_not_text(
            shape.COLUMNS[bit].name, values, [zb_load32(sizes + 4 * message) for message in range(layout.count)]
        )
    return 0


cdef object channel_of(Layout *layout):
    cdef const char *channel = <const char *>layout.data + HEADER
    try:
        return PyUnicode_DecodeUTF8(<char *>channel, layout.channel_size, NULL)
    except UnicodeDecodeError:
        raise shape.channel_not_text(PyBytes_FromStringAndSize(channel, layout.channel_size)) from None


cdef object header_of(Layout *layout):
    return BatchHeader(
        channel_of(layout),
        layout.producer,
        layout.base_sequence,
        layout.count,
        layout.body_bytes,
        layout.body_size_max,
        layout.columns,
        layout.flags,
    )


cdef class Frame:
    """A part of a buffer, held while it is read."""

    cdef Py_buffer view
    cdef const unsigned char *data
    cdef Py_ssize_t size

    def __cinit__(self, frame, Py_ssize_t position, Py_ssize_t size):
        PyObject_GetBuffer(frame, &self.view, PyBUF_SIMPLE)
        cdef Py_ssize_t total = self.view.len
        if size < 0:
            size = total - position
        if position < 0 or position > total or size > total - position:
            raise shape.outside(position, size, total)
        self.data = <const unsigned char *>self.view.buf + position
        self.size = size

    def __dealloc__(self):
        PyBuffer_Release(&self.view)


def read_batch(frame, Py_ssize_t position=0, Py_ssize_t size=-1, *, bint verify=True, uint64_t body_size_max=BODY_SIZE_MAX):
    """The header of a batch frame in which every byte but the bodies' was checked; see the Python twin."""
    cdef Frame part = Frame(frame, position, size)
    cdef Layout layout
    read_frame(part.data, part.size, verify, body_size_max, &layout)
    return header_of(&layout)


cdef list split(Layout *layout, const unsigned char *sizes, uint64_t at):
    """Values of the given sizes, one after the other from `at`."""
    cdef list values = []
    cdef uint64_t message, size
    for message in range(layout.count):
        size = zb_load32(sizes + 4 * message)
        values.append(PyBytes_FromStringAndSize(<const char *>layout.data + at, size))
        at += size
    return values


cdef object split_column(Layout *layout, int bit):
    if not layout.columns >> bit & 1:
        return None
    return split(layout, layout.data + layout.column_at[bit], layout.value_at[bit])


def decode_batch(frame, *, bint verify=True):
    """Take a batch frame apart; see the Python twin."""
    cdef Frame part = Frame(frame, 0, -1)
    cdef Layout layout
    read_frame(part.data, part.size, verify, BODY_SIZE_MAX, &layout)
    header = header_of(&layout)
    bodies = split(&layout, layout.data + layout.sizes_at, layout.bodies_at)
    return BatchContents(header, bodies, split_column(&layout, 0), split_column(&layout, 1))


# --- writing ---------------------------------------------------------------------------------------------------------

cdef unsigned char *put(unsigned char *at, const void *source, uint64_t size) noexcept:
    memcpy(at, source, size)
    return at + size


cdef void write_header(unsigned char *data, uint64_t size, uint64_t count, uint64_t producer, uint64_t base_sequence,
                       uint16_t columns, uint16_t flags, uint64_t channel_size) noexcept:
    memcpy(data, PyBytes_AS_STRING(MAGIC), 4)
    zb_store32(data + 8, <uint32_t>size)
    zb_store32(data + 12, <uint32_t>count)
    zb_store64(data + 16, producer)
    zb_store64(data + 24, base_sequence)
    zb_store16(data + 32, columns)
    zb_store16(data + 34, flags)
    zb_store16(data + 36, <uint16_t>channel_size)
    zb_store16(data + 38, 0)


cdef void write_checksum(unsigned char *data, uint64_t size) noexcept:
    zb_store32(data + 4, zb_crc(0xFFFFFFFFU, data + 8, size - 8) ^ 0xFFFFFFFFU)


def slice_batch(frame, Py_ssize_t position, Py_ssize_t size, Py_ssize_t low, Py_ssize_t high):
    """A batch frame of the messages low..high-1; see the Python twin."""
    cdef Frame part = Frame(frame, position, size)
    cdef Layout layout
    read_frame(part.data, part.size, False, BODY_SIZE_MAX, &layout)
    if not 0 <= low < high <= <Py_ssize_t>layout.count:
        raise shape.cannot_write("slice", (low, high), f"within 0 to {layout.count} and not empty")
    if high - low == <Py_ssize_t>layout.count:
        return PyBytes_FromStringAndSize(<const char *>layout.data, layout.size)
    return sliced(&layout, low, high)


cdef bytes sliced(Layout *layout, uint64_t low, uint64_t high):
    cdef const unsigned char *sizes = layout.data + layout.sizes_at
    cdef uint64_t count = high - low
    cdef uint64_t before = sum_of_sizes(sizes, 0, low)
    cdef uint64_t inside = sum_of_sizes(sizes, low, high)
    cdef uint64_t total = HEADER + layout.channel_size + 4 * count + inside
    cdef int bit
    for bit in range(COLUMNS_DEFINED):
        if layout.columns >> bit & 1:
            total += column_slice(layout, bit, low, high, NULL)
    result = PyBytes_FromStringAndSize(NULL, total)
    cdef unsigned char *data = <unsigned char *>PyBytes_AS_STRING(result)
    cdef unsigned char *at = data + HEADER
    write_header(data, total, count, layout.producer, layout.base_sequence + low if layout.producer else 0,
                 layout.columns, layout.flags, layout.channel_size)
    at = put(at, layout.data + HEADER, layout.channel_size)
    at = put(at, sizes + 4 * low, 4 * count)
    for bit in range(COLUMNS_DEFINED):
        if layout.columns >> bit & 1:
            at += column_slice(layout, bit, low, high, at)
    put(at, layout.data + layout.bodies_at + before, inside)
    write_checksum(data, total)
    return result


cdef uint64_t column_slice(Layout *layout, int bit, uint64_t low, uint64_t high, unsigned char *at) noexcept:
    """Size of a column's part low..high-1, which is written to `at` unless that is NULL."""
    cdef uint64_t width = column_width[bit] if column_width[bit] else 4
    cdef uint64_t first = width * (high - low), second = 0, before = 0
    cdef const unsigned char *column = layout.data + layout.column_at[bit]
    if not column_width[bit]:
        before = sum_of_sizes(column, 0, low)
        second = sum_of_sizes(column, low, high)
    if at != NULL:
        at = put(at, column + width * low, first)
        put(at, layout.data + layout.value_at[bit] + before, second)
    return first + second


cdef uint64_t measure(str what, tuple values, uint64_t count, uint64_t limit) except? 0:
    """Bytes of all values together, each of which is bytes and within the limit."""
    cdef uint64_t total = 0, size, message
    cdef PyObject *value
    if <uint64_t>len(values) != count:
        raise shape.cannot_write(f"number of {what} values", len(values), f"{count}, one for each body")
    for message in range(count):
        value = PyTuple_GET_ITEM(values, message)
        if not PyBytes_Check(<object>value):
            raise shape.cannot_write(f"{what} of message {message}", type(<object>value).__name__, "bytes")
        size = PyBytes_GET_SIZE(<object>value)
        if size > limit:
            raise shape.cannot_write(f"{what} size of message {message}", size, f"up to {limit}")
        total += size
    return total


cdef int check_channel(bytes channel) except -1:
    if not 1 <= <uint64_t>len(channel) <= CHANNEL_SIZE_MAX:
        raise shape.cannot_write("channel name size", len(channel), f"1 to {CHANNEL_SIZE_MAX}")
    return check_utf8("channel name", channel)


cdef int check_utf8(str what, bytes value) except -1:
    try:
        value.decode()
    except UnicodeDecodeError:
        raise shape.cannot_write(what, value, "valid UTF-8") from None
    return 0


cdef int check_sequence(producer, base_sequence, uint64_t count) except -1:
    if not 0 <= producer <= shape.SEQUENCE_MAX:
        raise shape.cannot_write("producer", producer, "a u64")
    low, high = (1, shape.SEQUENCE_MAX - count + 1) if producer else (0, 0)
    if not low <= base_sequence <= high:
        raise shape.cannot_write("base sequence", base_sequence, f"{low} to {high}")
    return 0


cdef unsigned char *write_sizes(unsigned char *at, tuple values) noexcept:
    cdef Py_ssize_t message
    for message in range(PyTuple_GET_SIZE(values)):
        zb_store32(at, <uint32_t>PyBytes_GET_SIZE(<object>PyTuple_GET_ITEM(values, message)))
        at += 4
    return at


cdef unsigned char *write_values(unsigned char *at, tuple values) noexcept:
    cdef Py_ssize_t message
    cdef PyObject *value
    for message in range(PyTuple_GET_SIZE(values)):
        value = PyTuple_GET_ITEM(values, message)
        at = put(at, PyBytes_AS_STRING(<object>value), PyBytes_GET_SIZE(<object>value))
    return at


def encode_batch(bytes channel not None, bodies, producer=0, base_sequence=0, ids=None, headers=None):
    """A batch frame; see the Python twin."""
    cdef uint64_t count = len(bodies), total
    cdef uint16_t columns = (ids is not None) | (headers is not None) << 1
    check_channel(channel)
    if not 1 <= count <= COUNT_MAX:
        raise shape.cannot_write("number of bodies", count, f"1 to {COUNT_MAX}")
    check_sequence(producer, base_sequence, count)
    # Lists and tuples of ours, so that nobody can change what was measured before it is written.
    bodies = tuple(bodies)
    total = HEADER + <uint64_t>len(channel) + 4 * count + measure("body", bodies, count, BODY_SIZE_MAX)
    if ids is not None:
        ids = tuple(ids)
        total += 4 * count + measure("id", ids, count, shape.ID_SIZE_MAX)
        for message, value in enumerate(ids):
            check_utf8(f"id of message {message}", value)
    if headers is not None:
        headers = tuple(headers)
        total += 4 * count + measure("headers", headers, count, shape.HEADERS_SIZE_MAX)
    if total > BODY_SIZE_MAX + BATCH_MARGIN:
        raise shape.cannot_write("size of the batch frame", total, f"up to {BODY_SIZE_MAX + BATCH_MARGIN}")
    return written(channel, bodies, producer, base_sequence, columns, ids, headers, total)


cdef bytes written(bytes channel, tuple bodies, uint64_t producer, uint64_t base_sequence, uint16_t columns,
                   ids, headers, uint64_t total):
    result = PyBytes_FromStringAndSize(NULL, total)
    cdef unsigned char *data = <unsigned char *>PyBytes_AS_STRING(result)
    cdef unsigned char *at = data + HEADER
    write_header(data, total, len(bodies), producer, base_sequence, columns, 0, len(channel))
    at = put(at, PyBytes_AS_STRING(channel), len(channel))
    at = write_sizes(at, bodies)
    for column in (ids, headers):
        if column is not None:
            at = write_values(write_sizes(at, column), column)
    write_values(at, bodies)
    write_checksum(data, total)
    return result


def join_parts(list parts not None, list frames not None):
    """Parts as one, and its crc32c; see the Python twin."""
    cdef Py_ssize_t total = 0, position, size, following = 0
    cdef uint32_t crc = 0
    cdef unsigned char *at
    for part in parts:
        if not PyBytes_Check(part):
            raise TypeError(f"a part is bytes, not {type(part).__name__}")
        total += PyBytes_GET_SIZE(part)
    result = PyBytes_FromStringAndSize(NULL, total)
    at = <unsigned char *>PyBytes_AS_STRING(result)
    for position in range(len(parts)):
        part = parts[position]
        size = PyBytes_GET_SIZE(part)
        put(at, PyBytes_AS_STRING(part), size)
        if following < len(frames) and frames[following] == position:
            following += 1
            assert size >= 8 and memcmp(at, PyBytes_AS_STRING(MAGIC), 4) == 0, "a frame is not a batch"
            crc = crc_with_frame(crc, at, size)
        else:
            crc = crc_with(crc, at, size)
        at += size
    return result, crc


cdef uint32_t crc_with(uint32_t crc, const unsigned char *data, uint64_t size) noexcept:
    return zb_crc(crc ^ 0xFFFFFFFFU, data, size) ^ 0xFFFFFFFFU


cdef uint32_t crc_with_frame(uint32_t crc, const unsigned char *frame, uint64_t size) noexcept:
    """The same for a batch frame whose own checksum, which is of all but its first 8 bytes, is right."""
    if size < COMBINED_SIZE_MIN:
        return crc_with(crc, frame, size)
    return zb_crc_combine(crc_with(crc, frame, 8), zb_load32(frame + 4), size - 8)
