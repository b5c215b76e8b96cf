/* crc32c (Castagnoli), crc32 (as zlib's) and little-endian loads and stores, for every compiled twin: each module that includes this has its own
   tables, and fills them with zb_crc_choose() before its first checksum. Nothing here needs Python or the GIL. */
#ifndef ZMQBROKER_CHECKSUM_H
#define ZMQBROKER_CHECKSUM_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if (defined(__x86_64__) || defined(_M_X64)) && (defined(__GNUC__) || defined(__clang__))
#define ZB_SSE42 1
#include <nmmintrin.h>
#endif

/* Little-endian loads and stores by shifts: compilers make one instruction of each. */
static inline uint16_t zb_load16(const unsigned char *p) { return (uint16_t)(p[0] | (p[1] << 8)); }
static inline uint32_t zb_load32(const unsigned char *p) {
    return (uint32_t)p[0] | ((uint32_t)p[1] << 8) | ((uint32_t)p[2] << 16) | ((uint32_t)p[3] << 24);
}
static inline uint64_t zb_load64(const unsigned char *p) {
    return (uint64_t)zb_load32(p) | ((uint64_t)zb_load32(p + 4) << 32);
}
static inline void zb_store16(unsigned char *p, uint16_t v) { p[0] = (unsigned char)v; p[1] = (unsigned char)(v >> 8); }
static inline void zb_store32(unsigned char *p, uint32_t v) { zb_store16(p, (uint16_t)v); zb_store16(p + 2, (uint16_t)(v >> 16)); }
static inline void zb_store64(unsigned char *p, uint64_t v) { zb_store32(p, (uint32_t)v); zb_store32(p + 4, (uint32_t)(v >> 32)); }

/* Eight tables, so that eight bytes cost eight look-ups and no shifts in between (slicing-by-8). */
static uint32_t zb_table[8][256];

static void zb_fill_table(void) {
    for (uint32_t n = 0; n < 256; n++) {
        uint32_t value = n;
        for (int bit = 0; bit < 8; bit++) value = (value >> 1) ^ (0x82F63B78u & (0u - (value & 1u)));
        zb_table[0][n] = value;
    }
    for (uint32_t n = 0; n < 256; n++)
        for (int t = 1; t < 8; t++)
            zb_table[t][n] = (zb_table[t - 1][n] >> 8) ^ zb_table[0][zb_table[t - 1][n] & 0xFF];
}

static uint32_t zb_crc_table(uint32_t crc, const unsigned char *p, size_t size) {
    for (; size >= 8; size -= 8, p += 8) {
        uint32_t low = crc ^ zb_load32(p), high = zb_load32(p + 4);
        crc = zb_table[7][low & 0xFF] ^ zb_table[6][(low >> 8) & 0xFF] ^ zb_table[5][(low >> 16) & 0xFF]
            ^ zb_table[4][low >> 24] ^ zb_table[3][high & 0xFF] ^ zb_table[2][(high >> 8) & 0xFF]
            ^ zb_table[1][(high >> 16) & 0xFF] ^ zb_table[0][high >> 24];
    }
    for (; size > 0; size--, p++) crc = (crc >> 8) ^ zb_table[0][(crc ^ *p) & 0xFF];
    return crc;
}

/* A checksum's register is a polynomial over GF(2) modulo Castagnoli's, the highest power in bit 0: so 1 is 0x80000000 and x is half of it. */
static uint32_t zb_times(uint32_t a, uint32_t b) {
    uint32_t product = 0;
    for (uint32_t bit = 0x80000000u; bit != 0; bit >>= 1) {
        if (a & bit) product ^= b;
        b = (b >> 1) ^ (0x82F63B78u & (0u - (b & 1u)));
    }
    return product;
}

/* zb_powers[k] moves a register behind 2^k bytes of zeros: x to the power of 8 * 2^k. */
static uint32_t zb_powers[64];

static void zb_fill_powers(void) {
    zb_powers[0] = 0x00800000u;
    for (int k = 1; k < 64; k++) zb_powers[k] = zb_times(zb_powers[k - 1], zb_powers[k - 1]);
}

/* The register after `size` bytes of zeros. */
static uint32_t zb_shift(uint32_t crc, uint64_t size) {
    for (int k = 0; size != 0; k++, size >>= 1)
        if (size & 1) crc = zb_times(zb_powers[k], crc);
    return crc;
}

