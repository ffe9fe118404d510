/* What this machine can do at most: loops that do nothing else. Needs AVX-512 with VNNI. */
#ifndef ROOF_H
#define ROOF_H
#include <stddef.h>
#include <stdint.h>

/* A second, all threads; 0 where the CPU has no such unit. */
struct roof {
    int n_thread;
    double read, read_96m; /* bytes, of a set of 1 GiB and of 96 MiB, in huge pages, with software prefetch */
    double int8, f32, bf16, amx_bf16, amx_int8; /* operations: a multiplication and an addition count as two */
};
/* n_thread 0: as many as the CPU backend takes. -1: no VNNI, or no memory or thread. */
int roof_measure(int n_thread, struct roof *ret);

/* One core. Each returns the operations done or the bytes read. */
double roof_int8(uint32_t n_round);            /* VPDPBUSD from registers */
double roof_f32(uint32_t n_round);             /* VFMADD231PS from registers */
double roof_bf16(uint32_t n_round);            /* VDPBF16PS from registers */
double roof_amx_bf16(uint32_t n_round);        /* TDPBF16PS, 2 x 2 tiles */
double roof_amx_int8(uint32_t n_round);        /* TDPBSUD, 2 x 2 tiles */
double roof_read(const void *p, size_t bytes); /* bytes is a multiple of 256; p is 64-byte aligned */

#endif
