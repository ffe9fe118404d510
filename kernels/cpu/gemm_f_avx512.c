/* GEMM on f32, f16 and bf16 weights: f32 multiply-adds on f32 activations, one chain per output, in the order of the inputs. */
#include "kernels/cpu/ktab.h"
#include "kernels/cpu/simd_avx512.h"

/* A tile of m rows by n panels: few rows take several panels, so that chains enough hide the latency of a multiply-add. */
enum { AHEAD_BYTES = 1024 };

INLINE __m512 load_w(enum sk_dtype dtype, const uint8_t *w, size_t k)
{
    if (dtype == SK_F32)
        return _mm512_loadu_ps((const float *)w + k * SK_PANEL);
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(w + k * SK_PANEL * 2)));
}

/* Inputs k and k + 1 of 16 outputs, in pairs: a bf16 is the upper half of a float. */
INLINE void load_w2(enum sk_dtype dtype, const uint8_t *w, size_t k, __m512 ret[2])
{
    if (dtype == SK_BF16) {
        __m512i v = _mm512_loadu_si512(w + k * SK_PANEL * 2);
        ret[0] = _mm512_castsi512_ps(_mm512_slli_epi32(v, 16));
        ret[1] = _mm512_castsi512_ps(_mm512_and_si512(v, _mm512_set1_epi32((int)0xffff0000)));
    } else {
        ret[0] = load_w(dtype, w, k);
        ret[1] = load_w(dtype, w, k + 1);
    }
}

INLINE void slab(enum sk_dtype dtype, const uint8_t *w, size_t panel_stride, const float *x, size_t ld_x, uint32_t n_k, const int m,
                 const int n, __m512 *acc)
{
    uint32_t k = 0;

    for (; k + 2 <= n_k; k += 2) {
        UNROLL for (int c = 0; c < n; c++) {
            const uint8_t *wc = w + c * panel_stride;
            __m512 v[2];
            load_w2(dtype, wc, k, v);
            _mm_prefetch((const char *)wc + k * (dtype == SK_F32 ? 64 : 32) + AHEAD_BYTES, _MM_HINT_T0);
            UNROLL for (int r = 0; r < m; r++) {
                const float *xr = x + r * ld_x + k;
                acc[c * m + r] = _mm512_fmadd_ps(v[0], _mm512_set1_ps(xr[0]), acc[c * m + r]);
                acc[c * m + r] = _mm512_fmadd_ps(v[1], _mm512_set1_ps(xr[1]), acc[c * m + r]);
            }
        }
    }
    if (k < n_k) /* not bf16: its slabs are even */
        UNROLL for (int c = 0; c < n; c++) {
            __m512 v = load_w(dtype, w + c * panel_stride, k);
            UNROLL for (int r = 0; r < m; r++)
                acc[c * m + r] = _mm512_fmadd_ps(v, _mm512_set1_ps(x[r * ld_x + k]), acc[c * m + r]);
        }
}

INLINE void tile(enum sk_dtype dtype, const struct sk_gemm *g, uint32_t panel, uint32_t row, const int m, const int n)
{
    const struct sk_pack *p = g->pack;
    const float *x = (const float *)g->x + row * g->ld_x;
    __m512 acc[SK_TILE_ROWS];

    UNROLL for (int i = 0; i < m * n; i++)
        acc[i] = _mm512_setzero_ps();
    for (uint32_t s = 0; s < p->n_slab; s++) {
        const uint8_t *w = g->weight + s * p->slab_stride + panel * p->panel_stride;
        slab(dtype, w, p->panel_stride, x + (size_t)s * p->slab_k, g->ld_x, p->slab_k, m, n, acc);
    }
    UNROLL for (int c = 0; c < n; c++) {
        const size_t column = (size_t)(panel + (uint32_t)c) * SK_PANEL;
        __m512 bias = g->bias != NULL ? _mm512_loadu_ps(g->bias + column) : _mm512_setzero_ps();
        UNROLL for (int r = 0; r < m; r++) {
            float *out = g->out + (row + (uint32_t)r) * g->ld_out + column;
            __m512 v = _mm512_add_ps(acc[c * m + r], bias);
            if (g->add)
                v = _mm512_add_ps(_mm512_loadu_ps(out), v);
            _mm512_storeu_ps(out, v);
        }
    }
}

/* Panels n at a time, then one by one. */
INLINE void panels(enum sk_dtype dtype, const struct sk_gemm *g, uint32_t panel, uint32_t n_panel, uint32_t row, const int m, const int n)
{
    uint32_t end = panel + n_panel;

    for (; panel + (uint32_t)n <= end; panel += (uint32_t)n)
        tile(dtype, g, panel, row, m, n);
    for (; panel < end; panel++)
        tile(dtype, g, panel, row, m, 1);
}

/* Rows in tiles of 12, 8, 4, 2, 1. */
INLINE void gemm(enum sk_dtype dtype, const struct sk_gemm *g, uint32_t panel, uint32_t n_panel, uint32_t row, uint32_t n_row)
{
    while (n_row > 0) {
        uint32_t m = n_row >= 16 ? 16 : n_row >= 8 ? 8 : n_row >= 4 ? 4 : n_row >= 2 ? 2 : 1;
        switch (m) {
        case 16:
            panels(dtype, g, panel, n_panel, row, 16, 1);
            break;
        case 8:
            panels(dtype, g, panel, n_panel, row, 8, 2);
            break;
        case 4:
            panels(dtype, g, panel, n_panel, row, 4, 4);
            break;
        case 2:
            panels(dtype, g, panel, n_panel, row, 2, 4);
            break;
        default:
            panels(dtype, g, panel, n_panel, row, 1, 4);
        }
        row += m;
        n_row -= m;
    }
}

static void gemm_f32(const struct sk_gemm *g, uint32_t panel, uint32_t n_panel, uint32_t row, uint32_t n_row)
{
    gemm(SK_F32, g, panel, n_panel, row, n_row);
}

static void gemm_f16(const struct sk_gemm *g, uint32_t panel, uint32_t n_panel, uint32_t row, uint32_t n_row)
{
    gemm(SK_F16, g, panel, n_panel, row, n_row);
}

static void gemm_bf16(const struct sk_gemm *g, uint32_t panel, uint32_t n_panel, uint32_t row, uint32_t n_row)
{
    gemm(SK_BF16, g, panel, n_panel, row, n_row);
}

void sk_gemm_f_avx512(struct sk_ktab *t)
{
    t->gemm[SK_F32] = gemm_f32;
    t->gemm[SK_F16] = gemm_f16;
    t->gemm[SK_BF16] = gemm_bf16;
}
