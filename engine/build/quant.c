#include "engine/build/quant.h"
#include <stdio.h>
#include <string.h>

enum { SLABS = 16, GOOD_SLAB = 64, F16_SIGN = 0x8000 };

static uint16_t load_u16(const uint8_t *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}

void sk_quant_read(uint32_t type, const uint8_t *data, uint64_t n, float *ret)
{
    switch (type) {
    case SK_SRC_F32:
        memcpy(ret, data, n * sizeof *ret);
        break;
    case SK_SRC_F16:
        for (uint64_t i = 0; i < n; i++)
            ret[i] = sk_f16_to_f32(load_u16(data + 2 * i));
        break;
    case SK_SRC_BF16:
        for (uint64_t i = 0; i < n; i++)
            ret[i] = sk_bf16_to_f32(load_u16(data + 2 * i));
        break;
    case SK_SRC_Q4_0:
        for (; n; n -= SK_QBLOCK, data += 18, ret += SK_QBLOCK) {
            float d = sk_f16_to_f32(load_u16(data));
            for (int i = 0; i < 16; i++) {
                ret[i] = d * (float)((data[2 + i] & 15) - 8);
                ret[16 + i] = d * (float)((data[2 + i] >> 4) - 8);
            }
        }
        break;
    case SK_SRC_Q4_1:
        for (; n; n -= SK_QBLOCK, data += 20, ret += SK_QBLOCK) {
            float d = sk_f16_to_f32(load_u16(data)), m = sk_f16_to_f32(load_u16(data + 2));
            for (int i = 0; i < 16; i++) {
                ret[i] = d * (float)(data[4 + i] & 15) + m;
                ret[16 + i] = d * (float)(data[4 + i] >> 4) + m;
            }
        }
        break;
    default:
        sk_assert(type == SK_SRC_Q8_0);
        for (; n; n -= SK_QBLOCK, data += 34, ret += SK_QBLOCK) {
            float d = sk_f16_to_f32(load_u16(data));
            for (int i = 0; i < SK_QBLOCK; i++)
                ret[i] = d * (float)(int8_t)data[2 + i];
        }
    }
}

enum sk_dtype sk_quant_exact(uint32_t type)
{
    switch (type) {
    case SK_SRC_F16:
        return SK_F16;
    case SK_SRC_BF16:
        return SK_BF16;
    case SK_SRC_Q4_0:
        return SK_Q4S;
    case SK_SRC_Q4_1:
        return SK_Q4;
    case SK_SRC_Q8_0:
        return SK_Q8;
    default:
        return SK_F32;
    }
}

static void put_nibbles(const uint8_t *data, struct sk_block *b)
{
    for (int i = 0; i < 16; i++) {
        b->q[i] = data[i] & 15;
        b->q[16 + i] = (int8_t)(data[i] >> 4);
    }
}

void sk_quant_blocks(uint32_t type, enum sk_dtype dtype, const uint8_t *data, uint64_t n, struct sk_block *ret)
{
    for (struct sk_block *b = ret; b < ret + n; b++) {
        b->d = load_u16(data);
        if (type == SK_SRC_Q4_0) {
            b->m = dtype == SK_Q4 ? sk_f32_to_f16(-8 * sk_f16_to_f32(b->d)) : 0;
            put_nibbles(data + 2, b);
            data += 18;
        } else if (type == SK_SRC_Q4_1) {
            b->m = load_u16(data + 2);
            put_nibbles(data + 4, b);
            data += 20;
        } else {
            sk_assert(type == SK_SRC_Q8_0);
            b->m = 0;
            memcpy(b->q, data + 2, SK_QBLOCK);
            data += 34;
        }
    }
}

/* Are blocks of dtype `from` as good as blocks of `to`? */
static bool holds(enum sk_dtype to, enum sk_dtype from)
{
    return sk_dtype_in_blocks(from) && (to == from || (to == SK_Q4 && from == SK_Q4S));
}

/* Where parts differ, the type that loses least: the wider of two quantised ones; f32 where floats of two kinds meet.
 */
