"""What checksum.h has, for the compiled twins that cimport it."""

from libc.stdint cimport uint16_t, uint32_t, uint64_t

cdef extern from "checksum.h":
    uint16_t zb_load16(const unsigned char *p) nogil
    uint32_t zb_load32(const unsigned char *p) nogil
    uint64_t zb_load64(const unsigned char *p) nogil
    void zb_store16(unsigned char *p, uint16_t v) nogil
    void zb_store32(unsigned char *p, uint32_t v) nogil
    void zb_store64(unsigned char *p, uint64_t v) nogil
    uint32_t zb_crc(uint32_t crc, const unsigned char *p, size_t size) nogil
    uint32_t zb_crc_table(uint32_t crc, const unsigned char *p, size_t size) nogil
    uint32_t zb_crc_combine(uint32_t first, uint32_t second, uint64_t second_size) nogil
    void zb_crc_choose() nogil
    void zb_crc32_fill() nogil
    uint32_t zb_crc32(uint32_t crc, const unsigned char *p, size_t size) nogil
