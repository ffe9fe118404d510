#ifndef TILES_REAL_H
#define TILES_REAL_H
#include "tests/unit/kernels/tiles.h"

void tiles_real(const struct tiles *t, uint32_t *c, const uint32_t *a, const uint32_t *b);

#endif
