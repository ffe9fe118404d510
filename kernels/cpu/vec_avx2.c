/* Norms, rope, activations, residual: one row at a time. All is f32; how near e^x is: kernels/cpu/simd_avx2.h. */
#include "kernels/cpu/ktab.h"
#include "kernels/cpu/simd_avx2.h"
#include "kernels/ref/checksum.h"

/* Lanes of x[at..at + 8) that are below n, zeros for the others; any `at`. */
INLINE __m256 load_below(const float *x, uint32_t at, uint32_t n)
{
    return _mm256_maskload_ps(x + at, lanes_below(at < n ? n - at : 0));
}

/* Four sums side by side, so that the order of additions is fixed by dim alone. */
INLINE float sum_of(const float *x, uint32_t dim, float mean, const bool squares)
{
    const __m256 mu = _mm256_set1_ps(mean);
    __m256 acc[4] = {_mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps()};

    for (uint32_t i = 0; i < dim; i += 32) {
        UNROLL
        for (uint32_t j = 0; j < 4; j++) {
            const uint32_t at = i + 8 * j;
            const __m256 k = _mm256_castsi256_ps(lanes_below(at < dim ? dim - at : 0));
            __m256 v = _mm256_and_ps(k, _mm256_sub_ps(load_below(x, at, dim), mu));
            acc[j] = squares ? _mm256_fmadd_ps(v, v, acc[j]) : _mm256_add_ps(acc[j], v);
        }
    }
    return sum_ps(_mm256_add_ps(_mm256_add_ps(acc[0], acc[1]), _mm256_add_ps(acc[2], acc[3])));
}

static struct sk_norm_stat norm_stat(const float *x, uint32_t dim, float eps, bool layer)
{
    const float mean = layer ? sum_of(x, dim, 0, false) / (float)dim : 0;
    return (struct sk_norm_stat){mean, 1 / __builtin_sqrtf(sum_of(x, dim, mean, true) / (float)dim + eps)};
}

static void norm(float *out, const float *x, struct sk_norm_stat stat, const float *weight, const float *bias,
                 uint32_t n)
{
    const __m256 mu = _mm256_set1_ps(stat.mean), inv = _mm256_set1_ps(stat.inv);

    for (uint32_t i = 0; i < SK_ALIGN16(n); i += 8) {
        __m256 v = _mm256_mul_ps(_mm256_sub_ps(load_below(x, i, n), mu), inv);
        __m256 b = bias != NULL ? load_below(bias, i, n) : _mm256_setzero_ps();
        v = _mm256_fmadd_ps(v, load_below(weight, i, n), b);
        _mm256_storeu_ps(out + i, _mm256_and_ps(_mm256_castsi256_ps(lanes_below(i < n ? n - i : 0)), v));
    }
}

/* Pairs (2i, 2i + 1): the table is interleaved likewise. */
static void rope_pairs(float *x, const float *cos_sin, uint32_t dim)
{
    for (uint32_t i = 0; i < dim; i += 8) {
        __m256 v = load_below(x, i, dim), cs = load_below(cos_sin, i, dim);
        __m256 swapped = _mm256_mul_ps(_mm256_permute_ps(v, 0xb1), _mm256_movehdup_ps(cs));
        _mm256_maskstore_ps(x + i, lanes_below(dim - i), _mm256_fmaddsub_ps(v, _mm256_moveldup_ps(cs), swapped));
    }
}

/* Words of even and of odd index of a and b. */
INLINE void split_pairs(__m256 a, __m256 b, __m256 *ret_even, __m256 *ret_odd)
{
    const __m256 even = _mm256_shuffle_ps(a, b, 0x88),
                 odd = _mm256_shuffle_ps(a, b, 0xdd); /* halves of a and b mixed */
    *ret_even = _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(even), 0xd8));
    *ret_odd = _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(odd), 0xd8));
}

