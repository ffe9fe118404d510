/* Activations for weights in blocks (q8, q4, q4s), the same for every instruction set: bytes, so that products are
 * summed in integers. A tile of n_row rows is, per block of SK_QBLOCK inputs,
 *   q      [n_row][32] int8: x / scale, to nearest even
 *   scale  [n_row] f32: absmax / 127; NaN where x has one, which int8 cannot say
 *   offset [n_row]: what corrects for weights that are stored as unsigned bytes
 *            q8, q4s: int32 -zero * sum(q), zero = 128, 8: where the sum of w * q starts
 *            q4:      f32 scale * sum(q): m's factor
 * That rounding to 8 bits a block is the only one before the f32 sums over blocks: per output and block
 *   acc = fma(float(offset + sum of w * q), d * scale, acc)     q8, q4s
 *   acc = fma(float(sum of w * q), d * scale, acc), then acc = fma(m, offset, acc)     q4 */
#ifndef SK_GEMM_Q_H
#define SK_GEMM_Q_H
#include "kernels/cpu/ktab.h"

enum { TILE_BLOCK_BYTES = SK_QBLOCK + 8 }; /* of one row and block */

/* Of struct sk_gemm_kernel. */
static inline size_t tile_row_bytes(const struct sk_pack *p)
{
    return (size_t)p->n_in / SK_QBLOCK * TILE_BLOCK_BYTES;
}

/* What is added to q before it is stored as an unsigned byte or nibble. */
static inline int weight_zero(enum sk_dtype t)
{
    return t == SK_Q8 ? 128 : t == SK_Q4S ? 8 : 0;
}

#endif
