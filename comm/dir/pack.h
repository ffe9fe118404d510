/* How a matrix W[out][in] (y = W x) lies in memory: pack kind x86-1, the only one now; kind plain is the vector form.
 *
 * x86-1. Outputs are grouped in panels of 16; `in` is cut into slabs of slab_k (the last may be shorter only if slab_k
 * covers all of `in`: n_in is always a multiple of slab_k). Storage order: slab, panel, then inside a panel:
 *   f32   [in][16] float
 *   f16   [in][16] uint16
 *   bf16  [in/2][16][2] uint16                     pairs along in: the operand order of VDPBF16PS and of an AMX B tile
 *   q8    [in/4][16][4] uint8, value q + 128       the operand order of VPDPBUSD and of an AMX B tile;
 *         then scales [in/32][16] f16 d
 *   q4    per block of 32 inputs, 4 groups g = 0..3 of [16][4] bytes: low nibble input 4g + j, high nibble input
 *         16 + 4g + j; then scales [in/32] of { [16] f16 d, [16] f16 m }
 *   q4s   nibbles as q4; then scales [in/32][16] f16 d
 * `in` here is slab_k. Every panel starts at a multiple of 64 bytes; panel_stride and slab_stride are in bytes.
 * Rows past n_out in the last panel are zero. slab_k is a multiple of 1 (f32, f16), 2 (bf16), 32 (q8, q4, q4s).
 * A rank maps a range of panels (column split) or a range of slabs (row split): its shard, never more. */
#ifndef SK_PACK_H
#define SK_PACK_H
#include <stddef.h>
#include <stdint.h>
#include "comm/dir/dtype.h"

enum sk_pack_kind { SK_PACK_PLAIN = 0, SK_PACK_X86_1 = 1 };

#define SK_PANEL      16
#define SK_ALIGN16(n) (((n) + 15) & ~(size_t)15) /* row strides of activations and vectors: multiples of 16 floats */

struct sk_pack {
    enum sk_dtype dtype;
    uint32_t n_out, n_in, slab_k; /* n_in % slab_k == 0 */
    uint32_t n_slab, n_panel;     /* n_in / slab_k, ceil(n_out / 16) */
    uint64_t panel_stride, slab_stride, bytes;
};

/* Fills all members. -SK_EINVAL: slab_k does not divide n_in or does not suit the dtype, or sizes overflow. */
int sk_pack_layout(struct sk_pack *p, enum sk_dtype dtype, uint32_t n_out, uint32_t n_in, uint32_t slab_k);
int sk_pack_unit(enum sk_dtype dtype); /* slab_k is a multiple of this */

/* One quantised block of 32 inputs of one row, the common form between file formats and packs. */
struct sk_block {
    uint16_t d, m;       /* f16; m is q4's only, else 0 */
    int8_t q[SK_QBLOCK]; /* q8: -128..127, q4 and q4s: 0..15 */
};
/* Puts row `out` from floats (f32, f16, bf16 only; converts, round to nearest even). row has n_in floats. */
void sk_pack_put_row(const struct sk_pack *p, void *data, uint32_t out, const float *row);
/* Puts row `out` from n_in / 32 blocks (q8, q4, q4s only). */
void sk_pack_put_blocks(const struct sk_pack *p, void *data, uint32_t out, const struct sk_block *blocks);
/* Reads row `out` back as n_in floats; any dtype. The definition of what a packed weight means. */
void sk_pack_get_row(const struct sk_pack *p, const void *data, uint32_t out, float *row);
/* Quantises 32 floats: q8 (d = absmax / 127), q4 (d, m from min and max), q4s (d = x / -8 of the x that is largest in
 * magnitude, as ggml-quants.c's Q4_0: -8 is the one end that reaches further). */
void sk_block_quant(enum sk_dtype dtype, const float *x, struct sk_block *ret);

#endif