/* Pairs (i, i + dim/2). */
static void rope_halves(float *x, const float *cos_sin, uint32_t dim)
{
    const uint32_t half = dim / 2;

    for (uint32_t i = 0; i < half; i += 8) {
        const __m256i k = lanes_below(half - i);
        __m256 a = load_below(x, i, half), b = load_below(x + half, i, half), c, s;
        split_pairs(load_below(cos_sin, 2 * i, dim), load_below(cos_sin, 2 * i + 8, dim), &c, &s);
        _mm256_maskstore_ps(x + i, k, _mm256_fmsub_ps(a, c, _mm256_mul_ps(b, s)));
        _mm256_maskstore_ps(x + half + i, k, _mm256_fmadd_ps(b, c, _mm256_mul_ps(a, s)));
    }
}

static void rope(float *x, const float *cos_sin, uint32_t dim, bool interleaved)
{
    if (interleaved)
        rope_pairs(x, cos_sin, dim);
    else
        rope_halves(x, cos_sin, dim);
}

INLINE __m256 sigmoid(__m256 x)
{
    const __m256 one = _mm256_set1_ps(1);
    return _mm256_div_ps(one, _mm256_add_ps(one, exp_ps(_mm256_sub_ps(_mm256_setzero_ps(), x))));
}

/* erfc(x), x >= 0; Abramowitz and Stegun 7.1.26, within 1.5e-7. */
INLINE __m256 erfc_ps(__m256 x)
{
    static const float coef[] = {1.061405429f, -1.453152027f, 1.421413741f, -0.284496736f, 0.254829592f};
    const __m256 one = _mm256_set1_ps(1);
    __m256 t = _mm256_div_ps(one, _mm256_fmadd_ps(x, _mm256_set1_ps(0.3275911f), one)), p = _mm256_set1_ps(coef[0]);

    UNROLL
    for (int i = 1; i < 5; i++)
        p = _mm256_fmadd_ps(p, t, _mm256_set1_ps(coef[i]));
    return _mm256_mul_ps(_mm256_mul_ps(p, t), exp_ps(_mm256_mul_ps(_mm256_sub_ps(_mm256_setzero_ps(), x), x)));
}

INLINE __m256 act_ps(const enum sk_op_act_kind kind, __m256 x)
{
    switch (kind) {
    case SK_OP_SILU:
        return _mm256_mul_ps(x, sigmoid(x));
    case SK_OP_GELU_TANH: { /* (1 + tanh u) / 2 = sigmoid(2u) */
        __m256 cubic = _mm256_fmadd_ps(_mm256_mul_ps(x, x), _mm256_set1_ps(0.044715f), _mm256_set1_ps(1));
        return _mm256_mul_ps(x, sigmoid(_mm256_mul_ps(_mm256_mul_ps(x, _mm256_set1_ps(1.59576912f)), cubic)));
    }
    case SK_OP_GELU_ERF: { /* 1 + erf(u) = erfc(-u) = 2 - erfc(u) */
        __m256 c = erfc_ps(abs_ps(_mm256_mul_ps(x, _mm256_set1_ps(0.707106781f))));
        __m256 positive = _mm256_cmp_ps(x, _mm256_setzero_ps(), _CMP_GT_OQ);
        c = _mm256_blendv_ps(c, _mm256_sub_ps(_mm256_set1_ps(2), c), positive);
        return _mm256_mul_ps(_mm256_mul_ps(x, _mm256_set1_ps(0.5f)), c);
    }
    default:
        return _mm256_max_ps(x, _mm256_setzero_ps());
    }
}

INLINE void act_row(float *out, const float *in, const float *gate, uint32_t n, const enum sk_op_act_kind kind)
{
    for (uint32_t i = 0; i < SK_ALIGN16(n); i += 8) {
        __m256 v = act_ps(kind, load_below(in, i, n)); /* of 0: 0 */
        if (gate != NULL)
            v = _mm256_mul_ps(v, load_below(gate, i, n));
        _mm256_storeu_ps(out + i, v);
    }
}

static void act(float *out, const float *in, const float *gate, uint32_t n, enum sk_op_act_kind kind)
{
    switch (kind) {
    case SK_OP_SILU:
        act_row(out, in, gate, n, SK_OP_SILU);
        break;
    case SK_OP_GELU_TANH:
        act_row(out, in, gate, n, SK_OP_GELU_TANH);
        break;
    case SK_OP_GELU_ERF:
        act_row(out, in, gate, n, SK_OP_GELU_ERF);
        break;
    case SK_OP_RELU:
        act_row(out, in, gate, n, SK_OP_RELU);
    }
}

