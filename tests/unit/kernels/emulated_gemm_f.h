/* kernels/cpu/gemm_f_amx.c on emulated tiles. */
#ifndef EMULATED_GEMM_F_H
#define EMULATED_GEMM_F_H
#include "kernels/cpu/ktab.h"

void emulated_gemm_f(struct sk_ktab *t);

#endif
