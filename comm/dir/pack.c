#include "comm/dir/pack.h"

#include <math.h>
#include <string.h>

#include "comm/base/err.h"

enum { NIBBLE_BYTES = 256 }; /* of 32 inputs of a panel */

int sk_pack_unit(enum sk_dtype dtype)
{
    switch (dtype) {
    case SK_BF16:
        return 2;
    case SK_Q8:
    case SK_Q4:
    case SK_Q4S:
        return SK_QBLOCK;
    default:
        return 1;
    }
}

/* Bytes of 16 rows of slab_k inputs, before rounding up to 64. */
static uint64_t panel_bytes(enum sk_dtype dtype, uint64_t k)
{
    switch (dtype) {
    case SK_F32:
        return k * SK_PANEL * 4;
    case SK_Q8:
        return k * SK_PANEL + k / SK_QBLOCK * SK_PANEL * 2;
    case SK_Q4:
        return k * SK_PANEL / 2 + k / SK_QBLOCK * SK_PANEL * 4;
    case SK_Q4S:
        return k * SK_PANEL / 2 + k / SK_QBLOCK * SK_PANEL * 2;
    default:
        return k * SK_PANEL * 2;
    }
}

int sk_pack_layout(struct sk_pack *p, enum sk_dtype dtype, uint32_t n_out, uint32_t n_in, uint32_t slab_k)
{
    if ((unsigned)dtype >= SK_DTYPE_COUNT || !n_out || !n_in || !slab_k || n_in % slab_k ||
        slab_k % (uint32_t)sk_pack_unit(dtype))
        return -SK_EINVAL;

    /* n_in and n_out are below 2^32, a panel below 2^38 bytes: only the products with counts can overflow. */
    uint64_t panel = (panel_bytes(dtype, slab_k) + 63) & ~(uint64_t)63;
    uint64_t n_panel = ((uint64_t)n_out + SK_PANEL - 1) / SK_PANEL, n_slab = n_in / slab_k, slab, bytes;
    if (__builtin_mul_overflow(panel, n_panel, &slab) || __builtin_mul_overflow(slab, n_slab, &bytes) ||
        bytes > INT64_MAX)
        return -SK_EINVAL;
    *p = (struct sk_pack){.dtype = dtype,
                          .n_out = n_out,
                          .n_in = n_in,
                          .slab_k = slab_k,
                          .n_slab = (uint32_t)n_slab,
                          .n_panel = (uint32_t)n_panel,
                          .panel_stride = panel,
                          .slab_stride = slab,
                          .bytes = bytes};
    return 0;
}

/* Where the panel of row `out` begins in slab `s`. */
static uint64_t panel_at(const struct sk_pack *p, uint32_t s, uint32_t out)
{
    return s * p->slab_stride + out / SK_PANEL * p->panel_stride;
}

void sk_pack_put_row(const struct sk_pack *p, void *data, uint32_t out, const float *row)
{
    uint32_t r = out % SK_PANEL;

    for (uint32_t s = 0; s < p->n_slab; s++, row += p->slab_k) {
        uint8_t *panel = (uint8_t *)data + panel_at(p, s, out);
        float *f32 = (float *)panel;
        uint16_t *u16 = (uint16_t *)panel;

        if (p->dtype == SK_F32) {
            for (size_t i = 0; i < p->slab_k; i++)
                f32[i * SK_PANEL + r] = row[i];
        } else if (p->dtype == SK_F16) {
            for (size_t i = 0; i < p->slab_k; i++)
                u16[i * SK_PANEL + r] = sk_f32_to_f16(row[i]);
        } else {
            sk_assert(p->dtype == SK_BF16);
            for (size_t i = 0; i < p->slab_k; i++)
                u16[(i / 2 * SK_PANEL + r) * 2 + i % 2] = sk_f32_to_bf16(row[i]);
        }
    }
}

static void put_q8(const struct sk_pack *p, uint8_t *panel, uint32_t r, const struct sk_block *blocks)
{
    uint16_t *scales = (uint16_t *)(panel + (size_t)p->slab_k * SK_PANEL);

    for (size_t b = 0; b < p->slab_k / SK_QBLOCK; b++) {
        uint8_t *at = panel + b * SK_QBLOCK * SK_PANEL + r * 4;
        for (int i = 0; i < SK_QBLOCK; i++)
            at[i / 4 * 64 + i % 4] = (uint8_t)(blocks[b].q[i] + 128);
        scales[b * SK_PANEL + r] = blocks[b].d;
    }
}

static void put_q4(const struct sk_pack *p, uint8_t *panel, uint32_t r, const struct sk_block *blocks)
{
    uint16_t *scales = (uint16_t *)(panel + (size_t)p->slab_k * SK_PANEL / 2);

    for (size_t b = 0; b < p->slab_k / SK_QBLOCK; b++) {
        uint8_t *at = panel + b * NIBBLE_BYTES + r * 4;
        const int8_t *q = blocks[b].q;
        for (int i = 0; i < 16; i++)
            at[i / 4 * 64 + i % 4] = (uint8_t)((q[i] & 15) | q[16 + i] << 4);
        if (p->dtype == SK_Q4S) {
            scales[b * SK_PANEL + r] = blocks[b].d;
        } else {
            scales[(b * 2 + 0) * SK_PANEL + r] = blocks[b].d;
            scales[(b * 2 + 1) * SK_PANEL + r] = blocks[b].m;
        }
    }
}