static void add(float *out, const float *x, uint64_t n)
{
    uint64_t i = 0;

    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(out + i, _mm256_add_ps(_mm256_loadu_ps(out + i), _mm256_loadu_ps(x + i)));
    for (; i < n; i++)
        out[i] += x[i];
}

static void add_sum(float *out, const float *const *part, uint32_t n_part, size_t at, uint64_t n)
{
    uint64_t i = 0;

    for (; i + 8 <= n; i += 8) {
        __m256 v = _mm256_loadu_ps(part[0] + at + i);
        for (uint32_t p = 1; p < n_part; p++)
            v = _mm256_add_ps(v, _mm256_loadu_ps(part[p] + at + i));
        _mm256_storeu_ps(out + i, _mm256_add_ps(_mm256_loadu_ps(out + i), v));
    }
    for (; i < n; i++) {
        float v = part[0][at + i];
        for (uint32_t p = 1; p < n_part; p++)
            v += part[p][at + i];
        out[i] += v;
    }
}

/* 8 words, bf16 in the low halves of what comes back. A NaN is a quiet one, whatever low bits it had. */
INLINE __m256i round_bf16(__m256i bits)
{
    const __m256i high = _mm256_srli_epi32(bits, 16), odd = _mm256_and_si256(high, _mm256_set1_epi32(1));
    const __m256i up = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    const __m256 v = _mm256_castsi256_ps(bits);
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
    return _mm256_blendv_epi8(_mm256_srli_epi32(up, 16), _mm256_or_si256(high, _mm256_set1_epi32(0x40)), nan);
}

static void to_bf16(uint16_t *out, const float *x, uint64_t n)
{
    uint64_t i = 0;

    for (; i + 16 <= n; i += 16) {
        const __m256i a = round_bf16(_mm256_loadu_si256((const __m256i *)(x + i))),
                      b = round_bf16(_mm256_loadu_si256((const __m256i *)(x + i + 8)));
        _mm256_storeu_si256((__m256i *)(out + i), _mm256_permute4x64_epi64(_mm256_packus_epi32(a, b), 0xd8));
    }
    for (; i < n; i++)
        out[i] = sk_f32_to_bf16(x[i]);
}

static void from_bf16(float *out, const uint16_t *x, uint64_t n)
{
    uint64_t i = 0;

    for (; i + 8 <= n; i += 8) {
        const __m256i bits = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(x + i)));
        _mm256_storeu_si256((__m256i *)(out + i), _mm256_slli_epi32(bits, 16));
    }
    for (; i < n; i++)
        out[i] = sk_bf16_to_f32(x[i]);
}

static uint64_t checksum(const float *x, uint64_t at, uint64_t n)
{
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), step = _mm256_set1_epi32((int)SK_CHECKSUM_STEP);
    const __m256i next = _mm256_slli_epi32(step, 3);
    __m256i factor = _mm256_add_epi32(_mm256_mullo_epi32(lane, step), _mm256_set1_epi32((int)sk_checksum_factor(at)));
    __m256i even = _mm256_setzero_si256(), odd = even;
    uint64_t sum[4];

    for (uint64_t i = 0; i < n; i += 8, factor = _mm256_add_epi32(factor, next)) {
        const __m256i v = _mm256_maskload_epi32((const int *)x + i, lanes_below(n - i));
        even = _mm256_add_epi64(even, _mm256_mul_epu32(v, factor));
        odd = _mm256_add_epi64(odd, _mm256_mul_epu32(_mm256_srli_epi64(v, 32), _mm256_srli_epi64(factor, 32)));
    }
    _mm256_storeu_si256((__m256i *)sum, _mm256_add_epi64(even, odd));
    return sum[0] + sum[1] + sum[2] + sum[3];
}

void sk_vec_avx2(struct sk_ktab *t)
{
    t->norm_stat = norm_stat;
    t->norm = norm;
    t->rope = rope;
    t->act = act;
    t->add = add;
    t->add_sum = add_sum;
    t->to_bf16 = to_bf16;
    t->from_bf16 = from_bf16;
    t->checksum = checksum;
}
