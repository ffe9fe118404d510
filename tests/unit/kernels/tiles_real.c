#include "tests/unit/kernels/tiles_real.h"

#include "tests/unit/kernels/bf16_target.h"

BF16_TARGET_BEGIN
#include "tests/unit/kernels/tile_product.h"

void tiles_real(const struct tiles *t, uint32_t *c, const uint32_t *a, const uint32_t *b)
{
    tile_product(t, c, a, b);
}
BF16_TARGET_END
