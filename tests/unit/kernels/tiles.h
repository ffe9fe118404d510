/* What a product of tiles is: c [n_row][n_column] += a [n_row][n_group] * b [n_group][n_column], words of 4 bytes, rows
 * 16 words apart. */
#ifndef TILES_H
#define TILES_H
#include <stdbool.h>
#include <stdint.h>

struct tiles {
    uint32_t n_row, n_group, n_column;
    bool bytes; /* int8 by uint8 instead of bf16 */
};

#endif
