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

/* A block of one row. int8 knows no NaN: the scale carries it into every output of the row. */
INLINE int32_t quant_block(const float *x, uint8_t *q, float *ret_scale)
{
    __m512 a = _mm512_loadu_ps(x), b = _mm512_loadu_ps(x + 16);
    float max = _mm512_reduce_max_ps(_mm512_max_ps(_mm512_abs_ps(a), _mm512_abs_ps(b)));
    float scale = max / 127, inv = scale >= 0x1p-126f ? 127 / max : 0;
    __m512i qa = _mm512_cvtps_epi32(_mm512_mul_ps(a, _mm512_set1_ps(inv)));
    __m512i qb = _mm512_cvtps_epi32(_mm512_mul_ps(b, _mm512_set1_ps(inv)));

    _mm_storeu_si128((__m128i *)q, _mm512_cvtsepi32_epi8(qa));
    _mm_storeu_si128((__m128i *)(q + 16), _mm512_cvtsepi32_epi8(qb));
    *ret_scale = _mm512_cmp_ps_mask(a, b, _CMP_UNORD_Q) ? __builtin_nanf("") : scale;
    return _mm512_reduce_add_epi32(_mm512_add_epi32(qa, qb));
}

INLINE float float_of(int32_t bits)
{
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

INLINE void quant_tile(const float *x, size_t ld, uint32_t n_row, uint32_t n_in, uint8_t *ret, const bool q4)
{
    for (uint32_t i = 0; i < n_in; i += SK_QBLOCK, ret += n_row * TILE_BLOCK_BYTES) {
        float *scale = (float *)(ret + SK_QBLOCK * n_row);
        for (uint32_t r = 0; r < n_row; r++) {
            const int32_t sum = quant_block(x + r * ld + i, ret + SK_QBLOCK * r, &scale[r]);
            if (q4)
                scale[n_row + r] = scale[r] * (float)sum;
            else
                scale[n_row + r] = float_of(-128 * sum); /* its bits */
        }
    }
}

void sk_tile_q8_avx512(const struct sk_pack *p, const float *x, size_t ld, uint32_t n_row, uint32_t from, uint32_t n,
                       void *ret_tile)
{
    quant_tile(x, ld, n_row, n, (uint8_t *)ret_tile + (size_t)from / SK_QBLOCK * n_row * TILE_BLOCK_BYTES, false);
}

void sk_tile_q4_avx512(const struct sk_pack *p, const float *x, size_t ld, uint32_t n_row, uint32_t from, uint32_t n,
                       void *ret_tile)
{
    quant_tile(x, ld, n_row, n, (uint8_t *)ret_tile + (size_t)from / SK_QBLOCK * n_row * TILE_BLOCK_BYTES, true);
}

void sk_gemm_q_avx512(struct sk_ktab *t)
{
    sk_ktab_put_gemm(t, SK_Q8, &kernel_q8);
    sk_ktab_put_gemm(t, SK_Q4, &kernel_q4);
}
