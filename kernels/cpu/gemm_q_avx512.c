#include <immintrin.h>

/* VPMADDUBSW would saturate (255 * 127 * 2): even and odd bytes are widened and multiplied apart. */
static inline __m512i dot4(__m512i acc, __m512i w, __m512i x)
{
    __m512i even =
        _mm512_madd_epi16(_mm512_and_si512(w, _mm512_set1_epi16(0xff)), _mm512_srai_epi16(_mm512_slli_epi16(x, 8), 8));
    __m512i odd = _mm512_madd_epi16(_mm512_srli_epi16(w, 8), _mm512_srai_epi16(x, 8));
    return _mm512_add_epi32(acc, _mm512_add_epi32(even, odd));
}

#include "kernels/cpu/gemm_q_avx512.h"

enum { N_BLOCK = 16 }; /* quantised at a time: what is one number a block is then one vector */

/* Lane i: the sum of v[i]'s lanes, or the largest of them as unsigned numbers. */
INLINE __m512i across(const __m512i v[N_BLOCK], const bool sum)
{
#define JOIN(a, b) (sum ? _mm512_add_epi32(a, b) : _mm512_max_epu32(a, b))
    __m512i two[8], four[4], eight[2];
    UNROLL
    for (int i = 0; i < 8; i++) {
        const __m512i a = v[i / 2 * 4 + i % 2], b = v[i / 2 * 4 + i % 2 + 2];
        two[i] = JOIN(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    }
    UNROLL
    for (int i = 0; i < 4; i++)
        four[i] =
            JOIN(_mm512_unpacklo_epi32(two[2 * i], two[2 * i + 1]), _mm512_unpackhi_epi32(two[2 * i], two[2 * i + 1]));
    UNROLL
    for (int i = 0; i < 2; i++)
        eight[i] = JOIN(_mm512_shuffle_i32x4(four[2 * i], four[2 * i + 1], 0x44),
                        _mm512_shuffle_i32x4(four[2 * i], four[2 * i + 1], 0xee));
    return JOIN(_mm512_shuffle_i32x4(eight[0], eight[1], 0x88), _mm512_shuffle_i32x4(eight[0], eight[1], 0xdd));
#undef JOIN
}

/* Blocks at x[i] to q[i]. */
INLINE void quant_blocks(const float *const x[N_BLOCK], uint8_t *const q[N_BLOCK], enum sk_dtype dtype,
                         float ret_scale[N_BLOCK], float ret_offset[N_BLOCK])
{
    const __m512 most = _mm512_set1_ps(127);
    float inv_of[N_BLOCK] __attribute__((aligned(64)));
    __m512i v[N_BLOCK];

    /* As bits, absolute values are in the order of what they mean, and above them all is NaN. */
    UNROLL
    for (int i = 0; i < N_BLOCK; i++)
        v[i] = _mm512_max_epu32(_mm512_castps_si512(_mm512_abs_ps(_mm512_loadu_ps(x[i]))),
                                _mm512_castps_si512(_mm512_abs_ps(_mm512_loadu_ps(x[i] + 16))));
    const __m512 max = _mm512_castsi512_ps(across(v, false)), scale = _mm512_div_ps(max, most);
    const __mmask16 normal = _mm512_cmp_ps_mask(scale, _mm512_set1_ps(0x1p-126f), _CMP_GE_OQ);
    _mm512_store_ps(inv_of, _mm512_maskz_div_ps(normal, most, max));
    UNROLL
    for (int i = 0; i < N_BLOCK; i++) {
        const __m512 inv = _mm512_set1_ps(inv_of[i]);
        const __m512i a = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x[i]), inv)),
                      b = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x[i] + 16), inv));
        _mm_storeu_si128((__m128i *)q[i], _mm512_cvtsepi32_epi8(a));
        _mm_storeu_si128((__m128i *)(q[i] + 16), _mm512_cvtsepi32_epi8(b));
        v[i] = _mm512_add_epi32(a, b);
    }
    const __m512i sum = across(v, true);
    _mm512_storeu_ps(ret_scale, scale);
    if (dtype == SK_Q4)
        _mm512_storeu_ps(ret_offset, _mm512_mul_ps(scale, _mm512_cvtepi32_ps(sum)));
    else
        _mm512_storeu_si512(ret_offset, _mm512_mullo_epi32(sum, _mm512_set1_epi32(-weight_zero(dtype))));
}

void sk_gemm_q_tile_avx512(const struct sk_pack *p, const float *x, size_t ld, uint32_t n_row, uint32_t from,
                           uint32_t n, void *ret_tile)
{
    uint8_t *to = (uint8_t *)ret_tile + (size_t)from / SK_QBLOCK * n_row * TILE_BLOCK_BYTES;
    const uint32_t n_blk = n / SK_QBLOCK * n_row;
    float scale[N_BLOCK], offset[N_BLOCK];

    for (uint32_t first = 0; first < n_blk; first += N_BLOCK) {
        const uint32_t n_now = n_blk - first < N_BLOCK ? n_blk - first : N_BLOCK;
        const float *in[N_BLOCK];
        uint8_t *q[N_BLOCK], rest[SK_QBLOCK];
        for (uint32_t i = 0; i < N_BLOCK; i++) {
            const uint32_t k = i < n_now ? first + i : first, blk = k / n_row, r = k % n_row;
            in[i] = x + r * ld + (size_t)blk * SK_QBLOCK;
            q[i] = i < n_now ? to + (blk * TILE_BLOCK_BYTES * n_row + r * SK_QBLOCK) : rest;
        }
        quant_blocks(in, q, p->dtype, scale, offset);
        for (uint32_t i = 0; i < n_now; i++) {
            const uint32_t blk = (first + i) / n_row, r = (first + i) % n_row;
            float *f = (float *)(to + blk * TILE_BLOCK_BYTES * n_row + SK_QBLOCK * n_row);
            f[r] = scale[i];
            f[n_row + r] = offset[i];
        }
    }
}

void sk_gemm_q_avx512(struct sk_ktab *t)
{
    put_kernels(t);
}
