/* Stores into the KV cache: bf16 rounds to nearest even, q8 likewise. */
#include "kernels/cpu/ktab.h"
#include "kernels/cpu/simd_avx2.h"

/* Neither Inf nor more than bf16 holds; NaN stays NaN. */
INLINE __m256 saturated(__m256 x)
{
    const __m256 most = _mm256_set1_ps(0x1.fep127f);
    return _mm256_min_ps(most, _mm256_max_ps(_mm256_sub_ps(_mm256_setzero_ps(), most), x));
}

/* In the low halves of the words. */
INLINE __m256i to_bf16(__m256 x)
{
    const __m256i bits = _mm256_castps_si256(saturated(x));
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i up = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    return _mm256_blendv_epi8(_mm256_srli_epi32(up, 16), _mm256_set1_epi32(0x7fc0), nan);
}

static void put_f32(char *block, uint32_t n, uint32_t entry, const float *k, const float *v)
{
    float *to = (float *)block;
    for (size_t i = 0; i < n; i++)
        to[i * SK_KV_BLOCK + entry] = k[i];
    memcpy(to + (SK_KV_BLOCK + (size_t)entry) * n, v, n * sizeof *v);
}

/* Entries share words, and another thread may be storing the neighbour: only halves are written. */
static void put_bf16(char *block, uint32_t n, uint32_t entry, const float *k, const float *v)
{
    uint16_t *values = (uint16_t *)(block + sk_attn_side_bytes(SK_BF16, n)) + (size_t)(entry / 2) * n * 2 + entry % 2;
    uint32_t word[8];

    for (size_t i = 0; i < n; i += 8) {
        const __m256i x = to_bf16(_mm256_loadu_ps(k + i));
        /* neighbours side by side in every other word */
        _mm256_storeu_si256((__m256i *)word, _mm256_or_si256(x, _mm256_srli_epi64(x, 16)));
        for (size_t j = 0; j < 8; j += 2)
            memcpy(block + ((i + j) / 2 * SK_KV_BLOCK + entry) * 4, &word[j], 4);
        _mm256_storeu_si256((__m256i *)word, to_bf16(_mm256_loadu_ps(v + i)));
        for (size_t j = 0; j < 8; j++)
            values[(i + j) * 2] = (uint16_t)word[j];
    }
}

/* n <= 32 values, a multiple of 16, as int8; returns their scale. */
static float quantise(const float *x, uint32_t n, int8_t *ret)
{
    __m256 v[4], max = _mm256_setzero_ps();
    int32_t word[8];

    for (uint32_t i = 0; i < n; i += 8) {
        v[i / 8] = saturated(_mm256_loadu_ps(x + i));
        max = _mm256_max_ps(max, abs_ps(v[i / 8]));
    }
    const float d = max_lane(max) / 127;
    for (uint32_t i = 0; i < n; i += 8) {
        const __m256 q = d > 0 ? _mm256_div_ps(v[i / 8], _mm256_set1_ps(d)) : _mm256_setzero_ps();
        _mm256_storeu_si256((__m256i *)word, _mm256_cvtps_epi32(q));
        for (uint32_t j = 0; j < 8; j++)
            ret[i + j] = (int8_t)word[j];
    }
    return d;
}

#include "kernels/cpu/kv_put.h"

void sk_kv_avx2(struct sk_ktab *t)
{
    t->kv_put = kv_put;
}
