/* Norms, rope, activations, residual: one row at a time. All is f32; how near e^x is: kernels/cpu/simd_avx512.h. */
#include "kernels/cpu/ktab.h"
#include "kernels/cpu/simd_avx512.h"
#include "kernels/ref/checksum.h"

/* Four sums side by side, so that the order of additions is fixed by dim alone. */
INLINE float sum_of(const float *x, uint32_t dim, float mean, const bool squares)
{
    const __m512 mu = _mm512_set1_ps(mean);
    __m512 acc[4] = {_mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps()};

    for (uint32_t i = 0; i < dim; i += 64) {
        UNROLL
        for (uint32_t j = 0; j < 4; j++) {
            const uint32_t at = i + 16 * j;
            const __mmask16 k = lanes_below(at < dim ? dim - at : 0);
            __m512 v = _mm512_maskz_loadu_ps(k, x + at);
            v = _mm512_maskz_sub_ps(k, v, mu);
            acc[j] = squares ? _mm512_fmadd_ps(v, v, acc[j]) : _mm512_add_ps(acc[j], v);
        }
    }
    return sum_ps(_mm512_add_ps(_mm512_add_ps(acc[0], acc[1]), _mm512_add_ps(acc[2], acc[3])));
}

static struct sk_norm_stat norm_stat(const float *x, uint32_t dim, float eps, bool layer)
{
    const float mean = layer ? sum_of(x, dim, 0, false) / (float)dim : 0;
    return (struct sk_norm_stat){mean, 1 / __builtin_sqrtf(sum_of(x, dim, mean, true) / (float)dim + eps)};
}

static void norm(float *out, const float *x, struct sk_norm_stat stat, const float *weight, const float *bias,
                 uint32_t n)
{
    const __m512 mu = _mm512_set1_ps(stat.mean), inv = _mm512_set1_ps(stat.inv);

    for (uint32_t i = 0; i < n; i += 16) {
        const __mmask16 k = lanes_below(n - i);
        __m512 v = _mm512_mul_ps(_mm512_sub_ps(_mm512_maskz_loadu_ps(k, x + i), mu), inv);
        __m512 b = bias != NULL ? _mm512_maskz_loadu_ps(k, bias + i) : _mm512_setzero_ps();
        v = _mm512_maskz_fmadd_ps(k, v, _mm512_maskz_loadu_ps(k, weight + i), b);
        _mm512_storeu_ps(out + i, v);
    }
}

/* Pairs (2i, 2i + 1): the table is interleaved likewise. */
static void rope_pairs(float *x, const float *cos_sin, uint32_t dim)
{
    for (uint32_t i = 0; i < dim; i += 16) {
        const __mmask16 k = lanes_below(dim - i);
        __m512 v = _mm512_maskz_loadu_ps(k, x + i), cs = _mm512_maskz_loadu_ps(k, cos_sin + i);
        __m512 swapped = _mm512_mul_ps(_mm512_permute_ps(v, 0xb1), _mm512_movehdup_ps(cs));
        _mm512_mask_storeu_ps(x + i, k, _mm512_fmaddsub_ps(v, _mm512_moveldup_ps(cs), swapped));
    }
}

/* Pairs (i, i + dim/2). */
static void rope_halves(float *x, const float *cos_sin, uint32_t dim)
{
    const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    const __m512i odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
    const uint32_t half = dim / 2;

    for (uint32_t i = 0; i < half; i += 16) {
        const uint32_t left = half - i;
        const __mmask16 k = lanes_below(left);
        __m512 t0 = _mm512_maskz_loadu_ps(lanes_below(2 * left), cos_sin + 2 * i);
        __m512 t1 = _mm512_maskz_loadu_ps(lanes_below(left > 8 ? 2 * left - 16 : 0), cos_sin + 2 * i + 16);
        __m512 c = _mm512_permutex2var_ps(t0, even, t1), s = _mm512_permutex2var_ps(t0, odd, t1);
        __m512 a = _mm512_maskz_loadu_ps(k, x + i), b = _mm512_maskz_loadu_ps(k, x + half + i);
        _mm512_mask_storeu_ps(x + i, k, _mm512_fmsub_ps(a, c, _mm512_mul_ps(b, s)));
        _mm512_mask_storeu_ps(x + half + i, k, _mm512_fmadd_ps(b, c, _mm512_mul_ps(a, s)));
    }
}

static void rope(float *x, const float *cos_sin, uint32_t dim, bool interleaved)
{
    if (interleaved)
        rope_pairs(x, cos_sin, dim);
    else
        rope_halves(x, cos_sin, dim);
}

INLINE __m512 sigmoid(__m512 x)
{
    const __m512 one = _mm512_set1_ps(1);
    return _mm512_div_ps(one, _mm512_add_ps(one, exp_ps(_mm512_sub_ps(_mm512_setzero_ps(), x))));
}

/* erfc(x), x >= 0; Abramowitz and Stegun 7.1.26, within 1.5e-7. */
INLINE __m512 erfc_ps(__m512 x)
{
    static const float coef[] = {1.061405429f, -1.453152027f, 1.421413741f, -0.284496736f, 0.254829592f};
    const __m512 one = _mm512_set1_ps(1);
    __m512 t = _mm512_div_ps(one, _mm512_fmadd_ps(x, _mm512_set1_ps(0.3275911f), one)), p = _mm512_set1_ps(coef[0]);

    UNROLL
    for (int i = 1; i < 5; i++)
        p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(coef[i]));
    return _mm512_mul_ps(_mm512_mul_ps(p, t), exp_ps(_mm512_mul_ps(_mm512_sub_ps(_mm512_setzero_ps(), x), x)));
}

