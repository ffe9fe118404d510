/* What one core of this machine can do at most: loops that do nothing else. Needs AVX-512 with VNNI. */
#ifndef ROOF_H
#define ROOF_H
#include <stddef.h>
#include <stdint.h>

/* Each returns the operations done (multiply and add count as two) or the bytes read. */
double roof_int8(uint32_t n_round);            /* VPDPBUSD from registers */
double roof_f32(uint32_t n_round);             /* VFMADD231PS from registers */
double roof_read(const void *p, size_t bytes); /* bytes is a multiple of 256; p is 64-byte aligned */

#endif
