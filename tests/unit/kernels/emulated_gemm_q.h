/* kernels/cpu/gemm_q_avxvnni.c with the EVEX form of VPDPBUSD in place of the VEX one: the same operation, which CPUs
 * with AVX-512 VNNI have. */
#ifndef EMULATED_GEMM_Q_H
#define EMULATED_GEMM_Q_H
#include "kernels/cpu/ktab.h"

void emulated_gemm_q(struct sk_ktab *t);

#endif
