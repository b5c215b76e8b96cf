# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, freethreading_compatible=True
"""The bytes of one log record, compiled: the twin of zmqbroker/storage/_record_py.py, function for function.

A payload is looked at once in every sector, and mostly at eight bytes there, to know that the sector is not all zeros; it is
neither copied nor read again. Source: docs/STORAGE.md §5.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from checksum cimport zb_crc, zb_crc_choose, zb_store16, zb_store32, zb_store64
from zmqbroker.storage import _record_py as shape

__all__ = ["encode_record", "has_zero_sector"]

zb_crc_choose()

cdef enum:
    HEADER = 56
    CHECKED = 52  # header_crc covers the bytes before itself
    SECTOR = 512
    ALIGNMENT = 8
    MASKED = 1

# The numbers are those of the twin; the compiler knows these.
assert shape.HEADER.size == HEADER
assert shape.SECTOR_SIZE == SECTOR
assert shape.ALIGNMENT == ALIGNMENT
assert shape.FLAG_MASKED == MASKED
cdef uint32_t MAGIC = shape.MAGIC
cdef list paddings = [bytes(size) for size in range(ALIGNMENT)]


def encode_record(bytes payload not None, payload_crc, uint64_t position, uint32_t seed, uint8_t kind, uint8_t flags, uint16_t group,
                  uint32_t previous_crc, uint64_t index, uint64_t term, uint64_t lsn, uint64_t synced_lsn):
    """A record as buffers, and its header_crc; see the Python twin."""
    cdef const unsigned char *data = <const unsigned char *>PyBytes_AS_STRING(payload)
    cdef uint64_t size = PyBytes_GET_SIZE(payload)
    cdef uint32_t crc, header_crc
    cdef list buffers
    if not flags & MASKED and zero_sector(data, size, position + HEADER):
        return None
    crc = zb_crc(0xFFFFFFFFU, data, size) ^ 0xFFFFFFFFU if payload_crc is None else payload_crc
    header = PyBytes_FromStringAndSize(NULL, HEADER)
    cdef unsigned char *at = <unsigned char *>PyBytes_AS_STRING(header)
    zb_store32(at, MAGIC)
    zb_store32(at + 4, <uint32_t>size)
    at[8] = kind
    at[9] = flags
    zb_store16(at + 10, group)
    zb_store32(at + 12, previous_crc)
    zb_store64(at + 16, index)
    zb_store64(at + 24, term)
    zb_store64(at + 32, lsn)
    zb_store64(at + 40, synced_lsn)
    zb_store32(at + 48, crc)
    header_crc = zb_crc(seed ^ 0xFFFFFFFFU, at, CHECKED) ^ 0xFFFFFFFFU
    zb_store32(at + CHECKED, header_crc)
    buffers = [header]
    if size:
        buffers.append(payload)
    if (HEADER + size) % ALIGNMENT:
        buffers.append(paddings[ALIGNMENT - (HEADER + size) % ALIGNMENT])
    return buffers, header_crc


def has_zero_sector(bytes data not None, uint64_t position):
    """Whether a sector would be all zeros; see the Python twin."""
    return zero_sector(<const unsigned char *>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), position)


cdef bint zero_sector(const unsigned char *data, uint64_t size, uint64_t position) noexcept:
    cdef uint64_t start = 0
    cdef uint64_t end = SECTOR - position % SECTOR  # of the part of `data` in the first sector
    while start < size:
        if end > size:
            end = size
        if all_zeros(data + start, end - start):
            return True
        start = end
        end += SECTOR
    return False


cdef bint all_zeros(const unsigned char *data, uint64_t size) noexcept:
    cdef uint64_t word
    while size >= 8:
        memcpy(&word, data, 8)
        if word:
            return False
        data += 8
        size -= 8
    while size:
        if data[0]:
            return False
        data += 1
        size -= 1
    return True
