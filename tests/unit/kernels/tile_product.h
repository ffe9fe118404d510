/* One product of two tiles, in whichever implementation of kernels/cpu/tile_amx.h the including file asks for. */
#ifndef TILE_PRODUCT_H
#define TILE_PRODUCT_H
#include "kernels/cpu/tile_amx.h"
#include "tests/unit/kernels/tiles.h"

static inline void tile_product(const struct tiles *t, uint32_t *c, const uint32_t *a, const uint32_t *b)
{
    const struct amx_config conf = {
        .palette = 1,
        .rows = {(uint8_t)t->n_row, (uint8_t)t->n_row, (uint8_t)t->n_group},
        .colsb = {(uint16_t)(4 * t->n_column), (uint16_t)(4 * t->n_group), (uint16_t)(4 * t->n_column)}};
    amx_config(&conf);
    amx_load(0, c, AMX_ROW_BYTES);
    amx_load(1, a, AMX_ROW_BYTES);
    amx_load(2, b, AMX_ROW_BYTES);
    if (t->bytes)
        amx_dp_su8(0, 1, 2);
    else
        amx_dp_bf16(0, 1, 2);
    amx_store(0, c, AMX_ROW_BYTES);
    amx_release();
}

#endif