static enum sk_dtype widest(enum sk_dtype a, enum sk_dtype b)
{
    if (a == b || holds(a, b))
        return a;
    if (holds(b, a))
        return b;
    return sk_dtype_in_blocks(a) && sk_dtype_in_blocks(b) ? SK_Q8 : SK_F32;
}

/* Is `dtype` possible for the recipe's shape? Row-split tensors are cut at heads and at blocks. */
static bool fits(const struct sk_recipe *r, enum sk_dtype dtype)
{
    return r->n_in % (uint32_t)sk_pack_unit(dtype) == 0;
}

void sk_quant_choose(const struct sk_recipe *r, const char *mode, struct sk_quant_choice *ret)
{
    struct sk_quant_choice c = {.dtype = SK_F32};
    enum sk_dtype src = SK_F32;
    bool same = true, scattered = r->in_run != r->in_stride && r->n_in != r->src_in;

    for (uint32_t i = 0; i < r->n_part; i++) {
        enum sk_dtype t = sk_quant_exact(r->parts[i].t->type);
        same = same && (!i || t == src);
        src = i ? widest(src, t) : t;
    }
    if (r->vector || r->exact)
        goto out;
    bool keep = sk_dtype_find(mode, &c.dtype);
    if (keep) {
        c.dtype = src;
        if (!same)
            snprintf(c.note, sizeof c.note, "its parts are of different types");
    } else if ((c.dtype == SK_Q4 || c.dtype == SK_Q4S) && r->lookup) {
        c.dtype = SK_Q8;
        snprintf(c.note, sizeof c.note, "words keep 8 bits");
    }
    c.blocks = !scattered;
    for (uint32_t i = 0; i < r->n_part; i++)
        c.blocks = c.blocks && holds(c.dtype, sk_quant_exact(r->parts[i].t->type));
    if (keep && scattered && sk_dtype_in_blocks(c.dtype)) {
        c.dtype = SK_BF16; /* to quantise what was quantised in other blocks loses more */
        snprintf(c.note, sizeof c.note, "heads of %u are padded to %u, across blocks", r->in_run, r->in_stride);
    }
    if (!fits(r, c.dtype)) {
        snprintf(c.note, sizeof c.note, "%s needs a multiple of %d inputs, it has %u", sk_dtype_name(c.dtype),
                 sk_pack_unit(c.dtype), r->n_in);
        c.dtype = fits(r, SK_BF16) ? SK_BF16 : SK_F32;
        c.blocks = false;
    }
out:
    *ret = c;
}

static uint32_t lcm(uint32_t a, uint32_t b)
{
    uint32_t x = a, y = b;

    while (y) {
        uint32_t t = x % y;
        x = y;
        y = t;
    }
    return a / x * b;
}

/* Of n_unit units: the most equal slabs of whole units that are not more than `most`, or, if these are fewer than
 * `least`, the fewest that are enough; 1 where none are. */
static uint32_t count_slabs(uint32_t n_unit, uint32_t least, uint32_t most)
{
    uint32_t n = most < n_unit ? most : n_unit;
    while (n_unit % n)
        n--;
    for (uint32_t more = most + 1; n < least && more <= n_unit; more++)
        if (n_unit % more == 0)
            n = more;
    return n;
}

uint32_t sk_quant_slab(const struct sk_recipe *r, enum sk_dtype dtype)
{
    const uint32_t multiple[] = {GOOD_SLAB, SK_PANEL}, most = r->n_cut > SLABS ? r->n_cut : SLABS;
    uint32_t best = 1;
    if (r->split != SK_SPLIT_IN)
        return r->n_in;
    for (int i = 0; i < 2 && best < r->n_cut; i++) {
        uint32_t unit = lcm(lcm(r->cut_unit, (uint32_t)sk_pack_unit(dtype)), multiple[i]);
        uint32_t n = r->n_in % unit == 0 ? count_slabs(r->n_in / unit, r->n_cut, most) : 1;
        best = n > best ? n : best;
    }
    return r->n_in / best;
}
