#ifndef TILES_EMULATED_H
#define TILES_EMULATED_H
#include "tests/unit/kernels/tiles.h"

void tiles_emulated(const struct tiles *t, uint32_t *c, const uint32_t *a, const uint32_t *b);

#endif
