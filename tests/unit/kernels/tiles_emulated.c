#include "tests/unit/kernels/tiles_emulated.h"

#include "tests/unit/kernels/bf16_target.h"

#define SK_TILE_EMULATED 1
BF16_TARGET_BEGIN
#include "tests/unit/kernels/tile_product.h"

void tiles_emulated(const struct tiles *t, uint32_t *c, const uint32_t *a, const uint32_t *b)
{
    tile_product(t, c, a, b);
}
BF16_TARGET_END