INLINE __m512 act_ps(const enum sk_op_act_kind kind, __m512 x)
{
    switch (kind) {
    case SK_OP_SILU:
        return _mm512_mul_ps(x, sigmoid(x));
    case SK_OP_GELU_TANH: { /* (1 + tanh u) / 2 = sigmoid(2u) */
        __m512 cubic = _mm512_fmadd_ps(_mm512_mul_ps(x, x), _mm512_set1_ps(0.044715f), _mm512_set1_ps(1));
        return _mm512_mul_ps(x, sigmoid(_mm512_mul_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.59576912f)), cubic)));
    }
    case SK_OP_GELU_ERF: { /* 1 + erf(u) = erfc(-u) = 2 - erfc(u) */
        __m512 c = erfc_ps(_mm512_abs_ps(_mm512_mul_ps(x, _mm512_set1_ps(0.707106781f))));
        __mmask16 positive = _mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_GT_OQ);
        c = _mm512_mask_sub_ps(c, positive, _mm512_set1_ps(2), c);
        return _mm512_mul_ps(_mm512_mul_ps(x, _mm512_set1_ps(0.5f)), c);
    }
    default:
        return _mm512_max_ps(x, _mm512_setzero_ps());
    }
}

INLINE void act_row(float *out, const float *in, const float *gate, uint32_t n, const enum sk_op_act_kind kind)
{
    for (uint32_t i = 0; i < n; i += 16) {
        const __mmask16 k = lanes_below(n - i);
        __m512 v = act_ps(kind, _mm512_maskz_loadu_ps(k, in + i));
        if (gate != NULL)
            v = _mm512_mul_ps(v, _mm512_maskz_loadu_ps(k, gate + i));
        _mm512_storeu_ps(out + i, _mm512_maskz_mov_ps(k, v));
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
    for (uint64_t i = 0; i < n; i += 16) {
        const __mmask16 k = lanes_below(n - i);
        __m512 v = _mm512_add_ps(_mm512_maskz_loadu_ps(k, out + i), _mm512_maskz_loadu_ps(k, x + i));
        _mm512_mask_storeu_ps(out + i, k, v);
    }
}

static void add_sum(float *out, const float *const *part, uint32_t n_part, size_t at, uint64_t n)
{
    for (uint64_t i = 0; i < n; i += 16) {
        const __mmask16 k = lanes_below(n - i);
        __m512 v = _mm512_maskz_loadu_ps(k, part[0] + at + i);
        for (uint32_t p = 1; p < n_part; p++)
            v = _mm512_add_ps(v, _mm512_maskz_loadu_ps(k, part[p] + at + i));
        _mm512_mask_storeu_ps(out + i, k, _mm512_add_ps(_mm512_maskz_loadu_ps(k, out + i), v));
    }
}

/* Not VCVTNEPS2BF16: that makes denormals 0. */
static void to_bf16(uint16_t *out, const float *x, uint64_t n)
{
    for (uint64_t i = 0; i < n; i += 16) {
        const __mmask16 k = lanes_below(n - i);
        const __m512i bits = _mm512_maskz_loadu_epi32(k, x + i), high = _mm512_srli_epi32(bits, 16);
        const __m512i odd = _mm512_and_si512(high, _mm512_set1_epi32(1));
        const __m512i up = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
        const __m512 v = _mm512_castsi512_ps(bits);
        const __m512i half =
            _mm512_mask_or_epi32(_mm512_srli_epi32(up, 16), _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q), high,
                                 _mm512_set1_epi32(0x40)); /* a quiet NaN, whatever low bits it had */
        _mm512_mask_cvtepi32_storeu_epi16(out + i, k, half);
    }
}

static void from_bf16(float *out, const uint16_t *x, uint64_t n)
{
    for (uint64_t i = 0; i < n; i += 16) {
        const __mmask16 k = lanes_below(n - i);
        const __m512i bits = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(k, x + i));
        _mm512_mask_storeu_epi32(out + i, k, _mm512_slli_epi32(bits, 16));
    }
}

static uint64_t checksum(const float *x, uint64_t at, uint64_t n)
{
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m512i step = _mm512_set1_epi32((int)SK_CHECKSUM_STEP), next = _mm512_slli_epi32(step, 4);
    __m512i factor = _mm512_add_epi32(_mm512_mullo_epi32(lane, step), _mm512_set1_epi32((int)sk_checksum_factor(at)));
    __m512i even = _mm512_setzero_si512(), odd = even;
    uint64_t sum[8];

    for (uint64_t i = 0; i < n; i += 16, factor = _mm512_add_epi32(factor, next)) {
        const __m512i v = _mm512_maskz_loadu_epi32(lanes_below(n - i), x + i);
        even = _mm512_add_epi64(even, _mm512_mul_epu32(v, factor));
        odd = _mm512_add_epi64(odd, _mm512_mul_epu32(_mm512_srli_epi64(v, 32), _mm512_srli_epi64(factor, 32)));
    }
    _mm512_storeu_si512(sum, _mm512_add_epi64(even, odd));
    for (int i = 1; i < 8; i++) /* unsigned, so that it may wrap: _mm512_reduce_add_epi64 is not */
        sum[0] += sum[i];
    return sum[0];
}

void sk_vec_avx512(struct sk_ktab *t)
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
