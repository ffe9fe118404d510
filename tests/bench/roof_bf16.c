#include <immintrin.h>

#include "tests/bench/roof.h"

enum { N_CHAIN = 12 }; /* independent sums enough to hide the latency of an instruction */

/* The operands are opaque and each sum starts from another value: equal chains would be merged into one. */
double roof_bf16(uint32_t n_round)
{
    __m512 a[N_CHAIN];
    __m512i one = _mm512_set1_epi16(0x3f80);
    __asm__ volatile("" : "+v"(one));
    const __m512bh x = (__m512bh)one, y = x;

#pragma GCC unroll 12
    for (int j = 0; j < N_CHAIN; j++)
        a[j] = _mm512_set1_ps((float)j);
    for (uint32_t i = 0; i < n_round; i++) {
#pragma GCC unroll 12
        for (int j = 0; j < N_CHAIN; j++)
            a[j] = _mm512_dpbf16_ps(a[j], x, y);
    }
#pragma GCC unroll 12
    for (int j = 0; j < N_CHAIN; j++)
        __asm__ volatile("" ::"v"(a[j]));
    return (double)n_round * N_CHAIN * 32 * 2;
}
