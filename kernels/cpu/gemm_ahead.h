/* What a kernel of GEMM asks for before it needs it. Weights are read panel by panel (or some panels at a time), each
 * slab by slab. Where the panels of a slab are neighbours in memory, a panel of short slabs is many short stretches. */
#ifndef SK_GEMM_AHEAD_H
#define SK_GEMM_AHEAD_H
#include "kernels/cpu/ktab.h"

/* The weights that are read about `bytes` after those of slab `slab` of `n` panels from `panel`. */
static inline const uint8_t *weights_ahead(const struct sk_gemm *g, uint32_t panel, uint32_t n, uint32_t slab,
                                           uint32_t bytes)
{
    const struct sk_pack *p = g->pack;

    if (p->slab_stride < p->panel_stride || p->n_slab == 1 || bytes < p->panel_stride)
        return g->weight + slab * p->slab_stride + panel * p->panel_stride + bytes;
    slab += bytes / (uint32_t)p->panel_stride;
    return g->weight + slab % p->n_slab * p->slab_stride + (panel + slab / p->n_slab * n) * p->panel_stride;
}

#endif
