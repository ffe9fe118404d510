#include "tests/bench/roof.h"

#include <immintrin.h>

enum { N_CHAIN = 12 }; /* independent sums enough to hide the latency of an instruction */

/* Each chain starts from another value that the compiler cannot see: equal chains would be merged into one. */
#define CHAINS(type, set)                                                                                              \
    type a0 = set(0), a1 = set(1), a2 = set(2), a3 = set(3), a4 = set(4), a5 = set(5), a6 = set(6), a7 = set(7),       \
         a8 = set(8), a9 = set(9), a10 = set(10), a11 = set(11);                                                       \
    __asm__ volatile("" : "+v"(a0), "+v"(a1), "+v"(a2), "+v"(a3), "+v"(a4), "+v"(a5));                                 \
    __asm__ volatile("" : "+v"(a6), "+v"(a7), "+v"(a8), "+v"(a9), "+v"(a10), "+v"(a11))
#define KEEP()                                                                                                         \
    __asm__ volatile("" ::"v"(a0), "v"(a1), "v"(a2), "v"(a3), "v"(a4), "v"(a5));                                       \
    __asm__ volatile("" ::"v"(a6), "v"(a7), "v"(a8), "v"(a9), "v"(a10), "v"(a11))

double roof_int8(uint32_t n_round)
{
    const __m512i x = _mm512_set1_epi8(3), y = _mm512_set1_epi8(5);
    CHAINS(__m512i, _mm512_set1_epi32);
    for (uint32_t i = 0; i < n_round; i++) {
        a0 = _mm512_dpbusd_epi32(a0, x, y);
        a1 = _mm512_dpbusd_epi32(a1, x, y);
        a2 = _mm512_dpbusd_epi32(a2, x, y);
        a3 = _mm512_dpbusd_epi32(a3, x, y);
        a4 = _mm512_dpbusd_epi32(a4, x, y);
        a5 = _mm512_dpbusd_epi32(a5, x, y);
        a6 = _mm512_dpbusd_epi32(a6, x, y);
        a7 = _mm512_dpbusd_epi32(a7, x, y);
        a8 = _mm512_dpbusd_epi32(a8, x, y);
        a9 = _mm512_dpbusd_epi32(a9, x, y);
        a10 = _mm512_dpbusd_epi32(a10, x, y);
        a11 = _mm512_dpbusd_epi32(a11, x, y);
    }
    KEEP();
    return (double)n_round * N_CHAIN * 64 * 2;
}

double roof_f32(uint32_t n_round)
{
    const __m512 x = _mm512_set1_ps(0.5f), y = _mm512_set1_ps(1.5f);
    CHAINS(__m512, _mm512_set1_ps);
    for (uint32_t i = 0; i < n_round; i++) {
        a0 = _mm512_fmadd_ps(a0, x, y);
        a1 = _mm512_fmadd_ps(a1, x, y);
        a2 = _mm512_fmadd_ps(a2, x, y);
        a3 = _mm512_fmadd_ps(a3, x, y);
        a4 = _mm512_fmadd_ps(a4, x, y);
        a5 = _mm512_fmadd_ps(a5, x, y);
        a6 = _mm512_fmadd_ps(a6, x, y);
        a7 = _mm512_fmadd_ps(a7, x, y);
        a8 = _mm512_fmadd_ps(a8, x, y);
        a9 = _mm512_fmadd_ps(a9, x, y);
        a10 = _mm512_fmadd_ps(a10, x, y);
        a11 = _mm512_fmadd_ps(a11, x, y);
    }
    KEEP();
    return (double)n_round * N_CHAIN * 16 * 2;
}

double roof_read(const void *p, size_t bytes)
{
    const char *at = p;
    __m512i a = _mm512_setzero_si512(), b = a, c = a, d = a;
    for (size_t i = 0; i < bytes; i += 256) {
        for (size_t j = 0; j < 256; j += 64)
            _mm_prefetch(at + i + 4096 + j, _MM_HINT_T0);
        a = _mm512_xor_si512(a, _mm512_load_si512(at + i));
        b = _mm512_xor_si512(b, _mm512_load_si512(at + i + 64));
        c = _mm512_xor_si512(c, _mm512_load_si512(at + i + 128));
        d = _mm512_xor_si512(d, _mm512_load_si512(at + i + 192));
    }
    __asm__ volatile("" ::"v"(a), "v"(b), "v"(c), "v"(d));
    return (double)bytes;
}
