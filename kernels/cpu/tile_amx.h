/* Intel AMX: a thread's eight tile registers of 16 rows of 64 bytes and the products of two tiles (Intel SDM volume 1,
 * chapter 18). Include only in files built for AMX; or, with SK_TILE_EMULATED defined, in a second build of such a file
 * in which plain AVX-512 does what the manual says, so that kernels are tested on a CPU without tiles, too.
 *
 * Tile numbers are literal constants 0..7, never loop variables. A product c += a * b takes a [rows][colsb / 4] and b
 * [rows][16] of 4-byte groups of 2 bf16 or 4 bytes along the sum: b is a stretch of a panel (comm/dir/pack.h). No
 * rounding mode, exception or flag of the thread matters or changes.
 *
 * amx_dp_bf16: f32 sums. The even and the odd elements of the groups are each summed from 0 in the order of the groups
 * with fused multiply-adds, the two sums are added, then the result is added to c; each rounded to nearest even,
 * denormals read and written as 0.
 *
 * amx_dp_su8: int32 sums, exact modulo 2^32: bytes of a signed, of b unsigned. */
#ifndef SK_TILE_AMX_H
#define SK_TILE_AMX_H
#include "kernels/cpu/simd_avx512.h"

enum { AMX_TILES = 8, AMX_ROWS = 16, AMX_ROW_BYTES = 64, AMX_TILE_BYTES = AMX_ROWS * AMX_ROW_BYTES };

/* Heights and row widths in bytes of the tiles. */
struct amx_config {
    uint8_t palette; /* 1 */
    uint8_t start_row, zero[14];
    uint16_t colsb[AMX_TILES], zero2[8];
    uint8_t rows[AMX_TILES], zero3[8];
};

#ifdef SK_TILE_EMULATED
#include "kernels/cpu/tile_emulated.h"
#else

/* Instructions in place of <immintrin.h>'s names for them: gcc 12 declares 8 of the 64 bytes that ldtilecfg reads and
 * none of what tileloadd reads, so that -O3 drops stores made for them. */

/* Until amx_release, which the same thread calls: the tiles are part of what the system saves for it. */
INLINE void amx_config(const struct amx_config *c)
{
    __asm__ volatile("ldtilecfg %0" ::"m"(*c));
}

INLINE void amx_release(void)
{
    __asm__ volatile("tilerelease" ::: "memory");
}

INLINE void amx_zero(const int t)
{
    __asm__ volatile("tilezero %%tmm%c0" ::"i"(t));
}

/* Rows `stride` bytes apart. */
INLINE void amx_load(const int t, const void *p, size_t stride)
{
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(p), "r"(stride), "i"(t) : "memory");
}

INLINE void amx_store(const int t, void *p, size_t stride)
{
    __asm__ volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(p), "r"(stride), "i"(t) : "memory");
}

INLINE void amx_dp_bf16(const int c, const int a, const int b)
{
    __asm__ volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(c), "i"(a), "i"(b));
}

INLINE void amx_dp_su8(const int c, const int a, const int b)
{
    __asm__ volatile("tdpbsud %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(c), "i"(a), "i"(b));
}

#endif

/* All tiles whole. */
INLINE void amx_config_whole(void)
{
    struct amx_config c = {.palette = 1};
    for (int t = 0; t < AMX_TILES; t++) {
        c.colsb[t] = AMX_ROW_BYTES;
        c.rows[t] = AMX_ROWS;
    }
    amx_config(&c);
}

#endif
