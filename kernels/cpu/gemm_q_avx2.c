#include <immintrin.h>

/* Left to itself, gcc reorders the additions of a chain into a tree, and the products that wait for theirs overflow the
 * registers: it may not look through the sum. */
static inline __m256i in_order(__m256i sum)
{
    __asm__("" : "+x"(sum));
    return sum;
}

/* Pairs of bytes are summed in 16 bits: 8 calls add up to 8 * 2 * 15 * 127 = 30,480 at most. */
static inline __m256i dot_q4(__m256i acc, __m256i w, __m256i x)
{
    return in_order(_mm256_add_epi16(acc, _mm256_maddubs_epi16(w, x)));
}

static inline __m256i end_q4(__m256i acc)
{
    return _mm256_madd_epi16(acc, _mm256_set1_epi16(1));
}

/* VPMADDUBSW would saturate (2 * 255 * 127): signs go to x, and 2 * 128 * 127 still fits in 16 bits. */
enum { Q8_SIGNED = 1 };
static inline __m256i dot_q8(__m256i acc, __m256i w, __m256i x)
{
    const __m256i v = _mm256_xor_si256(w, _mm256_set1_epi8(-128)); /* w - 128 */
    const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(v), _mm256_sign_epi8(x, v));
    return in_order(_mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1))));
}

#include "kernels/cpu/gemm_q_avx2.h"

void sk_gemm_q_avx2(struct sk_ktab *t)
{
    put_kernels(t);
}
