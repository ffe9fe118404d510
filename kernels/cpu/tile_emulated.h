/* tile_amx.h without AMX, for tests: what Intel's manual says, in AVX-512. Where a CPU would raise #GP or #UD, the
 * process ends. */
#ifndef SK_TILE_EMULATED_H
#define SK_TILE_EMULATED_H
#include "comm/base/err.h"

static _Thread_local struct {
    struct amx_config conf;
    uint8_t tile[AMX_TILES][AMX_ROWS][AMX_ROW_BYTES] __attribute__((aligned(64)));
} amx;

INLINE void amx_config(const struct amx_config *c)
{
    sk_assert(c->palette == 1 && c->start_row == 0);
    for (int t = 0; t < AMX_TILES; t++) {
        sk_assert(c->rows[t] <= AMX_ROWS && c->colsb[t] <= AMX_ROW_BYTES && c->colsb[t] % 4 == 0);
        sk_assert((c->rows[t] == 0) == (c->colsb[t] == 0));
    }
    amx.conf = *c;
    memset(amx.tile, 0, sizeof amx.tile);
}

INLINE void amx_release(void)
{
    memset(&amx, 0, sizeof amx);
}

INLINE void amx_zero(const int t)
{
    sk_assert(amx.conf.rows[t] > 0);
    memset(amx.tile[t], 0, sizeof amx.tile[t]);
}

INLINE void amx_load(const int t, const void *p, size_t stride)
{
    amx_zero(t);
    for (size_t r = 0; r < amx.conf.rows[t]; r++)
        memcpy(amx.tile[t][r], (const uint8_t *)p + r * stride, amx.conf.colsb[t]);
}

INLINE void amx_store(const int t, void *p, size_t stride)
{
    sk_assert(amx.conf.rows[t] > 0);
    for (size_t r = 0; r < amx.conf.rows[t]; r++)
        memcpy((uint8_t *)p + r * stride, amx.tile[t][r], amx.conf.colsb[t]);
}

INLINE void amx_check(const int c, const int a, const int b)
{
    const struct amx_config *f = &amx.conf;
    sk_assert(c != a && c != b && a != b && f->rows[c] > 0);
    sk_assert(f->rows[c] == f->rows[a] && f->colsb[a] == f->rows[b] * 4 && f->colsb[c] == f->colsb[b]);
}

INLINE __m512 amx_flush(__m512 v)
{
    const __m512 least = _mm512_set1_ps(0x1p-126f);
    const __mmask16 denormal = _mm512_cmp_ps_mask(_mm512_abs_ps(v), least, _CMP_LT_OQ);
    return _mm512_mask_and_ps(v, denormal, v, _mm512_set1_ps(-0.0f));
}

/* The even (0) or odd (1) elements of pairs. */
INLINE __m512 amx_bf16(__m512i pairs, const int odd)
{
    const __m512i v = odd ? _mm512_and_si512(pairs, _mm512_set1_epi32((int)0xffff0000)) : _mm512_slli_epi32(pairs, 16);
    return amx_flush(_mm512_castsi512_ps(v));
}

/* What lies past colsb and rows is zero and stays so: it adds +0 to sums that begin with it. */
INLINE void amx_dp_bf16(const int c, const int a, const int b)
{
    amx_check(c, a, b);
    for (int r = 0; r < amx.conf.rows[c]; r++) {
        __m512 even = _mm512_setzero_ps(), odd = _mm512_setzero_ps();
        for (int k = 0; k < amx.conf.rows[b]; k++) {
            const __m512i x = _mm512_set1_epi32(load_i32(&amx.tile[a][r][4 * k]));
            const __m512i w = _mm512_load_si512(amx.tile[b][k]);
            even = amx_flush(_mm512_fmadd_ps(amx_bf16(x, 0), amx_bf16(w, 0), even));
            odd = amx_flush(_mm512_fmadd_ps(amx_bf16(x, 1), amx_bf16(w, 1), odd));
        }
        const __m512 old = amx_flush(_mm512_load_ps(amx.tile[c][r]));
        _mm512_store_ps(amx.tile[c][r], amx_flush(_mm512_add_ps(old, amx_flush(_mm512_add_ps(even, odd)))));
    }
}

INLINE void amx_dp_su8(const int c, const int a, const int b)
{
    amx_check(c, a, b);
    for (int r = 0; r < amx.conf.rows[c]; r++) {
        __m512i sum = _mm512_load_si512(amx.tile[c][r]);
        for (int k = 0; k < amx.conf.rows[b]; k++) {
            const __m512i w = _mm512_load_si512(amx.tile[b][k]);
            for (int j = 0; j < 4; j++) {
                const __m512i byte = _mm512_and_si512(_mm512_srli_epi32(w, (unsigned)(8 * j)), _mm512_set1_epi32(255));
                const int8_t x = (int8_t)amx.tile[a][r][4 * k + j];
                sum = _mm512_add_epi32(sum, _mm512_mullo_epi32(byte, _mm512_set1_epi32(x)));
            }
        }
        _mm512_store_si512(amx.tile[c][r], sum);
    }
}

#endif