#ifdef ZB_SSE42
/* The instruction takes three cycles and one can begin in each, so three lanes of a block run at once; their registers become one by the tables
   below, a look-up per byte. Two sizes of block: long ones for whole frames, short ones for what is left and for single messages. */
#define ZB_LANE_LONG 1024u
#define ZB_LANE_SHORT 256u
static uint32_t zb_behind_long[4][256], zb_behind_short[4][256];

static void zb_fill_lane(uint32_t table[4][256], uint64_t lane) {
    for (int byte = 0; byte < 4; byte++)
        for (uint32_t n = 0; n < 256; n++) table[byte][n] = zb_shift(n << (8 * byte), lane);
}

static inline uint32_t zb_behind(uint32_t table[4][256], uint32_t crc) {
    return table[0][crc & 0xFF] ^ table[1][(crc >> 8) & 0xFF] ^ table[2][(crc >> 16) & 0xFF] ^ table[3][crc >> 24];
}

__attribute__((target("sse4.2"), noinline)) /* or every short checksum saves registers for it */
static uint32_t zb_crc_block(uint32_t start, const unsigned char *p, size_t lane, uint32_t table[4][256]) {
    uint64_t first = start, second = 0, third = 0, a, b, c;
    for (const unsigned char *end = p + lane; p < end; p += 8) {
        memcpy(&a, p, 8);
        memcpy(&b, p + lane, 8);
        memcpy(&c, p + 2 * lane, 8);
        first = _mm_crc32_u64(first, a);
        second = _mm_crc32_u64(second, b);
        third = _mm_crc32_u64(third, c);
    }
    return zb_behind(table, zb_behind(table, (uint32_t)first) ^ (uint32_t)second) ^ (uint32_t)third;
}

__attribute__((target("sse4.2")))
static uint32_t zb_crc_sse42(uint32_t start, const unsigned char *p, size_t size) {
    for (; size >= 3 * ZB_LANE_LONG; size -= 3 * ZB_LANE_LONG, p += 3 * ZB_LANE_LONG)
        start = zb_crc_block(start, p, ZB_LANE_LONG, zb_behind_long);
    for (; size >= 3 * ZB_LANE_SHORT; size -= 3 * ZB_LANE_SHORT, p += 3 * ZB_LANE_SHORT)
        start = zb_crc_block(start, p, ZB_LANE_SHORT, zb_behind_short);
    uint64_t crc = start;
    for (; size >= 8; size -= 8, p += 8) {
        uint64_t word;
        memcpy(&word, p, 8);
        crc = _mm_crc32_u64(crc, word);
    }
    uint32_t rest = (uint32_t)crc;
    for (; size > 0; size--, p++) rest = _mm_crc32_u8(rest, *p);
    return rest;
}
#endif

/* crc32c of two pieces one after the other, from that of each and the size of the second. */
static inline uint32_t zb_crc_combine(uint32_t first, uint32_t second, uint64_t second_size) {
    return zb_shift(first, second_size) ^ second;
}

static uint32_t (*zb_crc)(uint32_t, const unsigned char *, size_t) = zb_crc_table;

/* crc32 as zlib's, a byte at a time: for small records. A module that uses it calls zb_crc32_fill() before. */
static uint32_t zb_table32[256];

static inline void zb_crc32_fill(void) {
    for (uint32_t n = 0; n < 256; n++) {
        uint32_t value = n;
        for (int bit = 0; bit < 8; bit++) value = (value >> 1) ^ (0xEDB88320u & (0u - (value & 1u)));
        zb_table32[n] = value;
    }
}

static inline uint32_t zb_crc32(uint32_t crc, const unsigned char *p, size_t size) {
    for (; size > 0; size--, p++) crc = (crc >> 8) ^ zb_table32[(crc ^ *p) & 0xFF];
    return crc;
}

static void zb_crc_choose(void) {
    zb_fill_table();
    zb_fill_powers();
#ifdef ZB_SSE42
    if (!__builtin_cpu_supports("sse4.2")) return;
    zb_fill_lane(zb_behind_long, ZB_LANE_LONG);
    zb_fill_lane(zb_behind_short, ZB_LANE_SHORT);
    zb_crc = zb_crc_sse42;
#endif
}

#endif