void sk_pack_put_blocks(const struct sk_pack *p, void *data, uint32_t out, const struct sk_block *blocks)
{
    sk_assert(sk_dtype_in_blocks(p->dtype));
    for (uint32_t s = 0; s < p->n_slab; s++, blocks += p->slab_k / SK_QBLOCK) {
        uint8_t *panel = (uint8_t *)data + panel_at(p, s, out);
        if (p->dtype == SK_Q8)
            put_q8(p, panel, out % SK_PANEL, blocks);
        else
            put_q4(p, panel, out % SK_PANEL, blocks);
    }
}

static void get_q8(const struct sk_pack *p, const uint8_t *panel, uint32_t r, float *row)
{
    const uint16_t *scales = (const uint16_t *)(panel + (size_t)p->slab_k * SK_PANEL);

    for (size_t i = 0; i < p->slab_k; i++) {
        int q = panel[(i / 4 * SK_PANEL + r) * 4 + i % 4] - 128;
        row[i] = sk_f16_to_f32(scales[i / SK_QBLOCK * SK_PANEL + r]) * (float)q;
    }
}

static void get_q4(const struct sk_pack *p, const uint8_t *panel, uint32_t r, float *row)
{
    const uint16_t *scales = (const uint16_t *)(panel + (size_t)p->slab_k * SK_PANEL / 2);

    for (size_t i = 0; i < p->slab_k; i++) {
        size_t b = i / SK_QBLOCK, j = i % 16;
        uint8_t byte = panel[b * NIBBLE_BYTES + (j / 4 * SK_PANEL + r) * 4 + j % 4];
        int q = i % SK_QBLOCK < 16 ? byte & 15 : byte >> 4;
        if (p->dtype == SK_Q4S) /* d * q is exact (11 + 4 bits): here nothing is rounded, below the sum, once */
            row[i] = sk_f16_to_f32(scales[b * SK_PANEL + r]) * (float)(q - 8);
        else
            row[i] = sk_f16_to_f32(scales[(b * 2 + 0) * SK_PANEL + r]) * (float)q +
                     sk_f16_to_f32(scales[(b * 2 + 1) * SK_PANEL + r]);
    }
}

void sk_pack_get_row(const struct sk_pack *p, const void *data, uint32_t out, float *row)
{
    uint32_t r = out % SK_PANEL;

    for (uint32_t s = 0; s < p->n_slab; s++, row += p->slab_k) {
        const uint8_t *panel = (const uint8_t *)data + panel_at(p, s, out);
        const float *f32 = (const float *)panel;
        const uint16_t *u16 = (const uint16_t *)panel;

        switch (p->dtype) {
        case SK_F32:
            for (size_t i = 0; i < p->slab_k; i++)
                row[i] = f32[i * SK_PANEL + r];
            break;
        case SK_F16:
            for (size_t i = 0; i < p->slab_k; i++)
                row[i] = sk_f16_to_f32(u16[i * SK_PANEL + r]);
            break;
        case SK_BF16:
            for (size_t i = 0; i < p->slab_k; i++)
                row[i] = sk_bf16_to_f32(u16[(i / 2 * SK_PANEL + r) * 2 + i % 2]);
            break;
        case SK_Q8:
            get_q8(p, panel, r, row);
            break;
        default:
            get_q4(p, panel, r, row); /* q4s too */
        }
    }
}

/* q of the nearest grid point, computed with the scale as it will be stored. */
static int8_t nearest(float x, float inv, int low, int high)
{
    float q = rintf(x * inv);

    return (int8_t)(q < (float)low ? low : q > (float)high ? high : (int)q);
}

void sk_block_quant(enum sk_dtype dtype, const float *x, struct sk_block *ret)
{
    float min = x[0], max = x[0];

    for (int i = 1; i < SK_QBLOCK; i++) {
        min = x[i] < min ? x[i] : min;
        max = x[i] > max ? x[i] : max;
    }
    float m = 0, d;
    int low = -127, high = 127, zero = 0;
    ret->m = 0;
    if (dtype == SK_Q8) {
        d = fmaxf(fabsf(max), fabsf(min)) / 127;
    } else if (dtype == SK_Q4S) {
        d = (max > -min ? max : min) / -8;
        low = -8;
        high = 7;
        zero = 8;
    } else {
        sk_assert(dtype == SK_Q4);
        ret->m = sk_f32_to_f16(min);
        m = sk_f16_to_f32(ret->m);
        d = (max - m) / 15;
        low = 0;
        high = 15;
    }
    ret->d = sk_f32_to_f16(d);
    d = sk_f16_to_f32(ret->d);
    float inv = d != 0 ? 1 / d : 0;
    for (int i = 0; i < SK_QBLOCK; i++)
        ret->q[i] = (int8_t)(nearest(x[i] - m, inv, low, high) + zero);
}
